"""What is looked at one rollout at a time: its calls, parts of its reward, other tokens, true decisions.

Most of it stands in the tokens already, so that only what does not is packed. Left out on purpose: what is a number
per rollout or token (`pack.py`).
"""

import json
import math
from typing import Any

import numpy as np

from appo.report.html.columns import Part
from appo.rollout.record_times import KEY

DEFAULTS = (None, None, True, None, None)  # error, seconds, ran, arguments, result


def details(part: Part, reward_names: dict[str, int], texts: dict[int, str]) -> list[list[Any]]:
    """Per rollout `[calls, rewards, alternatives, decisions]`.

    calls          `[name, gap, length, result gap, result length, error, seconds, ran, arguments, result]`, cut where
                   only defaults follow. A gap is the distance from what came before: the call before (or its result),
                   and the call itself; a result's gap of None says that it did not fit. Arguments and result are None
                   where they stand in the tokens.
    rewards        in the order of `reward_names`, to which new ones are added; None where a function did not apply
    alternatives   `[token, log-probability]`, or None
    decisions      each as its distance from the one before, or None
    """
    columns = (part.values(name) for name in ("tool_calls", KEY, "rewards", "alternatives", "decisions"))
    found = []
    for start, length, calls, seconds, rewards, others, decisions in zip(
        part.starts_R.tolist(), part.lengths_R.tolist(), *columns, strict=True
    ):
        ids = part.ids_P[start : start + length].tolist() if calls else []
        found.append(
            [
                _calls(calls or [], seconds or [], [texts.get(token) or "" for token in ids]),
                _rewards(rewards or [], reward_names),
                None if others is None else [[o["token"], round(o["logprob"], 2)] for o in others],
                None if decisions is None else np.diff(decisions, prepend=0).tolist(),
            ]
        )
    return found


def _calls(calls: list[dict[str, Any]], seconds: list[float | None], words: list[str]) -> list[list[Any]]:
    found, before = [], 0
    for number, call in enumerate(calls):
        took = seconds[number] if number < len(seconds) else None
        start, end, result_start, result_end = (
            call[name] or 0 for name in ("start", "end", "result_start", "result_end")
        )
        there = result_start >= 0
        arguments = json.loads(call["arguments"])
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        told = written in "".join(words[start:end])
        answered = there and (call["result"] or "") in "".join(words[result_start:result_end])
        ran = call["ran"] if call["ran"] is not None else True
        place = [start - before, end - start, result_start - end if there else None, result_end - result_start]
        row = [
            call["name"], *place, call["error"], None if took is None else round(took, 3), ran,
            None if told else arguments, None if answered else call["result"],
        ]  # fmt: skip
        while len(row) > 5 and row[-1] == DEFAULTS[len(row) - 6]:
            row.pop()
        found.append(row)
        before = result_end if there else end
    return found


def _rewards(rewards: list[tuple[str, float]], names: dict[str, int]) -> list[float | None]:
    found: list[float | None] = []
    for name, value in rewards:
        place = names.setdefault(name, len(names))
        found += [None] * (place + 1 - len(found))
        found[place] = None if value is None or not math.isfinite(value) else value
    return found
