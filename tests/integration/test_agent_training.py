"""An agent that is a program of its own, trained: a loop with OpenAI's client, over loopback, a model of nonsense."""

import asyncio
import contextlib
import itertools
import sys
import threading
import time

import openai
import pytest
import torch
from datasets import Dataset
from taught_model import tokenizer_for
from transformers import LlamaConfig, LlamaForCausalLM

from appo import APPOConfig, APPOTrainer
from appo.environments.agents import AgentProgram
from appo.errors import UserError
from appo.evaluation.success import evaluate
from appo.rollout.agents.rollouts import place_of
from appo.rollout.tree import BranchPoint

TURNS, TOKENS = 3, 12
ROWS = Dataset.from_list([{"question": f"Write letters, {i}."} for i in range(16)])


def letters(row, base_url, api_key, *, say=lambda text: f"you wrote {len(text)} letters", turns=TURNS, **options):
    """Asks, tells how long the answer was, and asks again; the reward is something that rollouts differ in."""
    client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)
    messages = [{"role": "user", "content": row["question"]}]
    for _ in range(turns):
        answer = client.chat.completions.create(model="any", messages=messages, max_tokens=TOKENS, **options)
        text = answer.choices[0].message.content
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": say(text)}]
    return float(len(text) % 2)


def unrewarded(row, base_url, api_key):
    letters(row, base_url, api_key)


