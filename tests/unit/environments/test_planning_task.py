"""The planning task: questions, demonstrations, episodes, both forms."""

import random

import pytest

from appo.cli.loading import TASKS
from appo.environments.planning import TASK
from appo.environments.planning.forms import FORMS, as_list, make_tiny
from appo.environments.planning.search import Values, distances, skilled
from appo.environments.planning.texts import read
from appo.errors import UserError
from appo.tools.results import ToolError

LONG = (8, 12)


def text_of(demonstration):
    return "".join(segment.text for segment in demonstration.segments)


def episode(task, row):
    environment = task.environment_factory()
    environment.reset(**row)
    return environment


@pytest.mark.parametrize("moves", [(2, 5), LONG])
def test_a_question_has_the_optimum_that_it_names_and_a_budget_of_two_more(moves):
    rows = TASK(moves=moves).dataset(120, 0)
    for row in rows:
        told, state = read(row["start"])
        assert distances(told.problem)[state] == row["optimum"]
        assert moves[0] <= row["optimum"] <= moves[1]
        assert row["budget"] == row["optimum"] + 2
    assert set(rows["world"]) == {"blocks", "gripper", "ferry"}
    assert rows.to_list()[:20] == TASK(moves=moves).dataset(20, 0).to_list()


@pytest.mark.parametrize("form", ["words", "chat"])
def test_demonstrations_training_and_evaluation_share_no_prompt(form):
    task = TASK(moves=[2, 4], form=form)  # short ways, of which there are few; in English several states read alike
    shown = {str(demonstration.prompt) for demonstration in task.demonstrations(1500, 0)}
    trained, asked = (
        {str(prompt) for prompt in rows["prompt"]} for rows in (task.dataset(1500, 0), task.questions(1500, 0))
    )
    assert shown.isdisjoint(trained | asked) and trained.isdisjoint(asked)


def test_two_long_datasets_share_few_questions():
    task = TASK(moves=LONG)
    first, second = (set(task.dataset(300, seed)["prompt"]) for seed in (0, 1))
    assert len(first & second) <= 20


def replayed(task, demonstration):
    """Whether a demonstration, made again move by move, reads the results that it holds and reaches the goal."""
    told, state = read(demonstration.prompt)
    environment = episode(task, {"start": demonstration.prompt, "budget": distances(told.problem)[state] + 2})
    for call, result in zip(demonstration.segments[:-1:2], demonstration.segments[1:-1:2], strict=True):
        assert result.text == f" <result> {environment.act(call.text.split()[1])} </result> "
        assert (call.trained, result.trained) == (True, False)
    return environment.get_reward()


def test_demonstrations_without_noise_fail_only_where_they_stop_too_early():
    task = TASK(noise=0.0)
    outcomes = []
    for demonstration in task.demonstrations(300, 0):
        stopped = "goal reached" not in text_of(demonstration)
        assert replayed(task, demonstration) == float(not stopped)
        outcomes.append(stopped)
    assert 5 <= sum(outcomes) <= 45  # 2 % of about 4 decisions: 24 of 300


def test_demonstrations_with_noise_fail_exactly_where_too_many_moves_were_wrong():
    task = TASK(noise=0.3, moves=(4, 8))
    seen = set()
    for demonstration in task.demonstrations(200, 1):
        told, state = read(demonstration.prompt)
        row = {"start": demonstration.prompt, "budget": distances(told.problem)[state] + 2}
        text = text_of(demonstration)
        succeeded = replayed(task, demonstration)
        assert succeeded == float("goal reached" in text)
        lost = [one for one in task.judge(row, text.split(), 0.9) if not one.right]
        seen.add((succeeded, bool(lost)))
        if not lost:
            assert succeeded
    # Two moves of slack forgive a wrong one.
    assert seen == {(1.0, False), (1.0, True), (0.0, True)}


def test_the_chance_at_the_start_and_all_advantages_sum_to_the_reward():
    task = TASK(noise=0.4, moves=(3, 6))
    rewards = []
    for demonstration in task.demonstrations(100, 3):
        told, state = read(demonstration.prompt)
        row = {"start": demonstration.prompt, "budget": distances(told.problem)[state] + 2}
        judged = task.judge(row, text_of(demonstration).split(), 0.7)
        chance = Values(told.problem, skilled(told.problem, 0.7)).v(state, row["budget"])
        rewards.append(replayed(task, demonstration))
        assert chance + sum(one.advantage for one in judged) == pytest.approx(rewards[-1], abs=1e-9)
    assert 10 < sum(rewards) < 90


def test_an_episode_ends_at_the_goal():
    environment = episode(TASK(), {"start": "ferry north aboard south A", "budget": 4})
    assert environment.act("south") == "ferry south aboard here A"
    assert environment.get_reward() == 0.0
    assert environment.act("A") == "goal reached"
    assert environment.get_reward() == 1.0
    with pytest.raises(ToolError, match=r"^goal reached$"):
        environment.act("north")
    assert environment.get_reward() == 1.0


def test_an_episode_ends_with_its_last_move():
    environment = episode(TASK(), {"start": "ferry north aboard south A", "budget": 1})
    assert environment.act("south") == "no moves left"
    with pytest.raises(ToolError, match=r"^no moves left$"):
        environment.act("A")
    assert environment.get_reward() == 0.0


