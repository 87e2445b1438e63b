"""Makes the files that recipes/smollm2-qa.yaml reads, from the paper's released RL data and reasoning-gym.

    python examples/smollm2_qa.py DATA_DIR OUT_DIR

DATA_DIR holds train_10k.parquet, hard_search_1k.parquet and search_cache.json (docs/data.md says where from). Into
OUT_DIR go

    traces.jsonl    for the cold start, in ShareGPT's layout: questions of train_10k whose answer BM25 finds among the
                    cache's pages, and arithmetic with Python
    train.jsonl     hard_search_1k, and as many questions of arithmetic
    search_cache.json
"""

import json
import random
import shutil
import sys
from pathlib import Path

from appo.data import load_rl_data
from appo.environments import reasoning_gym
from appo.tools.search import Limits, LocalSearch, corpus_from_cache

LIMITS = Limits(top_k=3, page_chars=250)  # short, for a small model on a CPU; the recipe searches with the same
PROMPT = (
    "Answer the question. Think in <think></think>. Search with <search>words</search> or run Python with "
    "<python>code</python>; what it gives follows in <result></result>. End with <answer>\\boxed{the answer}</answer>."
)
ARITHMETIC_TRACES = 120


def trace(question: str, name: str, thought: str, call: str, result: str, answer: str) -> dict:
    """One conversation in ShareGPT's layout; tool results stand in the assistant's text."""
    text = (
        f"<think>{thought}</think>\n<{name}>{call}</{name}>\n<result>\n{result}\n</result>\n"
        f"<think>The result has it.</think>\n<answer>\\boxed{{{answer}}}</answer>"
    )
    said = [("system", PROMPT), ("human", question), ("gpt", text)]
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in said]}


def search_traces(data: Path, search: LocalSearch) -> list[dict]:
    """One search by the question's own words, for the questions that this answers."""
    traces = []
    rows = load_rl_data(data / "train_10k.parquet")
    for question, answers, ability in zip(rows["question"], rows["answers"], rows["ability"], strict=True):
        if ability == "math" or len(question) > LIMITS.query_chars or len(answers[0]) < 4:
            continue  # a short answer, such as `yes`, is in any text
        pages = search.search(question)
        if answers[0].casefold() in pages.casefold():
            traces.append(trace(question, "search", "I search for it.", question, pages, answers[0]))
    return traces


def arithmetic(size: int, seed: int) -> list[tuple[str, str, str]]:
    """Questions with their programs and results."""
    rows = reasoning_gym.dataset(size, seed)
    solved = [reasoning_gym.solve(row["family"], json.loads(row["entry"])) for row in rows]
    return [(row["prompt"][-1]["content"], *pair) for row, pair in zip(rows, solved, strict=True)]


def write(path: Path, rows: list[dict]) -> None:
    random.Random(0).shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def main(data: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(data / "search_cache.json", out)
    search = LocalSearch(corpus_from_cache(out / "search_cache.json"), limits=LIMITS)
    traces = search_traces(data, search)
    for question, program, result in arithmetic(ARITHMETIC_TRACES, seed=1):
        traces.append(trace(question, "python", "I compute it.", program, result, result))
    write(out / "traces.jsonl", traces)
    hard = load_rl_data(data / "hard_search_1k.parquet")
    rows = [{"question": q, "answers": a} for q, a in zip(hard["question"], hard["answers"], strict=True)]
    rows += [{"question": q, "answers": [result]} for q, _, result in arithmetic(len(hard), seed=0)]
    write(out / "train.jsonl", rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/smollm2_qa.py DATA_DIR OUT_DIR")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
