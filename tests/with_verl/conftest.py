"""These tests run in verl's environment (`make test-verl`); `make test`, beside TRL, leaves them out."""

from importlib.metadata import distributions

import pytest

# A directory of this name is a package of Python's, too: verl itself has a version.
collect_ignore_glob = [] if any(found.name == "verl" for found in distributions()) else ["*.py"]


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    """A tiny model after its short cold start, and its tokenizer."""
    from kinship_run import make_policy

    directory = tmp_path_factory.mktemp("cold") / "policy"
    make_policy(directory)
    return directory
