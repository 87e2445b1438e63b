"""Whether what a trainer makes of its settings can be made: loggers, optimizer, scheduler, fused kernels.

transformers makes these only once a model is loaded, and says what is wrong from deep inside. Here they are made for a
model of one parameter, where nothing of a user's code runs, so that whatever is raised is about the values.

Left out on purpose: optimizers of other packages, which may want a GPU or the layers of the real model: whether their
package is there is looked at, no more; and DeepSpeed's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import huggingface_hub.constants
import torch
from transformers import Trainer, get_scheduler
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.integrations.liger import apply_liger_kernel

from appo.errors import UserError

STEPS = 10  # of the schedule that is tried


def check_buildable(settings: Any) -> None:
    """
    Args:
        settings: `TrainingArguments` or one of its kinds.

    Raises:
        UserError: for what cannot be made of them, with the reason that the library gives.
    """
    _check_loggers(settings.report_to)
    if settings.use_liger_kernel:
        with _naming("use_liger_kernel = True"):
            apply_liger_kernel(torch.nn.Linear(1, 1), settings.liger_kernel_config)
    if settings.push_to_hub and huggingface_hub.constants.HF_HUB_OFFLINE:
        raise UserError("push_to_hub = True, but HF_HUB_OFFLINE is set; unset it, or set push_to_hub: false.")
    if not settings.deepspeed:
        _check_optimizer(settings)


@contextmanager
def _naming(fields: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(f"{fields}: {' '.join(str(error).split()).rstrip('.')}.") from None


def _check_loggers(names: list[str]) -> None:
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            there = ", ".join(INTEGRATION_TO_CALLBACK)
            raise UserError(f"report_to: there is no logger {name!r}; use some of {there}, or none.")
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:  # each says what to install
            raise UserError(f"report_to = {name}: {error} Or set report_to: none.") from None


def _check_optimizer(settings: Any) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
    # Those for some layers alone look for them in the model.
    if settings.optim_target_modules is None:
        given = f", optim_args = {settings.optim_args}" if settings.optim_args else ""
        with _naming(f"optim = {getattr(settings.optim, 'value', settings.optim)}{given}"):
            kind, options = Trainer.get_optimizer_cls_and_kwargs(settings, model)
            if kind.__module__.startswith("torch."):
                optimizer = kind(model.parameters(), **options)
    kind = getattr(settings.lr_scheduler_type, "value", settings.lr_scheduler_type)
    given = f", lr_scheduler_kwargs = {settings.lr_scheduler_kwargs}" if settings.lr_scheduler_kwargs else ""
    with _naming(f"lr_scheduler_type = {kind}{given}"):
        get_scheduler(
            settings.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=settings.get_warmup_steps(STEPS),
            num_training_steps=STEPS,
            scheduler_specific_kwargs=settings.lr_scheduler_kwargs,
        )