def make(directory, agent, reward=None, method="appo", rows=ROWS, **options):
    torch.manual_seed(0)
    tokenizer = tokenizer_for(["Write letters. you wrote 12 letters"])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_position_embeddings=512,
    )  # fmt: skip
    args = APPOConfig(
        str(directory), method=method, bf16=False, use_cpu=True, report_to="none", disable_tqdm=True,
        method_args={"num_initial_rollouts": 4, "num_branch_points": 1} if method == "appo" else {},
        **{
            "per_device_train_batch_size": 16, "num_generations": 8, "steps_per_generation": 2, "max_steps": 2,
            "max_completion_length": 96, "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no",
            "save_report": False, **options,
        },
    )  # fmt: skip
    return APPOTrainer(
        LlamaForCausalLM(config), reward, args, rows, processing_class=tokenizer, agent=agent,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """One that has not been trained."""
    return make(tmp_path_factory.mktemp("run"), letters)


@pytest.fixture(scope="module")
def trees(trainer):
    return trainer.writer.write([ROWS[0], ROWS[1]], 4)


def middle_points(trees):
    """A branch point in the second turn of each rollout."""
    points = []
    for tree in trees:
        for index, rollout in enumerate(tree.initial):
            second = rollout.policy_mask.index(0) + rollout.policy_mask[rollout.policy_mask.index(0) :].index(1)
            points.append(BranchPoint(tree, index, second + 1))
    return points


def test_a_rollout_is_a_run_with_the_agents_words_between_the_policys(trainer, trees):
    rollout = trees[0].initial[0]
    assert rollout.prompt == [{"role": "user", "content": "Write letters, 0."}]
    assert sum(rollout.policy_mask) == TURNS * TOKENS and rollout.policy_mask[-1] == 1
    assert rollout.policy_mask.count(0) == len(rollout.policy_mask) - TURNS * TOKENS > 0
    assert "you wrote" in trainer.tokenizer.decode(rollout.completion_ids)
    assert {tree.id for tree in trees} == {"0.0.0", "0.0.1"}


def test_runs_of_one_task_differ_and_the_same_seeds_repeat_them(trainer, trees):
    written = [rollout.completion_ids for tree in trees for rollout in tree.initial]
    assert len(set(map(tuple, written))) == 8
    again = trainer.writer.write([ROWS[0], ROWS[1]], 4)
    assert [rollout.completion_ids for tree in again for rollout in tree.initial] == written
    other = trainer.writer.write([ROWS[0], ROWS[1]], 4, stream=1)
    assert [rollout.completion_ids for tree in other for rollout in tree.initial] != written


def test_an_agent_that_asks_with_one_seed_still_writes_different_rollouts(tmp_path):
    trainer = make(tmp_path, lambda *given: letters(*given, seed=7))
    (tree,) = trainer.writer.write([ROWS[0]], 4)
    assert len({tuple(rollout.completion_ids) for rollout in tree.initial}) == 4


def test_the_policys_tokens_have_the_log_probabilities_that_the_trainer_computes(trainer, trees):
    rollouts = [rollout for tree in trees for rollout in tree.initial]
    batch, scores = trainer.writer.score(rollouts)
    mask = batch.policy_mask_BT.bool()
    torch.testing.assert_close(scores.logps_BT[mask], batch.engine_logps_BT[mask], atol=2e-4, rtol=0)


def test_branches_have_their_parents_tokens_up_to_their_place_and_then_their_own(trainer):
    trees = trainer.writer.write([ROWS[2], ROWS[3]], 4)
    points = middle_points(trees)
    trainer.writer.branch(trees, points, 1)
    branches = [branch for tree in trees for branch in tree.branches]
    assert len(branches) == len(points) == 8  # all of them
    for point, branch in zip(points, branches, strict=True):
        parent, start = point.tree.rollouts[point.rollout], point.position
        assert branch.completion_ids[:start] == parent.completion_ids[:start]
        assert branch.logprobs[start - 1] == parent.logprobs[start - 1]
        assert branch.completion_ids[start:] != parent.completion_ids[start:]
        assert branch.reward in (0.0, 1.0) and branch.branch_position == start
        assert len(branch.alternatives) == 5 and branch.alternatives == sorted(
            branch.alternatives, key=lambda x: -x[1]
        )
    _, scores = trainer.writer.score(branches)
    own = torch.tensor(branches[0].logprobs[points[0].position :])
    found = scores.logps_BT[0, points[0].position : len(branches[0].completion_ids)]
    torch.testing.assert_close(found[~own.isnan()].float(), own[~own.isnan()], atol=2e-4, rtol=0)


def test_a_branch_is_branched(trainer):
    (tree,) = trainer.writer.write([ROWS[4]], 2)
    trainer.writer.branch([tree], [BranchPoint(tree, 0, 3)], 1, branches_branch=True)
    last = len(tree.rollouts[2].completion_ids) - 2
    trainer.writer.branch([tree], [BranchPoint(tree, 2, last)], 2)
    assert tree.rollouts[3].completion_ids[:last] == tree.rollouts[2].completion_ids[:last]
    assert tree.root_of(tree.rollouts[3]) == (0, 3)


@pytest.mark.parametrize(
    ("cause", "say"),
    [("results", lambda text: f"the clock says {next(CLOCK)}"), (None, lambda text: f"{len(text)} letters")],
)
def test_branches_of_an_agent_that_does_otherwise_are_left_out_and_counted_by_cause(tmp_path, cause, say):
    trainer = make(tmp_path, lambda *given: letters(*given, say=say))
    trees = trainer.writer.write([ROWS[0], ROWS[1]], 2)
    with trainer.counters.counted():
        trainer.writer.branch(trees, middle_points(trees), 1)
    left_out = 4 if cause else 0
    assert sum(len(tree.branches) for tree in trees) == 4 - left_out
    assert trainer.counters.totals()["branches/left_out"] == left_out
    found = {name: n for name, n in trainer.counters.totals().items() if name.startswith("agent/diverged/") and n}
    assert found == ({f"agent/diverged/{cause}": 4} if cause else {})
    assert trainer.counters.totals()["agent/failures"] == 0  # a branch that is over is no failure of the agent


CLOCK = itertools.count(1000)


@pytest.mark.parametrize("method", ["appo", "grpo", "raft"])
def test_two_updates_change_the_weights_and_count_what_was_done(tmp_path, method):
    trainer = make(tmp_path, letters, method=method)
    before = trainer.model.lm_head.weight.detach().clone()
    trainer.train()
    assert trainer.state.global_step == 2 and not torch.equal(before, trainer.model.lm_head.weight)
    logged = [entry for entry in trainer.state.log_history if "agent/requests" in entry][1]
    written = 4 * 4 + 2 * 8 if method == "appo" else 32  # 4 tasks: rollouts, and branches in two updates
    assert logged["rollouts/generated"] == written and logged["agent/requests"] == written * TURNS
    assert written <= logged["agent/segments"] <= written * TURNS  # a model of nonsense may write <think>
    assert 0 < logged["tokens/generated"] <= written * TURNS * TOKENS  # some turns end before their bound
    assert "rewards/agent/mean" in trainer.state.log_history[0]
    assert trainer.state.log_history[0]["time/agent"] > 0 and trainer.state.log_history[0]["time/endpoint"] > 0


def test_tokens_that_a_branch_takes_over_are_not_counted_as_generated(trainer):
    (tree,) = trainer.writer.write([ROWS[5]], 2)
    last = len(tree.rollouts[0].completion_ids) - 2
    before = trainer.counters.totals()["tokens/generated"]
    with trainer.counters.counted():
        trainer.writer.branch([tree], [BranchPoint(tree, 0, last)], 1)
    assert trainer.counters.totals()["tokens/generated"] - before == 2
    assert place_of(tree.rollouts[0].environment, last) == (TURNS - 1, TOKENS - 2)


def test_reward_functions_read_the_messages_as_the_agent_had_them(tmp_path):
    seen = []

    def count(completions, question, **columns):
        seen.extend(zip(question, completions, strict=True))
        return [float(len(completion)) for completion in completions]

    trainer = make(tmp_path, unrewarded, reward=count)
    (tree,) = trainer.writer.write([ROWS[6]], 2)
    assert [rollout.reward for rollout in tree.initial] == [5.0, 5.0]
    question, completion = seen[0]
    assert question == "Write letters, 6."
    assert [message["role"] for message in completion] == ["assistant", "user", "assistant", "user", "assistant"]
    assert completion[1]["content"] == f"you wrote {len(completion[0]['content'])} letters"


def test_the_agents_reward_is_added_to_that_of_the_functions(tmp_path):
    def two(completions, **columns):
        return [2.0] * len(completions)

    trainer = make(tmp_path, letters, reward=two, reward_weights=[0.5])
    (tree,) = trainer.writer.write([ROWS[6]], 4)
    assert {rollout.reward - rollout.environment.reward for rollout in tree.initial} == {1.0}
    assert set(tree.initial[0].rewards) == {"two", "agent"}


def test_an_agent_without_a_reward_needs_reward_functions(tmp_path):
    trainer = make(tmp_path, unrewarded)
    with pytest.raises(UserError, match="gave no reward, and there are no reward functions; return one"):
        trainer.writer.write([ROWS[0]], 2)


def test_an_agent_that_asks_nothing_is_told_what_it_has_to_use(tmp_path):
    def silent(row, base_url, api_key):
        return 1.0

    trainer = make(tmp_path, silent)
    with pytest.raises(UserError, match="agent = silent: none of 4 runs had an answer of the policy, and 0 took"):
        trainer.writer.write([ROWS[0], ROWS[1]], 2)


def test_a_fault_before_the_first_answer_keeps_its_traceback(tmp_path):
    def mistaken(row, base_url, api_key):
        return row["no such column"]

    trainer = make(tmp_path, mistaken)
    with pytest.raises(KeyError, match="no such column") as caught:
        trainer.writer.write([ROWS[0]], 2)
    assert caught.traceback[-1].name == "mistaken"


def test_a_row_that_is_too_long_for_the_model_is_an_empty_rollout_and_ends_no_training(tmp_path):
    trainer = make(tmp_path, letters)
    long = {"question": " x" * 600}
    trees = trainer.writer.write([ROWS[0], long], 2)
    assert [len(rollout.completion_ids) > 0 for tree in trees for rollout in tree.initial] == [
        True,
        True,
        False,
        False,
    ]
    assert [rollout.reward for rollout in trees[1].initial] == [0.0, 0.0]
    with pytest.raises(UserError, match=r"none of 2 runs had an answer .* 2 had a prompt too long for the model's"):
        trainer.writer.write([long], 2)


def test_a_model_without_a_chat_template_is_one_sentence_for_an_agent_of_messages(tmp_path):
    trainer = make(tmp_path, letters)
    trainer.tokenizer.chat_template = None
    with pytest.raises(
        openai.BadRequestError, match="the model has no chat template, by which messages become tokens"
    ):
        trainer.writer.write([ROWS[0]], 1)


def test_an_agent_that_fails_later_has_reward_0_is_counted_and_its_first_traceback_told(tmp_path, caplog):
    def failing(row, base_url, api_key):
        letters(row, base_url, api_key, turns=1)
        raise LookupError("what the policy wrote makes no sense")

    trainer = make(tmp_path, failing)
    with trainer.counters.counted():
        (tree,) = trainer.writer.write([ROWS[0]], 4)
    assert [(rollout.reward, rollout.environment.error) for rollout in tree.initial] == [(0.0, "LookupError")] * 4
    assert [sum(rollout.policy_mask) for rollout in tree.initial] == [TOKENS] * 4
    assert {rollout.finish_reason for rollout in tree.initial} <= {"failed", "length"}
    assert trainer.counters.totals()["agent/failures"] == 4
    told = [record for record in caplog.records if "failed after 1 turns" in record.message]
    assert len(told) == 1 and "makes no sense" in caplog.text


def test_an_agent_that_does_not_end_is_stopped_and_counted(tmp_path):
    def slow(row, base_url, api_key):
        letters(row, base_url, api_key, turns=1)
        time.sleep(5 if row["question"].endswith("0.") else 0)
        return 1.0

    trainer = make(tmp_path, AgentProgram(slow, timeout=3.0))
    with trainer.counters.counted():
        trees = trainer.writer.write([ROWS[0], ROWS[1]], 2)
    assert [[rollout.reward for rollout in tree.initial] for tree in trees] == [[0.0, 0.0], [1.0, 1.0]]
    assert trainer.counters.totals()["agent/timeouts"] == 2


def test_an_async_agent_that_goes_on_though_it_is_cancelled_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("appo.rollout.agents.runner.GRACE", 0.1)

    async def stubborn(row, base_url, api_key):
        await asyncio.to_thread(letters, row, base_url, api_key, turns=1)
        for _ in range(100 if row["question"].endswith("0.") else 0):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.2)
        return 1.0

    trainer = make(tmp_path, AgentProgram(stubborn, timeout=3.0))
    trees = trainer.writer.write([ROWS[0], ROWS[1]], 2)
    found = [[(rollout.reward, rollout.environment.error) for rollout in tree.initial] for tree in trees]
    assert found == [[(0.0, "timeout")] * 2, [(1.0, None)] * 2]


