"""Plans of studies: jobs, pairs, settings of each job, and one sentence for every mistake."""

import os
from pathlib import Path

import pytest
import yaml

from appo.cli.main import main
from appo.research import schedule
from appo.research.__main__ import study_flags
from appo.research.plan import Job, cold_starts, directory_of, read_study, run_settings, validation_runs
from appo.research.plan import test_runs as runs_of_test
from appo.research.report import choose_learning_rates

ROOT = Path(__file__).parents[3]

RECIPE = {
    "task": "kinship",
    "demonstrations": 64,
    "cold_start": {"max_steps": 5, "learning_rate": 1e-3},
    "num_generations": 4,
    "method_args": {"num_initial_rollouts": 2, "num_branch_points": 1},
    "per_device_train_batch_size": 8,
    "steps_per_generation": 2,
    "tool_protocol": "tags",
    "bf16": False,
    "use_cpu": True,
}
STUDY = {
    "output_dir": "out",
    "testbeds": {"small": {"max_completion_length": 32}, "large": {"questions": 9, "max_completion_length": 64}},
    "arms": {"appo": {}, "arpo": {"method": "arpo", "learning_rates": [3e-4]}},
    "rivals": ["arpo"],
    "candidates": ["appo"],
    "learning_rates": [1e-4, 2e-4],
    "validation_seeds": 2,
    "test_seeds": 3,
    "cold_starts": 2,
}


@pytest.fixture
def make(tmp_path):
    """Writes a study and its recipe, with some fields changed or, where None, left out; returns its path."""

    def write(**changes):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
        values = {"recipe": str(tmp_path / "recipe.yaml"), **STUDY, **changes}
        path = tmp_path / "study.yaml"
        values = {name: value for name, value in values.items() if value is not None}
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return str(path)

    return write


def test_the_studies_of_the_repository_are_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in sorted(os.listdir("studies")):
        assert read_study(f"studies/{path}").arms


# ---- jobs ----


def test_cold_starts_are_one_per_testbed_and_checkpoint(make):
    study = read_study(make())
    assert cold_starts(study) == [Job(0, "small"), Job(0, "large"), Job(1, "small"), Job(1, "large")]


def test_the_cold_starts_of_the_base_come_first(make):
    jobs = cold_starts(read_study(make(base={})))
    assert jobs[:2] == [Job(0), Job(1)]
    assert len(jobs) == 6


def test_validation_tries_every_rate_of_an_arm_on_every_testbed(make):
    jobs = validation_runs(read_study(make()))
    assert len(jobs) == 2 * 2 * 2
    small = [job for job in jobs if (job.testbed, job.arm) == ("small", "appo")]
    assert [(job.seed, job.learning_rate) for job in small] == [(1000, 1e-4), (1000, 2e-4), (1001, 1e-4), (1001, 2e-4)]
    assert {job.phase for job in jobs} == {"validation"}


def test_an_arm_with_one_rate_needs_no_validation(make):
    study = read_study(make())
    assert "arpo" not in {job.arm for job in validation_runs(study)}
    assert {job.learning_rate for job in runs_of_test(study, {}) if job.arm == "arpo"} == {3e-4}


def test_a_testbed_may_have_seeds_of_its_own(make):
    testbeds = {"small": {"test_seeds": 1, "max_completion_length": 32}, "large": STUDY["testbeds"]["large"]}
    jobs = runs_of_test(read_study(make(testbeds=testbeds)), {})
    assert [job.seed for job in jobs if (job.testbed, job.arm) == ("small", "appo")] == [2000]
    assert [job.seed for job in jobs if (job.testbed, job.arm) == ("large", "appo")] == [2000, 2001, 2002]


def test_test_runs_have_the_chosen_rate(make):
    rates = {("small", "appo"): 1e-4, ("large", "appo"): 2e-4}
    jobs = runs_of_test(read_study(make()), rates)
    assert len(jobs) == 3 * 2 * 2
    assert all(job.learning_rate == rates.get((job.testbed, job.arm), 3e-4) for job in jobs)
    # Seed by seed.
    assert [job.seed for job in jobs] == [2000] * 4 + [2001] * 4 + [2002] * 4


def test_runs_with_one_number_share_seed_and_cold_start_over_arms(make):
    study = read_study(make())
    rates = {(testbed, arm): 1.0 for testbed in study.testbeds for arm in study.arms}
    pairs = {}
    for job in runs_of_test(study, rates):
        pairs.setdefault((job.testbed, job.arm), []).append((job.cold_start, job.seed))
    assert set(map(tuple, pairs.values())) == {((0, 2000), (1, 2001), (0, 2002))}


