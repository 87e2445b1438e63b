"""Multi-hop questions: what there is to know, pages and their search, questions, episodes, demonstrations, forms."""

import itertools
import random
from collections import Counter

import pytest

from appo.cli.loading import load_task
from appo.cli.recipe import RecipeError, RunConfig
from appo.environments.multihop import TASK
from appo.environments.multihop.corpus import chat_corpus, words_corpus
from appo.environments.multihop.demonstrations import (
    EARLY,
    FROM_MEMORY,
    SAME_ENTITY,
    WRONG_PROPERTY,
    demonstrate,
    draw_flaw,
    make_demonstrations,
)
from appo.environments.multihop.environment import MultihopEnvironment
from appo.environments.multihop.forms import CHAT, FORMS, WORDS, in_english, make_tokenizer
from appo.environments.multihop.questions import LONGEST, Question, draw, draw_questions, read_chain
from appo.environments.multihop.task import exact_answer, first_answer, make_dataset
from appo.environments.multihop.world import NEIGHBOURS, Fact, clean, load_world
from appo.tools.results import ToolError
from appo.tools.search.bm25 import Limits, LocalSearch
from appo.tools.search.words import words

BURUNDI = Question(("country", "southernmost", "smallest"), ("BIF", "Burundi", "Tanzania", "Rwanda"))


@pytest.fixture(params=["words", "chat"])
def form(request):
    return FORMS[request.param]


def questions(form, count, hops=(1, 4), use="training"):
    return list(itertools.islice(draw_questions(form.corpus().world, hops, 0, use), count))


# ---- what there is to know ----


def test_the_facts_are_those_of_the_package():
    world = load_world()
    assert world.value("Kenya", "capital") == "Nairobi" and world.value("Nairobi", "country") == "Kenya"
    assert world.value("Albania", "language") == "Albanian" and world.value("Albanian", "country") == "Albania"
    assert world.value("Burundi", "currency") == "BIF" and world.value("BIF", "country") == "Burundi"
    assert world.value("Germany", "region") == "Western Europe"
    # Of its nine neighbours, by latitude of their centres and by their areas.
    assert world.value("Germany", "northernmost") == "Denmark" and world.value("Germany", "smallest") == "Luxembourg"


def test_what_is_ambiguous_is_left_out():
    world = load_world()
    assert "Burma" not in world.kinds and "Myanmar" not in world.kinds  # two entries of one code
    assert world.value("Kuwait", "capital") is None  # Kuwait City, which the question would tell
    assert world.value("Jamaica", "capital") is None  # Kingston, as that of Norfolk Island
    assert world.value("EUR", "country") is None  # of many countries
    assert world.value("Belgium", "language") is None  # it has three
    assert world.value("Portugal", "largest") is None  # it has one neighbour
    assert world.value("India", "largest") is None  # Afghanistan says it borders on India; India does not
    assert world.kinds["Yaounde"] == "capital"  # without accents


def test_entries_with_gaps_are_left_out():
    good = {"name": "Aland", "capital": "B", "ISO": {"alpha3": "AAA"}, "region": "R", "latlng": [1, 2], "area": 3}
    good |= {"currencies": ["X"], "languages": ["en"], "population": 1}
    other = {**good, "ISO": {"alpha3": "BBB"}, "name": "Vatican (City)"}
    assert list(clean([good, {**good, "ISO": {"alpha3": "CCC"}, "currencies": []}, other])) == ["AAA"]
    assert clean([good, good]) == {}


def test_no_name_stands_for_two_things():
    for world in (load_world(), words_corpus().world):
        assert len({name.casefold() for name in world.kinds}) == len(world.kinds) > 150
        assert all(value in world.kinds and entity in world.kinds for (entity, _), value in world.facts.items())


def test_the_words_are_few_and_their_countries_border_on_each_other():
    world = words_corpus().world
    counts = Counter(name for _, name in world.facts)
    assert Counter(world.kinds.values())["country"] == 60
    assert all(counts[name] > 40 for name in NEIGHBOURS)
    assert len(make_tokenizer()) < 300


