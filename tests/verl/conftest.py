"""These tests run in verl's environment (`make test-verl`); `make test`, beside TRL, leaves them out."""

import importlib.util

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("verl.trainer") else ["*.py"]


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    """A tiny model after its short cold start, and its tokenizer."""
    from kinship_run import make_policy

    directory = tmp_path_factory.mktemp("cold") / "policy"
    make_policy(directory)
    return directory
