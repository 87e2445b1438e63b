"""A model on the paper's benchmarks (`appo benchmark --model M --benchmark A,B`), in the directory `output_dir`.

    samples.jsonl     one line per sample, appended as each ends; a run that was stopped goes on from there
    settings.json     how these samples are made
    programs.jsonl    what became of answers that are programs
    verdicts.jsonl    what the judge said, where there is one; judge.sqlite keeps its replies
    search.sqlite     what a search server answered
    results.json      the table's numbers and the settings

Every mistake is one sentence (`UserError`), found before the model is loaded where that is possible. Left out on
purpose: reading flags and printing the table (`appo.cli.benchmark`), and success on a recipe's task (`success.py`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from appo.data.benchmarks import BenchmarkRow, load_benchmark
from appo.data.own_benchmark import load_own_benchmark
from appo.data.packaged import PACKAGED, load_packaged
from appo.engines.vllm_server import served_model
from appo.evaluation.eval_config import NOT_SETTINGS, EvalConfig
from appo.evaluation.eval_tools import open_tools, tool_specs
from appo.evaluation.judge import Judge, Verdict, judge_prompt
from appo.evaluation.meter import Meter
from appo.evaluation.policy import file_marks, load_policy, sampling_dtype
from appo.evaluation.program_runs import open_runner, run_programs
from appo.evaluation.samples import Job, SampleFile
from appo.evaluation.sampling import write_samples
from appo.evaluation.scores import summarise
from appo.files import append_lines
from appo.rewards.equality import are_math

Rows = dict[str, list[BenchmarkRow]]


@dataclass
class BenchmarkResults:
    """What came of an evaluation.

    Args:
        settings: How the samples were made, and everything else that was given.
        benchmarks: A summary (`appo.evaluation.scores.summarise`) by name.
        notes: Sentences on what the summaries cannot show.
        records: The samples by benchmark, as `samples.jsonl` holds them, with the judge's scores.
    """

    settings: dict[str, Any]
    benchmarks: dict[str, dict[str, Any]]
    notes: list[str]
    records: dict[str, list[dict[str, Any]]]


def evaluate_benchmarks(config: EvalConfig, console: Console) -> BenchmarkResults:
    """Samples what is missing, and judges; `results.json` holds the settings and the summaries then.

    Args:
        console: Where progress is told.

    Raises:
        UserError: for whatever is wrong with what the settings name.
    """
    rows = _load_rows(config)
    file = SampleFile(config.directory, _settings(config), config.overwrite)
    jobs = [Job(name, row, k) for name in rows for row in rows[name] for k in range(config.samples)]
    file.check_questions(jobs)
    judge = _open_judge(config, rows, console)
    runner = open_runner(config, rows)
    _sample(config, jobs, file, console)
    records = {name: [file.found[job.key] for job in jobs if job.benchmark == name] for name in rows}
    tested = run_programs(config.directory, runner, rows, records, console) if runner else []
    judged = [name for name in rows if judge is not None and rows[name][0].metric == "judge"]
    verdicts = _judge(config, judge, [record for name in judged for record in records[name]], console) if judge else []
    summaries = {name: summarise(records[name], rows[name][0].metric) for name in rows}
    settings = {**_settings(config), **asdict(config)}
    content = {"settings": settings, "benchmarks": summaries}
    (config.directory / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return BenchmarkResults(settings, summaries, [*tested, *_notes(summaries, judged, verdicts)], records)


def _load_rows(config: EvalConfig) -> Rows:
    rows: Rows = {}
    for name, file in config.benchmarks.items():
        if file is not None:
            rows[name] = _own_rows(config, name, file)
        elif name in PACKAGED:
            rows[name] = load_packaged(name, config.limit)
        else:
            rows[name] = load_benchmark(name, config.data, config.limit, config.math_by_judge)
    return rows


def _own_rows(config: EvalConfig, name: str, file: str) -> list[BenchmarkRow]:
    """The rows of a user's file; where no metric is given, by equality if all answers are mathematics, else by F1."""
    rows = load_own_benchmark(
        name, file, prompt=config.prompt, answer=config.answer, metric=config.metric or "f1", limit=config.limit
    )
    if config.metric is None and are_math([answer for row in rows for answer in row.answers]):
        rows = [replace(row, metric="judge" if config.math_by_judge else "math") for row in rows]
    return rows