# ---- pages and their search ----


def test_gold_pages_are_in_the_top_three_for_nearly_all_facts():
    for corpus, world in ((words_corpus(), words_corpus().world), (chat_corpus(), load_world())):
        three = LocalSearch(list(corpus.stated), limits=Limits(top_k=3))
        facts = [fact for entity in world.kinds for fact in world.about(entity)]
        found = [
            any(fact in corpus.stated[page] for page in three.find(corpus.query(fact.name, fact.entity)))
            for fact in facts
        ]
        assert len(facts) > 700
        assert sum(found) / len(found) >= 0.95


def test_every_fact_that_is_asked_for_is_found_first(form):
    corpus = form.corpus()
    for (entity, name), value in corpus.world.facts.items():
        facts = {(fact.entity, fact.name): fact.value for fact in corpus.found(corpus.query(name, entity))}
        assert facts[entity, name] == value


def test_pages_are_short():
    for corpus in (words_corpus(), chat_corpus()):
        assert max(len(f"{page.title} {page.text}".split()) for page in corpus.stated) <= 60


def test_a_query_that_makes_no_sense_finds_a_page_or_nothing():
    corpus = words_corpus()
    assert corpus.found("capital Nairobi") == [Fact("Kenya", "capital", "Nairobi")]
    assert corpus.found("<think> </think>") == [] and "No search results" in corpus.search.search("well ok")


# ---- questions ----


def test_every_question_is_answered_by_its_gold_queries(form):
    corpus = form.corpus()
    for question in questions(form, 200):
        for name, entity, value in zip(question.names, question.entities, question.entities[1:], strict=False):
            found = {(fact.entity, fact.name): fact.value for fact in corpus.found(corpus.query(name, entity))}
            assert found[entity, name] == value


def test_no_property_and_no_entity_comes_twice_and_the_answer_is_not_told(form):
    for question in questions(form, 300):
        assert len(set(question.names)) == len(question.names)
        assert len(set(question.entities)) == len(question.entities) == len(question.names) + 1
        told = set(words(" ".join([question.entities[0], *question.names]).replace("_", " ")))
        assert not told & set(words(question.answer.replace("_", " ")))


def test_an_answer_is_that_of_three_entities_at_most(form):
    world = form.corpus().world
    for question in questions(form, 300):
        owners = [
            key for key, value in world.facts.items() if key[1] == question.names[-1] and value == question.answer
        ]
        assert 1 <= len(owners) <= 3


def test_hops_are_drawn_evenly_up_to_the_longest():
    counts = Counter(len(question.names) for question in questions(WORDS, 300, (1, 3)))
    assert all(70 < counts[hops] < 130 for hops in (1, 2, 3)) and set(counts) == {1, 2, 3}
    assert len(questions(WORDS, 1, (LONGEST, LONGEST))[0].names) == 10


def test_a_walk_that_comes_to_an_end_is_no_question():
    world = words_corpus().world
    tries = [draw(random.Random(seed), world, 8) for seed in range(100)]
    assert None in tries and any(tries)


def test_demonstrations_training_and_evaluation_share_no_question(form):
    found = {
        use: {str(question) for question in questions(form, 400, (1, 2), use)}
        for use in ("demonstrations", "training", "evaluation")
    }
    for one, other in itertools.combinations(found.values(), 2):
        assert len(one) > 150 and not one & other
    asked, others = (
        {frozenset(question.entities[-2:]) for use in uses for question in questions(form, 400, (1, 4), use)}
        for uses in (("evaluation",), ("training", "demonstrations"))
    )
    assert not asked & others  # no answer of an evaluation can be known from training
    rows = TASK(hops=[1, 2]).questions(100, 5)
    assert {read_chain(chain).use for chain in rows["chain"]} == {"evaluation"}


