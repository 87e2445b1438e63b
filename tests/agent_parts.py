"""Agents of others on a tiny endpoint: a model that writes at random what they can read, and their runs."""

import asyncio
import contextlib
import inspect
import json
from pathlib import Path

import openai
import orders
from datasets import Dataset
from scripted_model import save_scripted
from serve_parts import make_endpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from appo import APPOConfig, APPOTrainer
from appo.rollout.records import read_records
from appo.serve.replay import Branch

# ChatML, which knows no tools, as SmolLM2's template.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ORDER, CALLED, END = '{"name": "order_status", "arguments": {"order": "', '"}}', "<|im_end|>"
# What follows each token, at random. An answer, or calls:
CALLS = {
    "\n": ["It is ", "<tool_call>", "<tool_call>"],
    "It is ": ["packed", "lost"],
    "<tool_call>": ORDER,
    ORDER: ["E44", "E80", "Z99"],
    **dict.fromkeys(("E44", "E80", "Z99"), CALLED),
    CALLED: "</tool_call>",
    "</tool_call>": ["<tool_call>", END],
}
# An answer or code, some of which fails:
CODE = {
    "\n": "<code>",
    "<code>": ['final_answer("', 'print(order_status("', 'print(order_status("', "1 / 0"],
    'final_answer("': ["packed", "lost"],
    'print(order_status("': ["E44", "E80"],
    **dict.fromkeys(("packed", "lost"), '")'),
    **dict.fromkeys(("E44", "E80"), '"))'),
    **dict.fromkeys(('")', '"))', "1 / 0"), "</code>"),
}


def model_that_writes(script, directory):
    """A model that writes by a script, and its tokenizer."""
    texts = set(script)
    for after in script.values():
        texts.update([after] if isinstance(after, str) else after)
    tokens = sorted(text for text in texts - {END} if len(text) > 1)
    save_scripted(directory, script, tokens=tokens, template=TEMPLATE)
    return AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)


def endpoint_that_writes(script, directory):
    """An endpoint for keys that are opened, of such a model."""
    return make_endpoint(*model_that_writes(script, directory), anyone=False, add_tools=True)


def train(agent, script, directory, tasks=2, size=8):
    """A trainer behind two updates of such a model: `tasks` of `size` rollouts each, half of them branches."""
    model, tokenizer = model_that_writes(script, directory / "model")
    args = APPOConfig(
        str(directory / "run"), bf16=False, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        save_report=False, num_generations=size,
        method_args={"num_initial_rollouts": size // 2, "num_branch_points": 1},
        per_device_train_batch_size=size * tasks, steps_per_generation=1, max_steps=2, logging_steps=1,
        max_completion_length=2048, learning_rate=1e-3, add_tools=True,
    )  # fmt: skip
    rows = Dataset.from_list([json.loads(line) for line in orders.FILE.read_text().splitlines()][: 2 * tasks])
    trainer = APPOTrainer(model, None, args, rows, processing_class=tokenizer, agent=agent)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer.train()
    assert trainer.state.global_step == 2
    assert any(not old.equal(new) for old, new in zip(before, trainer.model.parameters(), strict=True))
    return trainer


def check_trained(trainer):
    """That every branch was written and is its parent's up to its place, in one segment, and no agent failed."""
    entry = trainer.state.log_history[-2]
    written = 2 * trainer.args.per_device_train_batch_size
    assert entry["rollouts/generated"] == written < entry["agent/requests"]
    assert entry["branches/left_out"] == entry["agent/failures"] == entry["agent/tokens_left_out"] == 0
    assert entry["agent/segments"] == entry["rollouts/generated"]
    records = list(read_records(Path(trainer.args.output_dir)))
    branches = [record for record in records if record["parent"] is not None]
    assert len(branches) == written // 2
    by_place = {(record["step"], record["task"], record["rollout"]): record for record in records}
    for branch in branches:
        parent = by_place[branch["step"], branch["task"], branch["parent"]]
        start = branch["branch_position"]
        assert branch["completion_ids"][:start] == parent["completion_ids"][:start]


def rollout_of(run, endpoint, url, row, key, branch=None):
    """The account and the reward of an agent's run; a run that an error ends has none."""
    endpoint.keys.open(key, branch)
    reward = None
    with contextlib.suppress(openai.BadRequestError):  # what a branch that is over is answered
        reward = run(row, f"{url}/v1", key)
        if inspect.isawaitable(reward):
            reward = asyncio.run(_finished(reward))
    return endpoint.keys.take(key), reward


async def _finished(awaitable):
    return await awaitable


def check_one_segment(book):
    """That each turn of a book continues the one before it."""
    kinds = [turn.kind for turn in book.turns.values()]
    assert kinds == ["opened", *["continued"] * (len(kinds) - 1)]
    assert book.segments() == [list(range(len(kinds)))]


def check_branches(run, endpoint, url, row, book, key):
    """That an agent can be branched at the beginning, the middle and the end of each turn, with exact tokens."""
    for number, turn in book.turns.items():
        size = len(turn.token_ids)
        for position in sorted({0, size // 2, size - 1}):
            name = f"{key}, branch {number}.{position}"
            account, _ = rollout_of(run, endpoint, url, row, name, Branch(book, number, position, seed=position))
            assert account.branch.outcome is None, (name, account.branch.outcome)
            for place in range(number):
                assert account.book.turns[place].ids == book.turns[place].ids
                assert account.book.turns[place].logprobs == book.turns[place].logprobs
            written = account.book.turns[number]
            assert (written.prompt_ids, written.forced) == (turn.prompt_ids, position)
            assert written.token_ids[:position] == turn.token_ids[:position]
    assert not endpoint.keys.diverged
