"""The options of `appo benchmark`, and every check that needs neither a file nor a network.

Left out on purpose: reading flags (`appo.cli.benchmark`), and a file of options; an evaluation is one line of a shell.
"""

import difflib
import inspect
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2.defaults import DEFAULT_NAMESPACE
from transformers import PreTrainedTokenizerBase

from appo.config import read_mapping
from appo.data.benchmarks import BENCHMARKS
from appo.data.packaged import PACKAGED
from appo.engines.base import ENGINES
from appo.engines.settings import check_sampling, check_url
from appo.errors import UserError

PROTOCOLS = ("tags", "chat_template")
KNOWN = (*BENCHMARKS, *PACKAGED)
METRICS = ("f1", "em", "math", "judge")
# They choose which samples there are, how they are judged and shown; none of them changes a sample.
NOT_SETTINGS = (
    "benchmark", "data", "prompt", "answer", "metric", "limit", "samples", "allow_unisolated", "batch_size",
    "output_dir", "math_by_judge", "judge_url", "judge_model", "judge_concurrency", "show_wrong", "overwrite",
    "server_url", "vllm_gpu_memory_utilization",
    "add_tools",  # where it is true, it is one (`benchmarks._settings`)
)  # fmt: skip
FEW = {"max_tool_calling_iterations": 0, "max_tool_calls": 0, "max_tool_result_chars": 16}
# What transformers and the template engine define in a template themselves.
TEMPLATE_NAMES = ("messages", "raise_exception", "strftime_now", "loop", *DEFAULT_NAMESPACE)


