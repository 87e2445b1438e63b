"""A study: which arms, learning rates, seeds and cold starts on which testbeds, from one YAML file.

    recipe: ../recipes/kinship.yaml  # what all runs share
    output_dir: ../runs/study       # paths are relative to this file, those of flags to where the command runs
    base: {task: kinship:CLEAN}     # one cold start per checkpoint, on which those of the testbeds build; optional
    testbeds: {loud: {task: kinship:LOUD}}
    arms: {appo: {}, grpo: {method: grpo}}
    rivals: [grpo]                  # every candidate is compared with each of them
    candidates: [appo]

A testbed or an arm is an override of the recipe, `cold_start` included, and `method_args` option by option unless it
names another method, which begins with its defaults. Every arm first runs with each learning rate on the validation
seeds and questions (not where there is one rate only); the best then on those of the test. Run number `s` of a phase
starts from cold start `s % cold_starts` on every arm, so that arms are paired.

Left out on purpose: running (`schedule.py`), and sweeps of anything but the learning rate.
"""

import copy
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from appo.cli.recipe import RecipeError, make_settings, read_yaml

VALIDATION_SEED, TEST_SEED = 1000, 2000  # a run's seed is that of its phase plus its number
VALIDATION_QUESTIONS, TEST_QUESTIONS = 3_000_000, 4_000_000
# Of the study, not of the recipe.
OWN = ("generated_tokens", "questions", "evaluations", "learning_rates", "test_seeds")
COUNTS = (*OWN[:3], "validation_seeds", "test_seeds", "cold_starts", "jobs")
Values = dict[str, Any]


@dataclass
class Study:
    """One field per key of the YAML file.

    Args:
        recipe: Path of the recipe that all runs share.
        output_dir: Where runs.jsonl, models and the report go.
        testbeds, arms: Names and overrides; a testbed may also set `generated_tokens`, `questions`, `evaluations`
            and `test_seeds`, an arm `learning_rates`.
        base: Override of the recipe for the cold start that those of the testbeds continue; None for none.
        rivals, candidates: Arms to compare; others are shown only.
        generated_tokens: Budget of a run: it ends with the update that reaches it.
        evaluations: Measurements along a run, the last at its end; one more before the first update.
        questions: Fresh questions of each measurement.
        learning_rates: Tried by every arm.
        validation_seeds, test_seeds, cold_starts: How many.
            As many validation seeds as cold starts by default, so that a rate is not chosen on one of them alone.
        jobs: Processes; by default one per core.
        overwrite: Whether to begin anew where there are runs already, for example of other code.
    """

    recipe: str
    output_dir: str
    testbeds: dict[str, Values]
    arms: dict[str, Values]
    base: Values | None = None
    rivals: list[str] = field(default_factory=list)
    candidates: list[str] = field(default_factory=list)
    generated_tokens: int = 250_000
    evaluations: int = 4
    questions: int = 512
    learning_rates: list[float] = field(default_factory=lambda: [2e-4, 4e-4, 8e-4])
    validation_seeds: int | None = None
    test_seeds: int = 8
    cold_starts: int = 2
    jobs: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("recipe", "output_dir"):
            if not isinstance(getattr(self, name), str):
                raise RecipeError(f"{name} must be a path, got {getattr(self, name)!r}.")
        _check_own(vars(self))
        if not isinstance(self.overwrite, bool):
            raise RecipeError(f"overwrite must be true or false, got {self.overwrite!r}.")
        for name in ("testbeds", "arms"):
            value = getattr(self, name)
            if not isinstance(value, dict) or not value:
                raise RecipeError(f"{name} must map at least one name to its settings, got {value!r}.")
            setattr(self, name, {str(key): _settings(f"{name}.{key}", own) for key, own in value.items()})
        if self.base is not None:
            self.base = _settings("base", self.base)
        for arm, own in self.arms.items():
            if misplaced := [name for name in OWN if name in own and name != "learning_rates"]:
                raise RecipeError(f"arms.{arm}.{misplaced[0]}: all arms have the same one; set it on a testbed.")
        for name in ("rivals", "candidates"):
            value = getattr(self, name) or []
            if not isinstance(value, list):
                raise RecipeError(f"{name} must be a list of arms, got {value!r}.")
            unknown = [arm for arm in value if arm not in self.arms]
            if unknown:
                raise RecipeError(f"{name} names {unknown[0]!r}, which is none of the arms {', '.join(self.arms)}.")
            setattr(self, name, value)

    def option(self, name: str, testbed: str, arm: str | None = None) -> Any:
        """A setting of the study, as the arm or the testbed has it."""
        own = self.arms.get(arm, {}) if arm else {}
        return own.get(name, self.testbeds[testbed].get(name, getattr(self, name)))


