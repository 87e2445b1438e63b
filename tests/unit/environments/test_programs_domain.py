"""Programs from examples: the steps, the catalogue, the questions, and both forms of writing."""

import json
import random
from itertools import accumulate, islice, pairwise, permutations

import pytest

from appo.environments.programs import TASK, chat, words
from appo.environments.programs.catalogue import PROBES, catalogue, draw_input, is_held_out, is_proper, programs
from appo.environments.programs.guesses import FLAWS, demonstrate
from appo.environments.programs.primitives import PRIMITIVES, expression, is_program, python_names, run
from appo.environments.programs.questions import examples_of, fits, questions, rivals
from appo.errors import UserError
from appo.tools.results import ToolError

STANDARD = TASK()


def drawn(count, seed=0, depth=(1, 2), offered=4, held_out=False):
    return list(islice(questions(random.Random(seed), depth, offered, held_out), count))


def text_of(demonstration):
    return "".join(segment.text for segment in demonstration.segments)


def started(task, row):
    environment = task.environment_factory()
    environment.reset(**row)
    return environment


ROW = {"visible": json.dumps([[[3, 1, 2], [2, 1, 3]], [[4, 4, 0], [0, 4, 4]], [[5, 6, 7, 1], [1, 7, 6, 5]]])}


# ---- steps and programs ----


def test_a_program_runs_its_steps_in_order():
    assert run(["reverse", "double", "drop1"], [1, 2, 3]) == [4, 2]  # 3 2 1, 6 4 2, 4 2
    assert run(["totals", "gaps", "sum"], [1, 2, 3]) == 5  # 1 3 6, 2 3, 5
    assert run(["unique", "mirror"], [3, 3, 1]) == [3, 1, 1, 3]
    assert run(["less1", "halve", "spread"], [0, 9]) == 4  # 0 8, 0 4


def test_there_are_forty_steps_and_only_the_last_may_give_a_number():
    assert [len(PRIMITIVES), sum(one.gives_number for one in PRIMITIVES.values())] == [40, 8]
    assert is_program(["sort", "sum"]) and not is_program(["sum", "sort"])
    assert not is_program([]) and not is_program(["sort"] * 4) and not is_program(["shuffle"])


def test_a_program_in_python_gives_what_its_steps_give():
    rng = random.Random(1)
    names = {"accumulate": accumulate, "pairwise": pairwise}
    names |= {name: eval(source, names) for name, source in python_names().items()}
    assert {"sum", "max", "min"} == PRIMITIVES.keys() - names.keys()
    assert expression(["reverse", "double", "sum"]) == "sum(double(reverse(xs)))"
    for depth in (1, 2):
        for program in rng.sample(programs(depth, held_out=False), 25):
            xs = next(xs for xs in PROBES if is_proper(program, xs))
            assert eval(expression(program), {**names, "xs": xs}) == run(program, xs), program


# ---- the catalogue ----


def test_two_spellings_of_a_function_are_one_program_at_its_least_depth():
    known = set(catalogue(2).values())
    assert ("descend",) in known and ("sort", "reverse") not in known
    assert ("add3",) in known and ("add1", "add2") not in known
    assert ("reverse", "reverse") not in known  # changes nothing
    assert len(known) == len({tuple(map(str, (run(p, xs) for xs in PROBES))) for p in known})


def test_no_function_serves_both_training_and_evaluation():
    rng = random.Random(7)
    examples = [draw_input(rng) for _ in range(300)]  # functions that differ on no list of a question are one

    def behaviour(program):
        return json.dumps([run(program, xs) for xs in examples])

    training = {behaviour(p) for depth in (1, 2) for p in programs(depth, held_out=False)}
    held_out = {behaviour(p) for depth in (1, 2) for p in programs(depth, held_out=True)}
    assert not training & held_out
    assert 0.15 < len(held_out) / len(training | held_out) < 0.35


