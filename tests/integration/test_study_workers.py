"""The processes of a study, real ones: what they say when they fail, and that they end when the study does."""

import os
import signal
import subprocess
import sys
import time

import pytest

from appo.cli.main import main
from appo.research.plan import cold_starts, read_study
from appo.research.schedule import writes_with_vllm
from appo.research.workers import Workers

RECIPE = """
task: my_task
demonstrations: 8
num_generations: 4
method: grpo
per_device_train_batch_size: 4
gradient_accumulation_steps: 1
steps_per_generation: 1
tool_protocol: tags
bf16: false
max_completion_length: 64
use_cpu: true
"""
STUDY = """
recipe: recipe.yaml
output_dir: out
testbeds: {small: {}}
arms: {grpo: {}}
learning_rates: [1.0e-4]
test_seeds: 1
cold_starts: 1
jobs: 1
"""
JOB = "small, cold start, cold start 0"
FAILS = """
def TASK():
    print("looking")
    return {}["the key"]
"""
IS_KILLED = """
import os, signal
print("last words")
os.kill(os.getpid(), signal.SIGKILL)
"""
ENDS = """
import os
print("last words", flush=True)
os._exit(7)
"""
# A job that has started another program, and takes for ever.
SLEEPS = """
import os, pathlib, subprocess, time
child = subprocess.Popen(["sleep", "100000"])
place = pathlib.Path(__file__).with_name("pids")
place.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
place.with_suffix(".part").rename(place)
time.sleep(100000)
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes a study of a task whose module holds `code`; returns its path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code):
        for name, text in {"my_task.py": code, "recipe.yaml": RECIPE, "study.yaml": STUDY}.items():
            (tmp_path / name).write_text(text)
        return str(tmp_path / "study.yaml")

    return write


def test_a_job_that_fails_names_its_reason_and_its_log_has_the_traceback(make, tmp_path, capsys):
    assert main(["study", make(FAILS)]) == 2
    log = tmp_path / "out" / "logs" / "small-cold-start-cold-start-0.log"
    assert capsys.readouterr().err == f"appo: {JOB} failed (KeyError: 'the key'); see {log}.\n"
    text = log.read_text()
    assert text.startswith("looking\n")
    assert f'File "{tmp_path / "my_task.py"}", line 4, in TASK' in text
    assert text.rstrip().endswith("KeyError: 'the key'")


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (IS_KILLED, "was killed (SIGKILL), perhaps for want of memory (then try --jobs 1)"),
        (ENDS, "ended with exit code 7"),
    ],
    ids=["killed", "ends"],
)
def test_a_process_that_ends_names_its_job_how_it_ended_and_what_it_said_last(make, tmp_path, capsys, code, how):
    assert main(["study", make(code)]) == 2
    log = tmp_path / "out" / "logs" / "small-cold-start-cold-start-0.log"
    assert capsys.readouterr().err == f"appo: {JOB}: its process {how}: last words; see {log}.\n"


def test_a_process_that_cannot_import_the_package_says_so(make, tmp_path, capsys):
    path = make(FAILS)
    (tmp_path / "appo").mkdir()
    (tmp_path / "appo" / "__init__.py").write_text("raise ImportError('this is not the package')\n")
    assert main(["study", path]) == 2
    error = capsys.readouterr().err
    log = tmp_path / "out" / "logs" / "worker-1.log"
    assert f"{JOB}: its process ended with exit code 1: ImportError: this is not the package; see {log}." in error
    assert error.count("\n") == 1
    assert "Traceback" in log.read_text()


IS_KINSHIP = """
import os
from appo.environments.kinship import TASK
with open(__file__ + ".pids", "a") as file:
    print(os.getpid(), file=file)
"""


@pytest.mark.parametrize(("fresh", "processes"), [(False, 1), (True, 2)])
def test_a_job_gets_a_process_of_its_own_where_that_is_asked_for(make, tmp_path, fresh, processes):
    plan = read_study(make(IS_KINSHIP), {"cold_starts": 2})
    with Workers(1, tmp_path / "logs", fresh) as workers:
        ended = [job for job, share, _ in workers.do(plan, cold_starts(plan)) if share is None]
        assert ended == cold_starts(plan)
    pids = (tmp_path / "my_task.py.pids").read_text().split()
    assert len(pids) == len(set(pids)) == processes


def test_vllm_in_process_asks_for_it(make):
    path = make(IS_KINSHIP)
    assert writes_with_vllm(read_study(path, {"arms": {"grpo": {}, "vllm": {"use_vllm": True}}}))
    assert not writes_with_vllm(read_study(path))


def is_there(pid):
    """Whether a process runs; one that is only waiting for its parent to notice its end does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition, process):
    """Waits as long as the process lives or, once it has ended, two minutes: far longer than anything here takes."""
    ended = None
    while not condition():
        if process.poll() is not None:
            ended = ended or time.monotonic()
            assert time.monotonic() - ended < 120
        time.sleep(0.05)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda sent: sent.name)
def test_when_the_study_ends_its_jobs_and_their_children_do(make, tmp_path, sent):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    study = subprocess.Popen(
        [sys.executable, "-m", "appo", "study", make(SLEEPS)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests that a shell runs in the background ignore SIGINT, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until((tmp_path / "pids").exists, study)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(map(is_there, pids))
        study.send_signal(sent)
        said, _ = study.communicate()
        if sent == signal.SIGINT:
            assert study.returncode == 130
            assert said.endswith("appo: interrupted; next time the study goes on with the runs that are missing.\n")
        wait_until(lambda: not any(map(is_there, pids)), study)
    finally:
        study.kill()
