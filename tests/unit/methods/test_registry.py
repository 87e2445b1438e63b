"""From a name and a mapping to a method: unknown names and types are one sentence, a fault in user code its own."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from method_parts import Settings, make_method

from appo.errors import UserError
from appo.methods import METHODS, Method, MethodOptions, open_method, options_of
from appo.methods.registry import read_options

OWN = """
from dataclasses import dataclass, field

import torch

from appo.methods import Method, MethodOptions, TreeOptions


@dataclass
class Options(MethodOptions):
    bonus: float = field(default=2.0, metadata={"help": "Advantage of every token."})


class Bonus(Method):
    Options = Options

    def base_advantages(self, trees, scores):
        return torch.full((sum(scores.sizes), scores.length), self.options.bonus)


class NoMethod:
    pass


number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module that can be imported by the name it is given."""

    def write(name, text=OWN):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


@pytest.mark.parametrize("name", METHODS)
def test_every_method_opens_with_its_defaults_at_sixteen_rollouts(name):
    method = make_method(name, num_generations=16, loss_type="dapo")
    assert type(method) is METHODS[name]
    assert isinstance(method.options, options_of(name))
    assert 1 <= method.num_initial <= 16


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_called_as_its_file(name):
    assert METHODS[name].__module__ == f"appo.methods.{name}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rafft", "^method = 'rafft' is unknown; did you mean raft\\?$"),
        ("ppo", "^method = 'ppo' is unknown; did you mean"),
        ("sarsa", "^method = 'sarsa' is unknown; use one of appo, appo_rescue, .*, whole_tree, or my.module:MyMethod"),
        ("", "^method = '' is unknown; use one of"),
    ],
)
def test_an_unknown_method_is_named_with_what_there_is(name, message):
    for look_up in (make_method, options_of):
        with pytest.raises(UserError, match=message):
            look_up(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wait_floor": 0.2}, "^method_args: method = 'raft' has no option wait_floor; did you mean weight_floor\\?$"),
        ({"half_life": 8.0}, "method = 'raft' has no option half_life; it has token_weight, weight_floor"),
        ({3: 8.0}, "method = 'raft' has no option 3; it has token_weight, weight_floor"),
        ({"weight_floor": 1.5}, r"^method_args: weight_floor must lie in \[0, 1\], got 1.5"),
        (["weight_floor"], r"^method_args must be a mapping, got \['weight_floor'\]"),
        (3, "^method_args must be a mapping, got 3"),
        ([], r"^method_args must be a mapping, got \[\]"),
    ],
)
def test_an_unknown_option_is_named_with_what_there_is(options, message):
    with pytest.raises(UserError, match=message):
        make_method("raft", options)


def test_no_options_are_the_defaults():
    assert make_method("raft", None).options == make_method("raft", {}).options == MethodOptions()


# ---- types ----


@dataclass
class EachType(MethodOptions):
    count: int = field(default=1)
    share: float = field(default=1.0)
    flag: bool = field(default=True)
    word: str = field(default="a")
    bounds: list[float] = field(default_factory=list)
    limit: int | None = field(default=None)

    choices: ClassVar[dict[str, tuple[str, ...]]] = {**MethodOptions.choices, "word": ("a", "b")}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"count": True}, "count must be of type int, got True"),
        ({"count": 1.0}, "count must be of type int, got 1.0"),
        ({"count": "1"}, "count must be of type int, got '1'"),
        ({"count": None}, "count must be of type int, got None"),
        ({"share": True}, "share must be of type float, got True"),
        ({"share": "1"}, "share must be of type float, got '1'"),
        ({"share": [1.0]}, r"share must be of type float, got \[1.0\]"),
        ({"flag": 1}, "flag must be of type bool, got 1"),
        ({"flag": "true"}, "flag must be of type bool, got 'true'"),
        ({"word": 1}, "word must be of type str, got 1"),
        ({"word": "c"}, "word must be one of a, b, got 'c'"),
        ({"bounds": 1.0}, "bounds must be of type list.*, got 1.0"),
        ({"bounds": ["1"]}, r"bounds must be of type list\[float\], got \['1'\]"),
        ({"bounds": [True]}, r"bounds must be of type list\[float\], got \[True\]"),
        ({"limit": 1.5}, r"limit must be of type int \| None, got 1.5"),
        ({"limit": True}, r"limit must be of type int \| None, got True"),
    ],
)
def test_a_value_of_another_type_is_refused(values, sentence):
    with pytest.raises(UserError, match=f"^method_args: {sentence}"):
        read_options(EachType, "mine", values)


def test_an_integer_is_a_number_and_lists_may_be_tuples():
    options = read_options(EachType, "mine", {"share": 2, "bounds": (1, 1.5), "limit": 4})
    assert (options.share, options.bounds, options.limit) == (2.0, [1.0, 1.5], 4)
    assert [type(x) for x in (options.share, *options.bounds)] == [float] * 3
    assert read_options(EachType, "mine", {"limit": None}).limit is None


# ---- methods of one's own ----


def test_a_class_of_ones_own_is_named_with_its_module(own):
    method = open_method(f"{own('my_bonus')}:Bonus", {"bonus": 3}, Settings())
    assert (type(method).__name__, method.options.bonus) == ("Bonus", 3.0)
    assert isinstance(method, Method)


def test_its_options_are_looked_at_as_any_others(own):
    name = f"{own('my_looked_at')}:Bonus"
    with pytest.raises(UserError, match=f"method_args: method = '{name}' has no option bonsu; did you mean bonus"):
        make_method(name, {"bonsu": 1.0})
    with pytest.raises(UserError, match="method_args: bonus must be of type float, got 'much'"):
        make_method(name, {"bonus": "much"})


@pytest.mark.parametrize("module", ["no_such_module_at_all", "no_such_package.inside"])
def test_a_module_that_is_not_there_is_one_sentence(module):
    sentence = f"^method = '{module}:Mine': there is no module {module} in the current folder or on PYTHONPATH; write "
    with pytest.raises(UserError, match=sentence):
        make_method(f"{module}:Mine")


@pytest.mark.parametrize("attribute", ["NoMethod", "number", "Options", "Missing"])
def test_what_is_no_method_is_refused(own, attribute):
    name = own("my_no_method")
    sentence = f"{name} holds no class {attribute} derived from appo.methods.Method"
    with pytest.raises(UserError, match=sentence):
        make_method(f"{name}:{attribute}")


def test_an_error_inside_the_users_module_keeps_its_traceback(own):
    name = own("my_broken", "def deep():\n    return 1 / 0\n\n\ndeep()\n")
    with pytest.raises(ZeroDivisionError) as error:
        make_method(f"{name}:Mine")
    assert error.traceback[-1].path.name == "my_broken.py"
    assert error.traceback[-1].lineno == 1


def test_a_module_that_the_users_module_lacks_is_named_by_python(own):
    name = own("my_importing", "import no_such_dependency\n")
    sentence = r"my_importing cannot be imported: No module named 'no_such_dependency' \(.*my_importing.py, line 1\)"
    with pytest.raises(UserError, match=sentence):
        make_method(f"{name}:Mine")


def test_a_method_without_advantages_is_refused_before_it_runs(own):
    name = own("my_empty", "from appo.methods import Method\n\n\nclass Mine(Method):\n    pass\n")
    with pytest.raises(UserError, match="method = 'my_empty:Mine' has no base_advantages; write it"):
        make_method(f"{name}:Mine")


def test_the_case_of_a_name_does_not_hide_what_was_meant():
    with pytest.raises(UserError, match="did you mean appo"):
        make_method("Appo")


def test_an_error_in_the_users_own_checks_is_left_as_it_is(own):
    text = (
        "from appo.methods import Method\n\n\nclass Mine(Method):\n    base_advantages = None\n\n"
        "    def check(self):\n        raise KeyError('x')\n"
    )
    with pytest.raises(KeyError):
        make_method(f"{own('my_checking', text)}:Mine")


@pytest.mark.parametrize("name", [":X", "..a:B", "my module:X", "my_module:", "my_module:a.b"])
def test_what_is_no_name_of_a_class_is_one_sentence(name):
    with pytest.raises(UserError, match=r"is unknown; .*my\.module:MyMethod"):
        make_method(name)


def test_options_of_ones_own_may_have_any_type_that_json_has(own):
    text = (
        "from dataclasses import dataclass, field\nfrom typing import Any, Literal\n"
        "from appo.methods import Method, MethodOptions\n\n\n@dataclass\nclass Options(MethodOptions):\n"
        "    table: dict[str, int] = field(default_factory=dict)\n    pair: tuple[int, int] = (0, 0)\n"
        "    word: Literal['a', 'b'] = 'a'\n    thing: Any = None\n\n\n"
        "class Mine(Method):\n    Options = Options\n    base_advantages = None\n"
    )
    name = f"{own('my_typed', text)}:Mine"
    values = {"table": {"x": 1}, "pair": [1, 2], "word": "b", "thing": {"y": [1]}}
    options = make_method(name, values).options
    assert (options.table, options.pair, options.word, options.thing) == ({"x": 1}, (1, 2), "b", {"y": [1]})
    for wrong in ({"table": {"x": "y"}}, {"pair": [1]}, {"word": "c"}):
        with pytest.raises(UserError, match="must be of type"):
            make_method(name, wrong)
