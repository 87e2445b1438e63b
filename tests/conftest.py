"""What many tests share: the testbed's tiny model with random weights, one thread, no network."""

import gc
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch

from appo.environments import kinship

gc.disable()  # while the tests are imported and collected: next to nothing of that is garbage


def pytest_collection_finish():
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _quick_torch():
    torch.set_num_threads(1)  # more lose time with each other on tiny tensors


@pytest.fixture(autouse=True, scope="module")
def _quick_garbage():
    """Each command and each training collects garbage at its end; what stands by now would only be walked through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path_factory):
    """A module that a test wrote would be found by the next test that writes one of the same name."""
    before = set(sys.modules)
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(written):
            del sys.modules[name]


@pytest.fixture
def tiny():
    """(model, tokenizer) of the testbed; the weights are the same in every test."""
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    return model.eval(), tokenizer
