"""What the decisions of a rollout were worth, against numbers by hand and against all ways to go wrong."""

import itertools
import random

import pytest

from appo.environments.multihop import TASK
from appo.environments.multihop.demonstrations import demonstrate, draw_flaw, make_demonstrations
from appo.environments.multihop.environment import MultihopEnvironment
from appo.environments.multihop.forms import CHAT, WORDS
from appo.environments.multihop.judge import chance, same
from appo.environments.multihop.questions import Question, draw_questions, read_chain
from appo.environments.multihop.task import decision_positions, exact_answer, judge
from appo.environments.multihop.world import PROPERTIES
from appo.rollout.decisions import Decision
from appo.tools.results import ToolError

ROW = {"chain": "BIF > country > Burundi > southernmost > Tanzania", "answer": "Tanzania"}
RIGHT = (
    "<think> ok </think> <search> country BIF </search> <result> Page 1: country BIF BIF Burundi </result> "
    "<think> so </think> <search> southernmost Burundi </search> <result> Page 1: x Burundi Tanzania </result> "
    "<think> so </think> <answer> Tanzania </answer> <eos>"
)
S = 0.9


def judged(text, row=ROW, spare=0, skill=S):
    return judge(WORDS, spare, row, text.split(), skill)


def advantages(text, **more):
    return [round(one.advantage, 9) for one in judged(text, **more)]


def rises(last, first):
    """What right decisions add, with `first` to `last` + 1 of them to go."""
    return [round(S ** (left - 1) - S**left, 9) for left in range(first, last, -1)]


def test_a_right_rollout_rises_by_one_power_a_decision():
    # Two hops: 3 + 3 + 2 decisions.
    assert chance(2, 2, S) == S**8
    assert advantages(RIGHT) == rises(0, 8)
    assert all(one.right for one in judged(RIGHT))
    assert sum(advantages(RIGHT)) == pytest.approx(1 - S**8)


def test_positions_are_those_of_the_words_that_decide():
    words = RIGHT.split()
    places = decision_positions(WORDS, words)
    named = ["<search>", "country", "BIF", "<search>", "southernmost", "Burundi", "<answer>", "Tanzania"]
    assert [words[place] for place in places] == named
    assert [one.position for one in judged(RIGHT)] == places


def test_an_early_answer_loses_everything_and_what_follows_nothing():
    text = "<search> country BIF </search> <answer> Burundi </answer> <answer> Tanzania </answer>"
    early = judged(text)
    assert [round(one.advantage, 9) for one in early] == [*rises(5, 8), round(-(S**5), 9), 0, 0, 0]
    assert [one.right for one in early] == [True, True, True, False, True, True, True]


def test_an_early_answer_that_happens_to_be_right_gains_by_its_word():
    assert advantages("<answer> Tanzania </answer>") == [round(-(S**8), 9), 1.0]


@pytest.mark.parametrize(
    ("query", "blamed"), [("capital Kenya", 1), ("region Burundi", 1), ("country Kenya", 2), ("country KES", 2)]
)
def test_a_wrong_query_is_blamed_on_its_first_word_that_is_not_due(query, blamed):
    found = judged(f"<search> {query} </search>")
    assert [one.right for one in found] == [place != blamed for place in range(3)]
    lost = S ** (8 - blamed)
    assert found[blamed].advantage == pytest.approx(-lost) and sum(one.advantage for one in found[blamed + 1 :]) == 0


def test_a_query_in_other_words_that_finds_the_page_is_right():
    # BIF stands on one page as a country's currency and on one as its own.
    assert advantages("<search> BIF country </search>") == rises(5, 8)


def test_another_property_that_leads_to_the_same_entity_is_right():
    row = {"chain": "Kenya > largest > Ethiopia > capital > Addis_Ababa", "answer": "Addis_Ababa"}
    assert advantages("<search> populous Kenya </search>", row=row) == rises(5, 8)  # Ethiopia is that, too


def test_a_wrong_entity_that_leads_back_to_the_chain_gains_what_was_lost():
    row = {"chain": "Kenya > smallest > Uganda > largest > Democratic_Republic_of_the_Congo", "answer": "x"}
    row["chain"] = "Kenya > capital > Nairobi > country > Kenya"
    lost = judged("<search> smallest Burundi </search> <search> country Nairobi </search>", row=row)
    values = [S**8, S**7, 0, 0, 0, 0, S**2]
    assert [one.advantage for one in lost] == pytest.approx([b - a for a, b in itertools.pairwise(values)])


def test_a_search_that_is_not_needed_loses_nothing():
    text = RIGHT.replace("<answer>", "<search> capital Kenya </search> <answer>")
    assert advantages(text)[6:9] == [0, 0, 0]
    assert advantages(text)[9:] == rises(0, 2)


def test_a_spare_search_only_takes_back_what_its_own_turn_had_gained():
    text = "<search> capital Kenya </search> <search> country BIF </search>"
    first, second = advantages(text, spare=1)[:3], advantages(text, spare=1)[3:]
    assert sum(first) == pytest.approx(0) and first[2] == 0
    assert second == rises(5, 8)
    assert judged(text, spare=1)[1].right is False
    assert sum(advantages(text)) == pytest.approx(-(S**8))


def test_a_query_that_is_not_made_costs_no_search():
    text = "<search> </search> <search> country BIF </search>"
    assert advantages(text)[1:] == rises(5, 8)
    assert advantages(text)[0] == 0


def test_a_wrong_word_at_the_end_loses_everything():
    text = RIGHT.replace("<answer> Tanzania", "<answer> Kenya")
    assert advantages(text)[-1] == round(-S, 9) and judged(text)[-1].right is False
    assert same(" Tanzania. ", "tanzania") and not same("Tanzania Kenya", "Tanzania")


