"""The embedded engine: any transformers causal language model, batched, with one key-value cache.

Every running sequence gets one token a step. New sequences enter as rows get free: contexts are read in forwards of
their own, several at once, and one that another row has read is copied. A tool's result is fed like written tokens,
beside the sequences that still write, or read like a context where it is long.

A sequence that waits for its tool keeps its row while nobody else wants it. Where others wait for a row, one that has
waited for `PATIENCE` steps (or any, if nothing could be written otherwise) gives its row up, and is read again when it
is resumed: slow tools hold up nobody, and the cache never has more than `max_rows` rows.

What a sequence writes follows from its seed (`sampler.py`), not from its neighbours; only the rounding of sums depends
on the size of the batch, which in float32 changes hardly ever a token, in bfloat16 now and then.

Left out on purpose: beam search, penalties, speculative decoding, and models with sliding-window or recurrent layers.
Paged attention and CUDA graphs: serving engines have them, this one runs anywhere without one.
"""

from collections import deque
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from appo.engines.base import Request, Stop, Turn
from appo.engines.kv_cache import SlotCache
from appo.engines.rows import RUNNING, Row, Slots
from appo.engines.sampler import Sampler
from appo.engines.stops import StopMatcher
from appo.errors import UserError

# Shapes: B rows of a forward, K columns of the cache, S rows that sample, V vocabulary.

LONG = 16  # tokens from which a tool's result is read in a forward of its own
READERS = 1 / 16  # share of rows with something long to be read, from which on a forward of their own pays
READ_AFTER = 8  # steps that such a row waits for others
TOGETHER = 1 / 4  # share of rows that are new, from which on short contexts are read in a forward of their own too
PATIENCE = 32  # steps that a sequence waits for its tool before its row may be given to another
WINDOW_SHARE = 0.85  # share of rows that run, below which they are moved together