@pytest.mark.parametrize(
    ("start", "move", "reason"),
    [
        ("ferry north here south A", "north", "already at north"),
        ("ferry north south here A", "A", "A is elsewhere"),
        ("ferry north here south A", "B", "name one thing or place"),
        ("ferry north here south A", "A A", "name one thing or place"),
        ("ferry north here south A", "", "name one thing or place"),
        ("ferry north here south A aboard south B", "A", "no room for A"),
        ("hand empty table B A table ok B", "table", "the table stays"),
        ("hand A hand table A", "A", "A is held"),
        ("hand empty A table B under table ok A", "A", "A is covered"),
    ],
)
def test_an_impossible_move_is_told_why_and_costs_a_move(start, move, reason):
    environment = episode(TASK(), {"start": start, "budget": 2})
    state = environment.state
    told = environment.named.text(state)
    with pytest.raises(ToolError, match=rf"^{reason} {told}$"):
        environment.act(move)
    assert environment.state == state
    with pytest.raises(ToolError, match=rf"^{reason} no moves left$"):
        environment.act(move)


def test_a_fork_goes_its_own_way():
    environment = episode(TASK(), {"start": "ferry north aboard south A", "budget": 3})
    fork = environment.fork()
    fork.act("south")
    fork.act("A")
    assert (fork.get_reward(), environment.get_reward()) == (1.0, 0.0)
    assert environment.act("south") == "ferry south aboard here A"
    assert (environment.left, fork.left) == (2, 1)


def told_by(environment, move):
    """What the policy reads after a move."""
    try:
        return environment.act(move)
    except ToolError as error:
        return f"error: {error}"


@pytest.mark.parametrize("moves", [(2, 5), LONG])
def test_the_tokenizer_knows_every_word(moves):
    _, tokenizer = make_tiny()
    task = TASK(moves=moves, noise=0.3)
    for demonstration in task.demonstrations(200, 2):
        for text in (demonstration.prompt, text_of(demonstration)):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    # What an impossible move is told, too.
    rng = random.Random(0)
    for row in task.dataset(60, 0):
        environment = episode(task, row)
        for _ in range(row["budget"]):
            told = told_by(environment, rng.choice([*environment.named.names, "x"]))
            assert tokenizer.unk_token_id not in tokenizer(told)["input_ids"]


def test_the_chat_says_the_same_as_people_write_it():
    assert as_list("ferry north here ok A aboard south B") == "ferry north, A ok, B aboard to south"
    assert as_list("hand empty B table A under table ok B") == "hand empty, A B to table, under B ok"
    task = TASK(form="chat", moves=(2, 4))
    row = task.dataset(1, 0)[0]
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert row["prompt"][1]["content"] == as_list(row["start"])
    assert len(row["prompt"][0]["content"].split()) <= 60
    environment = episode(task, row)
    told = told_by(environment, environment.named.names[0])
    assert told.endswith(as_list(environment.named.text(environment.state)))
    assert environment.fork()._form is FORMS["chat"]


def test_a_demonstration_of_the_chat_is_one_text_in_tags():
    demonstration = next(iter(TASK(form="chat", noise=0.0, worlds=["ferry"], moves=(3, 3)).demonstrations(1, 0)))
    lines = text_of(demonstration).split("\n")
    assert len(lines) == 7
    assert lines[0].startswith("<act>") and lines[1].startswith("<result>ferry ")
    assert lines[-2:] == ["<result>goal reached</result>", "<answer>done</answer>"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"worlds": ["chess"]}, r"worlds = \['chess'\] must be a list of blocks, gripper, ferry"),
        ({"worlds": "ferry"}, "worlds = 'ferry' must be a list"),
        ({"moves": [5, 2]}, r"moves = \[5, 2\] must be the least and most optimal moves, from 1 to 12"),
        ({"moves": [2, 40]}, "from 1 to 12"),
        ({"moves": [2]}, r"moves = \[2\] must be two whole numbers"),
        ({"moves": [3, 3]}, r"moves = \[3, 3\]: blocks has questions of 2, 4, 6, 8, 10, 12 moves; widen the range"),
        ({"moves": [1, 2]}, "gripper has questions of 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 moves"),
        ({"moves": [5, 5], "worlds": ["ferry"]}, "ferry has questions of 3, 4, 6, 7, 8, 9, 10, 11, 12 moves"),
        ({"noise": 1.5}, "noise = 1.5 must be a chance, 0 to 1"),
        ({"slack": -1}, "slack = -1 must be a whole number"),
        ({"moves": 5}, "moves = 5 must be two whole numbers"),
        ({"moves": None}, "moves = None must be two whole numbers"),
        ({"worlds": 3}, "worlds = 3 must be a list of blocks, gripper, ferry"),
        ({"worlds": [["blocks"]]}, "must be a list of blocks, gripper, ferry"),
        ({"form": ["words"]}, "must be one of words, chat"),
        ({"form": "poem"}, "form = 'poem' must be one of words, chat"),
    ],
)
def test_task_args_that_make_no_task_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        TASK(**arguments)


def test_recipes_find_the_task_by_its_name():
    assert TASKS["planning"] == "appo.environments.planning"
    assert set(FORMS) == {"words", "chat"}


def test_each_form_reads_its_own_tokens():
    row = {"start": "ferry north here south A", "budget": 5}
    pieces = ["<", "act", ">", "A", "</", "act", ">"]
    for form, words, place in (("words", ["<act>", "A", "</act>"], 1), ("chat", pieces, 3)):
        task = TASK(form=form)
        assert task.decision_positions(words) == [place] == [one.position for one in task.judge(row, words, 0.8)]
