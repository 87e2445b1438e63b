"""Argument checks shared by the algorithm's functions; every failure is a ValueError that names the argument."""

from torch import Tensor


def check_matrices(**tensors: Tensor) -> None:
    """All are floating-point matrices of the first one's shape."""
    first_name, first = next(iter(tensors.items()))
    if first.dim() != 2:
        raise ValueError(f"{first_name} must have two dimensions, got shape {tuple(first.shape)}.")
    for name, tensor in tensors.items():
        if tensor.shape != first.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but {first_name} has {tuple(first.shape)}.")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor, got {tensor.dtype}.")


def to_bool_mask(mask: Tensor, like: Tensor, *, name: str = "mask_BT") -> Tensor:
    """`mask` as bool, after checking that it has the shape of `like` and no entry below zero (or NaN)."""
    if mask.shape != like.shape:
        raise ValueError(f"{name} has shape {tuple(mask.shape)}, but the scored tokens have {tuple(like.shape)}.")
    # Bool and unsigned masks cannot be wrong; skipping the check saves a device synchronisation.
    if mask.dtype.is_signed and not (mask >= 0).all():
        raise ValueError(f"{name} must be 1 on policy tokens and 0 elsewhere, but holds a negative value or NaN.")
    return mask > 0


def check_count(**counts: int) -> None:
    """No count is negative."""
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"{name} must be at least 0, got {count}.")
