"""The model under evaluation: loaded from a directory, the hub, a LoRA adapter or the wheel of SmolLM2.

Left out on purpose: quantized loading and several GPUs.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.chat_template_utils import supports_tool_calling

from appo.engines.transformers_engine import check_full_attention
from appo.environments.prompts import system_prompt
from appo.errors import UserError
from appo.evaluation.eval_tools import Tools
from appo.models.loading import read_model, read_without_weights
from appo.protocols.base import ToolProtocol
from appo.protocols.chat_template import chat_protocol_for
from appo.protocols.tags import TagProtocol
from appo.rollout.unknown_words import UnknownWords

WEIGHTS = (".safetensors", ".bin")
TOKENIZER_AND_CONFIG = (".json", ".jinja", ".model", ".txt")


@dataclass
class Policy:
    """A model with what is needed to ask it.

    Args:
        protocol: How it writes calls.
        eos_token_ids: Tokens that end a turn.
        tools: What it may call, by name.
        system_prompt: None: the paper's; "": no system message.
        chat_template_kwargs: What the chat template is given besides messages and tools.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    protocol: ToolProtocol
    eos_token_ids: frozenset[int]
    tools: Tools
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._unknown = UnknownWords(self.tokenizer, "prompts of benchmarks")

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
        system = system_prompt(self.tools if tags else ()) if self.system_prompt is None else self.system_prompt
        if self.tokenizer.chat_template is None:
            text = f"{system}\n\n{question}\n" if system else f"{question}\n"
            ids = self.tokenizer(text)["input_ids"]
            self._unknown.look([text], [ids])
            self._unknown.tell()
            return text, ids
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        return self.render(messages if system else messages[1:], self.tools)

    def render(self, messages: list[dict[str, Any]], tools: Tools) -> tuple[str, list[int]]:
        """The prompt of messages, as text and tokens; the chat template tells of `tools`, but not with tags."""
        text = self.tokenizer.apply_chat_template(
            messages,
            tools=None if isinstance(self.protocol, TagProtocol) else list(tools.values()) or None,
            chat_template=getattr(self.protocol, "chat_template", None),
            add_generation_prompt=True,
            tokenize=False,
            **self.chat_template_kwargs,
        )
        return text, self.tokenizer(text, add_special_tokens=False)["input_ids"]


def load_policy(
    source: str,
    protocol: str | None,
    tools: Tools,
    system: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    engine: str = "transformers",
    tag_options: dict[str, Any] | None = None,
    add_tools: bool = False,
) -> Policy:
    """Loads a model, in float32 on a CPU and in bfloat16 on a GPU.

    Args:
        protocol: "tags" or "chat_template"; None: the chat template where there is one that can be used with the
            tools, else tags.
        engine: What will write: vLLM gets the weights from the CPU's memory, a server has its own.
        tag_options: Further arguments of `TagProtocol`, where that is the protocol.
        add_tools: Whether tools are added to a chat template that has none.

    Raises:
        UserError: in one sentence, where that fails or the model cannot be used.
    """
    try:
        model, tokenizer = _read(source, engine)
        eos = model.generation_config.eos_token_id
        eos_token_ids = frozenset({*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id} - {None})
        written = _make_protocol(
            protocol, tokenizer, tools, eos_token_ids, chat_template_kwargs, tag_options or {}, add_tools
        )
        _check_template_names(tokenizer, written, chat_template_kwargs or {})
        policy = Policy(model, tokenizer, written, eos_token_ids, tools, system, chat_template_kwargs or {})
        if tokenizer.chat_template is not None:
            policy.prompt("?")  # a template may refuse a role, which only rendering shows
        return policy
    except TemplateError as error:
        remedy = (
            "mend the template." if system == "" else 'if that is for its system message, give --system_prompt "".'
        )
        raise UserError(f"model = {source!r}: its chat template cannot write the prompt ({error}); {remedy}") from None
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise UserError(f"model = {source!r} cannot be used: {' '.join(str(error).split())}") from None


def _read(source: str, engine: str) -> tuple[Any, PreTrainedTokenizerBase]:
    place = Path(source)
    if (place / "model" / "config.json").is_file() and not (place / "config.json").is_file():
        raise UserError(f"that is the directory of a run; give its model, {place / 'model'}.")
    if engine == "vllm_server":
        return read_without_weights(source)
    model, tokenizer = read_model(source, dtype=sampling_dtype())
    model = model.to(dtype=sampling_dtype()).eval()
    if engine == "transformers":
        check_full_attention(model)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, tokenizer


def _make_protocol(
    name: str | None,
    tokenizer: PreTrainedTokenizerBase,
    tools: Tools,
    eos_token_ids: frozenset[int],
    chat_template_kwargs: dict[str, Any] | None,
    tag_options: dict[str, Any],
    add_tools: bool,
) -> ToolProtocol:
    if name is None:
        can_call = not tools or add_tools or supports_tool_calling(tokenizer)
        usable = tokenizer.chat_template is not None and can_call
        name = "chat_template" if usable else "tags"
    if name == "tags":
        return TagProtocol(tokenizer, tools, **tag_options)
    if tokenizer.chat_template is None:
        raise UserError("its tokenizer has no chat template; use protocol = tags.")
    return chat_protocol_for(tokenizer, list(tools.values()), eos_token_ids, chat_template_kwargs, add_tools)


def _check_template_names(tokenizer: PreTrainedTokenizerBase, protocol: ToolProtocol, given: dict[str, Any]) -> None:
    """Raises ValueError for what no chat template reads, which it would ignore without a word."""
    template = getattr(protocol, "chat_template", None) or tokenizer.chat_template
    unread = [name for name in given if not re.search(rf"\b{re.escape(name)}\b", str(template or ""))]
    if unread:
        raise ValueError(
            f"its chat template does not read {', '.join(unread)}; take that out of chat_template_kwargs."
            if template
            else "it has no chat template, which chat_template_kwargs are for; leave them out."
        )


def sampling_dtype() -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def file_marks(source: str) -> dict[str, str | None]:
    """Marks of a directory's files by names, sizes and times: of the weights, and of what else makes the samples.

    Returns:
        `weights` and `tokenizer_and_config` (chat template and generation config too); None where there are no such
        files, as for a model that is in no directory.
    """
    return {"weights": _mark(source, WEIGHTS), "tokenizer_and_config": _mark(source, TOKENIZER_AND_CONFIG)}


def _mark(source: str, suffixes: tuple[str, ...]) -> str | None:
    files = [path for path in sorted(Path(source).glob("*")) if path.suffix in suffixes]
    marks = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16] if marks else None
