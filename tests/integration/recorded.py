"""What a run has written down, to the bit."""

from pathlib import Path


def recorded(run: Path) -> dict[str, bytes]:
    """The content of each update's file of records."""
    return {path.name: path.read_bytes() for path in sorted((run / "records").glob("0*.parquet"))}