def test_validation_and_test_share_no_seed(make):
    study = read_study(make(validation_seeds=50, test_seeds=50))
    rates = {(testbed, arm): 1.0 for testbed in study.testbeds for arm in study.arms}
    assert not {job.seed for job in validation_runs(study)} & {job.seed for job in runs_of_test(study, rates)}


def test_keys_tell_validation_rates_apart_and_test_rates_not():
    one, two = (Job(0, "small", "appo", "validation", 1000, rate) for rate in (1e-4, 2e-4))
    assert one.key != two.key
    one, two = (Job(0, "small", "appo", "test", 2000, rate) for rate in (1e-4, 2e-4))
    assert one.key == two.key
    assert Job(0, "small", "appo", "test", 2001, 1e-4).key != one.key


def test_a_job_says_what_it_is():
    assert str(Job(1)) == "base, cold start, cold start 1"
    run = Job(0, "small", "appo", "test", 2000, 4e-4)
    assert str(run) == "small, appo, test, cold start 0, seed 2000, learning rate 0.0004"


def test_chosen_rates_name_every_testbed_and_arm_of_the_plan(make):
    study = read_study(make())
    lines = [{**vars(job), "points": [{"success": job.learning_rate}]} for job in validation_runs(study)]
    rates = choose_learning_rates(lines)
    assert {job.learning_rate for job in runs_of_test(study, rates) if job.arm == "appo"} == {2e-4}


# ---- settings ----


def test_a_run_starts_from_the_cold_start_of_its_testbed_and_number(make):
    study = read_study(make())
    config, args, _ = run_settings(study, Job(1, "small", "arpo", "test", 2001, 3e-4))
    assert config.model == f"{study.output_dir}/models/small-1/cold_start"
    assert config.demonstrations == 0
    assert (args.seed, config.train_seed, args.learning_rate) == (2001, 2001, pytest.approx(3e-4))
    assert (args.method, args.max_completion_length) == ("arpo", 32)
    assert (args.save_records, str(args.save_strategy.value)) == (False, "no")


def test_a_cold_start_is_that_of_the_recipe_with_its_own_seed(make):
    study = read_study(make())
    config, args, sft = run_settings(study, Job(1, "small"))
    assert (config.model, config.demonstrations, config.train_seed, args.seed, sft.seed) == (None, 64, 1, 1, 1)
    assert sft.output_dir == f"{study.output_dir}/models/small-1/cold_start_training"


def test_a_testbed_continues_the_base(make):
    study = read_study(make(base={"task": "kinship:LOUD", "demonstrations": 32}))
    config, _, _ = run_settings(study, Job(1))
    assert (config.task, config.demonstrations, config.model) == ("kinship:LOUD", 32, None)
    config, _, _ = run_settings(study, Job(1, "small"))
    base = f"{study.output_dir}/models/base-1/cold_start"
    assert (config.task, config.demonstrations, config.model) == ("kinship", 64, base)
    assert directory_of(study, Job(1)) != directory_of(study, Job(0))


def test_overrides_are_merged_the_arms_last_and_cold_starts_field_by_field(make):
    study = read_study(
        make(
            testbeds={
                "small": {"loss_type": "bnpo", "success_reward": 0.1, "cold_start": {"max_steps": 7}},
            },
            arms={"appo": {"success_reward": 0.2}, "late": {"cold_start": {"warmup_steps": 3}}},
            rivals=None,
        )
    )
    _, args, sft = run_settings(study, Job(0, "small", "appo", "test", 2000, 1e-4))
    assert (args.loss_type, args.success_reward, args.num_generations) == ("bnpo", 0.2, 4)
    assert (sft.max_steps, sft.learning_rate) == (7, pytest.approx(1e-3))
    _, _, sft = run_settings(study, Job(0, "small", "late", "test", 2000, 1e-4))
    assert (sft.max_steps, sft.warmup_steps) == (7, 3)
    # Nothing of one job is left in another.
    _, args, sft = run_settings(study, Job(0, "small"))
    assert (args.success_reward, sft.max_steps, sft.warmup_steps) == (0.1, 7, 0)


def test_options_of_the_method_are_merged_one_by_one(make):
    testbeds = {"small": {"method_args": {"half_life": 8.0, "future_weight": 0.1}}}
    arms = {"appo": {"method_args": {"future_weight": 0.2}}, "same": {"method": "appo"}}
    study = read_study(make(testbeds=testbeds, arms=arms, rivals=None))
    own = {"num_initial_rollouts": 2, "num_branch_points": 1, "half_life": 8.0}
    expected = {"appo": {**own, "future_weight": 0.2}, "same": {**own, "future_weight": 0.1}}
    for arm, options in expected.items():
        _, args, _ = run_settings(study, Job(0, "small", arm, "test", 2000, 1e-4))
        assert args.method_args == options


