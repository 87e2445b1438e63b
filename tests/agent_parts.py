"""Agents of others on a tiny endpoint: a model that writes at random what they can read, and their runs."""

import asyncio
import contextlib
import inspect

import openai
from scripted_model import save_scripted
from serve_parts import make_endpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

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


def endpoint_that_writes(script, directory):
    """An endpoint for keys that are opened, whose model writes by a script."""
    texts = set(script)
    for after in script.values():
        texts.update([after] if isinstance(after, str) else after)
    tokens = sorted(text for text in texts - {END} if len(text) > 1)
    save_scripted(directory, script, tokens=tokens, template=TEMPLATE)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    return make_endpoint(model, tokenizer, anyone=False, add_tools=True)


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
