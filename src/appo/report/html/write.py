"""One HTML file of a run, or of two: everything that its records say, for any browser, without a network.

    write_report("runs/kinship")                          runs/kinship/report.html
    write_report("runs/a", other="runs/b", sample=500)

The page (`page/`) is plain HTML, CSS and JavaScript; its data follow it, packed (`pack.py`). Beyond `FOLDER_FROM`
tokens the data lie in a folder beside the page, as scripts that it loads one by one, so that it still opens without a
server.

Left out on purpose: torch, and the trainer: a report is made of what is on disk, also of a run that is still going.
"""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import appo
from appo.errors import UserError
from appo.files import PARTIAL, new_file, strict_json
from appo.report.html.compare import compare
from appo.report.html.gather import Gathered
from appo.report.html.run import read_run

FORMAT = 1
FOLDER_FROM = 20_000_000  # tokens
SHARD = re.compile(r"\d+-\d+\.js")  # run and number
SHARD_CALL = "APPO_SHARD"


class Shards:
    """Where shards go: into the page, or, from `FOLDER_FROM` tokens on, into a folder beside it."""

    def __init__(self, out: Path, folder_from: int) -> None:
        name = out.stem + ".data"
        self._folder, self._folder_from = out.with_name(name if name != out.name else name + ".data"), folder_from
        self._partial = self._folder.with_name(self._folder.name + PARTIAL)
        self._inline: list[tuple[str, str]] = []  # element and JSON
        self._tokens = 0
        self._listed: list[list[dict[str, Any]]] = []
        self.in_folder = False

    def begin_run(self) -> None:
        self._listed.append([])

    def add(self, text: str, first: int, count: int, tokens: int) -> None:
        run, number = len(self._listed) - 1, len(self._listed[-1])
        self._tokens += tokens
        self._listed[-1].append({"first": first, "n": count, "tokens": tokens})
        self._inline.append((f"{run}-{number}", text))
        if self._tokens > self._folder_from or self.in_folder:
            self._to_folder()

    def _to_folder(self) -> None:
        if not self.in_folder:
            for place in (self._folder, self._partial):
                _check_ours(place)
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            self.in_folder = True
        for name, text in self._inline:
            run, number = name.split("-")
            (self._partial / f"{name}.js").write_text(f"{SHARD_CALL}({run},{number},{text})\n", encoding="ascii")
        self._inline = []

    def list_of(self, run: int) -> list[dict[str, Any]]:
        """What the page has to know of a run's shards."""

        def place(number: int) -> dict[str, str]:
            if self.in_folder:
                return {"src": f"{quote(self._folder.name)}/{run}-{number}.js"}
            return {"element": f"appo-shard-{run}-{number}"}

        return [{**place(number), **shard} for number, shard in enumerate(self._listed[run])]

    def elements(self) -> Iterator[str]:
        for name, text in self._inline:
            yield f'<script type="application/json" id="appo-shard-{name}">{_harmless(text)}</script>\n'

    def settle(self) -> None:
        """Puts the folder in its place, and takes an older one away; what is no report's stays."""
        if _is_ours(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)
        if self.in_folder:
            self._partial.rename(self._folder)

    def give_up(self) -> None:
        if self.in_folder:  # else whatever has that name is not this report's
            shutil.rmtree(self._partial, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds shards of a report and nothing else; it is then safe to replace."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    entries = list(folder.iterdir())
    return bool(entries) and all(SHARD.fullmatch(entry.name) and _is_shard(entry) for entry in entries)


def _is_shard(file: Path) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    with open(file, "rb") as opened:
        return opened.read(len(SHARD_CALL)) in (SHARD_CALL.encode(), b"")  # nothing: what a kill left


def _check_ours(folder: Path) -> None:
    """
    Raises:
        UserError: where something is there that no report has written.
    """
    empty = folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
    if (folder.exists() or folder.is_symlink()) and not empty and not _is_ours(folder):
        raise UserError(
            f"{folder} holds other things than a report's data, and this report needs the name; give another --out, "
            "or move it away."
        )


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    other: str | Path | None = None,
    sample: int | None = None,
    console: Any = None,
    folder_from: int = FOLDER_FROM,
) -> Path:
    """Writes the report of a run and returns where; it is there whole or not at all.

    Args:
        run: A run's `output_dir`, its records, or an older `records.jsonl`.
        out: The file; by default `report.html` in the run's directory.
        other: A second run to show beside it, their tasks matched by their row.
        sample: About how many rollouts to keep of each run, whole tasks together, evenly over its updates, a fifth of
            them of evaluations; None: all.
        console: A `rich` console to tell progress to; None: none.
        folder_from: More tokens than these go into a folder beside the file.

    Raises:
        UserError: where there are no records, where the report cannot be written, and where the folder that it needs
            holds something else. A run that has begun and written no rollout yet has a report, an empty one.
    """
    runs = [read_run(path) for path in (run, other) if path is not None]
    out = Path(out) if out is not None else runs[0].report
    if not out.name:
        raise UserError(f"out = {str(out)!r} names no file; give one, such as report.html.")
    parts, shards = page_parts(), Shards(out, folder_from)  # a page that is missing is no fault of the user's
    try:
        packed, rows = [], []
        for one in runs:
            shards.begin_run()
            read = Gathered(one, shards.add, sample, console)
            packed.append(read.packed())
            rows.append(read.rows)
        both = compare(*rows) if len(rows) > 1 else None
        pack = {"format": FORMAT, "made": f"appo {appo.__version__}", "runs": packed, "compare": both}
        for number, found in enumerate(packed):
            found["shards"] = shards.list_of(number)
        with new_file(out) as partial:
            with open(partial, "w", encoding="utf-8") as file:
                file.writelines(_page(parts, pack, shards))
            shards.settle()
    except OSError as error:
        said = error.strerror or error
        raise UserError(f"the report {out} cannot be written: {said}; give another --out.") from None
    finally:
        shards.give_up()
    return out


# ---- the page ----


def page_parts() -> tuple[str, str, str]:
    """The page's HTML, CSS and JavaScript; scripts in the order of their names."""
    folder = resources.files("appo.report.html") / "page"
    names = sorted(entry.name for entry in folder.iterdir())
    css, scripts = (
        "\n".join((folder / name).read_text(encoding="utf-8") for name in names if name.endswith(end))
        for end in (".css", ".js")
    )
    return (folder / "page.html").read_text(encoding="utf-8"), css, scripts


def _page(parts: tuple[str, str, str], pack: dict[str, Any], shards: Shards) -> Iterator[str]:
    """The pieces of the file in order: the page with the index in it, then the shards."""
    html, css, scripts = parts
    style, script = f"'{_hash(css)}'", f"'{_hash(scripts)}'" + (" file: 'self'" if shards.in_folder else "")
    html = html.replace("APPO_STYLE_SRC", style, 1).replace("APPO_SCRIPT_SRC", script, 1)
    data = _harmless(json.dumps(strict_json(pack), ensure_ascii=True, separators=(",", ":"), allow_nan=False))
    filled = {"/*APPO_CSS*/": [css], "/*APPO_JS*/": [scripts], "/*APPO_DATA*/": [data]}
    places = sorted((html.index(mark), mark) for mark in (*filled, "<!--APPO_SHARDS-->"))
    start = 0
    for place, mark in places:
        yield html[start:place]
        yield from filled[mark] if mark in filled else shards.elements()
        start = place + len(mark)
    yield html[start:]


def _harmless(text: str) -> str:
    """JSON in which no `</script>` can end the element that it stands in."""
    return text.replace("<", "\\u003c")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
