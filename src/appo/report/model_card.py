"""The model card of a run: what the model came from, how it was trained, how well it did, and how to load it.

Left out on purpose: `task_args` (they may hold keys), and the programs of the tools: the snippet writes one turn,
`appo.Agent` whole answers.
"""

import re
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
import yaml
from accelerate.utils import is_peft_model
from huggingface_hub import ModelCard, ModelCardData
from transformers.utils import get_json_schema

from appo import __version__
from appo.config import NOT_SETTINGS
from appo.trl_seam import model_name_of

OF_RUN = ("task", "model", "train_size", "train_seed", "demonstrations", "traces", "lora")

DERIVED = ("generation_batch_size", "debug", "activation_checkpointing")  # what others of the fields decide
OF_MACHINE = (
    "use_cpu", "bf16", "fp16", "dataloader_pin_memory", "push_to_hub", "hub_model_id", "resume_from_checkpoint",
)  # fmt: skip
CITATIONS = r"""```bibtex
@misc{appo2026,
  title         = {APPO: Agentic Procedural Policy Optimization},
  year          = {2026},
  eprint        = {2606.12384},
  archivePrefix = {arXiv},
  url           = {https://arxiv.org/abs/2606.12384}
}

@software{appo,
  title   = {appo: reinforcement learning for tool-using language-model agents, beside TRL},
  version = {VERSION},
  license = {Apache-2.0},
  year    = {2026}
}

@software{vonwerra2020trl,
  title   = {{TRL: Transformers Reinforcement Learning}},
  author  = {von Werra, Leandro and Belkada, Younes and Tunstall, Lewis and Beeching, Edward and Thrush, Tristan and
             Lambert, Nathan and Huang, Shengyi and Rasul, Kashif and Gallouédec, Quentin},
  license = {Apache-2.0},
  url     = {https://github.com/huggingface/trl},
  year    = {2020}
}
```"""


@dataclass
class CardFacts:
    """What a trainer does not know of its run.

    Args:
        recipe: Path of the recipe.
        settings: Fields of the run besides those of the trainer's configuration.
        model_directory: Where the whole model lies; None: where the trainer saves it.
        before, after: Success, with its interval.
    """

    recipe: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    model_directory: str | None = None
    before: str | None = None
    after: str | None = None


def model_card(
    trainer: Any, directory: Path, model_name: str | None = None, dataset_name: str | None = None, tags: Any = None
) -> ModelCard:
    """The card of a trainer's model.

    Args:
        trainer: An `APPOTrainer`; its `card_facts` are told too.
        directory: Where the card will lie, and the model where `card_facts` do not say otherwise.
        model_name, dataset_name, tags: As in TRL's `create_model_card`.
    """
    facts: CardFacts = trainer.card_facts
    place = facts.model_directory or str(directory)
    source = (trainer.hub_model_id if trainer.args.push_to_hub else None) or place
    # A run's trainer may have loaded its own cold start.
    of_run = facts.settings.get("model") or ""
    origin = of_run if facts.model_directory else model_name_of(trainer.model)
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", origin) is not None and not Path(origin).exists()
    given = [tags] if isinstance(tags, str) else list(tags or [])
    data = ModelCardData(
        base_model=origin if on_hub else None,
        datasets=dataset_name,
        library_name="transformers",
        model_name=model_name,
        tags=sorted({"generated_from_trainer", *given, *trainer.tags}),
    )
    parts = [
        f"---\n{data.to_yaml()}\n---\n\n# {model_name or Path(place).name}",
        _origin(origin, on_hub, dataset_name),
        _usage(trainer, source, bool(origin)),
        _training(trainer, facts),
        f"## Citations\n\n{CITATIONS.replace('VERSION', __version__)}",
    ]
    return ModelCard("\n\n".join(parts) + "\n")


def _origin(origin: str, on_hub: bool, dataset_name: str | None) -> str:
    if on_hub:
        text = f"A fine-tuned version of [{origin}](https://huggingface.co/{origin})"
    else:
        text = f"A fine-tuned version of `{origin}`" if origin else "A model made on the spot, then trained"
    data = f" on [{dataset_name}](https://huggingface.co/datasets/{dataset_name})" if dataset_name else ""
    return f"{text}{data}, by [APPO](https://arxiv.org/abs/2606.12384) (`appo` {__version__}, beside TRL)."