@dataclass
class EvalConfig:
    """What is asked of a model, and how."""

    model: str = field(metadata={"help": "Model directory or hub name, a LoRA adapter's directory, or smollm2."})
    benchmark: str = field(
        metadata={
            "help": f"One or more of {', '.join(BENCHMARKS)}, {', '.join(PACKAGED)}, NAME=FILE for one of yours; "
            "commas between them."
        }
    )
    data: str | None = field(
        default=None, metadata={"help": "Directory with the benchmarks' files (docs/data.md); by default the hub."}
    )
    prompt: str | None = field(
        default=None, metadata={"help": "Of NAME=FILE: a column, or a template such as '{city}: who rules it?'."}
    )
    answer: str | None = field(default=None, metadata={"help": "Of NAME=FILE: the column with the right answer."})
    metric: str | None = field(
        default=None,
        metadata={"help": f"Of NAME=FILE: {', '.join(METRICS)}; by default math where all answers are, else f1."},
    )
    limit: int | None = field(default=None, metadata={"help": "Only the first so many questions of each benchmark."})
    samples: int = field(default=1, metadata={"help": "Samples per question; pass@1 to pass@samples are shown."})
    engine: str = field(
        default="transformers", metadata={"help": f"What writes the samples: {', '.join(ENGINES)} (docs/eval.md)."}
    )
    server_url: str | None = field(
        default=None, metadata={"help": "engine vllm_server: its address, http://host:port; what it serves is asked."}
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.9, metadata={"help": "engine vllm: share of the GPU's memory for weights and cache."}
    )
    tools: str | None = field(
        default=None,
        metadata={
            "help": "python, search, my.module:function, with commas; none. Default: python, search if given; "
            f"none for {' and '.join(PACKAGED)}."
        },
    )
    search: str | None = field(
        default=None,
        metadata={
            "help": "cache:FILE, corpus:FILE, pages:FILE, retrieval:URL, searxng:URL or serper (docs/search_tools.md)."
        },
    )
    search_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Further arguments of the search, as JSON, such as {"limits": {"top_k": 3}}.'}
    )
    protocol: str = field(
        default="tags", metadata={"help": "How calls are written: tags (the paper's) or chat_template (TRL's)."}
    )
    add_tools: bool = field(
        default=False,
        metadata={"help": "Whether tools are added to a template that has none (docs/protocols.md)."},
    )
    result_format: str | None = field(
        default=None, metadata={"help": "A tool's result in tags, with one {}; by default the paper's."}
    )
    system_prompt: str | None = field(
        default=None,
        metadata={
            "help": 'The system prompt, "" for none; by default the paper\'s for these tools, and none for '
            f"{' and '.join(PACKAGED)}."
        },
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": 'What the chat template is given besides, as JSON, such as {"enable_thinking": false}.'},
    )
    allow_unisolated: bool = field(
        default=False, metadata={"help": "Whether Python programs may run where bubblewrap is missing."}
    )
    max_completion_length: int = field(
        default=4096, metadata={"help": "Tokens after the prompt, tool results included."}
    )
    max_tool_calling_iterations: int | None = field(
        default=None, metadata={"help": "Turns with calls; asking for one more ends a sample. Default: no limit."}
    )
    max_tool_calls: int | None = field(
        default=None, metadata={"help": "Calls in a sample; a further one is refused. Default: no limit."}
    )
    max_tool_result_chars: int | None = field(
        default=None, metadata={"help": "Characters of a result; a longer one is cut in the middle. Default: 8192."}
    )
    tool_timeout: float = field(
        default=30.0, metadata={"help": "Seconds that one call may take; a Python program gets 5 at most."}
    )
    temperature: float | None = field(
        default=None,
        metadata={
            "help": "Of sampling; 0 takes the likeliest token, the default for one sample of "
            f"{' and '.join(PACKAGED)}, else 1."
        },
    )
    top_p: float = field(default=1.0, metadata={"help": "Share of probability that is sampled from."})
    seed: int = field(default=0, metadata={"help": "Each sample has a seed of its own, made from this one."})
    batch_size: int = field(default=32, metadata={"help": "Samples written at once."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Where samples and results go; by default runs/eval/NAME, from the model's (docs/eval.md)."},
    )
    math_by_judge: bool = field(
        default=False, metadata={"help": "Whether the judge decides on mathematics too, as in the paper."}
    )
    judge_url: str | None = field(
        default=None, metadata={"help": "OpenAI-compatible endpoint, http://host:port/v1; key in OPENAI_API_KEY."}
    )
    judge_model: str | None = field(default=None, metadata={"help": "The name under which it serves the model."})
    judge_concurrency: int = field(default=16, metadata={"help": "Requests to the judge at once."})
    show_wrong: int = field(
        default=0,
        metadata={"help": "Print so many wrong samples of each benchmark: question, answers, calls, errors."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Whether to start anew; old samples get another name."})

    def __post_init__(self) -> None:
        self._fill_in()
        self.search_options = read_mapping("search_options", self.search_options)
        self.chat_template_kwargs = read_mapping("chat_template_kwargs", self.chat_template_kwargs)
        own = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
        taken = [name for name in self.chat_template_kwargs or () if name in own or name in TEMPLATE_NAMES]
        if taken:
            raise UserError(f"chat_template_kwargs must hold names of the template's own, not {', '.join(taken)}.")
        if self.search_options is not None and self.search is None:
            raise UserError("search_options belong to a search; give --search SOURCE.")
        least = {"samples": 1, "max_completion_length": 1, "batch_size": 1, "judge_concurrency": 1, "seed": 0}
        for name, bound in {**least, "limit": 1, **FEW, "show_wrong": 0}.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UserError(f"{name} must not be below {bound}, got {value}.")
        if self.engine not in ENGINES:
            raise UserError(f"engine must be one of {', '.join(ENGINES)}, got {self.engine!r}.")
        if (self.engine == "vllm_server") != (self.server_url is not None):
            raise UserError("engine vllm_server and server_url belong together; give both or neither.")
        if not 0 < self.vllm_gpu_memory_utilization <= 1:
            raise UserError(f"vllm_gpu_memory_utilization must lie in (0, 1], got {self.vllm_gpu_memory_utilization}.")
        check_url("server_url", self.server_url)
        if self.protocol not in PROTOCOLS:
            raise UserError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {self.protocol!r}.")
        if not 0 < self.tool_timeout < math.inf:
            raise UserError(f"tool_timeout must be above 0 and finite, got {self.tool_timeout}.")
        assert self.temperature is not None
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must not be below 0 and must be finite, got {self.temperature}.")
        if self.engine != "transformers":
            check_sampling(self.temperature)
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], got {self.top_p}.")
        if self.temperature == 0 and self.samples > 1:
            raise UserError("temperature = 0 makes all samples of a question the same; set samples = 1.")
        if (self.judge_url is None) != (self.judge_model is None):
            raise UserError("judge_url and judge_model belong together; give both or neither.")
        if self.math_by_judge and self.judge_url is None:
            raise UserError("math_by_judge needs a judge; give judge_url and judge_model.")
        self._check_benchmarks()

    def _fill_in(self) -> None:
        """What is not given: benchmarks that packages bring are asked by their own prompts alone, and greedily."""
        if self.brings_prompts:
            self.tools = "none" if self.tools is None else self.tools
            self.system_prompt = "" if self.system_prompt is None else self.system_prompt
        if self.temperature is None:
            self.temperature = 0.0 if self.brings_prompts and self.samples == 1 else 1.0

    def _check_benchmarks(self) -> None:
        unknown = [name for name, file in self.benchmarks.items() if file is None and name not in KNOWN]
        if unknown or not self.benchmarks:
            close = difflib.get_close_matches(unknown[0], KNOWN, 1) if unknown else []
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(KNOWN)}, and NAME=FILE."
            raise UserError(f"unknown benchmark {unknown[0] if unknown else ''!r}; {hint}")
        for name, file in self.benchmarks.items():
            if file is not None and (not re.fullmatch(r"[\w.-]+", name) or name in KNOWN or not file):
                raise UserError(
                    f"benchmark = '{name}={file}' must read NAME=FILE, with a name of letters that none of "
                    f"{', '.join(KNOWN)} has."
                )
        packaged = [name for name in self.benchmarks if name in PACKAGED]
        if packaged and not self.brings_prompts:
            raise UserError(f"{packaged[0]} is asked otherwise than the others; evaluate it in a command of its own.")
        if packaged and self.data is not None:
            raise UserError(f"{packaged[0]} comes from a package, not from a file; leave out data.")
        of_own = [name for name in ("prompt", "answer", "metric") if getattr(self, name) is not None]
        if of_own and not any(self.benchmarks.values()):
            raise UserError(f"{of_own[0]} belongs to a file of yours; give --benchmark NAME=FILE.")
        if self.metric is not None and self.metric not in METRICS:
            raise UserError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}.")

    @property
    def benchmarks(self) -> dict[str, str | None]:
        """The benchmarks' names, each once, with the file of those that are the user's own."""
        found: dict[str, str | None] = {}
        for part in filter(None, map(str.strip, self.benchmark.split(","))):
            name, given, file = part.partition("=")
            found[name.strip()] = file.strip() if given else None
        return found

    @property
    def brings_prompts(self) -> bool:
        """Whether all benchmarks are of packages that bring them, whose prompts need neither tools nor a format."""
        return bool(self.benchmarks) and all(name in PACKAGED for name in self.benchmarks)

    @property
    def directory(self) -> Path:
        """Where everything goes."""
        if self.output_dir:
            return Path(self.output_dir)
        model = Path(self.model)
        # Models of many runs are called runs/NAME/model.
        name = "-".join(model.resolve().parts[1:][-2:]) if model.is_dir() else model.name
        return Path("runs", "eval", name)
