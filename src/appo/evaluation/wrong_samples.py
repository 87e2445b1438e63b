"""Samples that were scored below 1, as text: what was asked, called and answered, and what was wanted.

    appo benchmark .. --show-wrong 5

Left out on purpose: why an answer is wrong, and samples without a score, which are neither right nor wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from appo.evaluation.table import NAMES, shown_metrics
from appo.report.text.plain_text import as_text, hanging, number, one_line, open_console, printable

END = 400  # characters of a text's end
CALL = 100  # characters of a call, or of its result
TESTS = 300  # .. of how a program failed
LAST_CALLS = 4
ENDED = {"length": "(ended by the limit of tokens)", "tool_limit": "(ended by the limit of calls)"}

Record = Mapping[str, Any]


def wrong_samples(records: Sequence[Record], metric: str, most: int) -> list[Record]:
    """The samples of the lowest scores below 1.

    Each question is heard once before one is heard twice; among equals, in the order of the questions.

    Args:
        records: Of one benchmark, as `samples.jsonl` holds them.
        metric: The name of a score.
        most: How many at most.
    """
    heard: dict[str, int] = {}
    found = []
    for record in sorted((one for one in records if _is_wrong(one, metric)), key=lambda one: one["scores"][metric]):
        heard[record["id"]] = heard.get(record["id"], 0) + 1
        found.append((heard[record["id"]], record))
    return [record for _, record in sorted(found, key=lambda one: one[0])][:most]


def _is_wrong(record: Record, metric: str) -> bool:
    score = record["scores"].get(metric)
    return score is not None and score < 1


def print_wrong(results: Mapping[str, Mapping[str, Any]], records: Mapping[str, Sequence[Record]], most: int) -> None:
    """Prints at most `most` wrong samples of each benchmark.

    Args:
        results: Summaries by benchmark, which say what metric is shown.
        records: Samples by benchmark.
    """
    console = open_console()
    for name, result in results.items():
        metric = shown_metrics(result)[-1]  # F1 of EM and F1, where there is no judge
        wrong = sum(_is_wrong(record, metric) for record in records[name])
        shown = wrong_samples(records[name], metric, most)
        scored = sum(record["scores"].get(metric) is not None for record in records[name])
        note = f", {len(shown)} of them shown" if len(shown) < wrong else ""
        line = f"{name}: {wrong} of {scored} samples score below 1 by {NAMES[metric]}{note}"
        console.print("", Text(line, style="bold"), "", sep="\n")
        for record in shown:
            for label, text, style in _lines(record, metric):
                console.print(hanging(label, Text(printable(text), style), console, style))
            console.print()


Line = tuple[str, str, str]  # label, text, style


def _lines(record: Record, metric: str) -> list[Line]:
    text, answer = record["completion"].rstrip(), record["extracted"]
    lines = [
        ("sample", f"{record['id']}, number {record['sample']}: {number(record['scores'][metric])}", "bold"),
        ("question", record["question"], ""),
        ("reference", " | ".join(map(as_text, record["answers"])), ""),
        *_of_calls(record["tool_calls"]),
        ("end", ".." * (len(text) > END) + text[-END:] if text else "(nothing was written)", ""),
    ]
    if told := ENDED.get(record["finish_reason"]):
        lines.append(("", told, "dim"))
    lines.append(("answered", "(no answer was found)" if answer is None else answer, "bold"))
    if run := record.get("run"):  # of the answer's program, with its tests
        lines.append(("tests", f"{run['error']}: {one_line(run['text'], TESTS)}", "bold red"))
    if record["format_errors"]:
        lines.append(("format", "; ".join(record["format_errors"]), ""))
    return lines


def _of_calls(calls: Sequence[Mapping[str, Any]]) -> list[Line]:
    lines: list[Line] = []
    if len(calls) > LAST_CALLS:
        lines.append(("calls", f"{len(calls)}, of which the last {LAST_CALLS} are shown", "dim"))
    for call in calls[-LAST_CALLS:]:
        said = one_line(call["result"], CALL)
        lines.append(("call", f"{call['name']}: {one_line(as_text(call['arguments']), CALL)}", "cyan"))
        if call["error"] is None:
            lines.append(("result", said, "blue"))
        else:
            lines.append(("error", f"{call['error']}: {said}", "bold red"))
    return lines
