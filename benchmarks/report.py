"""What a report costs: size, seconds to build, and seconds to its first view in a headless Chromium.

    python benchmarks/report.py RUN [--only run,short,long] [--keep DIR] [--check]

Three reports: of a finished run (`run`; as `make train` leaves it), of 100,000 rollouts like its own (`short`), and of
100 million tokens, the same rollouts made 14 times as long (`long`), which is a folder beside the page. The longer
records are the run's own, repeated under other steps and tasks. The first view is what the page itself measures, from
the beginning of its navigation until the overview is drawn; then the same for an address that leads to the list of
rollouts, and for one that leads to the tokens of one of them. Each is the median of `--repeats` fresh browsers. Prints
a line per report, with the largest memory of the process that built it (Linux alone); `--check` fails beyond bounds.

Left out on purpose: other browsers.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from appo.report.html.write import write_report
from appo.rollout.record_columns import Layout
from appo.rollout.record_files import record_files

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import NONE, Browser, find_browser

ROLLOUTS, TOKENS = 100_000, 100_000_000
VIEWS = ("overview", "rollouts", "rollout/0/5000")
BOUNDS = {"run": (2.5, 20.0, 1.0), "short": (15.0, None, 5.0), "long": (None, None, 2.0)}  # MB, seconds, first view


def repeated(run: Path, directory: Path, rollouts: int, times_longer: int = 1) -> None:
    """Records like those of a run, as many as wanted."""
    (directory / "records").mkdir(parents=True)
    for name in ("vocabulary.parquet", "meta.json"):
        (directory / "records" / name).write_bytes((run / "records" / name).read_bytes())
    files, left = record_files(run, "train"), rollouts
    for step in range(1, rollouts + 1):
        table = pq.read_table(files[(step - 1) % len(files)]).combine_chunks()
        if times_longer > 1:
            table = longer(table, times_longer)
        names = table.schema.names
        table = table.set_column(names.index("step"), "step", pa.array([step] * table.num_rows, pa.int32()))
        tasks = pc.binary_join_element_wise(str(step), table.column("task"), ".")
        table = table.set_column(names.index("task"), "task", tasks).slice(0, left)
        layout = Layout(
            tuple(n for n in names if n in SCORES), tuple(f.name for f in table.schema.field("factors").type)
        )
        path = directory / "records" / f"{step:06d}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=1024, **layout.encodings())
        left -= table.num_rows
        if left <= 0:
            return


SCORES = ("behaviour_logprobs", "entropies", "logprobs", "omega", "score", "advantages")


def longer(table: pa.Table, times: int) -> pa.Table:
    """The rollouts, each repeated within itself, its calls too."""
    lengths = pc.list_value_length(table.column("completion_ids").combine_chunks()).to_numpy()
    for name in table.schema.names:
        column = table.column(name).combine_chunks()
        if name == "factors":
            parts = [_tiled(pc.struct_field(column, [i]), times) for i in range(column.type.num_fields)]
            column = pa.StructArray.from_arrays(parts, [field.name for field in column.type], mask=column.is_null())
        elif name == "tool_calls":
            column = _moved(column, lengths, times)
        elif name in (*SCORES, "completion_ids", "policy_mask"):
            column = _tiled(column, times)
        table = table.set_column(table.schema.names.index(name), name, column)
    return table


def _tiled(column: pa.ListArray, times: int) -> pa.ListArray:
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    starts = np.cumsum(lengths) - lengths
    places = [np.tile(np.arange(start, start + n), times) for start, n in zip(starts, lengths, strict=True)]
    items = column.flatten().take(pa.array(np.concatenate(places)))
    offsets = pa.array(np.append(0, np.cumsum(lengths * times)), pa.int32())
    return pa.ListArray.from_arrays(offsets, items, mask=column.is_null())


def _moved(column: pa.ListArray, lengths: np.ndarray, times: int) -> pa.ListArray:
    tiled = _tiled(column, times)
    counts = pc.list_value_length(column).to_numpy()
    shift = np.concatenate([np.repeat(np.arange(times) * n, c) for n, c in zip(lengths, counts, strict=True)])
    flat = tiled.flatten()
    moved = [
        pc.add(pc.struct_field(flat, [i]), pa.array(shift, pa.int32()))
        if field.name in ("start", "end", "result_start", "result_end")
        else pc.struct_field(flat, [i])
        for i, field in enumerate(flat.type)
    ]
    return pa.ListArray.from_arrays(tiled.offsets, pa.StructArray.from_arrays(moved, fields=list(flat.type)))


def built(run: Path, out: Path) -> tuple[float, float]:
    """Seconds, and MB that the process had at most, of building a report in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_build, (run, out))


def _build(run: Path, out: Path) -> tuple[float, float]:
    begun = time.monotonic()
    write_report(run, out)
    return time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def first_view(page: Path, view: str, repeats: int) -> float | None:
    """Seconds until a view is drawn by a fresh browser; None without one."""
    program = find_browser()
    if program is None:
        print(NONE)
        return None
    seen = []
    for _ in range(repeats):
        with Browser(program) as browser:
            browser.open(f"{page.as_uri()}#/{view}")
            seen.append(float(browser.evaluate("document.body.dataset.firstView")) / 1000)
    return statistics.median(seen)


def reports(run: Path, wanted: list[str], directory: Path) -> Iterator[tuple[str, Path, Path]]:
    """Name, records and page of each report."""
    tokens = sum(
        pq.read_table(file, columns=["policy_mask"]).column(0).combine_chunks().flatten().__len__()
        for file in record_files(run, "train")
    )
    rollouts = sum(pq.read_metadata(file).num_rows for file in record_files(run, "train"))
    times_longer = max(1, round(TOKENS / ROLLOUTS / (tokens / rollouts)))
    for name, longer_by in (("run", None), ("short", 1), ("long", times_longer)):
        if name in wanted:
            made = run if longer_by is None else directory / name
            if longer_by is not None and not made.exists():
                repeated(run, made, ROLLOUTS, longer_by)
            yield name, made, directory / f"{name}.html"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", default="run,short,long")
    parser.add_argument("--keep", type=Path, help="where records and reports stay; default: they are removed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="fail beyond the bounds")
    options = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        for name, records, page in reports(options.run, options.only.split(","), directory):
            seconds, memory = built(records, page)
            folder = page.with_name(page.stem + ".data")
            files: list[Any] = [page, *(folder.iterdir() if folder.is_dir() else ())]
            size = sum(path.stat().st_size for path in files) / 1e6
            views = [first_view(page, view, options.repeats) for view in VIEWS]
            view, shown = views[0], ", ".join("-" if found is None else f"{found:.2f} s" for found in views)
            print(f"{name:6} {size:8.2f} MB  built in {seconds:6.1f} s, {memory:6.0f} MB of memory  views {shown}")
            for what, value, bound in zip(
                ("MB", "s to build", "s to the first view"), (size, seconds, view), BOUNDS[name], strict=True
            ):
                if bound is not None and value is not None and value > bound:
                    failed.append(f"{name}: {value:.2f} {what}, bound {bound}")
    print("\n".join(failed) or "within the bounds")
    sys.exit(1 if options.check and failed else 0)


if __name__ == "__main__":
    main()