def test_whether_a_program_is_held_out_depends_on_what_it_does_alone():
    for behaviour, program in islice(catalogue(2).items(), 50):
        made = tuple(tuple(v) if isinstance(v := run(program, xs), list) else v for xs in PROBES)
        assert is_held_out(made) == is_held_out(behaviour)


# ---- questions ----


def test_what_passes_the_visible_examples_passes_the_hidden_ones():
    for question in drawn(60) + drawn(10, depth=(3, 3), offered=5):
        found = rivals(question)
        assert all(fits(other, question.hidden) for other in found)
        if len(question.program) < 3:
            assert question.program in found
        arranged = [p for n in (1, 2, 3) for p in permutations(question.offered, n) if is_program(p)]
        passing = [p for p in arranged if fits(p, question.visible)]
        assert all(fits(p, question.hidden) for p in passing)


def test_examples_are_ten_and_three_different_lists_with_small_numbers():
    for question in drawn(40):
        examples = question.visible + question.hidden
        assert (len(question.visible), len(question.hidden)) == (3, 10)
        assert len({tuple(xs) for xs, _ in examples}) == 13
        for xs, output in examples:
            assert run(question.program, xs) == output
            assert is_proper(question.program, xs)


def test_the_steps_of_the_program_are_offered_among_others():
    for question in drawn(40):
        assert set(question.program) <= set(question.offered)
        assert len(set(question.offered)) == 4


def test_depths_are_drawn_equally_often():
    found = [len(question.program) for question in drawn(400)]
    assert set(found) == {1, 2}
    assert 150 < found.count(1) < 250


def test_two_seeds_share_no_question_and_evaluation_no_program():
    first, second = STANDARD.dataset(100, 0), STANDARD.dataset(100, 1)
    held_out = STANDARD.eval_dataset(100, 0)
    assert not set(first["prompt"]) & set(second["prompt"])
    assert first["prompt"] == STANDARD.dataset(100, 0)["prompt"]
    train = {tuple(p) for depth in (1, 2) for p in programs(depth, held_out=False)}
    assert {tuple(p.split()) for p in first["program"]} <= train
    assert not {tuple(p.split()) for p in held_out["program"]} & train


# ---- the environment in words ----


def test_a_test_tells_how_many_pass_and_the_first_failure():
    environment = started(STANDARD, ROW)
    assert environment.run_tests("sort") == "1 pass in 3 1 2 got 1 2 3 not 2 1 3"  # 0 4 4 is 4 4 0 sorted and reversed
    assert environment.run_tests(" reverse ") == "all pass"
    assert environment.run_tests("add3 triple triple").startswith("0 pass in 3 1 2 got large large large not")
    assert environment.run_tests("evens big") == "0 pass in 3 1 2 got empty not 2 1 3"
    with pytest.raises(ToolError, match="no tries left answer now"):
        environment.run_tests("reverse")


def test_what_is_no_program_is_told_in_words_that_the_tokenizer_knows_and_costs_a_test():
    environment = started(TASK(tries=2), ROW)
    for code in ("sum reverse", "import os"):
        with pytest.raises(ToolError) as told:
            environment.run_tests(code)
        assert "<unk>" not in words.make_tokenizer().tokenize(f"error: {told.value}")  # as the protocol tells it
    with pytest.raises(ToolError, match="no tries left"):
        environment.run_tests("reverse")


def test_a_fork_has_its_own_tests_left():
    environment = started(TASK(tries=2), ROW)
    environment.run_tests("sort")
    copy = environment.fork()
    copy.run_tests("sort")
    assert environment.run_tests("reverse") == "all pass"
    with pytest.raises(ToolError):
        copy.run_tests("reverse")