def _settings(place: str, settings: Any) -> Values:
    """The settings of an arm or a testbed, checked as far as they are the study's own."""
    if not isinstance(settings or {}, dict):
        raise RecipeError(f"{place} must map fields to values, got {settings!r}.")
    settings = dict(settings or {})
    _check_own(settings, f"{place}.")
    return settings


def _check_own(values: Values, place: str = "") -> None:
    """Checks the study's own fields among `values`, and makes numbers of the learning rates."""
    for name in COUNTS:
        value = values.get(name)
        if value is None and (name in ("jobs", "validation_seeds") or name not in values):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecipeError(f"{place}{name} must be a whole number of at least 1, got {value!r}.")
    if "learning_rates" in values:
        rates = values["learning_rates"]
        try:
            # YAML reads 1e-4, without a point, as text.
            values["learning_rates"] = [float(rate) for rate in rates] if isinstance(rates, list) else []
        except (TypeError, ValueError):
            values["learning_rates"] = []
        if not values["learning_rates"] or min(values["learning_rates"]) <= 0:
            raise RecipeError(f"{place}learning_rates must be a list of numbers above 0, got {rates!r}.")


@dataclass(frozen=True)
class Job:
    """One cold start or one run. `arm` is None for a cold start, `testbed` too for that of the base."""

    cold_start: int
    testbed: str | None = None
    arm: str | None = None
    phase: str | None = None
    seed: int | None = None
    learning_rate: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What names a run in runs.jsonl; the learning rate of a test run follows from validation."""
        rate = self.learning_rate if self.phase == "validation" else None
        return (self.testbed, self.arm, self.phase, self.cold_start, self.seed, rate)

    def __str__(self) -> str:
        parts = [self.testbed or "base", self.arm or "cold start", self.phase, f"cold start {self.cold_start}"]
        parts += [f"seed {self.seed}", f"learning rate {self.learning_rate:g}"] if self.learning_rate else []
        return ", ".join(part for part in parts if part)


def read_study(path: str, overrides: Values | None = None) -> Study:
    """Reads a study and checks every combination of testbed and arm before anything runs.

    Raises:
        RecipeError: for a missing file, unknown fields, wrong types and settings that contradict each other.
    """
    values = {**_from_here(read_yaml(path), path), **(overrides or {})}
    known = {f.name for f in fields(Study)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise RecipeError(f"{path}: unknown field {unknown[0]}; a study has {', '.join(sorted(known))}.")
    missing = [name for name in ("recipe", "output_dir", "testbeds", "arms") if name not in values]
    if missing:
        raise RecipeError(f"{path}: {missing[0]} is missing; a study needs it.")
    study = Study(**values)
    if not Path(study.recipe).is_file():
        raise RecipeError(
            f"{path}: there is no recipe {study.recipe}; paths in a study are relative to its file, those of flags to "
            "the present directory."
        )
    for job in cold_starts(study):
        if job.cold_start == 0:
            run_settings(study, job)
    for testbed in study.testbeds:
        for arm in study.arms:
            job = Job(0, testbed, arm, "test", 0, study.option("learning_rates", testbed, arm)[0])
            run_settings(study, job)
    return study


def _from_here(values: Values, path: str) -> Values:
    """The fields of a study's file, with its paths as seen from the present directory.

    `model` and `traces` of a testbed or an arm may be hub names: they are paths where something is there.
    """

    def seen(given: Any) -> Any:
        return os.path.normpath(Path(path).parent / given) if isinstance(given, str) else given

    def seen_if_there(given: Any) -> Any:
        return seen(given) if isinstance(given, str) and os.path.exists(seen(given)) else given

    values = copy.deepcopy(values)
    values.update({name: seen(values[name]) for name in ("recipe", "output_dir") if name in values})
    groups = [group for name in ("testbeds", "arms") if isinstance(group := values.get(name), dict)]
    for settings in (values.get("base"), *(own for group in groups for own in group.values())):
        if isinstance(settings, dict) and "model" in settings:
            settings["model"] = seen_if_there(settings["model"])
        if isinstance(settings, dict) and isinstance(settings.get("traces"), list):
            settings["traces"] = [seen_if_there(source) for source in settings["traces"]]
    return values


def run_settings(study: Study, job: Job) -> Any:
    """(RunConfig, APPOConfig, SFTConfig) of a job, or of the cold start it begins from."""
    recipe = read_yaml(study.recipe)
    overrides = [study.testbeds[job.testbed]] if job.testbed else [study.base or {}]
    if job.arm:
        overrides.append(study.arms[job.arm])
    cold: Values = {}
    for override in [dict(recipe), *overrides]:
        override = {name: value for name, value in override.items() if name not in OWN}
        nested = override.pop("cold_start", None) or {}
        if not isinstance(nested, dict):
            raise RecipeError(
                f"{study.recipe}, {job}: cold_start must be a mapping of SFTConfig fields, got {nested!r}."
            )
        cold.update(nested)
        recipe.update(_with_method_args(recipe, override))
    recipe.update(output_dir=str(directory_of(study, job)), cold_start=cold, save_records=False, save_strategy="no")
    if job.arm:
        recipe.update(seed=job.seed, train_seed=job.seed, learning_rate=job.learning_rate, max_steps=1_000_000)
        recipe.update(
            demonstrations=0, model=str(directory_of(study, Job(job.cold_start, job.testbed)) / "cold_start")
        )
    else:
        recipe.update(seed=job.cold_start, train_seed=job.cold_start)
        if job.testbed and study.base is not None:
            recipe["model"] = str(directory_of(study, Job(job.cold_start)) / "cold_start")
    return make_settings(recipe, f"{study.recipe}, {job}")


def _with_method_args(recipe: Values, override: Values) -> Values:
    """`override` with the method's options merged one by one; where it names another method, without the recipe's."""
    method = recipe.get("method", "appo")
    known = recipe.get("method_args") if override.get("method", method) == method else None
    new = override.get("method_args", known)
    if isinstance(known, dict) and isinstance(new, dict):
        new = {**known, **new}
    return {**override, "method_args": new}


def directory_of(study: Study, job: Job) -> Path:
    """Where a cold start lies; what a run writes besides its line is thrown away."""
    name = "runs" if job.arm else f"{job.testbed or 'base'}-{job.cold_start}"
    return Path(study.output_dir) / "models" / name


def cold_starts(study: Study) -> list[Job]:
    """The base's, then the testbeds' that build on it."""
    base = [Job(cold) for cold in range(study.cold_starts)] if study.base is not None else []
    return base + [Job(cold, testbed) for cold in range(study.cold_starts) for testbed in study.testbeds]


def validation_runs(study: Study) -> list[Job]:
    """The runs that choose each arm's learning rate: every rate on every validation seed, on seeds of their own."""
    return [
        Job(number % study.cold_starts, testbed, arm, "validation", VALIDATION_SEED + number, float(rate))
        for number in range(study.validation_seeds or study.cold_starts)
        for testbed in study.testbeds
        for arm in study.arms
        for rate in study.option("learning_rates", testbed, arm)
        if len(study.option("learning_rates", testbed, arm)) > 1
    ]


def test_runs(study: Study, rates: dict[tuple[str, str], float]) -> list[Job]:
    """Seed by seed, so that a study that is still going has as many of each arm."""
    most = max(study.option("test_seeds", testbed) for testbed in study.testbeds)
    jobs = []
    for number in range(most):
        for testbed in study.testbeds:
            for arm in study.arms:
                rate = rates.get((testbed, arm), float(study.option("learning_rates", testbed, arm)[0]))
                job = Job(number % study.cold_starts, testbed, arm, "test", TEST_SEED + number, rate)
                jobs += [job] if number < study.option("test_seeds", testbed) else []
    return jobs
