"""The system prompt is the authors' own, and names the tools there are."""

from pathlib import Path

import pytest

from appo.environments.prompts import PAPER_PROMPT, system_prompt

RL_DATA = Path(__file__).parents[4] / "shared" / "data" / "rl"


@pytest.mark.skipif(not RL_DATA.is_dir(), reason=f"the authors' RL data are not in {RL_DATA}")
@pytest.mark.parametrize("name", ["valid", "hard_search_1k"])
def test_it_is_the_authors_text(name):
    from appo.data import load_rl_data

    prompts = load_rl_data(RL_DATA / f"{name}.parquet")["prompt"]
    assert {prompt[0]["content"] for prompt in prompts} == {PAPER_PROMPT}


def test_order_and_repetition_of_names_do_not_matter():
    assert system_prompt(["python", "search", "python"]) == PAPER_PROMPT


def test_python_alone_is_not_told_to_search():
    prompt = system_prompt(["python"])
    assert "with the help of the python interpreter tool. Given" in prompt
    assert "invoke the python interpreter tool to calculate the math problem if needed." in prompt
    assert "the python code and result are enclosed within <python> </python> and <result> </result> tags" in prompt
    assert "search" not in prompt and "fact" not in prompt


def test_without_tools_it_asks_for_a_thought_and_an_answer():
    assert system_prompt([]) == (
        "You are a helpful assistant that can solve the given question step by step. Given a question, you need to "
        "first think about the reasoning process in the mind and then provide the answer. The reasoning process and "
        "answer are enclosed within <think> </think> and <answer> </answer> tags respectively. For example, <think> "
        "This is the reasoning process. </think> <answer> The final answer is \\[ \\boxed{answer here} \\] </answer>. "
        "In the last part of the answer, the final exact answer is enclosed within \\boxed{} with latex format."
    )


def test_other_tools_are_named():
    prompt = system_prompt(["weather", "search"])
    assert "the wikipedia search tool and weather tool. Given" in prompt
    assert "<weather> weather input here </weather> <result> weather result here </result>" in prompt
