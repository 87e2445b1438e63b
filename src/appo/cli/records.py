"""`appo records RUN`: what a run has written down, for people and for `jq`.

    appo records runs/kinship                       how many updates, rollouts and tokens, and where
    appo records runs/kinship --jsonl --step 3      a line of JSON per rollout of the third update

RUN is a run's `output_dir`, its folder `records`, one of the files there, or a `records.jsonl` of an older run. In
JSON, numbers per token have five digits, and NaN and infinity are null, as JSON has neither.

Left out on purpose: pictures (`appo.report.curves`), and torch: this answers at once.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from appo.files import strict_json
from appo.rollout.record_columns import FACTORS, FIXED
from appo.rollout.record_files import record_files, records_at
from appo.rollout.records import read_meta, read_records


def records(flags: list[str]) -> int:
    """Prints the lines or the summary; returns the exit code.

    Raises:
        UserError: where there are no records, or broken ones.
    """
    parser = argparse.ArgumentParser("appo records", description=__doc__, formatter_class=AsWritten)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--jsonl", action="store_true", help="print the records themselves")
    parser.add_argument("--step", type=int, help="those of one update alone")
    parser.add_argument("--kind", choices=["train", "evaluation", "all"], default="train", help="default: train")
    parser.add_argument("--texts", action="store_true", help="with --jsonl: add the text of each token")
    options = parser.parse_args(flags)
    if not options.jsonl and (options.step is not None or options.texts or options.kind != "train"):
        parser.error("--step, --kind and --texts choose among the records that --jsonl prints; add --jsonl.")
    kind = None if options.kind == "all" else options.kind
    lines = json_lines(options.run, kind, options.step, options.texts) if options.jsonl else summary(options.run)
    for line in lines:
        print(line)
    return 0


class AsWritten(argparse.RawDescriptionHelpFormatter):
    """Help with the module's own line breaks."""


def json_lines(run: str, kind: str | None, step: int | None, texts: bool) -> Iterator[str]:
    """Records as JSON, one a line."""
    for record in read_records(run, kind=kind, step=step, texts=texts):
        yield json.dumps(strict_json(short(record)))


def short(record: dict[str, Any]) -> dict[str, Any]:
    """The record with five digits of what is per token: more is kept than is meant to be read."""
    found = {name: value if name in FIXED else _short(value) for name, value in record.items()}
    if parts := record.get(FACTORS):
        found[FACTORS] = {name: _short(values) for name, values in parts.items()}
    return found


def _short(values: Any) -> Any:
    if not isinstance(values, list):
        return values
    return [float(f"{value:.5g}") if isinstance(value, float) else value for value in values]


def summary(run: str) -> Iterator[str]:
    """What there is, in a few lines."""
    files = record_files(run)
    size = sum(path.stat().st_size for path in files)
    steps: set[int] = set()
    counts = {kind: [0, 0, 0] for kind in ("train", "evaluation")}
    for record in read_records(run, kind=None, columns=("kind", "step", "policy_mask")):
        count = counts[record.get("kind", "train")]
        if count is counts["train"]:
            steps.add(record["step"])
        count[0] += 1
        count[1] += len(record["policy_mask"])
        count[2] += sum(record["policy_mask"])
    yield f"records     {records_at(run)} ({len(files)} files, {size / 1e6:,.1f} MB)"
    span = f" ({min(steps)} to {max(steps)})" if steps else ""
    yield f"updates     {len(steps)}{span}"
    for kind, (rollouts, tokens, written) in counts.items():
        if rollouts or kind == "train":
            yield f"{kind:11} {rollouts:,} rollouts, {tokens:,} tokens, {written:,} of them by the policy"
    meta = read_meta(run)
    if meta.get("tokenizer"):
        yield f"tokenizer   {meta['tokenizer']}"
