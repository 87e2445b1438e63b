"""One server for all files: to start it takes half a minute. Whoever needs certain weights there brings them."""

import pytest


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory):
    """The testbed's model as it was saved, which the server was started with."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="session")
def url(model_directory):
    from served import served

    with served(model_directory) as address:
        yield address
