"""The credit equation: what the advantage of a token is made of, and whether the records bear it out.

A record holds the advantage of each token and what it is a product of: `base`, then a method's factors. The report
shows the equation with its numbers, so it has to hold: `CreditCheck` multiplies it out for every token that carries
loss. What does not agree is counted and handed on, never left out.

Records keep 16 binary digits, so that each number is off by at most 2^-16 of itself, and a product of three by less
than 1e-4 of it: `TOLERANCE` is absolute up to an advantage of 1, relative beyond.

Left out on purpose: how advantages come about (`appo.methods`), which a report never runs again.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from appo.report.columns import Part

# Shapes: R rollouts of a part, P tokens of all of them, L those that carry loss.

TOLERANCE = 1e-4
NUM_SAMPLES = 200
# Defaults of `appo.methods` and `appo.algorithm`, which need torch.
FUTURE_CLIP, FUTURE_WEIGHT, WEIGHT_FLOOR, FORK_SCALE = (1.0, 1.2), 0.5, 0.1, 4.5
NO_SPREAD = 1e-6  # as in `appo.algorithm`: rewards that are all equal give the term 0

FACTOR_HELP = {
    "base": ("base", "What the rollout earned, before its tokens are told apart."),
    "future_factor": (
        "future-aware factor",
        "1 + b clip(Omega): more weight where the policy, as it is now, favours what follows.",
    ),
    "token_weight": (
        "fork weight",
        "How much of a choice this token was: most where the policy doubted a favourite.",
    ),
    "loss_mask": ("carries loss", "1 where the token is trained on, 0 where it is not."),
}
BASES: dict[str, tuple[str, str, list[str]]] = {
    "dual_group": (
        "Eq. 6: the reward in standard deviations from the mean of its group, averaged over the two groups",
        "Half of (reward − mean of the initial rollouts) / their spread, and half of (reward − mean of the branches) "
        "/ their spread. A group whose rewards are all equal adds 0.",
        ["initial", "branch"],
    ),
    "pooled": (
        "the reward in standard deviations from the mean of all rollouts of the task",
        "(reward − mean) / spread, over initial rollouts and branches together.",
        [],
    ),
    "prefix": (
        "the normalised reward, plus that of the branches that share the token",
        "The rollout's normalised reward, plus the mean normalised reward of its branches that start after the token.",
        [],
    ),
    "group": (
        "the reward in standard deviations from the mean of the task's initial rollouts",
        "(reward − mean of the initial rollouts) / their spread; 0 where all rewards are equal.",
        ["initial"],
    ),
    "success": ("1 for a success, else 0", "1 where the reward reaches success_reward, else 0: no baseline.", []),
    "all_rollouts": (
        "the reward in standard deviations from the mean of all rollouts of the task",
        "(reward − mean) / spread over all rollouts of the task, branches included.",
        [],
    ),
    "tree": (
        "what follows from the token, against the whole task and against the last fork",
        "Mean reward of the rollouts that hold the token, against all of the task's and against those that share its "
        "prefix, in standard deviations.",
        [],
    ),
    "within_and_between": (
        "the reward against its own tree, plus against all trees of the task",
        "The reward normalised within its tree, plus normalised between the trees of the task.",
        [],
    ),
    "episode_and_step": (
        "the reward of the episode, plus that of steps from the same state",
        "GRPO's term for the whole rollout, plus one for each turn against turns that began in the same state.",
        [],
    ),
    "step_value": (
        "the value after a turn minus the value before it",
        "Values are mean rewards of rollouts that start at the turn.",
        [],
    ),
    "batch": (
        "the reward minus its task's mean, in standard deviations of the whole update",
        "(reward − mean of the task), normalised over all rollouts of the update.",
        [],
    ),
}
BASE_OF = {
    "grpo": "group", "dapo": "group", "gppo": "group", "raft": "success", "arpo": "all_rollouts", "whole_tree": "tree",
    "tree_grpo": "within_and_between", "gigpo": "episode_and_step", "vineppo": "step_value", "reinforce_pp": "batch",
}  # fmt: skip


def base_of(method: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """What the base is made of: `kind`, `label`, `text`, and `groups`, whose z-scores of the reward it is the mean of.

    `kind` is None, and the texts say nothing in particular, for a method of the user's own.
    """
    kind = options.get("advantage", "dual_group") if method == "appo" else BASE_OF.get(method or "")
    if kind not in BASES:
        return {
            "kind": None,
            "label": "the method's own",
            "text": "As the method's base_advantages has it.",
            "groups": [],
        }
    label, text, groups = BASES[kind]
    return {"kind": kind, "label": label, "text": text, "groups": groups}


def factor_help(names: list[str], options: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Words for factors by name, with the run's own numbers; one of a method of the user's own is called by its name.

    Args:
        names: Of the factors.
        options: Of the method, as far as the run was given any.
    """
    low, high = options.get("future_clip") or FUTURE_CLIP
    floor = options.get("weight_floor", WEIGHT_FLOOR)
    equations = {
        "future_factor": f"1 + {options.get('future_weight', FUTURE_WEIGHT):g} · clip(Ω, {low:g}, {high:g}), Eq. 7",
        "token_weight": f"{floor:g} + {1 - floor:g} · min(1, {FORK_SCALE:g} (H − H2) / perplexity)",
    }
    found = {}
    for name in names:
        label, text = FACTOR_HELP.get(name, (name.replace("_", " "), "A factor of the method's own."))
        found[name] = {"label": label, "text": text, "equation": equations.get(name, "")}
    return found


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
class CreditCheck:
    """The equation, tried on every token that carries loss.

    Args:
        groups: As of `base_of`; with some, the base is worked out from the rewards, too.
        tokens: How many were tried.
        disagree: How many of them do not agree.
        largest: The largest difference, as `TOLERANCE` counts; infinite where a number is missing.
        bases, base_disagree, base_largest: The same for the base of rollouts.
        has_factors: Whether records say what advantages are made of; those of older runs do not.
    """

    groups: list[str]
    tokens: int = 0
    disagree: int = 0
    largest: float = 0.0
    bases: int = 0
    base_disagree: int = 0
    base_largest: float = 0.0
    has_factors: bool = False
    _samples: list[tuple[float, int, int, float]] = field(default_factory=list)
    _random: Any = field(default_factory=lambda: np.random.default_rng(0))

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
        self._try_bases(part, places_L, rows_L)
        return Differences(rows_L[wrong_L], tokens_L[wrong_L], recorded_L[wrong_L])

    def _try_bases(self, part: Part, places_L: np.ndarray, rows_L: np.ndarray) -> None:
        if not self.groups or "base" not in part.factors:
            return
        rows, first = np.unique(rows_L, return_index=True)
        off = _off(base_from_groups(part, self.groups)[rows], part.factors["base"][places_L[first]].astype(np.float64))
        self.bases += len(rows)
        self.base_disagree += int((~(off <= TOLERANCE)).sum())
        self.base_largest = max(self.base_largest, float(off.max()))

    def _draw(self, rollouts: np.ndarray, tokens: np.ndarray, recorded: np.ndarray) -> None:
        """Keeps some tokens at random, each as likely as another."""
        keys = self._random.random(len(tokens))
        best = np.argsort(keys)[:NUM_SAMPLES]
        rows = zip(keys[best], rollouts[best], tokens[best], recorded[best], strict=True)
        self._samples += [(float(k), int(r), int(t), float(a)) for k, r, t, a in rows]
        self._samples = sorted(self._samples)[:NUM_SAMPLES]

    def summary(self) -> dict[str, Any]:
        """The outcome as JSON."""
        samples = sorted([rollout, token, recorded] for _, rollout, token, recorded in self._samples)
        return {
            "tokens": self.tokens,
            "disagree": self.disagree,
            "largest_difference": self.largest,
            "tolerance": TOLERANCE,
            "method_has_factors": self.has_factors,
            "bases": self.bases,
            "bases_disagree": self.base_disagree,
            "bases_largest_difference": self.base_largest,
            "samples": samples,
        }


def _off(found: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Differences as `TOLERANCE` counts them; infinite where a number is missing or infinite."""
    with np.errstate(invalid="ignore"):
        off = np.abs(found - recorded) / np.maximum(1.0, np.abs(recorded))
    return np.where(np.isfinite(off), off, np.inf)
