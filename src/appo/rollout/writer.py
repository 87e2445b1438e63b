"""The writer of rollouts: the engine, the protocol, the tools and the environments behind three verbs.

    writer.write(rows, size)      rollouts from the prompts of rows
    writer.branch(trees, points)  branches from tokens of rollouts
    writer.score(rollouts)        their log-probabilities and entropies under the present policy

All of it happens with the trainer's present policy, is rewarded by TRL's reward functions, and is a function of the
run's seed, the process, the optimizer step and a stream. Trainer, methods, evaluations and studies use it.

Left out on purpose: which rollouts to write, and what to do with them.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from trl.data_utils import is_conversational

from appo.engines.base import Engine
from appo.engines.opening import open_engine
from appo.errors import UserError
from appo.protocols.base import ToolProtocol
from appo.rollout.counters import RunCounters
from appo.rollout.environments import EnvironmentPool, as_texts
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.prefixes import Prefixes
from appo.rollout.prompts import starting_prompt
from appo.rollout.scoring import RolloutBatch, TokenScores, collate, stack_scores
from appo.rollout.tree import BranchPoint, RolloutTree
from appo.rollout.types import Rollout
from appo.rollout.unknown_words import UnknownWords, text_of
from appo.tools.runner import MAX_WORKERS, ToolRunner
from appo.trl_seam import SeamTrainer

# Shapes: B rollouts, F reward functions, T completion tokens.

EVALUATION_STREAM = 1_000_003  # keeps an evaluation's random numbers apart from those of branching rounds

Pair = tuple[RolloutTree, Rollout]


class RolloutWriter:
    """Writes, rewards and scores rollouts.

    Args:
        host: Whose model, prompts and reward functions are used.
        protocol: How calls are written.
        pool: Tools and environments.
        counters: What is done is counted here.
        collisions: Whether scores hold `log sum_a p(a)^2` too.
    """

    def __init__(
        self,
        host: SeamTrainer,
        protocol: ToolProtocol,
        pool: EnvironmentPool,
        counters: RunCounters,
        *,
        collisions: bool = False,
    ) -> None:
        args = host.args
        self.host, self.protocol, self.pool, self.counters, self.args = host, protocol, pool, counters, args
        self.collisions, self.gives_environments = collisions, bool(pool.factories)
        self.runner = ToolRunner(
            timeout=args.tool_timeout,
            max_workers=MAX_WORKERS if args.max_tool_workers is None else args.max_tool_workers,
            max_result_chars=args.max_tool_result_chars,
            retries=args.tool_retries,
        )
        self._prefixes = Prefixes(pool, self.runner, counters)
        self.vocab_size: int = host.model.config.get_text_config().vocab_size
        self._unknown = UnknownWords(host.tokenizer, "prompts")
        self._engine: Engine | None = None  # made for the first rollout: until then the model may change its shape
        self._told_of_room = False
        self._loaded: Any = None  # the version of the weights that the engine has, where it has its own
        # By the rollout's id; the rollout is kept, so that no other one gets its id.
        self._remembered: dict[int, tuple[Rollout, TokenScores]] = {}

    # ---- writing ----

    def write(
        self, rows: list[dict[str, Any]], size: int, stream: int = 0, seeds: list[int] | None = None
    ) -> list[RolloutTree]:
        """Writes and rewards `size` rollouts for each row.

        Args:
            rows: Rows of a data set with a `prompt` column, one per task.
            size: Rollouts per task.
            stream: Another stream gives other random numbers at the same optimizer step.
            seeds: One per rollout, in the order of the rows; instead of those of run, process, step and stream.

        Returns:
            One tree per row. Its environments are kept until `release`.
        """
        host, trees = self.host, self.trees_of(rows)
        prompts, environments, names = [], [], []
        for row in rows:
            for _ in range(size):
                environment, observation = self.pool.open(row)
                prompts.append(starting_prompt(row, observation))
                environments.append(environment)
                names.append(self.pool.name_of(row))
        prompt_ids = host.tokenize([as_texts(prompt) for prompt in prompts], names)
        self._unknown.look(map(text_of, prompts), prompt_ids)
        self._unknown.tell()
        starts = []
        own_seeds: list[int | None] = [None] * len(prompts) if seeds is None else list(seeds)
        for ids, prompt, environment, seed in zip(prompt_ids, prompts, environments, own_seeds, strict=True):
            rollout = Rollout(list(ids), prompt, environment=environment)
            starts.append(Start(rollout, self.pool.tools_of(environment), seed))
        with self.counters.timed("generate"):
            rollouts = self.run(starts, stream, keep_snapshots=host.model.training)
        for index, rollout in enumerate(rollouts):
            trees[index // size].add_initial(rollout)
        self.reward([(tree, rollout) for tree in trees for rollout in tree.initial])
        return trees

    def trees_of(self, rows: list[dict[str, Any]]) -> list[RolloutTree]:
        """A tree for each row, without rollouts."""
        place = f"{self.host.state.global_step}.{self.host.accelerator.process_index}"
        return [RolloutTree(row, f"{place}.{number}") for number, row in enumerate(rows)]

    def branch(
        self,
        trees: list[RolloutTree],
        points: list[BranchPoint],
        stream: int,
        *,
        branches_branch: bool = False,
        counted: bool = True,
    ) -> None:
        """Writes and rewards a branch at each point, and adds it to the point's tree, in this order.

        Where a state cannot be had again the branch is left out, and counted (`appo.rollout.prefixes`).

        Args:
            trees: The tasks at hand; on every process at least one, as rewards are gathered.
            points: Where; may be empty.
            stream: As for `write`.
            branches_branch: Whether a branch may be branched from, and so keeps the states of its environment.
            counted: Whether they enter the run's totals.
        """
        with self.counters.counted(counted and self.counters.counting), self.counters.timed("branch"):
            points, starts = self._prefixes.enter(points)
            branches = self.run(starts, stream, keep_snapshots=branches_branch)
        for point, branch in zip(points, branches, strict=True):
            branch.branch_score, branch.branch_rank = point.score, point.rank
            point.tree.add_branch(branch, point.rollout, point.position)
        pairs = [(point.tree, branch) for point, branch in zip(points, branches, strict=True)]
        self.reward(pairs, spare=(trees[0], trees[0].initial[0]))

    def start_at(self, point: BranchPoint) -> Start:
        """The prefix of a branch, as `Prefixes.start_at` has it."""
        return self._prefixes.start_at(point)

    def run(self, starts: list[Start], stream: int, keep_snapshots: bool) -> list[Rollout]:
        """Writes rollouts to their end, without rewards."""
        with self._present_engine() as engine:
            self._tell_of_room(starts, self._context_length(engine))
            loop = AgentLoop(
                engine,
                self.protocol,
                self.runner,
                max_completion_length=self.host.max_completion_length,
                max_tool_calling_iterations=self.args.max_tool_calling_iterations,
                max_tool_calls=self.args.max_tool_calls,
                context_length=self._context_length(engine),
                deterministic=self.args.deterministic,
                join_steps=self.args.tool_join_steps,
                keep_snapshots=keep_snapshots,
            )
            rollouts = loop.run(starts, self.seed(stream))
        self.counters.add_loop(loop.counters, len(rollouts))
        return rollouts

    def _tell_of_room(self, starts: list[Start], room: int | None) -> None:
        """Warns once of prompts that leave no room for a token: their rollouts are empty, and teach nothing."""
        lengths = [len(start.rollout.prompt_ids) for start in starts]
        full = sum(room is not None and length >= room for length in lengths)
        if full and not self._told_of_room:
            self._told_of_room = True
            warnings.warn(
                f"{full} of {len(starts)} prompts have up to {max(lengths)} tokens and leave no room for an answer in "
                f"{room}, the model's context or vllm_max_model_length; their rollouts are empty. This is said once.",
                stacklevel=2,
            )

    def _context_length(self, engine: Engine) -> int | None:
        bounds = (self.host.context_length, engine.context_length)
        return min((bound for bound in bounds if bound is not None), default=None)

    @contextmanager
    def _present_engine(self) -> Iterator[Engine]:
        """The run's engine, with the present weights; all processes come here equally often."""
        if self.args.use_vllm:
            if self._engine is None:
                self._engine = self._open_engine(self.host.accelerator.unwrap_model(self.host.model))
            self._bring_weights(self._engine)
            with self._abandoned_on_error(self._engine):
                yield self._engine
            if self._engine.rest():
                self._loaded = None
            return
        with self.host.model_for_generation() as model:
            if self._engine is None:
                self._engine = self._open_engine(model)
            else:
                self._engine.load(model)
            with self._abandoned_on_error(self._engine):
                yield self._engine

    @contextmanager
    def _abandoned_on_error(self, engine: Engine) -> Iterator[None]:
        try:
            yield
        except BaseException:
            engine.abandon()  # it holds sequences that nobody will end
            raise

    def _open_engine(self, model: Any) -> Engine:
        host, place = self.host, self.host.accelerator
        return open_engine(
            self.args, model, host.tokenizer, host.eos_token_ids, self.args.rollout_batch_size,
            processes=place.num_processes, first_process=place.is_main_process, device=place.device,
        )  # fmt: skip

    def _bring_weights(self, engine: Engine) -> None:
        """Loads the present weights where they have changed since the last time: before a mini-batch's branches too.

        Every process takes part, even one with nothing to write, as sharded weights are gathered; and none may still
        be writing, as a server's weights are everybody's.
        """
        host = self.host
        changed = host.weights_version() != self._loaded
        if not host.accelerator.gather(torch.tensor([changed], device=host.accelerator.device)).any():
            return
        with self.counters.timed("weights"):
            host.accelerator.wait_for_everyone()
            engine.load(host.whole_parameters())
            host.accelerator.wait_for_everyone()
        self._loaded = host.weights_version()  # anew: adapters are merged and taken apart again on the way

    def release(self, trees: list[RolloutTree]) -> None:
        """Gives the environments of trees back for reuse."""
        self.pool.release(self.runner, (rollout.environment for tree in trees for rollout in tree.rollouts))

    def begin_generation(self) -> None:
        """Gives all environments back and forgets the scores that were remembered."""
        self.pool.release(self.runner)
        self._remembered.clear()

    # ---- random numbers ----

    def seed(self, stream: int) -> int:
        """A function of run, process, optimizer step and stream: a resumed run draws what it would have drawn."""
        host = self.host
        entropy = [self.args.seed, host.accelerator.process_index, host.state.global_step, stream]
        return int(np.random.SeedSequence(entropy).generate_state(1, dtype=np.uint64)[0])

    def generator(self, stream: int) -> torch.Generator:
        """Random numbers on the CPU."""
        return torch.Generator().manual_seed(self.seed(stream) % 2**63)

    def draw_rows(self, count: int, generator: torch.Generator) -> list[dict[str, Any]]:
        """Random rows of the training data."""
        data = self.host.train_dataset
        return [data[i] for i in torch.randint(len(data), (count,), generator=generator).tolist()]

    # ---- rewards ----

    def reward(self, pairs: list[Pair], spare: Pair | None = None) -> None:
        """Calls TRL's reward machinery and stores each rollout's weighted sum.

        TRL gathers rewards, so every process needs equally many rows: the last pair, or `spare` where a process has
        none, is repeated and its rewards dropped.
        """
        host, count = self.host, len(pairs)
        if host.accelerator.num_processes > 1:
            most = int(host.accelerator.gather(torch.tensor([count], device=host.accelerator.device)).max())
            filler = pairs[-1] if pairs else spare
            pairs = pairs + [filler] * (most - count) if filler else pairs
        if not pairs:
            return
        rollouts = [rollout for _, rollout in pairs]
        conversational = is_conversational({"prompt": rollouts[0].prompt})
        rewards_BF = host.call_reward_functions(
            [tree.row for tree, _ in pairs],
            [rollout.prompt for rollout in rollouts],
            [self.completion_of(rollout, conversational) for rollout in rollouts],
            [rollout.completion_ids for rollout in rollouts],
            [rollout.environment for rollout in rollouts] if self.gives_environments else None,
        )[:count]
        if rewards_BF.isinf().any():
            name = host.reward_func_names[int(rewards_BF.isinf().any(dim=0).nonzero()[0])]
            raise UserError(f"reward function {name} returned an infinite reward; return a finite number or None.")
        totals_B = (rewards_BF * host.reward_weights.to(rewards_BF.device)).nansum(dim=1)
        unscored_B = rewards_BF.isnan().all(dim=1)
        for rollout, total, unscored, parts in zip(
            rollouts[:count], totals_B.tolist(), unscored_B.tolist(), rewards_BF.tolist(), strict=True
        ):
            rollout.reward = None if unscored else total
            rollout.rewards = dict(zip(host.reward_func_names, parts, strict=True))

    def completion_of(self, rollout: Rollout, conversational: bool) -> Any:
        """A completion as reward functions get it."""
        return self.protocol.completion(rollout, conversational)

    # ---- scores ----

    def collate(self, rollouts: list[Rollout]) -> RolloutBatch:
        """Padded rollouts on the trainer's device."""
        return collate(
            rollouts,
            pad_token_id=self.host.tokenizer.pad_token_id,
            pad_to_multiple_of=self.host.pad_to_multiple_of,
            device=self.host.accelerator.device,
        )

    def score(self, rollouts: list[Rollout], *, remember: bool = False) -> tuple[RolloutBatch, TokenScores]:
        """Rollouts as a batch, and their scores under the present policy.

        Args:
            rollouts: One per row.
            remember: Whether the scores are kept: until the next generation, a rollout is not scored again by this
                method. Only for scores of the policy that wrote it.
        """
        batch = self.collate(rollouts)
        if not (remember or self._remembered):
            return batch, self.score_batch(batch)
        new = [rollout for rollout in rollouts if id(rollout) not in self._remembered]
        if new:
            scores = self.score_batch(self.collate(new))
            rows = scores.rows([len(rollout.completion_ids) for rollout in new])
            self._remembered.update({id(rollout): (rollout, row) for rollout, row in zip(new, rows, strict=True)})
        known = [self._remembered[id(rollout)][1] for rollout in rollouts]
        return batch, stack_scores(known, batch.completion_ids_BT.shape[1])

    def further(self, rollouts: list[Rollout]) -> list[list[Rollout]]:
        """For each rollout what its run wrote besides, to be trained with it (`rollout/further.py`): [] where no run
        ever does."""
        return []

    def score_batch(self, batch: RolloutBatch) -> TokenScores:
        """Scores of a batch under the present policy, whatever is remembered."""
        with self.counters.timed("score"):
            return self.host.score_tokens(batch, collisions=self.collisions)
