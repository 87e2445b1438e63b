"""vLLM's own OpenAI server as an engine: one request a turn to `/v1/completions`, token ids in and out.

For evaluation any `vllm serve MODEL --logprobs-mode processed_logprobs` will do. For training it also has to take new
weights (`weight_transfer.py`):

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --dtype DTYPE --logprobs-mode processed_logprobs \\
        --weight-transfer-config '{"backend": "nccl"}'                                # trainer and server on GPUs
        --worker-extension-cls appo.engines.vllm_worker.WeightLoader                  # or by files

DTYPE is the one that the trainer computes in. Every process of a training asks the server for its own rollouts.

A request that fails for the network's or the server's sake is sent again, on a fresh connection: a server that has
failed closes the one that it had. Left out on purpose: several servers (put a load balancer, or vLLM's data
parallelism, in front), and streaming (`remote.py`).
"""

import asyncio
import threading
import time
import weakref
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from typing import Any, Protocol

import httpx
import torch
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from transformers import PreTrainedTokenizerBase

from appo.engines.remote import Answer, Question, RemoteEngine
from appo.errors import UserError

TRIES = 5
SILENCE = 3600.0  # seconds without an answer after which a server counts as gone
MODE = "processed_logprobs"


class ServerFailed(Exception):
    """The server answered 5xx, or did not answer: another try may help."""


class WeightTransfer(Protocol):
    """Brings weights to a server; `weight_transfer.py`."""

    def send(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Sends whole tensors under the names of a saved model; every process calls it."""


class VLLMServerEngine(RemoteEngine):
    """Writes turns with a vLLM server.

    Args:
        url: The server, `http://host:port`.
        eos_token_ids: Tokens that end a turn.
        tokenizer: For stop strings; may be None where no request has any.
        temperature, top_p, top_k, min_p: As in transformers; temperature 0 takes the likeliest token.
        transfer: Brings weights; None for a server that keeps its own.
        rows: Requests at once; more wait here.
        timeout: Seconds to wait for the server to be up.

    Raises:
        UserError: for a server that does not answer, or is not set up for this.
    """

    def __init__(
        self,
        url: str,
        *,
        eos_token_ids: Collection[int],
        tokenizer: PreTrainedTokenizerBase | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float | None = None,
        transfer: WeightTransfer | None = None,
        rows: int = 256,
        timeout: float = 240.0,
    ) -> None:
        self.url, self.transfer, self.rows = url.rstrip("/"), transfer, rows
        model = served_model(self.url, timeout)
        super().__init__(eos_token_ids=eos_token_ids, tokenizer=tokenizer, context_length=model.get("max_model_len"))
        self._payload = {
            "model": model["id"],
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k or 0,
            "min_p": min_p or 0.0,
            # Else the server would take those of the model's generation_config.json.
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": True,  # the end tokens are those given here
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "include_stop_str_in_output": True,
        }
        self._client: httpx.AsyncClient | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="vllm-server").start()
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Brings new weights to the server; every process of the training calls it.

        Raises:
            RuntimeError: while sequences are open, and where the server fails.
        """
        self.check_closed()
        if self.transfer is None:
            raise RuntimeError(f"{self.url} keeps its own weights.")
        self.transfer.send(weights)

    def submit(self, question: Question) -> Future[Answer]:
        return asyncio.run_coroutine_threadsafe(self._ask_patiently(self.payload(question)), self._loop)

    def payload(self, question: Question) -> dict[str, Any]:
        """The body of a request."""
        own = {} if question.temperature is None else {"temperature": question.temperature}
        return {
            **self._payload,
            **own,
            "prompt": question.token_ids,
            "max_tokens": question.max_tokens,
            "seed": question.seed,
            "logprobs": max(question.top_alternatives, question.top_logprobs),
            "stop": list(question.stop.strings) or None,
            "stop_token_ids": sorted(self.eos_token_ids | question.stop.token_ids),
        }

    async def _ask_patiently(self, payload: dict[str, Any]) -> Answer:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ServerFailed),
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential(multiplier=0.5, max=16),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                return read_answer(await self._post(payload, fresh=attempt.retry_state.attempt_number > 1))
        raise AssertionError("tenacity raises what failed last")

    async def _post(self, payload: dict[str, Any], fresh: bool) -> Any:
        limits = httpx.Limits(max_connections=self.rows, max_keepalive_connections=self.rows)
        options: Any = {
            "limits": limits,
            "timeout": httpx.Timeout(SILENCE, connect=30.0, pool=None),
            "trust_env": False,
        }
        if self._client is None:
            self._client = httpx.AsyncClient(**options)
        client = httpx.AsyncClient(**options) if fresh else self._client
        try:
            response = await client.post(f"{self.url}/v1/completions", json=payload)
        except httpx.TransportError as error:
            raise ServerFailed(f"{self.url} cannot be reached: {type(error).__name__} {error}".strip()) from error
        finally:
            if fresh:
                await client.aclose()
        if response.status_code >= 500:
            raise ServerFailed(f"{self.url} answered {response.status_code}: {response.text[:300]}")
        if response.status_code != 200:
            raise RuntimeError(f"{self.url} answered {response.status_code}: {response.text[:300]}")
        return response.json()