async def cancelling_itself():
    task = asyncio.create_task(asyncio.sleep(600))
    task.cancel()
    await task


async def ending_the_program_in_a_task():
    async def leave():
        sys.exit("enough")

    await asyncio.gather(leave(), asyncio.sleep(0.01))


@pytest.mark.parametrize("end", [cancelling_itself, ending_the_program_in_a_task])
def test_an_agent_that_cancels_itself_or_ends_the_program_has_failed_and_ends_nothing_else(tmp_path, end):
    async def agent(row, base_url, api_key):
        await asyncio.to_thread(letters, row, base_url, api_key, turns=1)
        if row["question"].endswith("0."):
            await end()
        return 1.0

    trees = make(tmp_path, agent).writer.write([ROWS[0], ROWS[1]], 2)
    found = [[(rollout.reward, rollout.environment.error) for rollout in tree.initial] for tree in trees]
    assert found == [[(0.0, "AgentFailed")] * 2, [(1.0, None)] * 2]


def test_what_is_answered_once_a_run_has_ended_is_not_in_its_book(tmp_path, monkeypatch):
    late = []

    def hasty(row, base_url, api_key):
        """Of question 1 it ends while a request that continues its conversation is open; of 0 it waits for that."""
        letters(row, base_url, api_key, turns=1)
        if row["question"].endswith("0."):
            while not late:
                time.sleep(0.01)
            late[0].join()
        if row["question"].endswith("1."):
            account = trainer.writer._runner.keys._accounts[api_key]
            (turn,) = account.book.turns.values()
            client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)
            messages = [*turn.messages, turn.message, {"role": "user", "content": "Go on."}]
            options = {"model": "any", "messages": messages, "max_tokens": 4}
            late.append(threading.Thread(target=lambda: client.chat.completions.create(**options)))
            late[0].start()
            while not account.open:
                time.sleep(0.01)
        return 1.0

    trainer = make(tmp_path, hasty)
    trainer.writer.write([ROWS[2]], 1)  # makes the engine
    engine, keys = trainer.writer._engine, trainer.writer._runner.keys
    step = engine.step

    def patient():
        while late and len(keys) == 2:  # nothing is answered before the run has ended
            time.sleep(0.01)
        return step()

    monkeypatch.setattr(engine, "step", patient)
    trees = trainer.writer.write([ROWS[0], ROWS[1]], 1)
    assert not late[0].is_alive()  # it was answered, all the same
    for tree in trees:
        (rollout,) = tree.initial
        run = rollout.environment
        assert len(run.book.turns) == 1 and run.book.segments() == [run.chain]
        assert trainer.writer.further([rollout]) == [[]]  # else its tokens would be trained twice