def test_the_last_closed_answer_counts():
    row = {"hidden": [json.dumps([[[3, 1], [1, 3]], [[1, 2], [2, 1]]])] * 5}
    texts = [
        "<answer> reverse </answer>",
        "<answer> sort </answer>",
        "reverse",
        "<answer> reverse",
        "<answer> </answer>",
    ]
    assert words.passes_all(texts, visible=["[]"] * 5, **row) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_what_fails_a_visible_example_is_not_right():
    hidden, visible = [json.dumps([[[3, 1], [1, 3]]])] * 2, [json.dumps([[[2, 1, 3], [3, 1, 2]]])] * 2
    texts = ["<answer> reverse </answer>", "<answer> sort </answer>"]  # both pass the hidden one
    assert words.passes_all(texts, visible, hidden) == [1.0, 0.0]


# ---- demonstrations ----


@pytest.mark.parametrize("task", [TASK(), TASK(depth=[2, 3], offered=5, tries=8), TASK(offered=0)])
def test_demonstrations_know_all_their_words(task):
    tokenizer = words.make_tokenizer()
    for one in task.demonstrations(30, 0):
        assert "<unk>" not in tokenizer.tokenize(f"{one.prompt}{text_of(one)}")


def test_demonstrations_succeed_exactly_where_no_flaw_was_made():
    rng = random.Random(0)
    for question in drawn(150):
        examples = [question.row()["visible"]], [question.row()["hidden"]]
        for noise, reward in ((0.0, 1.0), (1.0, 0.0)):
            made = words.demonstration(question, *demonstrate(question, 4, noise, rng))
            assert words.passes_all([text_of(made)], *examples) == [reward]


def test_every_flaw_is_made_and_no_test_too_many():
    rng, found = random.Random(0), set()
    for question in drawn(200):
        tested, answer = demonstrate(question, 3, 1.0, rng)
        assert len(tested) <= 3
        if not tested:
            found.add("untested")
        elif fits(tested[-1], question.visible):
            found.add("wrong_end")
            assert answer[:-1] == question.program[:-1]
        else:
            assert answer == tested[-1]
            found.add("repeats" if tested[-2:-1] == [answer] else "stops")
    assert found == set(FLAWS)


def test_a_demonstration_without_a_flaw_stops_where_all_pass_and_repeats_nothing():
    rng, lengths = random.Random(0), set()
    for question in drawn(150):
        tested, answer = demonstrate(question, 4, 0.0, rng)
        assert answer == tested[-1] and len(set(tested)) == len(tested)
        assert not any(fits(program, question.visible) for program in tested[:-1])
        lengths.add(len(tested))
    assert lengths == {1, 2, 3, 4}


def test_demonstrations_and_results_read_as_the_environment_tells_them():
    rng = random.Random(2)
    for question in drawn(30):
        environment = started(STANDARD, question.row())
        tested, answer = demonstrate(question, 4, 0.5, rng)
        made = words.demonstration(question, tested, answer)
        results = [segment.text for segment in made.segments if not segment.trained]
        assert results == [f" <result> {environment.run_tests(' '.join(program))} </result>" for program in tested]


# ---- settings ----


@pytest.mark.parametrize(
    "wrong",
    [
        *({"form": "prose"}, {"form": ["words"]}, {"depth": [0, 2]}, {"depth": [2, 1]}, {"depth": 2}, {"tries": 0}),
        *({"noise": 1.5}, {"offered": 1}, {"layers": 0}, {"layers": "2"}, {"hidden_size": 0}, {"hidden_size": 97}),
    ],
)
def test_wrong_settings_are_told_by_their_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        TASK(**wrong)


def test_a_prompt_in_python_shows_examples_and_steps():
    [question] = drawn(1)
    system, user = chat.prompt_of(question)
    assert len(system["content"].split()) <= 60
    lines = user["content"].split("\n")
    assert [line.count("->") for line in lines[:3]] == [1, 1, 1]
    assert lines[3:] == [f"Functions: {', '.join(question.offered)}"]
    assert examples_of(question.row()["visible"]) == question.visible