def read_answer(body: dict[str, Any]) -> Answer:
    """The answer in the body of a completion.

    Raises:
        RuntimeError: for a server that sends no token ids or log-probabilities.
    """
    choice = body["choices"][0]
    found = choice.get("logprobs")
    if choice.get("token_ids") is None or not found:
        raise RuntimeError(
            "the server sent no token ids or log-probabilities; use `vllm serve` of vLLM 0.11 or newer."
        )
    # The sampled token is always among them, also where no others were asked for.
    likeliest = [
        [
            (int(token.removeprefix("token_id:")), logprob)
            for token, logprob in sorted(one.items(), key=lambda i: -i[1])
        ]
        for one in (place or {} for place in found.get("top_logprobs") or ())
    ]
    alternatives = likeliest[0] if likeliest else None
    details = (body.get("usage") or {}).get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return Answer(choice["token_ids"], found["token_logprobs"], alternatives or None, cached, likeliest or None)


def served_model(url: str, timeout: float) -> dict[str, Any]:
    """What the server says of its model, as soon as it is up.

    Raises:
        UserError: where it does not answer in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            response = httpx.get(f"{url}/v1/models", trust_env=False, timeout=10.0)
            response.raise_for_status()
            return response.json()["data"][0]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError) as error:
            if time.monotonic() >= deadline or isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
                raise UserError(
                    f"the vLLM server {url} does not answer ({type(error).__name__}); start it with `vllm serve`, or "
                    "correct its address."
                ) from error
            time.sleep(min(2.0, max(deadline - time.monotonic(), 0.0)))


def check_server(url: str, dtype: torch.dtype) -> dict[str, Any]:
    """A server's settings, which training depends on.

    Args:
        dtype: What the trainer computes in.

    Raises:
        UserError: for a server that cannot take weights, gives log-probabilities of another distribution than it
            samples from, or computes in another dtype.
    """
    response = httpx.get(f"{url}/server_info", params={"config_format": "json"}, trust_env=False, timeout=60.0)
    if response.status_code != 200:
        raise UserError(
            f"the vLLM server {url} takes no weights; start it with VLLM_SERVER_DEV_MODE=1 (docs/gpus.md)."
        )
    settings = response.json()["vllm_config"]
    model = settings["model_config"]
    if model["logprobs_mode"] != MODE:
        raise UserError(
            f"the vLLM server {url} runs with --logprobs-mode {model['logprobs_mode']}; start it with {MODE}."
        )
    served = str(model["dtype"]).removeprefix("torch.")
    if served != str(dtype).removeprefix("torch."):
        raise UserError(
            f"the vLLM server {url} computes in {served}, the trainer in {str(dtype).removeprefix('torch.')}; start "
            "it with that --dtype, as rounding would make another policy of the same weights."
        )
    return settings
