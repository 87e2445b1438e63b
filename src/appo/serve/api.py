"""What a request may look like: OpenAI's chat completions and vLLM's tokens in, tokens out; and what an error does.

A field that changes the answer and cannot be heeded is refused with its remedy, and so is one that nobody knows: an
agent should not believe that it was heard. Fields that change nothing (`user`, `metadata`, ..) are taken.

Left out on purpose: several answers at once (n), pictures and sound, guided decoding (`response_format`), penalties.
"""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

FORMS = {
    413: "request_too_large",
    429: "rate_limit_exceeded",
    408: "timeout",
    404: "not_found",
    401: "invalid_api_key",
}
MAX_STOPS, MAX_LIKELIEST = 16, 20
GREEDY = 1e-5  # temperatures below it take the likeliest token, as dividing by them overflows


class ApiError(Exception):
    """An error in OpenAI's form.

    Args:
        status: Of HTTP.
        message: One sentence.
        param: The field that is wrong, or None.
        code: For programs; None for that of the status.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or FORMS.get(status)

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def _whole(text: str) -> str:
    """JSON may escape half a character, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


Text = Annotated[str, AfterValidator(_whole)]
Name = Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]


class Shape(BaseModel):
    """A part of a request: types are not converted."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Part(Shape):
    """A part of a message's content; only text is read."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


class Called(Shape):
    """A function as it is called; `arguments` are JSON, as a text."""

    name: Text
    arguments: Text


class Call(Shape):
    """A call in a message of the assistant."""

    id: Text | None = None
    type: Literal["function"] = "function"
    function: Called


class Said(Shape):
    """A message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[Part] | None = None
    name: Text | None = None
    reasoning_content: Text | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: Text | None = None

    def as_message(self) -> dict[str, Any]:
        """The message as a chat template takes it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        for name in ("name", "reasoning_content", "tool_call_id"):
            if getattr(self, name):
                message[name] = getattr(self, name)
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": _read(c)}}
                for c in self.tool_calls
            ]
        return message


def _read(call: Call) -> Any:
    """Arguments as a mapping, where they are one."""
    try:
        read = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        return call.function.arguments
    return read if isinstance(read, dict) else call.function.arguments


class Function(Shape):
    """A function that may be called; what else it says of itself, the policy is told, too."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def as_tool(self) -> dict[str, Any]:
        """The function as a chat template takes it."""
        described = {"description": "", "parameters": {"type": "object", "properties": {}}}
        given = self.model_dump(exclude={"strict"}, exclude_none=True)
        return {"name": self.name, **described, **given}


class Tool(Shape):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class StreamOptions(Shape):
    """Of a stream."""

    include_usage: bool | None = None


class Choice(Shape):
    """A tool that the client wants to be called."""

    type: Literal["function"]
    function: dict[str, str]


Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Stops = str | list[str] | None


class ChatRequest(Shape):
    """The body of a chat completion. Fields from `n` on are taken only with a value that changes nothing."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: Text
    messages: Annotated[list[Said], Field(min_length=1)]
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | Choice | None = None
    temperature: Temperature | None = None
    seed: int | None = None
    stop: Stops = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LIKELIEST)] | None = None
    return_token_ids: bool | None = None

    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None

    n: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    @property
    def likeliest(self) -> int:
        """How many alternatives to each token are told."""
        return (self.top_logprobs or 0) if self.logprobs else 0


class Sampling(Shape):
    """vLLM's sampling parameters. Fields from `n` on are taken only with a value that changes nothing."""

    model_config = ConfigDict(strict=True, extra="forbid")

    temperature: Temperature | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: Stops = None
    stop_token_ids: list[int] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LIKELIEST)] | None = None

    detokenize: Any = None
    skip_special_tokens: Any = None
    spaces_between_special_tokens: Any = None
    include_stop_str_in_output: Any = None
    output_kind: Any = None
    prompt_logprobs: None = None

    n: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None


class GenerateRequest(Shape):
    """The body of `POST /inference/v1/generate`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    sampling_params: Sampling
    model: Text | None = None
    request_id: Text | None = None
    stream: Literal[False] | None = None
    cache_salt: Any = None
    priority: Any = None
    features: None = None
    kv_transfer_params: None = None


# What has to be as it is here, and why; None is always taken.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},),
    "response_format": ({"type": "text"},), "parallel_tool_calls": (True,), "min_tokens": (0,), "ignore_eos": (False,),
}  # fmt: skip
SERVERS = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}  # those of the server, which started with them


def read_body(kind: type[Shape], body: bytes) -> Any:
    """The request of a body.

    Raises:
        ApiError: 400, for what is no JSON or of the wrong shape; the sentence names the field.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON ({error}); send a JSON object.") from None
    if not isinstance(found, dict):
        raise ApiError(400, f"the body is a {type(found).__name__}; send a JSON object.")
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise _wrong(error) from None


def _wrong(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=True)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the body"
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{place} is not known here; leave it out.", place, "unknown_parameter")
    given = "" if first["type"] == "missing" else f", got {_shown(first['input'])}"
    return ApiError(400, f"{place}: {first['msg']}{given}.", place)


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]} .."


def check_heeded(request: ChatRequest | Sampling, sampling: dict[str, Any]) -> None:
    """
    Args:
        sampling: top_p, top_k and min_p of the engine.

    Raises:
        ApiError: 400, for a value that would change the answer and cannot be heeded.
    """
    for name in type(request).model_fields:
        value = getattr(request, name)
        if value is None:
            continue
        if name in NEUTRAL and value not in NEUTRAL[name]:
            raise ApiError(400, f"{name} = {_shown(value)} is not supported; leave it out.", name, "unsupported_value")
        if name in SERVERS:
            own = sampling.get(name) or SERVERS[name]
            if not math.isclose(max(value, 0) if name == "top_k" else value, own):
                raise ApiError(
                    400,
                    f"{name} = {value} differs from the server's, {own}; leave it out, or start the server with "
                    f"--{name} {value}.",
                    name,
                    "unsupported_value",
                )


def stops_of(stop: Stops) -> tuple[str, ...]:
    """
    Raises:
        ApiError: 400, for an empty one, which would end every turn at once, and for too many.
    """
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in found:
        raise ApiError(400, "stop holds an empty text, which would end every answer at once; leave it out.", "stop")
    if len(found) > MAX_STOPS:
        raise ApiError(400, f"stop holds {len(found)} texts; at most {MAX_STOPS} are looked for.", "stop")
    return tuple(map(_whole, found))


def temperature_of(given: float | None, default: float) -> float:
    """The temperature of a request; one that is next to 0 is 0."""
    temperature = default if given is None else given
    return 0.0 if temperature < GREEDY else float(temperature)


def cut(text: str, stops: tuple[str, ...]) -> str:
    """A text up to the first of the stop texts in it."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]
