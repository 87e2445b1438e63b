"""A task's parts are of the right kind, or that is told when it is made."""

import pytest

from appo import Task
from appo.errors import UserError


def rows(size, seed):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"tools": rows}, "Task(tools=..) must be a list of functions, got <function rows"),
        ({"reward_funcs": rows}, "Task(reward_funcs=..) must be a list of functions"),
        ({"tools": ["weather"]}, "Task(tools=..) must be a list of functions, got ['weather']"),
        ({"dataset": []}, "Task(dataset=..) must be a function, got []"),
        ({"judge": "kinship"}, "Task(judge=..) must be a function, got 'kinship'"),
        ({"decision_positions": [3]}, "Task(decision_positions=..) must be a function, got [3]"),
        ({"token_kinds": {}}, "Task(token_kinds=..) must be a function, got {}"),
        ({"demonstrations": []}, "Task(demonstrations=..) must be a function, got []"),
    ],
)
def test_parts_of_another_kind_are_one_sentence(parts, sentence):
    with pytest.raises(UserError) as error:
        Task(**{"dataset": rows, **parts})
    assert str(error.value).startswith(sentence)


def test_a_task_needs_no_more_than_data():
    assert Task(rows).tools == []
