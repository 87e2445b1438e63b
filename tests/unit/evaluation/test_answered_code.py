"""What a model wrote around its code goes, and a body gets its function's beginning."""

import pytest

from appo.evaluation.answered_code import code_of, programs_of

PROMPT = 'import math\n\ndef double(x):\n    return 2 * x\n\ndef f(x):\n    """Adds one."""\n'
WHOLE = "def f(x):\n    return x + 1"
BEFORE = "import math\n\ndef double(x):\n    return 2 * x\n\n"


def programs(text):
    return programs_of(code_of(text, "f"), PROMPT, "f")


def results(text):
    """f(1) of the first reading that compiles; this code is ours."""
    for program in programs(text):
        try:
            code = compile(program, "", "exec")
        except SyntaxError:
            continue
        space = {}
        exec(code, space)
        return space["f"](1)


def test_a_fenced_function_stands_behind_what_the_prompt_has_before_its_own():
    text = f"Sure!\n\n```python\n{WHOLE}\n```\nIt adds one."
    assert code_of(text, "f") == WHOLE
    assert programs(text)[0] == BEFORE + WHOLE


def test_of_several_blocks_the_last_that_defines_the_function_counts():
    text = f"```\ndef f(x):\n    return 0\n```\nor\n```python\n{WHOLE}\n```\nUse it:\n```python\nprint(f(1))\n```"
    assert code_of(text, "f") == WHOLE


def test_where_no_block_defines_it_the_last_counts():
    assert code_of("```\nx\n```\n```py\n    return 5\n```", "f") == "    return 5"


def test_a_block_that_the_end_leaves_open_counts():
    assert code_of(f"```python\n{WHOLE}", "f") == WHOLE


def test_a_function_of_a_longer_name_is_another():
    assert code_of(f"```\n{WHOLE}\n```\n```\ndef f_2(x):\n    return 0\n```", "f") == WHOLE


def test_thoughts_do_not_count_and_of_an_answer_only_its_content_does():
    assert code_of("<think>```\ndef f(x): pass\n```</think>return 5", "f") == "return 5"
    assert code_of("try 1</think>return 5", "f") == "return 5"  # the prompt began the thought
    assert code_of(f"<think>so</think>words <answer>\n{WHOLE}\n</answer>", "f") == WHOLE


def test_words_around_a_function_in_plain_text_are_a_second_reading():
    first, second = programs(f"Here it is:\n\n{WHOLE}\n\nIt adds one.")
    assert "Here it is" in first and second == BEFORE + WHOLE


def test_a_whole_function_may_bring_its_own_imports_and_helpers():
    text = f"Here:\nimport re\n\ndef g(x):\n    return x\n\n{WHOLE}\nDone."
    assert programs(text)[1] == f"{BEFORE}import re\n\ndef g(x):\n    return x\n\n{WHOLE}"


@pytest.mark.parametrize(
    "text",
    [
        "    y = x\n    return y + 1",  # as the prompt would go on
        "y = x\n    return y + 1",  # whose first line lost its indentation
        "y = x\nreturn y + 1",  # all of them
        "return x + 1\n\nThis adds one.",
        "for y in [x]:\n        return y + 1\n    return 0",
        "for y in [x]:\n    return y + 1\nreturn 0",
        "    return x + 1\n\ndef main():\n    wrong(",
        "```python\nreturn x + 1\n```",
        f"Words.\n{WHOLE}\nWords.",
        "from math import floor\ndef f(x):\n    return floor(x) + 1",
    ],
)
def test_bodies_and_functions_in_every_form_are_understood(text):
    assert results(text) == 2


def test_imports_from_the_future_stand_first():
    imports = "from __future__ import annotations\nfrom __future__ import (division,\n  generators)\n"
    text = f"```python\n{imports}{WHOLE}\n```"
    assert programs(text)[0].startswith(imports)
    assert programs(text)[0].endswith(BEFORE + WHOLE) and results(text) == 2


def test_a_block_in_an_item_of_a_list_loses_the_indentation_of_the_item():
    text = "1. So:\n\n   ```python\n   def f(x):\n       y = x\n       return y + 1\n   ```\nDone."
    assert code_of(text, "f") == "def f(x):\n    y = x\n    return y + 1"
    assert code_of(text.replace("   def", "     def").replace("    y", "      y"), "f").startswith("def f(x):\n")
    assert results(text) == 2 and results("- a body:\n  ```\n  return x + 1\n  ```") == 2


def test_what_stands_at_the_left_of_an_indented_block_stays_there():
    text = '  ```\n  def f(x):\n      y = "a\\\nb"\n      return x + 1\n  ```'
    assert code_of(text, "f") == 'def f(x):\n    y = "a\\\nb"\n    return x + 1'


def test_other_blocks_stand_before_it_where_they_define_what_it_names():
    user = "def f(x):\n    return plus(x, One.value)"
    blocks = [
        "def plus(a, b):\n    return add(a, b)",
        user,
        "class One:\n    value = 1",
        "def add(a, b):\n    return a + b",
    ]
    unused = "def main():\n    wrong("
    text = "\n".join(f"```python\n{block}\n```\nand" for block in [*blocks, unused])
    assert code_of(text, "f") == "\n\n\n".join([blocks[0], blocks[2], blocks[3], user])
    assert results(text) == 2


def test_of_two_versions_of_a_helper_the_last_counts():
    text = "\n".join(
        f"```\n{block}\n```"
        for block in ("def plus(a):\n    return 0", "def plus(a):\n    return a + 1", "def f(x):\n    return plus(x)")
    )
    assert results(text) == 2 and "return 0" not in code_of(text, "f")


def test_an_empty_answer_is_a_function_without_a_body():
    assert code_of("", "f") == "" and results("") is None