def _usage(trainer: Any, source: str, base_is_known: bool) -> str:
    """A snippet that loads the model and writes one turn, and what the policy may call."""
    tools = trainer.pool.all_tools()
    called = ""
    if tools:
        called = (
            f"\n\nThe model calls {', '.join(tools)} (protocol `{trainer.args.tool_protocol}`). This runs no "
            f"tools, so that what follows a call is made up; `appo chat {source}` runs them, and so does\n\n"
            f"    appo.Agent({source!r}, {'environment_factory=..' if trainer.pool.factories else 'tools=[..]'})"
        )
    if trainer.agent is not None:
        called = (
            "\n\nIt was trained by an agent that asks it through OpenAI's API. This puts it behind one, as it was "
            f"asked there:\n\n    appo serve {source} --name policy"
        )
    whole = trainer.card_facts.model_directory is not None or not is_peft_model(trainer.model)
    if not (whole or base_is_known):
        return f"## Quick start\n\nThis is an adapter of a model made on the spot, which it needs.{called}"
    prompt = _example(trainer)
    if isinstance(prompt, str):
        encode = 'tokenizer(prompt, return_tensors="pt")'
    else:
        options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        if tools and trainer.args.tool_protocol == "chat_template":
            options["tools"] = [tool if isinstance(tool, dict) else get_json_schema(tool) for tool in tools.values()]
        options.update(trainer.args.chat_template_kwargs or {})
        encode = f"tokenizer.apply_chat_template(prompt, **{options!r})"
    length = min(128, trainer.max_completion_length or 128)
    lines = [
        "import torch",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"model = AutoModelForCausalLM.from_pretrained({source!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({source!r})",
        f"prompt = {prompt!r}",
        f'ids = {encode}["input_ids"]',
        f"written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens={length})",
        "print(tokenizer.decode(written[0, ids.shape[1]:]))",
    ]
    code = "\n".join(lines).replace("```", r"\x60\x60\x60")  # would end the block; in a literal it is the same
    return f"## Quick start\n\n```python\n{code}\n```{called}"


def _example(trainer: Any) -> Any:
    """A prompt of the training data, or a greeting where an environment gives the prompts."""
    row: dict[str, Any] = next(iter(trainer.train_dataset), {})
    prompt = row.get("prompt")
    if isinstance(prompt, list) and any(message.get("content") for message in prompt):
        # A column has one type, so that absent fields are None.
        return [{name: value for name, value in message.items() if value is not None} for message in prompt]
    if isinstance(prompt, str) and prompt:
        return prompt
    return [{"role": "user", "content": "Hello!"}] if trainer.tokenizer.chat_template else "Hello!"


def _training(trainer: Any, facts: CardFacts) -> str:
    logged = [entry["tokens/generated"] for entry in trainer.state.log_history if "tokens/generated" in entry]
    tokens = max([trainer.counters.totals()["tokens/generated"], *logged])
    rows = {
        "success before": facts.before,
        "success after": facts.after,
        "optimizer steps": f"{trainer.state.global_step:,}",
        "generated tokens": f"{int(tokens):,}",
        "recipe": f"`{facts.recipe}`" if facts.recipe else None,
        "appo": __version__,
        "TRL": trl.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value is not None)
    left_out = (*NOT_SETTINGS, *OF_MACHINE, *DERIVED)
    own = {name: value for name, value in given_fields(trainer.args).items() if name not in left_out}
    settings = yaml.safe_dump({**facts.settings, **own}, sort_keys=False, allow_unicode=True, width=100)
    block = f"Settings that differ from the defaults:\n\n```yaml\n{settings}```"
    return f"## Training\n\n| | |\n|---|---|\n{table}\n\n{block}"


def given_fields(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their defaults, as far as YAML has them."""
    found = {}
    for f in fields(settings):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        value = getattr(settings, f.name, default)
        value = getattr(value, "value", value)  # an enumeration's
        if f.init and value != default and isinstance(value, (bool, int, float, str, list, dict)):
            found[f.name] = value
    return found
