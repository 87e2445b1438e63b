"""The current folder as a place of modules: what a recipe or a flag names (`task: my_task`) may lie there.

Behind everything else on the path, so that a file there takes the place of no installed package and of nothing in the
standard library. A folder without `__init__.py` is a package to Python, too: TRL would take a checkout, or a folder
of logs, that is called `vllm` or `wandb` for a library that is not installed, and fail over its version. So such a
folder is none here where it is called like a library that TRL and its like look for.

Left out on purpose: folders of the user's own PYTHONPATH. Only the standard library is imported here.
"""

import os
import re
import sys
from importlib import machinery, metadata
from types import ModuleType
from typing import Any

ASKING = ("trl", "transformers", "accelerate", "datasets", "peft")
# What these look for beside their extras: chiefly loggers, which leave folders of their names.
BESIDE = {
    "aim", "azureml", "clearml", "comet_ml", "codecarbon", "dagshub", "deepspeed", "dvclive", "flytekit", "hqq",
    "liger_kernel", "llm_blender", "mergekit", "mlflow", "mlx", "neptune", "optuna", "peft", "ray", "sklearn",
    "swanlab", "tensorboard", "tensorboardX", "tensorflow", "trackio", "unsloth", "verl", "vllm", "vllm_ascend",
    "wandb",
}  # fmt: skip
LOADERS = (
    (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
    (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
)


class CurrentFolder(machinery.FileFinder):
    """Finds what lies in a folder, but for mere folders that are called like libraries."""

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> Any:
        """As `FileFinder` does; None for such a folder."""
        found = super().find_spec(fullname, target)
        mere_folder = found is not None and found.loader is None
        return None if mere_folder and is_library(fullname) else found


def is_library(name: str) -> bool:
    """Whether TRL and its like look for a package of this name."""
    return name in BESIDE or name.casefold() in {one for package in ASKING for one in _named_by(package)}


def _named_by(package: str) -> set[str]:
    """What a package, and its extras, are made of, as far as they are imported by their names."""
    try:
        wanted = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return set()
    return {re.split(r"[^\w.-]", one)[0].replace("-", "_").casefold() for one in wanted}


def find_modules_here() -> None:
    """Puts the current folder last on the path; `python -m` puts it first, and `__main__.py` last."""
    here = os.getcwd()
    if not {"", here} & {*sys.path}:
        sys.path.append(here)
    sys.path_importer_cache[here] = CurrentFolder(here, *LOADERS)
