"""The credit equation: what the advantage of a token is made of, and whether the records bear it out.

A record holds the advantage of each token and what it is a product of: `base`, then a method's factors. The report
shows the equation with its numbers, so it has to hold: `CreditCheck` multiplies it out for every token that carries
loss. What does not agree is counted and handed on, never left out.

Records keep 16 binary digits, so that each number is off by at most 2^-16 of itself, and a product of three by less
than 1e-4 of it: `TOLERANCE` is absolute up to an advantage of 1, relative beyond.

Left out on purpose: how advantages come about (`appo.methods`), which a report never runs again.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from appo.report.html.columns import Part
from appo.report.html.credit_words import BASES, base_of_kind

# Shapes: R rollouts of a part, P tokens of all of them, L those that carry loss.

TOLERANCE = 1e-4
NUM_SAMPLES = 200
NO_SPREAD = 1e-6  # as in `appo.algorithm`: rewards that are all equal give the term 0


def product(part: Part) -> np.ndarray:
    """Base times factors of every token, float64 (P,); NaN where one is missing. The loss mask is no part of it."""
    found = np.ones(len(part.ids_P))
    for name, values in part.factors.items():
        if name != "loss_mask":
            found *= values.astype(np.float64)
    return found


def base_from_groups(part: Part, groups: list[str]) -> np.ndarray:
    """The base as rewards give it, float64 (R,): the mean of z-scores in the groups; 0 without a reward."""
    reward_R = part.numbers("reward")
    terms = []
    for group in groups:
        mean_R, std_R = part.numbers(f"{group}_mean"), part.numbers(f"{group}_std")
        flat_R = ~(std_R > NO_SPREAD)  # also where there is no such group
        terms.append(np.where(flat_R, 0.0, (reward_R - mean_R) / np.where(flat_R, 1.0, std_R)))
    return np.nan_to_num(np.mean(terms, axis=0), nan=0.0)


@dataclass
class Differences:
    """Where a part's records contradict the equation.

    Args:
        rows, tokens, recorded: Rollout of the part, token of the rollout, the advantage in the record.
    """

    rows: np.ndarray
    tokens: np.ndarray
    recorded: np.ndarray

    def select(self, keep_R: np.ndarray) -> "Differences":
        """Those of some of the part's rollouts, which are counted anew."""
        kept = keep_R[self.rows]
        return Differences((np.cumsum(keep_R) - 1)[self.rows[kept]], self.tokens[kept], self.recorded[kept])


@dataclass
class BaseTrial:
    """A guess at where the base comes from: from the reward and these groups. Counts rollouts."""

    groups: list[str]
    rollouts: int = 0
    disagree: int = 0
    largest: float = 0.0
    not_zero: int = 0

    def add(self, part: Part, places_L: np.ndarray, rows_L: np.ndarray) -> None:
        recorded_L = part.factors["base"][places_L].astype(np.float64)
        off_L = _off(base_from_groups(part, self.groups)[rows_L], recorded_L)
        self.rollouts += len(np.unique(rows_L))
        self.disagree += len(np.unique(rows_L[~(off_L <= TOLERANCE)]))
        self.largest = max(self.largest, float(off_L.max()))
        self.not_zero += len(np.unique(rows_L[recorded_L != 0]))


class CreditCheck:
    """The equation, tried on every token that carries loss.

    Args:
        base: As `base_of` has it. Where rewards of groups make it, they are tried, too; where its kind is not known,
            as that of a method of the user's own, the known ones are tried on it.
    """

    def __init__(self, base: dict[str, Any]) -> None:
        self._base = base
        kinds = [base["kind"]] if base["kind"] else list(BASES)
        self._trials = {kind: BaseTrial(BASES[kind][2]) for kind in kinds if BASES[kind][2]}
        self.tokens = self.disagree = 0
        self.largest = 0.0  # infinite where a number is missing
        self.has_factors = False  # records of older runs do not say what advantages are made of
        self._samples: list[tuple[float, int, int, float]] = []
        self._random = np.random.default_rng(0)

    def add(self, part: Part, numbers_R: np.ndarray) -> Differences:
        """Tries a part; `numbers_R` are the numbers of its rollouts in the report, -1 for those that are not in it."""
        places_L = np.flatnonzero(part.loss_P)
        if not part.factors or not places_L.size:
            return Differences(places_L[:0], places_L[:0], np.zeros(0))
        self.has_factors = True
        recorded_L = part.tokens["advantages"][places_L].astype(np.float64)
        off_L = _off(product(part)[places_L], recorded_L)
        wrong_L = ~(off_L <= TOLERANCE)
        self.tokens += len(places_L)
        self.disagree += int(wrong_L.sum())
        self.largest = max(self.largest, float(off_L.max()))
        rows_L = part.rows_P[places_L]
        tokens_L = places_L - part.starts_R[rows_L]
        shown_L = numbers_R[rows_L] >= 0
        self._draw(numbers_R[rows_L][shown_L], tokens_L[shown_L], recorded_L[shown_L])
        for trial in self._trials.values() if "base" in part.factors else ():
            trial.add(part, places_L, rows_L)
        return Differences(rows_L[wrong_L], tokens_L[wrong_L], recorded_L[wrong_L])

    @property
    def base(self) -> dict[str, Any]:
        """What the base is made of: as it was given, or the known kind that all recorded bases agree with."""
        if self._base["kind"] is None:
            for kind, trial in self._trials.items():
                if trial.not_zero and not trial.disagree:
                    found = base_of_kind(kind)
                    return {**found, "text": found["text"] + " So the recorded numbers say."}
        return self._base

    def _draw(self, rollouts: np.ndarray, tokens: np.ndarray, recorded: np.ndarray) -> None:
        """Keeps some tokens at random, each as likely as another."""
        keys = self._random.random(len(tokens))
        best = np.argsort(keys)[:NUM_SAMPLES]
        rows = zip(keys[best], rollouts[best], tokens[best], recorded[best], strict=True)
        self._samples += [(float(k), int(r), int(t), float(a)) for k, r, t, a in rows]
        self._samples = sorted(self._samples)[:NUM_SAMPLES]

    def summary(self) -> dict[str, Any]:
        """The outcome as JSON."""
        trial = self._trials.get(self.base["kind"]) or BaseTrial([])
        samples = sorted([rollout, token, recorded] for _, rollout, token, recorded in self._samples)
        return {
            "tokens": self.tokens,
            "disagree": self.disagree,
            "largest_difference": self.largest,
            "tolerance": TOLERANCE,
            "method_has_factors": self.has_factors,
            "bases": trial.rollouts,
            "bases_disagree": trial.disagree,
            "bases_largest_difference": trial.largest,
            "samples": samples,
        }


def _off(found: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Differences as `TOLERANCE` counts them; infinite where a number is missing or infinite."""
    with np.errstate(invalid="ignore"):
        off = np.abs(found - recorded) / np.maximum(1.0, np.abs(recorded))
    return np.where(np.isfinite(off), off, np.inf)