def test_another_method_begins_without_the_options_of_the_recipes_own(make):
    testbeds = {"small": {"method_args": {"half_life": 8.0}}}
    arms = {
        "grpo": {"method": "grpo"},
        "fork": {"method": "raft", "method_args": {"token_weight": "fork"}},
        "appo": {},
    }
    study = read_study(make(testbeds=testbeds, arms=arms, rivals=None))
    for arm, options in (("grpo", None), ("fork", {"token_weight": "fork"})):
        _, args, _ = run_settings(study, Job(0, "small", arm, "test", 2000, 1e-4))
        assert (args.method_args or None) == options


def test_options_of_the_study_may_be_those_of_a_testbed_or_arm(make):
    study = read_study(make(questions=5))
    assert (study.option("questions", "small"), study.option("questions", "large")) == (5, 9)
    assert study.option("learning_rates", "small", "appo") == [1e-4, 2e-4]
    assert study.option("learning_rates", "small", "arpo") == [3e-4]


def test_rates_that_yaml_reads_as_text_are_numbers(make):
    arms = {"appo": {"learning_rates": ["2e-4", 3e-4]}}
    study = read_study(make(learning_rates=["1e-4"], arms=arms, rivals=None))
    assert study.learning_rates == [1e-4]
    assert [job.learning_rate for job in validation_runs(study)[:2]] == [2e-4, 3e-4]


def test_paths_of_the_file_are_relative_to_it_and_those_of_flags_are_not(make, tmp_path, monkeypatch):
    path = make(recipe="recipe.yaml", output_dir="../out")
    for place in (tmp_path, tmp_path.parent, ROOT):
        monkeypatch.chdir(place)
        seen = os.path.relpath(path)
        assert Path(read_study(seen).output_dir).resolve() == tmp_path.parent / "out"
        assert Path(read_study(seen).recipe).resolve() == tmp_path / "recipe.yaml"
        assert read_study(seen, {"output_dir": "here"}).output_dir == "here"
    monkeypatch.chdir(tmp_path.parent)
    assert read_study(f"{tmp_path.name}/study.yaml").output_dir == "out"


def test_models_and_traces_are_paths_where_something_is_there_and_hub_names_elsewhere(make, tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "told.jsonl").write_text("{}\n")
    own = {"model": "policy", "traces": ["told.jsonl", "somebody/traces"]}
    study = read_study(make(base=own, testbeds={"small": own}, arms={"appo": {}, "arpo": {"model": "some/body"}}))
    for settings in (study.base, study.testbeds["small"]):
        assert settings["model"] == str(tmp_path / "policy")
        assert settings["traces"] == [str(tmp_path / "told.jsonl"), "somebody/traces"]
    assert study.arms["arpo"]["model"] == "some/body"


def test_the_studies_of_the_repository_write_to_its_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    places = [read_study(f"studies/{path}").output_dir for path in os.listdir("studies")]
    assert {"runs/study", "runs/study-rivals", "runs/study-smoke"} < set(places)
    assert len(set(places)) == len(places) and {os.path.dirname(place) for place in places} == {"runs"}


@pytest.mark.parametrize("flags", [["--overwrite"], ["--overwrite", "true"], ["--overwrite", "--jobs", "1"]])
def test_overwrite_is_a_flag_that_may_stand_alone(flags):
    assert study_flags(flags)["overwrite"] is True
    assert study_flags(["--jobs", "2", *flags])["jobs"] == (1 if "--jobs" in flags else 2)


def test_there_is_a_validation_seed_per_cold_start_unless_said_otherwise(make):
    for given, expected in ((None, {(0, 1000), (1, 1001), (2, 1002)}), (1, {(0, 1000)})):
        jobs = validation_runs(read_study(make(validation_seeds=given, cold_starts=3)))
        assert {(job.cold_start, job.seed) for job in jobs} == expected


