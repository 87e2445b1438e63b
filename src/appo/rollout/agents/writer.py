"""`AgentWriter`: the writer of rollouts (`rollout/writer.py`) for an agent that is a program of its own.

A rollout is a run of the agent, a branch is a run that repeats the tokens of another up to its place
(`appo.serve.replay`). A branch whose agent does otherwise is left out: `branches/left_out`, and by cause
`agent/diverged/CAUSE`. Where a run has several segments, the others follow its rollout into the loss. Scores, rewards,
random numbers and weights are the other writer's.

Left out on purpose: prompts, which the agent writes, and tools, which it runs.
"""

from typing import Any

import numpy as np

from appo.engines.base import Engine
from appo.environments.agents import AgentProgram
from appo.errors import UserError
from appo.rollout.agents.rollouts import as_rollout, completion_of, further_segments, place_of, sampled_here
from appo.rollout.agents.run import AgentRun
from appo.rollout.agents.runner import AgentRunner, check_installed
from appo.rollout.tree import BranchPoint, RolloutTree
from appo.rollout.types import Rollout
from appo.rollout.writer import RolloutWriter
from appo.serve.chat import Chat
from appo.serve.dialects import dialects
from appo.serve.endpoint import ServedModel
from appo.serve.replay import Branch


class AgentWriter(RolloutWriter):
    """
    Args:
        program: The agent.
        others: As `RolloutWriter`.
    """

    def __init__(self, *others: Any, program: AgentProgram, **options: Any) -> None:
        check_installed(program)
        super().__init__(*others, **options)
        self.program, self.gives_environments = program, True  # of runs, whose own rewards are read there
        self._runner: AgentRunner | None = None

    # ---- writing ----

    def write(
        self, rows: list[dict[str, Any]], size: int, stream: int = 0, seeds: list[int] | None = None
    ) -> list[RolloutTree]:
        """As `RolloutWriter.write`.

        Raises:
            UserError: for an agent that asks nothing, or gives no reward where nothing else does.
        """
        trees = self.trees_of(rows)
        own = self._seeds(stream, size * len(rows)) if seeds is None else seeds
        runs = [AgentRun(rows[index // size], seed % 2**63) for index, seed in enumerate(own)]
        with self.counters.timed("generate"):
            self._run(runs)
        if runs and not any(run.chain for run in runs):
            slow, long = sum(run.error == "timeout" for run in runs), sum(run.refused > 0 for run in runs)
            raise UserError(
                f"agent = {self.program.name}: none of {len(runs)} runs had an answer of the policy, and {slow} took "
                f"longer than {self.program.timeout:g} seconds, {long} had a prompt too long for the model's context; "
                "it has to use the address and the key that it is given (base_url, api_key), and needs time (timeout) "
                "and room to do so."
            )
        for index, run in enumerate(runs):
            trees[index // size].add_initial(self._rollout(run))
        self.reward([(tree, rollout) for tree in trees for rollout in tree.initial])
        return trees

    def branch(
        self,
        trees: list[RolloutTree],
        points: list[BranchPoint],
        stream: int,
        *,
        branches_branch: bool = False,
        counted: bool = True,
    ) -> None:
        """As `RolloutWriter.branch`; every branch keeps what it takes to be branched from."""
        with self.counters.counted(counted and self.counters.counting), self.counters.timed("branch"):
            runs = [
                self._branching(point, seed % 2**63)
                for point, seed in zip(points, self._seeds(stream, len(points)), strict=True)
            ]
            self._run(runs)
            pairs = []
            for point, run in zip(points, runs, strict=True):
                branch = self._rollout(run)
                if cause := self._left_out(point, run, branch):
                    self.counters.add("branches/left_out", 1)
                    self.counters.add(f"agent/diverged/{cause}", 1)
                    continue
                branch.branch_score, branch.branch_rank = point.score, point.rank
                point.tree.add_branch(branch, point.rollout, point.position)
                pairs.append((point.tree, branch))
        self.reward(pairs, spare=(trees[0], trees[0].initial[0]))

    def _branching(self, point: BranchPoint, seed: int) -> AgentRun:
        parent: AgentRun = point.tree.rollouts[point.rollout].environment
        turn, position = place_of(parent, point.position)
        return AgentRun(point.tree.row, seed, Branch(parent.book, turn, position))

    def _left_out(self, point: BranchPoint, run: AgentRun, branch: Rollout) -> str | None:
        """Why a branch is none of its parent, or None."""
        assert run.branch is not None
        if run.branch.outcome is not None:
            return run.branch.outcome
        parent, position = point.tree.rollouts[point.rollout], point.position
        same = branch.prompt_ids == parent.prompt_ids
        # Its turn may stand in another segment than the parent's, as where a request was repeated.
        return None if same and branch.completion_ids[:position] == parent.completion_ids[:position] else "segment"

    def _rollout(self, run: AgentRun) -> Rollout:
        return as_rollout(run, [self.host.tokenizer.eos_token_id])

    def _seeds(self, stream: int, count: int) -> list[int]:
        return np.random.SeedSequence(self.seed(stream)).generate_state(max(count, 1), np.uint64).tolist()[:count]

    def _run(self, runs: list[AgentRun]) -> None:
        with self._present_engine() as engine:
            if self._runner is None:
                self._runner = self._make_runner(engine)
            self._runner.run(engine, runs)
        self._count(runs)

    def _make_runner(self, engine: Engine) -> AgentRunner:
        host, args = self.host, self.args
        model = ServedModel(
            "policy",
            host.tokenizer,
            self.vocab_size,
            self._context_length(engine),
            host.max_completion_length,
            args.temperature,
            {"top_p": args.top_p, "top_k": args.top_k, "min_p": args.min_p},
            any_name=True,
        )
        speech = dialects(
            host.tokenizer,
            frozenset(host.eos_token_ids),
            args.tool_protocol,
            chat_template_kwargs=args.chat_template_kwargs,
            add_tools=args.add_tools,
            result_format=args.result_format,
            plain_prompts=host.tokenizer.chat_template is None,
        )
        return AgentRunner(self.program, model, Chat(speech), host.max_completion_length)

    def _count(self, runs: list[AgentRun]) -> None:
        turns = [turn for run in runs for turn in run.book.turns.values()]
        written = sum(sampled_here(run.book, run.book.turns) for run in runs)
        kept = sum(sampled_here(run.book, run.chain) for run in runs)
        further = sum(sum(segment.policy_mask) for run in runs for segment in self._further(run))
        counts = {
            "tokens/generated": written,
            "rollouts/generated": len(runs),
            "tools/calls": sum(len((turn.message or {}).get("tool_calls") or ()) for turn in turns),
            "agent/requests": len(turns),
            "agent/failures": sum(run.error is not None for run in runs),
            "agent/timeouts": sum(run.error == "timeout" for run in runs),
            "agent/segments": sum(len(run.book.segments()) for run in runs),
            "agent/tokens_left_out": written - kept - further,
        }
        for name, count in counts.items():
            self.counters.add(name, count)
        self.counters.add_seconds("agent", sum(run.seconds - run.asked_seconds for run in runs))
        self.counters.add_seconds("endpoint", sum(run.asked_seconds - run.engine_seconds for run in runs))

    # ---- further segments ----

    def further(self, rollouts: list[Rollout]) -> list[list[Rollout]]:
        """The segments of each rollout's run beside it, but for those that were cut off and are masked for it."""
        return [self._further(rollout.environment) for rollout in rollouts]

    def _further(self, run: AgentRun) -> list[Rollout]:
        masks = self.args.mask_truncated_completions
        return [one for one in further_segments(run) if not (masks and one.finish_reason == "length")]

    # ---- rewards ----

    def reward(self, pairs: list[tuple[RolloutTree, Rollout]], spare: Any = None) -> None:
        for _, rollout in pairs if len(self.host.reward_funcs) == 1 else []:
            if rollout.environment.reward is None:
                raise UserError(
                    f"agent = {self.program.name} gave no reward, and there are no reward functions; return one, a "
                    "number (a command: print it as its last line), or give reward_funcs."
                )
        super().reward(pairs, spare)

    def completion_of(self, rollout: Rollout, conversational: bool) -> Any:
        """As reward functions get it: the conversation's messages, as the agent had them, behind its first request."""
        messages = completion_of(rollout.environment) if conversational else None
        return super().completion_of(rollout, conversational) if messages is None else messages

    def release(self, trees: list[RolloutTree]) -> None:
        """Nothing is to be given back."""
