"""`appo report RUN [RUN2]`: one HTML file of a run that opens anywhere, without a network or a server.

    appo report runs/kinship                       writes runs/kinship/report.html
    appo report runs/appo runs/raft --out both.html    two runs side by side, tasks matched by their row
    appo report runs/kinship --sample 500          a file to mail: about 500 rollouts, evaluations among them

RUN is a run's `output_dir`, its folder `records`, or a `records.jsonl` of an older run; it may still be going on.

Left out on purpose: torch: this reads records alone.
"""

import argparse

from appo.cli.records import AsWritten


def report(flags: list[str]) -> int:
    """Writes the report and says where; returns the exit code.

    Raises:
        UserError: where there are no records, or broken ones, and where nothing can be written.
    """
    parser = argparse.ArgumentParser("appo report", description=__doc__, formatter_class=AsWritten)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("other", metavar="RUN2", nargs="?", help="a second run to show beside it")
    parser.add_argument("--out", metavar="FILE", help="default: report.html in RUN")
    parser.add_argument(
        "--sample",
        type=_count,
        metavar="N",
        help="keep about N rollouts of each run: whole tasks, a fifth of evaluations",
    )
    options = parser.parse_args(flags)

    from rich.console import Console

    from appo.report.html.write import write_report

    console = Console(stderr=True)
    path = write_report(options.run, options.out, other=options.other, sample=options.sample, console=console)
    print(f"report      {path}")
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of rollouts, at least 1, not {text}")
    return int(text)
