"""What the parts of the credit equation are called, and how each method's base comes about, in words.

Left out on purpose: the numbers (`credit.py`), and torch, so that what `appo.methods` says in code is said again here.
"""

from typing import Any

# Defaults of `appo.methods` and `appo.algorithm`, which need torch.
FUTURE_CLIP, FUTURE_WEIGHT, WEIGHT_FLOOR, FORK_SCALE = (1.0, 1.2), 0.5, 0.1, 4.5
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
    "rescue": (
        "1 for a success, with the prefix that a branch shares; less where a branch succeeded in a token's place",
        "1 where the reward reaches success_reward, else 0; minus the contrast at a failure's token that a branch "
        "replaced with success.",
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
    "appo_rescue": "rescue",
    "tree_grpo": "within_and_between", "gigpo": "episode_and_step", "vineppo": "step_value", "reinforce_pp": "batch",
}  # fmt: skip


def base_of(method: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """What the base is made of: `kind`, `label`, `text`, and `groups`, whose z-scores of the reward it is the mean of.

    `kind` is None, and the texts say nothing in particular, for a method of the user's own.
    """
    return base_of_kind(options.get("advantage", "dual_group") if method == "appo" else BASE_OF.get(method or ""))


def base_of_kind(kind: str | None) -> dict[str, Any]:
    """The same of one of `BASES`."""
    label, text, groups = BASES.get(kind or "", ("the method's own", "As the method's base_advantages has it.", []))
    return {"kind": kind if kind in BASES else None, "label": label, "text": text, "groups": groups}


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
