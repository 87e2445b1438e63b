"""Future value (Eq. 4): how much the current policy favours everything from a token on, and its clip.

Left out: the log-probabilities themselves; `log_ratio` is `log pi_theta - log pi_old` from the trainer's own forward.

Shape suffixes: B: rollouts, T: positions of the completion (policy and tool-result tokens).
"""

from typing import Literal

import torch
from torch import Tensor

from appo.algorithm._checks import check_matrices, to_bool_mask

#: The bounds of Omega. One clip for branching and for the loss: they must never disagree about what a future is worth.
FUTURE_CLIP = (1.0, 1.2)

_MAX_EXPONENT = 20.0
# A discount below this cannot move an exponent that is clamped to 20 and read as float32.
_NEGLIGIBLE_DISCOUNT = 1e-30


def half_life_to_gamma(half_life: float) -> float:
    """The discount per token that halves a token's weight every `half_life` tokens; ValueError unless positive."""
    if not half_life > 0:
        raise ValueError(f"half_life must be positive, got {half_life}.")
    return 2.0 ** (-1.0 / half_life)


def future_value(
    log_ratio_BT: Tensor, mask_BT: Tensor, *, gamma: float, discount_over: Literal["all", "policy"] = "all"
) -> Tensor:
    """Eq. 4: `Omega_i = exp(sum_{i' >= i} gamma^(i' - i) * log_ratio_i')`, the sum over policy tokens only.

    Args:
        log_ratio_BT: `log pi_theta - log pi_old` per token, float32 or float64; anything (NaN too) outside the mask.
        mask_BT: 1 on policy tokens, 0 on tool results and padding; bool, int or float.
        gamma: discount per token, in (0, 1].
        discount_over: what `i' - i` counts: `"all"` positions, or `"policy"` tokens only.

    Returns:
        Omega (B, T) in the dtype of `log_ratio_BT`, without gradient, in [exp(-20), exp(20)]. A result token has no
        term of its own: it sees the next policy token through the discount. NaN at a policy token reaches every
        token before it.

    Raises:
        ValueError: wrong shapes, a negative mask, `gamma` outside (0, 1], an unknown `discount_over`.
    """
    check_matrices(log_ratio_BT=log_ratio_BT)
    policy_BT = to_bool_mask(mask_BT, log_ratio_BT)
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be in (0, 1], got {gamma}.")
    if discount_over not in ("all", "policy"):
        raise ValueError(f'discount_over must be "all" or "policy", got {discount_over!r}.')
    length = log_ratio_BT.shape[1]
    # `where`, not a product: NaN * 0 is NaN.
    sum_BT = torch.where(policy_BT, log_ratio_BT.detach().double(), 0.0)
    # Time as the discount sees it: the discount from i to j is gamma^(clock_j - clock_i).
    if discount_over == "all":
        clock_BT = torch.arange(length, dtype=torch.float64, device=sum_BT.device).unsqueeze(0)
    else:
        clock_BT = policy_BT.cumsum(dim=1).double()
    # Doubling: once sum_i covers the `shift` tokens from i, adding sum_{i + shift} makes it cover twice as many.
    shift = 1
    while shift < length and (discount_over == "policy" or gamma**shift > _NEGLIGIBLE_DISCOUNT):
        discount_BT = gamma ** (clock_BT[:, shift:] - clock_BT[:, :-shift])
        sum_BT[:, :-shift] += discount_BT * sum_BT[:, shift:]
        shift *= 2
    return sum_BT.clamp_(-_MAX_EXPONENT, _MAX_EXPONENT).exp_().to(log_ratio_BT.dtype)


def clip_future_value(omega_BT: Tensor, clip: tuple[float, float] = FUTURE_CLIP) -> Tensor:
    """Omega limited to `clip` (low, high), for Eq. 5 and Eq. 7 alike; ValueError if `clip` is reversed or NaN."""
    low, high = clip
    if not low <= high:
        raise ValueError(f"clip must be (low, high) with low <= high, got {clip}.")
    return omega_BT.clamp(low, high)