def test_flags_replace_fields_of_the_file(make):
    study = read_study(make(), {"test_seeds": 1, "arms": {"appo": {}}, "rivals": []})
    assert (study.test_seeds, list(study.arms), study.validation_seeds) == (1, ["appo"], 2)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tset_seeds": 3}, "unknown field tset_seeds; a study has arms, base, "),
        ({"recipe": None}, "recipe is missing; a study needs it."),
        ({"arms": None, "rivals": None, "candidates": None}, "arms is missing; a study needs it."),
        ({"rivals": ["grpo"]}, "rivals names 'grpo', which is none of the arms appo, arpo."),
        ({"candidates": ["grpo"]}, "candidates names 'grpo', which is none of the arms appo, arpo."),
        ({"rivals": "arpo"}, "rivals must be a list of arms, got 'arpo'."),
        ({"testbeds": ["small"]}, "testbeds must map at least one name to its settings, got ['small']."),
        ({"testbeds": {}}, "testbeds must map at least one name to its settings, got {}."),
        ({"arms": 3}, "arms must map at least one name to its settings, got 3."),
        ({"arms": {"appo": 3}}, "arms.appo must map fields to values, got 3."),
        ({"testbeds": {"small": "kinship"}}, "testbeds.small must map fields to values, got 'kinship'."),
        ({"base": ["kinship"]}, "base must map fields to values, got ['kinship']."),
        ({"recipe": 3}, "recipe must be a path, got 3."),
        ({"generated_tokens": "many"}, "generated_tokens must be a whole number of at least 1, got 'many'."),
        ({"generated_tokens": 1.5}, "generated_tokens must be a whole number of at least 1, got 1.5."),
        ({"questions": 0}, "questions must be a whole number of at least 1, got 0."),
        ({"test_seeds": True}, "test_seeds must be a whole number of at least 1, got True."),
        ({"jobs": "all"}, "jobs must be a whole number of at least 1, got 'all'."),
        ({"jobs": -1}, "jobs must be a whole number of at least 1, got -1."),
        (
            {"testbeds": {"small": {"questions": "all"}}},
            "testbeds.small.questions must be a whole number of at least 1, got 'all'.",
        ),
        (
            {"arms": {"appo": {"questions": 3}}, "rivals": None},
            "arms.appo.questions: all arms have the same one; set it on a testbed.",
        ),
        ({"learning_rates": 1e-4}, "learning_rates must be a list of numbers above 0, got 0.0001."),
        ({"learning_rates": []}, "learning_rates must be a list of numbers above 0, got []."),
        ({"learning_rates": ["fast"]}, "learning_rates must be a list of numbers above 0, got ['fast']."),
        (
            {"arms": {"appo": {"learning_rates": [0]}}, "rivals": None},
            "arms.appo.learning_rates must be a list of numbers above 0, got [0].",
        ),
        ({"arms": {"appo": {"method": "grop"}}, "rivals": None}, "method = 'grop' is unknown; did you mean grpo?"),
        ({"arms": {"appo": {"methdo": "arpo"}}, "rivals": None}, "unknown field methdo; did you mean method?"),
        ({"arms": {"appo": {"rival": "arpo"}}, "rivals": None}, "rival"),
        (
            {"arms": {"appo": {"method_args": {"num_branch_points": 2}}}, "rivals": None},
            "small, appo, test, cold start 0",
        ),
        (
            {"arms": {"appo": {"method_args": {"branch": 2}}}, "rivals": None},
            "method = 'appo' has no option branch; did",
        ),
        ({"arms": {"appo": {"method_args": 2}}, "rivals": None}, "method_args must be a mapping, got 2."),
        ({"testbeds": {"small": {"cold_start": 3}}}, "cold_start must be a mapping of SFTConfig fields, got 3."),
        ({"base": {"tsak": "kinship"}}, "base, cold start, cold start 0: unknown field tsak; did you mean task?"),
        ({"base": {"cold_start": {"max_stesp": 3}}}, "unknown field max_stesp; did you mean max_steps?"),
        (
            {"recipe": "none.yaml"},
            "none.yaml; paths in a study are relative to its file, those of flags",
        ),
        ({"overwrite": "yes please"}, "overwrite must be true or false, got 'yes please'."),
    ],
)
def test_mistakes_are_one_sentence(make, capsys, tmp_path, monkeypatch, changes, sentence):
    monkeypatch.setattr(schedule, "Workers", lambda *a, **k: pytest.fail("a study was started"))
    directory = tmp_path / "study"
    assert main(["study", make(**{"output_dir": str(directory), **changes})]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("appo: ")
    assert error.count("\n") == 1
    assert not directory.exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--test_seeds"], "flags come in pairs"),
        (["test_seeds", "3"], "flags come in pairs"),
        (["--test_seeds", "few"], "test_seeds must be a whole number of at least 1, got 'few'."),
        (["--arms", "{appo: ["], "a flag's value is not readable YAML"),
    ],
)
def test_mistaken_flags_are_one_sentence(make, capsys, monkeypatch, flags, sentence):
    monkeypatch.setattr(schedule, "Workers", lambda *a, **k: pytest.fail("a study was started"))
    assert main(["study", make(), *flags]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_help_and_missing_files(capsys):
    assert main(["study", "--help"]) == 0
    assert "generated_tokens" in capsys.readouterr().out
    assert main(["study"]) == 2
    assert main(["study", "none.yaml"]) == 2
    assert "there is no recipe none.yaml" in capsys.readouterr().err