def test_a_conversation_that_reaches_the_rollouts_bound_is_refused_more(tmp_path):
    trainer = make(tmp_path, letters, max_completion_length=20)
    (tree,) = trainer.writer.write([ROWS[0]], 2)
    for rollout in tree.initial:
        assert len(rollout.completion_ids) <= 20 and rollout.environment.error == "BadRequestError"


def test_a_second_conversation_is_a_further_segment_and_nothing_is_left_out(tmp_path):
    def forgetful(row, base_url, api_key):
        return letters(row, base_url, api_key) + letters({"question": "Another one."}, base_url, api_key, turns=1)

    trainer = make(tmp_path, forgetful)
    with trainer.counters.counted():
        (tree,) = trainer.writer.write([ROWS[0]], 2)
    assert [[sum(one.policy_mask) for one in own] for own in trainer.writer.further(tree.initial)] == [[TOKENS]] * 2
    assert trainer.counters.totals()["agent/tokens_left_out"] == 0
    assert trainer.counters.totals()["agent/segments"] == 4


def test_a_failure_of_the_engine_ends_the_run(tmp_path, monkeypatch):
    trainer = make(tmp_path, letters)
    trainer.writer.write([ROWS[0]], 2)

    def out_of_memory():
        raise MemoryError("no room for a step")

    monkeypatch.setattr(trainer.writer._engine, "step", out_of_memory)
    with pytest.raises(RuntimeError, match="the engine failed") as caught:
        trainer.writer.write([ROWS[0]], 2)
    assert isinstance(caught.value.__cause__, MemoryError)
    monkeypatch.undo()
    assert len(trainer.writer.write([ROWS[0]], 2)[0].initial) == 2  # it can be used again


def test_an_evaluation_writes_a_run_per_question(trainer):
    found = evaluate(trainer, ROWS.select(range(4)), 4)
    assert found.questions == 4 and 0 < found.tokens <= TURNS * TOKENS


def test_a_command_is_trained_as_a_function_is(tmp_path):
    program = tmp_path / "agent.py"
    program.write_text(
        "import json, os, sys, openai\n"
        "text = openai.OpenAI().chat.completions.create(model='any', max_tokens=8,\n"
        "    messages=[{'role': 'user', 'content': sys.argv[1]}]).choices[0].message.content\n"
        "print('reward:'); print(len(text) % 2)\n"
    )
    trainer = make(tmp_path / "run", [sys.executable, str(program), "{question}"])
    (tree,) = trainer.writer.write([ROWS[0]], 2)
    trainer.writer.branch([tree], [BranchPoint(tree, 0, 3)], 1)
    assert [message["content"] for message in tree.initial[0].prompt] == ["Write letters, 0."]
    assert len(tree.branches) == 1 and {rollout.reward for rollout in tree.rollouts} <= {0.0, 1.0}