def test_a_dataset_tells_the_hops_and_the_chain(form):
    rows = make_dataset(form, (2, 2), "training", 20, 3)
    assert rows.column_names == ["prompt", "answer", "hops", "chain"]
    for row in rows:
        question = read_chain(row["chain"])
        assert question.chain() == row["chain"]
        assert (question.answer, len(question.names)) == (row["answer"], 2) == (row["answer"], row["hops"])
        assert form.prompt(question) == row["prompt"]
    assert make_dataset(form, (2, 2), "training", 20, 3)["chain"] == rows["chain"]
    assert make_dataset(form, (2, 2), "training", 20, 4)["chain"] != rows["chain"]


def test_both_forms_ask_the_same():
    assert WORDS.prompt(BURUNDI) == "start country southernmost smallest BIF"
    english = "What is the smallest neighbour of the southernmost neighbour of the country of BIF?"
    assert in_english(BURUNDI) == english
    system, user = CHAT.prompt(BURUNDI)
    assert user == {"role": "user", "content": english} and len(system["content"].split()) <= 60


# ---- episodes ----


def test_an_episode_allows_one_search_a_hop_and_its_fork_has_its_own():
    environment = MultihopEnvironment(words_corpus())
    environment.reset(hops=2, answer="x")
    assert environment.search("capital Kenya") == "Page 1: capital Kenya\nKenya Nairobi"
    copy = environment.fork()
    assert environment.search("country Nairobi").endswith("Kenya")
    with pytest.raises(ToolError, match="no searches are left"):
        environment.search("country Nairobi")
    assert copy.search("country Nairobi").endswith("Kenya")
    with pytest.raises(ToolError):
        copy.search("country Nairobi")


def test_a_spare_search_is_one_more():
    environment = MultihopEnvironment(words_corpus(), spare=1)
    environment.reset(hops=1)
    assert [environment.search("capital Kenya")[-7:] for _ in range(2)] == ["Nairobi", "Nairobi"]
    with pytest.raises(ToolError):
        environment.search("capital Kenya")


@pytest.mark.parametrize(("query", "reason"), [(" ", "empty"), ("Kenya " * 17, "too long")])
def test_a_bad_query_is_told_in_known_words_and_costs_no_search(query, reason):
    environment = MultihopEnvironment(words_corpus())
    environment.reset(hops=1)
    with pytest.raises(ToolError, match=reason) as error:
        environment.search(query)
    tokenizer = make_tokenizer()
    assert tokenizer.unk_token_id not in tokenizer(f"error: {error.value}")["input_ids"]
    assert environment.search("capital Kenya").endswith("Nairobi")


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<answer> Western_Sahara </answer>", 1.0),
        ("<answer>western_sahara.</answer>", 1.0),
        ("<answer> Kenya </answer> <answer> Western_Sahara </answer>", 0.0),
        ("<answer> Western_Sahara", 0.0),
        ("Western_Sahara", 0.0),
        ("", 0.0),
    ],
)
def test_the_first_closed_answer_is_compared(text, reward):
    assert exact_answer([text], ["Western_Sahara"]) == [reward]
    assert exact_answer([[{"role": "assistant", "content": text}]], ["Western_Sahara"]) == [reward]


# ---- demonstrations ----


def rollout(segments):
    return "".join(segment.text for segment in segments)


def test_demonstrations_succeed_exactly_where_nothing_went_wrong(form):
    rng = random.Random(1)
    seen = Counter()
    for question in questions(form, 150, (1, 4), "demonstrations"):
        flaw, hop = draw_flaw(len(question.names), 0.4, rng)
        segments, answer = demonstrate(form, question, flaw, hop, rng)
        seen[flaw] += 1
        if not flaw:
            assert exact_answer([rollout(segments)], [question.answer]) == [1.0]
        assert first_answer(rollout(segments)) == answer
    assert set(seen) == {"", EARLY, SAME_ENTITY, WRONG_PROPERTY, FROM_MEMORY}


