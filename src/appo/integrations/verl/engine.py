"""Turns by verl's rollout servers, for one rollout: its thread waits in `step`, its requests run in verl's event loop.

Sampling parameters are told in vLLM's words: a seed for each request, and stop strings, at which a server does not
write on for nothing; the first token that ends the turn is found by `RemoteEngine`.

Left out on purpose: the likeliest tokens at a branch point (`Turn.alternatives`), which verl's servers do not tell,
and loading weights, which verl's checkpoint manager does.
"""

import asyncio
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.engines.remote import Answer, Question, RemoteEngine


class VerlEngine(RemoteEngine):
    """
    Args:
        server: verl's client, whose `generate` takes and gives token ids.
        loop: Where its coroutines run; not the thread that calls `step`.
        sampling: verl's sampling parameters.
        request_id: The rollout's, the same for all its turns: they go to the server that has its cache.
        eos_token_ids, tokenizer: As in `RemoteEngine`.

    Attributes:
        versions: Which weights wrote each answer, as the servers count them; None where one does not tell.
    """

    def __init__(
        self,
        server: Any,
        loop: asyncio.AbstractEventLoop,
        sampling: dict[str, Any],
        request_id: str,
        *,
        eos_token_ids: Collection[int],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__(eos_token_ids=eos_token_ids, tokenizer=tokenizer)
        self.patience = None  # one rollout: until its answer has come there is nothing else to do
        self._server, self._loop, self._sampling, self._request_id = server, loop, sampling, request_id
        self.versions: list[Any] = []

    def load(self, weights: Any) -> None:
        raise NotImplementedError("verl's checkpoint manager loads weights into its servers.")

    def submit(self, question: Question) -> Future[Answer]:
        return asyncio.run_coroutine_threadsafe(self._ask_server(question), self._loop)

    async def _ask_server(self, question: Question) -> Answer:
        sampling = {**self._sampling, "logprobs": True, "max_tokens": question.max_tokens, "seed": question.seed}
        if question.stop.strings:
            sampling.update(stop=list(question.stop.strings), include_stop_str_in_output=True)
        if question.stop.token_ids:
            sampling["stop_token_ids"] = sorted(question.stop.token_ids)
        output = await self._server.generate(
            request_id=self._request_id, prompt_ids=question.token_ids, sampling_params=sampling
        )
        if output.log_probs is None:
            raise RuntimeError(
                "verl's rollout server gave tokens without log-probabilities, though it was asked for them."
            )
        self.versions.append(output.extra_fields.get("global_steps"))
        cached = output.extra_fields.get("num_cached_tokens")
        return Answer(list(output.token_ids), list(output.log_probs), cached_tokens=cached)
