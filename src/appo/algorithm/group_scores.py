"""Rewards relative to their group, and the checks of vectors: shared by the estimators of `appo.methods`.

As in `advantages`, and unlike in most released code, standard deviations are the population's, and `eps` is a
threshold that is added to nothing.

Shape suffixes: R: rollouts, G: groups.
"""

import torch
from torch import Tensor


def group_scores(value_R: Tensor, group_R: Tensor, eps: float | None) -> Tensor:
    """`(value - mean) / std` within each group, 0 where std <= eps; without `eps` only `value - mean`. float64."""
    value_R = value_R.detach().double()
    _, group_R, count_G = group_R.unique(return_inverse=True, return_counts=True)
    zero_G = value_R.new_zeros(len(count_G))
    centred_R = value_R - (zero_G.index_add(0, group_R, value_R) / count_G)[group_R]
    if eps is None:
        return centred_R
    std_G = (zero_G.index_add(0, group_R, centred_R.square()) / count_G).sqrt()
    return centred_R / std_G.masked_fill(std_G <= eps, float("inf"))[group_R]


def one_group(value_R: Tensor) -> Tensor:
    """The groups of values that all belong together: zeros, int64."""
    return torch.zeros_like(value_R, dtype=torch.long)


def check_vector(name: str, vector: Tensor, *, finite: bool = True) -> None:
    """
    Raises:
        ValueError: for what is no floating-point vector, or holds values that are not finite.
    """
    if vector.dim() != 1:
        raise ValueError(f"{name} must have one dimension, got shape {tuple(vector.shape)}.")
    if not vector.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, got {vector.dtype}.")
    if finite:
        check_finite(name, vector)


def check_finite(name: str, tensor: Tensor, *, offset: int = 0, missing: bool = False) -> None:
    """
    Args:
        name: Of the tensor, for the error.
        tensor: Whose values are looked at.
        offset: What is added to the place that the error names.
        missing: Whether NaN is allowed.

    Raises:
        ValueError: for the first value that is not finite, with its place.
    """
    bad = (tensor.isinf() if missing else ~tensor.isfinite()).nonzero()
    if len(bad):
        place = bad[0].tolist()
        value = tensor[tuple(place)].item()
        raise ValueError(f"{name} holds {value} at {[i + offset for i in place]}, but must be finite there.")


def check_index(name: str, index: Tensor, like_name: str, like: Tensor) -> None:
    """
    Raises:
        ValueError: where `index` does not hold integers, or has another shape than `like`.
    """
    if index.shape != like.shape or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"{name} must be an integer tensor of shape {tuple(like.shape)}, as {like_name}, got {index.dtype} "
            f"{tuple(index.shape)}."
        )