def check_full_attention(model: PreTrainedModel) -> None:
    """Refuses models for which a masked column in the cache would count as a token.

    Raises:
        ValueError: for sliding windows, local or recurrent layers, and positions counted by column.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds:
        # Older configurations say it in fields of their own.
        windowed = getattr(config, "sliding_window", None) is not None or config.model_type in ("gpt_neo", "mpt")
        kinds = {"sliding window or local attention"} if windowed else {"full_attention"}
    if kinds != {"full_attention"}:
        raise UserError(
            f"the embedded engine needs full attention in every layer, but {type(model).__name__} has "
            f"{', '.join(sorted(kinds))}; use a model without sliding-window, local or recurrent layers."
        )


def likeliest(logps_V: torch.Tensor, count: int) -> list[tuple[int, float]]:
    """The `count` likeliest tokens, as (id, log-probability in nats)."""
    best = logps_V.topk(min(count, len(logps_V)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


class TransformersEngine:
    """Writes turns with a transformers model.

    Args:
        model: The policy, unwrapped. It is used as it is at each step: new weights need no copy, but must not change
            while sequences are open.
        pad_token_id: Fed where a row has nothing to feed.
        eos_token_ids: Tokens that end a turn.
        tokenizer: For stop strings; may be None where no request has any.
        temperature, top_p, top_k, min_p: As in transformers; 1.0, 1.0, 0 and None sample from the plain model.
        max_rows: Rows of the cache, and so sequences that write at once; the others queue.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pad_token_id: int,
        eos_token_ids: Collection[int],
        tokenizer: PreTrainedTokenizerBase | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float | None = None,
        max_rows: int = 256,
    ) -> None:
        self.pad_token_id = pad_token_id
        self.eos_token_ids = frozenset(eos_token_ids)
        self.tokenizer = tokenizer
        self.sampler = Sampler(temperature, top_p, top_k, min_p)
        self.max_rows = max_rows
        self.context_length: int | None = None
        self._stops: dict[Stop, tuple[StopMatcher, frozenset[int] | None]] = {}
        self._by_id: dict[int, Row] = {}
        self.load(model)

    def load(self, weights: PreTrainedModel) -> None:
        """Takes another model, or the same one with other weights.

        Raises:
            RuntimeError: while sequences are open.
        """
        if self._by_id:
            raise RuntimeError("new weights came while sequences are open; close them first.")
        check_full_attention(weights)
        self.model, self.device = weights, weights.device
        self._forget()

    def _forget(self) -> None:
        self._cache = SlotCache(self.device, self.model.config.get_text_config().num_hidden_layers, self.max_rows)
        self._slots = Slots(self.max_rows)
        self._queue: deque[Row] = deque()  # new ones
        self._returning: deque[Row] = deque()  # resumed ones whose row was given up; they go first
        self._steps = 0

    @property
    def busy(self) -> bool:
        return bool(self._slots.running or self._queue or self._returning)

    def start(self, request: Request) -> None:
        if not request.token_ids:
            raise ValueError(f"request {request.id} has no tokens to continue; a prompt needs at least one.")
        if request.stop not in self._stops:
            matcher = StopMatcher(request.stop, self.tokenizer)
            watched = None if matcher.candidates is None else matcher.candidates | self.eos_token_ids
            self._stops[request.stop] = (matcher, watched)
        row = Row(request, *self._stops[request.stop])
        self._by_id[request.id] = row
        self._queue.append(row)

    def resume(self, id: int, token_ids: list[int], max_new_tokens: int) -> None:
        row = self._by_id[id]
        row.resume(token_ids, max_new_tokens)
        if row.slot < 0:
            self._returning.append(row)
        else:
            self._slots.run(row, self._steps)

    def so_far(self, id: int) -> list[int]:
        row = self._by_id.get(id)
        return [] if row is None else row.ids[len(row.ids) - len(row.logprobs) :]

    def close(self, id: int) -> None:
        row = self._by_id.pop(id)
        for waiting in (self._queue, self._returning):
            if row in waiting:
                waiting.remove(row)
        self._slots.close(row)
        if not self._by_id:
            self._forget()  # the cache's memory is given back

    def abandon(self) -> None:
        self._by_id.clear()
        self._forget()

    def rest(self) -> bool:
        return False  # the cache goes with the last sequence

    @torch.inference_mode()
    def step(self) -> list[Turn]:
        self._admit()
        self._read()
        window = self._slots.window(WINDOW_SHARE, self._cache)
        turns = self._write(window) if window else []
        self._steps += 1
        return turns

    def _admit(self) -> None:
        """Gives rows to sequences that wait for one; those that were resumed come first."""
        waiting = len(self._returning) + len(self._queue)
        if not waiting:
            return
        patience = PATIENCE if self._slots.running else 0
        self._slots.give_up(waiting, self._steps - patience)
        while (self._returning or self._queue) and self._slots.free:
            row = (self._returning or self._queue).popleft()
            self._slots.enter(row, self._steps)
        self._cache.reserve(self._slots.used, self._cache.columns)

    def _read(self) -> None:
        """Reads contexts and long results, all but their last token, where forwards of their own pay.

        Each distinct context is read once; rows that begin with one that is in the cache get a copy. Short contexts
        are read together with others, and else fed like written tokens.
        """
        running = self._slots.running
        new = [row for row in running if not row.cached and row.unread]
        long = [row for row in running if row.unread > LONG]
        if not new and not long:
            return
        due = len(long) >= READERS * len(running) or any(row.entered <= self._steps - READ_AFTER for row in long)
        for row in long:
            row.held = not due
        reading = long if due else []
        if reading or len(new) >= TOGETHER * len(running):
            reading = list(dict.fromkeys([*reading, *new]))
        if not reading and not new:
            return
        # Before rows are chosen to be copied: making room may drop those of sequences that have ended.
        self._reserve(max(len(row.ids) for row in {*reading, *new}))
        readers, copies = self._slots.readers(reading, new)
        if readers:
            self._read_rows(readers)
        if copies:
            columns = max(len(row.context) for row, _ in copies)
            self._cache.copy_rows([row.slot for row, _ in copies], [other.slot for _, other in copies], columns)
        for row in [*readers, *dict(copies)]:
            row.cached, row.held = len(row.ids) - 1, False

    def _reserve(self, columns: int) -> None:
        if columns > self._cache.columns:
            self._slots.trim()
        self._cache.reserve(self._slots.used, columns)

    def _read_rows(self, rows: list[Row]) -> None:
        """One forward over what these rows have not read, padded on the left, behind what each has in the cache."""
        width, past = max(row.unread for row in rows), max(row.cached for row in rows)
        input_ids = torch.full((len(rows), width), self.pad_token_id)
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), past + width, dtype=torch.long)
        for i, row in enumerate(rows):
            input_ids[i, width - row.unread :] = torch.tensor(row.ids[row.cached : -1])
            positions[i, width - row.unread :] = torch.arange(row.cached, len(row.ids) - 1)
            mask[i, : row.cached] = 1
            mask[i, past + width - row.unread :] = 1
        slots = [row.slot for row in rows]
        part = self._cache.read_out(slots, past)
        self._run(part, input_ids, mask, positions)
        self._cache.write_back(slots, [row.cached for row in rows], [row.unread for row in rows], part)

    def _write(self, window: list[Row | None]) -> list[Turn]:
        """Feeds one token of each running row; those that have no further known one sample the next."""
        tokens, lengths, sampling, index, uniforms, columns = [], [], [], [], [], 0
        for i, row in enumerate(window):
            if row is None or row.state != RUNNING or row.held:
                tokens.append(self.pad_token_id)  # what is written here is written over by the row's next token
                lengths.append(row.cached if row is not None else 0)
                continue
            cached = row.cached
            tokens.append(row.ids[cached])
            lengths.append(cached)
            row.cached = cached = cached + 1
            if cached > columns:
                columns = cached
            if cached == len(row.ids):
                sampling.append(row)
                index.append(i)
                uniforms.append(row.numbers[row.drawn] if row.drawn < len(row.numbers) else row.number())
        if not columns:
            return []
        self._reserve(max(columns, max(lengths) + 1))
        lengths_B = self._tensor(lengths)
        self._cache.begin(lengths_B, columns)
        mask_BK = torch.arange(columns, device=self.device) <= lengths_B[:, None]
        logits_BV = self._run(self._cache, self._tensor(tokens)[:, None], mask_BK, lengths_B[:, None])
        if not sampling:
            return []
        logits_SV = logits_BV if len(index) == len(window) else logits_BV[self._tensor(index)]
        return self._sample(sampling, logits_SV, uniforms)

    def _tensor(self, numbers: list[int]) -> torch.Tensor:
        return torch.from_numpy(np.array(numbers)).to(self.device)  # by numpy, which reads lists six times as fast

    def _run(self, cache: Any, input_ids_BW: torch.Tensor, mask_BK: torch.Tensor, positions_BW: torch.Tensor) -> Any:
        """One forward into `cache`; logits (B, V) of the last column."""
        if input_ids_BW.shape[1] == 1 and self.model.config._attn_implementation == "sdpa":
            # One new token sees every valid column: this is the mask that transformers would work out at each step.
            mask_BK = mask_BK.bool()[:, None, None, :]
        output = self.model(
            input_ids=input_ids_BW.to(self.device),
            attention_mask=mask_BK.to(self.device) if mask_BK.ndim == 4 else mask_BK.to(self.device, torch.long),
            position_ids=positions_BW.to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _sample(self, rows: list[Row], logits_SV: torch.Tensor, uniforms_S: list[float]) -> list[Turn]:
        sampled = self.sampler(logits_SV, uniforms_S, [row.temperature for row in rows])
        turns = []
        for i, (row, token, logp) in enumerate(zip(rows, sampled.tokens, sampled.logprobs, strict=True)):
            if row.top_alternatives and not row.drawn:
                row.alternatives = likeliest(sampled.logps_SV[i], row.top_alternatives)
            if row.top_count:
                row.top_logprobs.append(likeliest(sampled.logps_SV[i], row.top_count))
            row.drawn += 1
            row.ids.append(token)
            row.logprobs.append(logp)
            if row.watched is None or token in row.watched or len(row.logprobs) >= row.budget:
                reason = self._reason(row, token)
                if reason:
                    turns.append(row.end_turn(reason))
                    self._slots.pause(row, self._steps)
        return turns

    def _reason(self, row: Row, token: int) -> str | None:
        if token in self.eos_token_ids:
            return "eos"
        if row.matcher.ended(row.ids[max(row.turn_start, len(row.ids) - row.matcher.window) :]):
            return "stop"
        return "length" if len(row.logprobs) >= row.budget else None
