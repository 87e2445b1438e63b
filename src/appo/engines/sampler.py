"""From logits to tokens: each sequence inverts the distribution function at a uniform number of its own.

So what a sequence writes follows from its seed and its logits alone. Log-probabilities are those at the sampling
temperature, before top-k, top-p and min-p cut tokens off; where the likeliest token is taken (a sequence's temperature
is 0), those at temperature 1.

Left out on purpose: penalties, which would make the policy another one than the trainer scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

# Shapes: S sequences, V vocabulary.

BLOCK = 64
BELOW_ONE = np.float32(1 - 2**-22)  # so that rounding never reaches the end of the distribution function


class Uniforms:
    """The numbers of a sequence, in [0, 1), one per token that it samples; drawn as they are used up."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def block(self) -> list[float]:
        """The next `BLOCK` of them."""
        return np.minimum(self._generator.random(BLOCK).astype(np.float32), BELOW_ONE).tolist()


@dataclass
class Sampled:
    """Tokens and their log-probabilities, and the log-probabilities of all tokens, (S, V)."""

    tokens: list[int]
    logprobs: list[float]
    logps_SV: torch.Tensor


class Sampler:
    """Samples a token per sequence.

    Args:
        temperature, top_p, top_k, min_p: As in transformers; 1.0, 1.0, 0 and None sample from the plain model.
    """

    def __init__(
        self, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float | None = None
    ) -> None:
        self.temperature = temperature
        self.warpers = [TopKLogitsWarper(top_k)] if top_k else []
        self.warpers += [TopPLogitsWarper(top_p)] if top_p < 1.0 else []
        self.warpers += [MinPLogitsWarper(min_p)] if min_p else []

    def __call__(
        self, logits_SV: torch.Tensor, uniforms_S: list[float], temperatures_S: Sequence[float | None] | None = None
    ) -> Sampled:
        """
        Args:
            logits_SV: Of the next tokens.
            uniforms_S: Numbers in [0, 1).
            temperatures_S: Of sequences that have one of their own, None for the others; or None for no such sequence.
        """
        own = temperatures_S or ()
        temperatures: Any = self.temperature
        if any(temperature is not None for temperature in own):
            used = [self.temperature if temperature is None else temperature or 1.0 for temperature in own]
            temperatures = torch.tensor(used, device=logits_SV.device)[:, None]
        logps_SV = torch.log_softmax(logits_SV.float() / temperatures, dim=-1)
        probs_SV = logps_SV.exp()
        if self.warpers:
            scores_SV = logps_SV
            for warper in self.warpers:
                scores_SV = warper(None, scores_SV)
            probs_SV = scores_SV.softmax(dim=-1)
        cdf_SV = probs_SV.cumsum(dim=-1)
        # Scaled by the last entry, which rounding leaves near 1; `right=True` never picks a token of probability 0.
        uniforms = torch.from_numpy(np.array(uniforms_S, dtype=np.float32)).to(cdf_SV.device)
        targets_S1 = (uniforms * cdf_SV[:, -1])[:, None]
        tokens_S1 = torch.searchsorted(cdf_SV, targets_S1, right=True).clamp(max=cdf_SV.shape[1] - 1)
        greedy = [i for i, temperature in enumerate(own) if temperature == 0]
        if greedy:
            tokens_S1[greedy] = logps_SV[greedy].argmax(dim=-1, keepdim=True)
        logps_S = logps_SV.gather(1, tokens_S1)[:, 0]
        return Sampled(tokens_S1[:, 0].tolist(), logps_S.tolist(), logps_SV)