def literal(question, queries):
    """A rollout that asks given queries and answers with the last word of the last page."""
    environment = MultihopEnvironment(WORDS.corpus())
    environment.reset(len(question.names))
    text, found = "", question.entities[0]
    for query in queries:
        result = environment.search(query)
        found = result.split()[-1]
        text += f"<search> {query} </search> <result> {result} </result> "
    return f"{text}<answer> {found} </answer>"


def test_advantages_add_up_to_the_reward_for_all_first_queries_about_some_entities():
    question = read_chain(ROW["chain"])
    entities = ["BIF", "Burundi", "Tanzania", "Rwanda", "KES"]
    queries = [f"{name} {entity}" for name, entity in itertools.product(PROPERTIES, entities)]
    outcomes = set()
    for first, second in itertools.product(queries, queries[::3]):
        text = literal(question, [first, second])
        (reward,) = exact_answer([text], [ROW["answer"]])
        outcomes.add(reward)
        assert S**8 + sum(one.advantage for one in judged(text)) == pytest.approx(reward)
    assert outcomes == {0.0, 1.0}


@pytest.mark.parametrize("form", [WORDS, CHAT])
def test_advantages_of_demonstrations_add_up_to_their_rewards(form):
    rng = random.Random(0)
    for question in itertools.islice(draw_questions(form.corpus().world, (1, 5), 0, "training"), 120):
        flaw, hop = draw_flaw(form.corpus(), question, 0.3, rng)
        segments, answer = demonstrate(form, question, flaw, hop, rng)
        if flaw and answer == question.answer:
            continue
        text = "".join(segment.text for segment in segments)
        words = text.split() if form is WORDS else byte_level(text)
        found = judge(form, 0, {"chain": question.chain()}, words, S)
        (reward,) = exact_answer([text], [question.answer])
        assert chance(len(question.names), len(question.names), S) + sum(one.advantage for one in found) == (
            pytest.approx(reward)
        )
        assert [one.position for one in found] == decision_positions(form, words)
        assert all(one.right for one in found) == (not flaw)


def byte_level(text):
    """Tokens of one character, as a byte-level tokenizer names them."""
    return list(text.replace(" ", "Ġ").replace("\n", "Ċ"))


def test_positions_in_english_are_where_words_begin():
    text = "<search>most populous neighbour of Papua New Guinea</search><answer>Indonesia</answer>"
    words = byte_level(text)
    places = decision_positions(CHAT, words)
    assert [text[place:][:6] for place in places] == ["search", "most p", "Papua ", "answer", "Indone"]


def test_chances_are_those_of_a_policy_that_decides_well_with_the_skill():
    """Drawn rollouts of one hop: 0.8 ** 5 of them succeed, up to the wrong ones that happen to be right."""
    rng = random.Random(0)
    world = WORDS.corpus().world
    question = Question(("capital",), ("Kenya", "Nairobi"))
    successes = 0
    for _ in range(2000):
        rights = [rng.random() < 0.8 for _ in range(5)]
        name = "capital" if rights[1] else rng.choice([one for one in PROPERTIES if one != "capital"])
        entity = "Kenya" if rights[2] else rng.choice([one for one in world.kinds if one != "Kenya"])
        if rights[0] and rights[3]:
            text = literal(question, [f"{name} {entity}"])
            text = text if rights[4] else text.rsplit("<answer>", 1)[0] + "<answer> Accra </answer>"
            successes += exact_answer([text], ["Nairobi"])[0]
    assert successes / 2000 == pytest.approx(chance(1, 1, 0.8), abs=0.03)  # 0.328, with a standard error of 0.0105


def test_the_task_judges_as_its_arguments_say():
    task = TASK(hops=[2, 2], spare=1)
    words = RIGHT.split()
    assert task.judge(ROW, words, S) == judge(WORDS, 1, ROW, words, S)
    assert all(isinstance(one, Decision) for one in task.judge(ROW, words, S))
    assert task.decision_positions(words) == decision_positions(WORDS, words)
    assert task.token_kinds(["well", "<search>", "Kenya", "<eos>"]) == ["filler", "format", "name", "format"]
    assert TASK(form="chat").token_kinds is None


def test_flaws_show_as_wrong_decisions():
    shown = make_demonstrations(WORDS, (3, 3), 1.0, 20, 0)
    asked = draw_questions(WORDS.corpus().world, (3, 3), 0, "demonstrations")
    for one, question in zip(shown, asked, strict=False):
        words = "".join(segment.text for segment in one.segments).split()
        assert not all(found.right for found in judge(WORDS, 0, {"chain": question.chain()}, words, S))


def test_a_search_beyond_the_limit_is_refused_and_changes_nothing():
    environment = MultihopEnvironment(WORDS.corpus())
    environment.reset(1)
    environment.search("country BIF")
    with pytest.raises(ToolError):
        environment.search("country BIF")
    row = {"chain": "BIF > country > Burundi"}
    found = judged("<search> capital KES </search> <search> country BIF </search>", row=row)
    assert [one.advantage for one in found[3:]] == [0, 0, 0]


def test_an_answer_without_a_space_is_read_in_english():
    words = ["<", "answer", ">", "O", "man", "</", "answer", ">", "<|im_end|>"]
    assert decision_positions(CHAT, words) == [1, 3]
    row = {"chain": "OMR > country > Oman"}
    assert [one.advantage for one in judge(CHAT, 0, row, words, S)] == [-(S**5), 1.0]