def _settings(config: EvalConfig) -> dict[str, Any]:
    """What decides how a sample is made; samples are kept if these are the same."""
    fields = {name: value for name, value in asdict(config).items() if name not in NOT_SETTINGS}
    return {
        **fields,
        "tools": tool_specs(config),
        **file_marks(config.model),
        "dtype": str(sampling_dtype()).removeprefix("torch."),
        **({"add_tools": True} if config.add_tools else {}),
        **({"served": served_model(config.server_url.rstrip("/"), 0.0)["root"]} if config.server_url else {}),
    }


def _open_judge(config: EvalConfig, rows: Rows, console: Console) -> Judge | None:
    """The judge, if one is given and needed; it has answered once then."""
    if config.judge_url is None or config.judge_model is None:
        return None
    if all(found[0].metric != "judge" for found in rows.values()):
        console.print("The judge is not asked: none of these benchmarks needs one (see --math_by_judge).")
        return None
    judge = Judge(
        config.judge_url,
        config.judge_model,
        config.directory / "judge.sqlite",
        concurrency=config.judge_concurrency,
    )
    judge.check()
    return judge


def _sample(config: EvalConfig, jobs: Sequence[Job], file: SampleFile, console: Console) -> None:
    there = sum(job.key in file.found for job in jobs)
    if there:
        console.print(f"{there} of {len(jobs)} samples are there already, in {file.path}")
    if there == len(jobs):
        return
    tools = open_tools(config)
    console.print(f"loading {config.model}")
    given = config.chat_template_kwargs or {}
    assert isinstance(given, dict)
    policy = load_policy(
        config.model,
        config.protocol,
        tools,
        config.system_prompt,
        given,
        config.engine,
        {} if config.result_format is None else {"result_format": config.result_format},
        add_tools=config.add_tools,
    )
    file.start()
    with Meter("samples", "samples", len(jobs), there, console) as meter:
        write_samples(config, policy, jobs, file, meter)


def _judge(config: EvalConfig, judge: Judge, records: list[dict[str, Any]], console: Console) -> list[Verdict]:
    """Adds `scores.judge` to the records, and writes the verdicts down."""
    prompts = [judge_prompt(r["question"], r["answers"], r["extracted"], r["completion"]) for r in records]
    with Meter("judged", "answers", len(set(prompts)), 0, console) as meter:
        by_prompt = judge.verdicts(prompts, meter.advance)
    verdicts = [by_prompt[prompt] for prompt in prompts]
    lines = []
    for record, prompt, verdict in zip(records, prompts, verdicts, strict=True):
        record["scores"]["judge"] = None if verdict.correct is None else float(verdict.correct)
        place = {name: record[name] for name in ("benchmark", "id", "sample")}
        lines.append({**place, **asdict(verdict), "judge": judge.model, "prompt": prompt})
    path = config.directory / "verdicts.jsonl"
    path.unlink(missing_ok=True)
    append_lines(path, lines)
    return verdicts


def _notes(results: dict[str, dict[str, Any]], judged: list[str], verdicts: list[Verdict]) -> list[str]:
    """What the table cannot show: metrics that are missing, answers without a verdict."""
    lines = [
        f"{name} needs a judge, and none was given (--judge-url, --judge-model): EM and F1 are shown instead."
        for name, result in results.items()
        if result["metric"] == "judge" and name not in judged
    ]
    problems = [verdict.problem for verdict in verdicts if verdict.problem]
    if problems:
        reasons = "; ".join(dict.fromkeys(problems))
        lines.append(
            f"{len(problems)} of {len(verdicts)} answers have no verdict ({reasons}). They are left out, and the same "
            "command asks for them again."
        )
    return lines