def answered(prompt):
    """The right answer, from the facts alone."""
    _, *names, entity = prompt.split()
    for name in names:
        entity = words_corpus().world.value(entity, name)
    return entity


def test_the_share_of_failed_demonstrations_is_that_of_the_flaws():
    shown = make_demonstrations(WORDS, (2, 2), 0.3, 400, 0)
    right = [first_answer(rollout(one.segments)) == answered(one.prompt) for one in shown]
    assert abs(sum(right) / 400 - 0.7**2) < 0.07  # two searches, each of them without a flaw


def test_each_flaw_is_what_its_name_says():
    shown = {
        flaw: rollout(demonstrate(WORDS, BURUNDI, flaw, hop, random.Random(0))[0])
        for flaw, hop in ((EARLY, 2), (SAME_ENTITY, 1), (FROM_MEMORY, 0), ("", 0))
    }
    asked = {
        flaw: [part.split(" </search>")[0] for part in text.split("<search> ")[1:]] for flaw, text in shown.items()
    }
    gold = ["country BIF", "southernmost Burundi", "smallest Tanzania"]
    assert asked[""] == gold and first_answer(shown[""]) == "Rwanda"
    assert asked[EARLY] == gold[:2] and first_answer(shown[EARLY]) == "Tanzania"
    assert asked[SAME_ENTITY][:2] == ["country BIF", "southernmost BIF"] and len(asked[SAME_ENTITY]) == 3
    assert asked[FROM_MEMORY] == [] and words_corpus().world.kinds[first_answer(shown[FROM_MEMORY])] == "country"


def test_a_wrong_property_is_one_that_the_entity_has():
    text = rollout(demonstrate(WORDS, BURUNDI, WRONG_PROPERTY, 1, random.Random(0))[0])
    name, entity = text.split("<search> ")[2].split(" </search>")[0].split()
    assert entity == "Burundi" and name != "southernmost"
    assert words_corpus().world.value("Burundi", name) not in (None, "Tanzania")


def test_the_tokenizer_knows_all_that_is_written_in_words():
    tokenizer = make_tokenizer()
    shown = make_demonstrations(WORDS, (1, 6), 0.4, 200, 0)
    for one in shown:
        ids = tokenizer(one.prompt + rollout(one.segments))["input_ids"]
        assert tokenizer.unk_token_id not in ids and len(ids) < 256


def test_a_rollout_in_words_is_short():
    tokenizer = make_tokenizer()
    shown = make_demonstrations(WORDS, (1, 3), 0, 100, 0)
    lengths = [len(tokenizer(rollout(one.segments))["input_ids"]) for one in shown]
    # 3 hops of at most 5 (thought), 4 (query) and 8 (result) tokens, and at most 8 for the answer.
    assert 50 < max(lengths) <= 3 * 17 + 8


# ---- the task ----


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"form": "speech"}, "form must be one of words, chat"),
        ({"hops": [0, 2]}, "hops must be"),
        ({"hops": [3, 2]}, "hops must be"),
        ({"hops": [1, 11]}, "hops must be"),
        ({"hops": 2}, "hops must be"),
        ({"noise": 1.5}, "noise must lie"),
        ({"spare": -1}, "spare must be"),
    ],
)
def test_a_bad_argument_is_told(args, message):
    with pytest.raises(RecipeError, match=message):
        load_task(RunConfig(task="multihop", task_args=args))


def test_the_task_has_one_tool_and_a_tiny_model():
    task = load_task(RunConfig(task="multihop", task_args={"hops": [2, 2]}))
    model, tokenizer = task.make_model()
    assert model.num_parameters() < 300_000 and model.get_input_embeddings().num_embeddings == len(tokenizer)
    environment = task.environment_factory()
    environment.reset(**task.dataset(1, 0)[0])
    assert environment.search("capital Kenya").endswith("Nairobi")
