"""The embedded engine: any transformers causal language model, batched, with one key-value cache.

Every running sequence gets one token a step. A tool's result is fed in the same way, token by token beside the
sequences that still write, or in one forward of its own where it is long. A sequence that waits for its tool stays in
the cache. Sampling inverts the distribution function with one uniform number a token from the sequence's own seed, so
what a sequence writes does not depend on its neighbours.

Left out on purpose: beam search, penalties, speculative decoding, and models with sliding-window or recurrent layers.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import MinPLogitsWarper, PreTrainedModel, TopKLogitsWarper, TopPLogitsWarper

from appo.engines.base import Request, Turn
from appo.engines.kv_cache import RaggedCache
from appo.errors import UserError

# Shapes: B rows of the batch, S rows that sample, K cached columns, W tokens fed at once, V vocabulary.

LONG_RESULT = 16  # tokens from which a tool's result is fed in a forward of its own
REPACK_FACTOR = 1.5  # columns over the longest row's tokens from which holes are squeezed out
KEPT_SHARE = 0.75  # share of rows that still run, below which the others are dropped


@dataclass
class _Row:
    request: Request
    pending: list[int]  # tokens that are known but not yet in the cache
    uniforms: np.ndarray
    drawn: int = 0
    cached: int = 0  # tokens of this row in the cache
    budget: int = 0
    state: str = "running"  # running, waiting (for a tool), closed
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def check_full_attention(model: PreTrainedModel) -> None:
    """Refuses models for which a hole in the cache would count as a token.

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


