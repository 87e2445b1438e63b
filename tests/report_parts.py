"""What tests of the report share: small records, and the page's data read back as the page reads them."""

import base64
import gzip
import json
import re

import numpy as np

from appo.report.html.columns import read_parts
from appo.rollout.record_files import record_files
from appo.rollout.records import RecordWriter

TYPES = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "i16": "<i2", "i32": "<i4", "f32": "<f4"}


def record(rollout=0, reward=0.0, *, step=1, task="0", length=4, parent=None, position=None, base=None, **values):
    """A rollout of `length` policy tokens, ids 10, 11, ..; with a `base` it has advantages."""
    found = {
        "step": step, "task": task, "rollout": rollout, "parent": parent, "branch_position": position,
        "row": {"question": task, "answer": "yes"}, "prompt": f"question {task}", "finish_reason": "stop",
        "completion_ids": list(range(10, 10 + length)), "policy_mask": [1] * length, "reward": reward,
        "rewards": {"exact": reward}, "tool_calls": [], "logprobs": [-1.0] * length,
    }  # fmt: skip
    if base is not None:
        ones = [1.0] * length
        found |= {"entropies": [0.5] * length, "advantages": [base] * length}
        found["factors"] = {"base": [base] * length, "loss_mask": ones}
    return {**found, **values}


def call(start, end, result_end, result="r", **values):
    """A call of `add` whose result follows it at once."""
    return {
        "name": "add", "arguments": "1 2", "start": start, "end": end, "result": result, "error": None,
        "result_start": end, "result_end": result_end, "ran": True, **values,
    }  # fmt: skip


class Words:
    """A tokenizer for the texts of ids: "t10" and so on, or those given."""

    backend_tokenizer = None
    name_or_path = "words"

    def __init__(self, texts=None, size=64):
        self._texts = {number: f" t{number}" for number in range(size)} | (texts or {})

    def get_vocab(self):
        return {text: number for number, text in self._texts.items()}

    def convert_ids_to_tokens(self, ids):
        return [self._texts[number] for number in ids]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)


def write_run(directory, *updates, texts=None, settings=None, evaluations=None):
    """A run's records: one list of records per update; `evaluations` are lists by name."""
    writer = RecordWriter(directory / "records", settings or {"method": "grpo"}, Words(texts))
    for records in updates:
        writer.append(records[0]["step"], records)
    for name, records in (evaluations or {}).items():
        writer.append_evaluation(name, records)
    return directory


def parts_of_run(directory, kind="train"):
    return [part for file in record_files(directory, kind) for part in read_parts(file, kind)]


# ---- as the page reads it ----


def unpacked(column):
    data = gzip.decompress(base64.b64decode(column["gz"]))
    return np.frombuffer(data, TYPES[column["type"]]) if "type" in column else json.loads(data)


def read_pack(page):
    return json.loads(re.search(r'id="appo-pack">(.*?)</script>', page.read_text(), re.S)[1])


def read_index(run):
    return {name: unpacked(column) for name, column in run["index"]["columns"].items()}


def read_shards(page, number=0):
    """The shards of a run, inline or in the folder."""
    text = page.read_text()
    found = []
    for place in read_pack(page)["runs"][number]["shards"]:
        if "src" in place:
            script = (page.parent / place["src"]).read_text()
            found.append(json.loads(re.fullmatch(r"APPO_SHARD\(\d+,\d+,(.*)\)\n", script, re.S)[1]))
        else:
            pattern = f'<script type="application/json" id="{place["element"]}">(.*?)</script>'
            found.append(json.loads(re.search(pattern, text, re.S)[1]))
    return found


def exact_values(column, rollouts):
    """The numbers of an exact column, one for each token that carries loss; `rollouts` says whose they are."""
    values = unpacked(column)
    if "palette" in column:
        values = unpacked(column["palette"])[values]
    if column["per"] == "rollout":
        values = values[np.unique(rollouts, return_inverse=True)[1]]
    return values


def heat_values(column):
    """The numbers of a heat map, NaN where there is none."""
    codes = unpacked(column).astype(float)
    share = codes / column["steps"]
    low, high = column["low"], column["high"]
    values = {
        "linear": lambda: low + (high - low) * share,
        "square": lambda: low + (high - low) * share**2,
        "log": lambda: low * (high / low) ** share,
        "symmetric": lambda: high * (2 * share - 1) * np.abs(2 * share - 1),
    }[column["scale"]]()
    return np.where(codes == 255, np.nan, values)
