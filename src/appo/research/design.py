"""What a study's design cannot show, in sentences: before it runs, and again in its report.

Left out on purpose: power for a given effect. The report has the least effect that a comparison detects.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from appo.research.plan import Study
from appo.research.statistics import holm, least_p_value

ALPHA = 0.05  # of all comparisons together
LEAST_UPDATES = 4  # within a budget; with fewer, a curve is a line between two measurements
Names = tuple[str, str, str]  # testbed, candidate, rival


def notes_on(plan: Study) -> list[str]:
    """What can be said before the first run."""
    notes = []
    validated = any(len(plan.option("learning_rates", t, a)) > 1 for t, a in product(plan.testbeds, plan.arms))
    if validated and (seeds := plan.validation_seeds or plan.cold_starts) < plan.cold_starts:
        notes.append(
            f"validation_seeds = {seeds}: learning rates are chosen on the first {seeds} of {plan.cold_starts} cold "
            "starts; leave it out for one seed per cold start."
        )
    compared = product(plan.testbeds, plan.candidates, plan.rivals)
    pairs = {names: plan.option("test_seeds", names[0]) for names in compared if names[1] != names[2]}
    return notes + unreachable(pairs)


def unreachable(pairs: Mapping[Names, int]) -> list[str]:
    """Comparisons that cannot come out below ALPHA: even if all differences have one sign, and likewise all others.

    Args:
        pairs: Common seeds of each comparison; all are Holm-corrected together.
    """
    least = holm({"/".join(names): least_p_value(count) for names, count in pairs.items()})
    enough = next(count for count in range(1, 99) if len(pairs) * least_p_value(count) < ALPHA)
    return list(dict.fromkeys(_sentences(pairs, least, enough)))


def _sentences(pairs: Mapping[Names, int], least: Mapping[str, float], enough: int) -> Iterator[str]:
    for names, count in pairs.items():
        p_value = least["/".join(names)]
        if p_value >= ALPHA:
            yield (
                f"{names[0]}: {count} pair(s) in a study of {len(pairs)} comparison(s) cannot give a Holm p below "
                f"{p_value:.2g}, whatever the effect; test_seeds of {enough} can give one below {ALPHA:g}."
            )


def coarse(run: Mapping[str, Any], budget: float) -> str | None:
    """A sentence where a run has too few updates within `budget` generated tokens for its curve to mean anything."""
    last = run["points"][-1]
    if not last.get("updates") or last.get("generated_tokens") is None:
        return None
    each = last["generated_tokens"] / last["updates"]
    if each * LEAST_UPDATES <= budget:
        return None
    return (
        f"{run['testbed']}, {run['arm']}: an update uses {each:,.0f} tokens where runs are compared at {budget:,.0f}: "
        "success there is a straight line between two models; make the batches smaller, or the budget larger."
    )