class TransformersEngine:
    """Writes turns with a transformers model.

    Args:
        model: The policy, unwrapped. It is used as it is at each step: new weights need no copy, but must not change
            while sequences are open.
        pad_token_id: Fed at holes.
        eos_token_ids: Tokens that end a turn.
        stop_candidates: Tokens after which `Request.should_stop` is asked.
        temperature, top_p, top_k, min_p: As in transformers; 1.0, 1.0, 0 and None sample from the plain model.
        max_rows: Sequences in one batch; the others queue.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pad_token_id: int,
        eos_token_ids: Collection[int],
        stop_candidates: Collection[int] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float | None = None,
        max_rows: int = 256,
    ) -> None:
        check_full_attention(model)
        self.model = model
        self.device = model.device
        self.pad_token_id = pad_token_id
        self.eos_token_ids = frozenset(eos_token_ids)
        self.stop_candidates = frozenset(stop_candidates)
        self.temperature = temperature
        self.warpers = [TopKLogitsWarper(top_k)] if top_k else []
        self.warpers += [TopPLogitsWarper(top_p)] if top_p < 1.0 else []
        self.warpers += [MinPLogitsWarper(min_p)] if min_p else []
        self.max_rows = max_rows
        self._queue: deque[Request] = deque()
        self._rows: list[_Row] = []
        self._by_id: dict[int, _Row] = {}
        self._cache = RaggedCache()
        self._mask_BK = torch.zeros(0, 0, dtype=torch.long, device=self.device)
        self._columns = 0
        self._uniforms_BT = torch.zeros(0, 0, device=self.device)

    @property
    def busy(self) -> bool:
        return any(row.state == "running" for row in self._rows) or (bool(self._queue) and not self._open)

    @property
    def _open(self) -> bool:
        return any(row.state != "closed" for row in self._rows)

    def start(self, request: Request) -> None:
        if not request.token_ids:
            raise ValueError(f"request {request.id} has no tokens to continue; a prompt needs at least one.")
        self._queue.append(request)

    def resume(self, id: int, token_ids: list[int], max_new_tokens: int) -> None:
        row = self._by_id[id]
        row.pending += token_ids
        row.budget = max_new_tokens
        row.state = "running"

    def close(self, id: int) -> None:
        self._by_id.pop(id).state = "closed"

    @torch.inference_mode()
    def step(self) -> list[Turn]:
        if self._queue and not self._open:
            self._admit()
        self._repack()
        self._feed_long_results()
        sampling = self._forward_one_token()
        return self._sample(*sampling) if sampling else []

    def _admit(self) -> None:
        """Opens the next batch: each distinct context is read once, then copied to all rows that share it."""
        requests = [self._queue.popleft() for _ in range(min(self.max_rows, len(self._queue)))]
        contexts = sorted({tuple(request.token_ids[:-1]) for request in requests}, key=lambda ids: (len(ids), ids))
        index = {context: i for i, context in enumerate(contexts)}
        width = len(contexts[-1])
        self._cache = RaggedCache()
        mask = torch.zeros(len(contexts), width, dtype=torch.long)
        if width:
            input_ids = torch.full((len(contexts), width), self.pad_token_id)
            for i, context in enumerate(contexts):
                if context:
                    input_ids[i, -len(context) :] = torch.tensor(context)
                    mask[i, -len(context) :] = 1
            self._run(self._cache, input_ids, mask, (mask.cumsum(1) - 1).clamp(min=0))
        rows = torch.tensor([index[tuple(request.token_ids[:-1])] for request in requests], device=self.device)
        self._cache = self._cache.select_rows(rows)
        self._mask_BK = mask.to(self.device)[rows]
        self._columns = width
        self._rows = []
        for request in requests:
            # A sequence never samples more than its first turn's budget over all turns: later budgets only shrink.
            uniforms = np.random.default_rng(request.seed).random(request.max_new_tokens)
            row = _Row(request, [request.token_ids[-1]], uniforms, cached=len(request.token_ids) - 1)
            row.budget = request.max_new_tokens
            self._rows.append(row)
        self._by_id = {row.request.id: row for row in self._rows}
        self._stack_uniforms()

    def _stack_uniforms(self) -> None:
        uniforms = np.zeros((len(self._rows), max(row.uniforms.size for row in self._rows)))
        for i, row in enumerate(self._rows):
            uniforms[i, : row.uniforms.size] = row.uniforms
        # Just below 1, so that rounding never reaches the end of the distribution function.
        self._uniforms_BT = torch.from_numpy(uniforms).to(self.device, torch.float32).clamp(max=1 - 2**-22)

    def _repack(self) -> None:
        """Drops closed rows and squeezes out holes, when enough of either has gathered to pay for the copy."""
        keep = [i for i, row in enumerate(self._rows) if row.state != "closed"]
        longest = max((self._rows[i].cached for i in keep), default=0)
        if len(keep) > KEPT_SHARE * len(self._rows) and self._columns <= REPACK_FACTOR * longest + 16:
            return
        rows = torch.tensor(keep, dtype=torch.long, device=self.device)
        mask = self._mask_BK[rows, : self._columns]
        # A stable sort puts the holes first and keeps the tokens in their order.
        columns = mask.argsort(dim=1, stable=True)[:, self._columns - longest :]
        self._cache.repack(rows, columns)
        self._mask_BK = mask.gather(1, columns)
        self._columns = longest
        self._uniforms_BT = self._uniforms_BT[rows]
        self._rows = [self._rows[i] for i in keep]

    def _feed_long_results(self) -> None:
        """Reads all but the last pending token of rows with a long result, in one forward of these rows only."""
        long = [i for i, row in enumerate(self._rows) if row.state == "running" and len(row.pending) > LONG_RESULT]
        if not long:
            return
        width = max(len(self._rows[i].pending) for i in long) - 1
        input_ids = torch.full((len(long), width), self.pad_token_id)
        fed = torch.zeros(len(long), width, dtype=torch.long)
        position_ids = torch.zeros(len(long), width, dtype=torch.long)
        for j, i in enumerate(long):
            row = self._rows[i]
            tokens, row.pending = row.pending[:-1], row.pending[-1:]
            input_ids[j, -len(tokens) :] = torch.tensor(tokens)
            fed[j, -len(tokens) :] = 1
            position_ids[j, -len(tokens) :] = torch.arange(row.cached, row.cached + len(tokens))
            row.cached += len(tokens)
        rows = torch.tensor(long, device=self.device)
        part = self._cache.select_rows(rows)
        fed = fed.to(self.device)
        self._run(part, input_ids, torch.cat([self._mask_BK[rows, : self._columns], fed], 1), position_ids)
        self._cache.absorb(rows, part)
        self._reserve(width)
        self._mask_BK[rows, self._columns : self._columns + width] = fed
        self._columns += width

    def _reserve(self, width: int) -> None:
        if self._mask_BK.shape[1] < self._columns + width:
            room = int((self._columns + width) * 1.5) + 64
            mask = self._mask_BK.new_zeros(len(self._rows), room)
            mask[:, : self._columns] = self._mask_BK[:, : self._columns]
            self._mask_BK = mask

    def _forward_one_token(self) -> tuple[list[_Row], torch.Tensor, torch.Tensor] | None:
        """Feeds one token of each running row.

        Returns:
            The rows that sample now, their logits (S, V) and their uniform numbers (S,), or None where none does.
        """
        tokens, positions, fed, sampling, drawn = [], [], [], [], []
        for i, row in enumerate(self._rows):
            running = row.state == "running"
            fed.append(int(running))
            positions.append(row.cached)
            tokens.append(row.pending[0] if running else self.pad_token_id)
            if running:
                row.cached += 1
                del row.pending[0]
                if not row.pending:
                    sampling.append(i)
                    drawn.append(row.drawn)
        self._reserve(1)
        self._mask_BK[:, self._columns] = torch.tensor(fed, device=self.device)
        self._columns += 1
        logits_BV = self._run(
            self._cache,
            torch.tensor(tokens)[:, None],
            self._mask_BK[:, : self._columns],
            torch.tensor(positions)[:, None],
        )
        if not sampling:
            return None
        index = torch.tensor(sampling, device=self.device)
        uniforms_S = self._uniforms_BT[index, torch.tensor(drawn, device=self.device)]
        return [self._rows[i] for i in sampling], logits_BV[index], uniforms_S

    def _run(
        self, cache: RaggedCache, input_ids_BW: torch.Tensor, mask_BK: torch.Tensor, position_ids_BW: torch.Tensor
    ) -> torch.Tensor:
        """One forward into `cache`; logits (B, V) of the last column."""
        if input_ids_BW.shape[1] == 1 and self.model.config._attn_implementation == "sdpa":
            # One new token sees every valid column: this is the mask that transformers would work out at each step.
            mask_BK = mask_BK.bool()[:, None, None, :]
        output = self.model(
            input_ids=input_ids_BW.to(self.device),
            attention_mask=mask_BK.to(self.device),
            position_ids=position_ids_BW.to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _sample(self, rows: list[_Row], logits_SV: torch.Tensor, uniforms_S: torch.Tensor) -> list[Turn]:
        logps_SV = torch.log_softmax(logits_SV.float() / self.temperature, dim=-1)
        probs_SV = logps_SV.exp()
        if self.warpers:
            scores_SV = logps_SV
            for warper in self.warpers:
                scores_SV = warper(None, scores_SV)
            probs_SV = scores_SV.softmax(dim=-1)
        cdf_SV = probs_SV.cumsum(dim=-1)
        # Scaled by the last entry, which rounding leaves near 1; `right=True` never picks a token of probability 0.
        targets_S1 = (uniforms_S * cdf_SV[:, -1])[:, None]
        tokens_S1 = torch.searchsorted(cdf_SV, targets_S1, right=True).clamp(max=cdf_SV.shape[1] - 1)
        logps_S = logps_SV.gather(1, tokens_S1)[:, 0].tolist()
        turns = []
        for row, token, logp in zip(rows, tokens_S1[:, 0].tolist(), logps_S, strict=True):
            row.drawn += 1
            row.pending.append(token)
            row.token_ids.append(token)
            row.logprobs.append(logp)
            if token in self.eos_token_ids:
                turns.append(self._end_turn(row, "eos"))
            elif token in self.stop_candidates and row.request.should_stop(row.token_ids):
                turns.append(self._end_turn(row, "stop"))
            elif len(row.token_ids) >= row.budget:
                turns.append(self._end_turn(row, "length"))
        return turns

    def _end_turn(self, row: _Row, reason: str) -> Turn:
        turn = Turn(row.request.id, row.token_ids, row.logprobs, reason)  # type: ignore[arg-type]
        row.token_ids, row.logprobs, row.state = [], [], "waiting"
        return turn
