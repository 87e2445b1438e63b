"""The testbed: tokenizer, tables, weak answers, forks, demonstrations, decisions, rewards, model."""

import random
import re

import pytest
import torch

from appo.cli.loading import load_task
from appo.cli.recipe import RecipeError, RunConfig
from appo.environments import kinship
from appo.environments.kinship import (
    ENTITIES,
    RELATIONS,
    TAGS,
    TASK,
    KinshipEnvironment,
    decision_positions,
    exact_answer,
    final_answer,
    is_weak,
    leading_answer,
    look_up,
    make_demonstrations,
    make_tokenizer,
)
from appo.errors import UserError
from appo.protocols.calls import PlainText
from appo.tools import ToolError

CLEAN = (
    "<think> well plan start mother so </think> <search> mother e12 </search> <result> weak e9 </result> "
    "<think> plan mother retry </think> <search> mother e12 </search> <result> e17 </result> "
    "<think> hmm plan mother done ok </think> <answer> e17 </answer>"
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def find_query(weak):
    """An episode and a query whose first answer is weak and wrong, or right at once."""
    for seed in range(1000):
        environment = KinshipEnvironment()
        environment.reset(seed)
        first = environment.search("boss e3")
        if is_weak(seed, "boss", "e3") == weak and (not weak or first.split()[1] != look_up(seed, "boss", "e3")):
            return seed
    raise AssertionError


def test_text_survives_encoding_and_decoding(tokenizer):
    ids = tokenizer(CLEAN)["input_ids"]
    assert tokenizer.decode([*ids, tokenizer.eos_token_id]) == f"{CLEAN} <eos>"
    # This is what a reward function is given, so the tags have to be in it.
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == CLEAN
    assert len(ids) == len(CLEAN.split())
    assert tokenizer.unk_token_id not in ids


def test_every_word_has_an_id_of_its_own_inside_the_embedding(tokenizer):
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    words = [*RELATIONS, *ENTITIES, *kinship.FILLERS, *kinship.PLANNING, *kinship.TOOL_WORDS, *TAGS]
    ids = tokenizer.convert_tokens_to_ids([*words, "<eos>", "<pad>", "<unk>"])
    assert len(set(ids)) == len(words) + 3 == len(tokenizer)


def test_whitespace_does_not_matter(tokenizer):
    whole = tokenizer(" <think> plan </think> <search> boss e1 </search>")["input_ids"]
    glued = tokenizer("<think>plan</think>\n<search>boss e1</search> ")["input_ids"]
    assert whole == glued


@pytest.mark.parametrize("tag", [*TAGS, "<eos>", "<pad>"])
def test_the_text_of_a_tag_in_a_tool_result_is_no_tag(tokenizer, tag):
    tag_id = tokenizer.convert_tokens_to_ids(tag)
    assert tokenizer(f"e1 {tag} e2")["input_ids"].count(tag_id) == 1
    assert tag_id not in PlainText(tokenizer)(f"e1 {tag} e2")
    assert PlainText(tokenizer)("weak e1") == tokenizer("weak e1")["input_ids"]


def test_only_pad_eos_and_unk_are_special(tokenizer):
    assert set(tokenizer.all_special_tokens) == {"<pad>", "<eos>", "<unk>"}


def test_the_tokenizer_survives_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(CLEAN)["input_ids"] == tokenizer(CLEAN)["input_ids"]
    assert loaded.decode(loaded(CLEAN)["input_ids"], skip_special_tokens=True) == CLEAN


def test_the_table_depends_on_the_episode_alone():
    # A literal value: the table must be the same in every process and on every machine.
    assert [look_up(7, "mother", f"e{i}") for i in range(4)] == ["e8", "e22", "e7", "e14"]
    other = [look_up(8, "mother", entity) for entity in ENTITIES]
    assert [look_up(7, "mother", entity) for entity in ENTITIES] != other
    seen = {look_up(seed, "boss", "e0") for seed in range(1000)}
    assert seen == set(ENTITIES)


def test_a_quarter_of_the_queries_is_weak():
    share = sum(is_weak(seed, "boss", "e3") for seed in range(4000)) / 4000
    assert share == pytest.approx(0.25, abs=0.03)


def test_a_weak_answer_is_right_when_asked_again():
    seed = find_query(weak=True)
    environment = KinshipEnvironment()
    environment.reset(seed)
    first, second, third = (environment.search("boss e3") for _ in range(3))
    assert first.startswith("weak e")
    assert first.split()[1] != second
    assert second == third == look_up(seed, "boss", "e3")
    environment.reset(seed)
    assert environment.search("boss e3") == first


def test_a_strong_answer_is_right_at_once():
    seed = find_query(weak=False)
    environment = KinshipEnvironment()
    environment.reset(seed, prompt="boss e3", answer="e0", hops=1)
    assert environment.search(" boss  e3 ") == look_up(seed, "boss", "e3")


def test_a_fork_starts_in_the_present_state_and_goes_its_own_way():
    seed = find_query(weak=True)
    environment = KinshipEnvironment()
    environment.reset(seed)
    before = environment.fork()
    environment.search("boss e3")
    after = environment.fork()
    assert after.search("boss e3") == look_up(seed, "boss", "e3")
    assert before.search("boss e3").startswith("weak")
    untouched = environment.fork()
    environment.reset(seed + 1)
    assert untouched.search("boss e3") == look_up(seed, "boss", "e3")


@pytest.mark.parametrize("query", ["", "boss", "boss e3 e4", "e3 boss", "boss e40", "uncle e3"])
def test_a_malformed_query_is_an_error_in_words_of_the_tokenizer(tokenizer, query):
    environment = KinshipEnvironment()
    environment.reset(1)
    with pytest.raises(ToolError, match="search got") as error:
        environment.search(query)
    words = set(str(error.value).split()) - set(query.split())
    assert tokenizer.unk_token_id not in tokenizer(" ".join(sorted(words)))["input_ids"]


def test_questions_are_what_they_say():
    rows = TASK.dataset(300, 5)
    assert rows.column_names == ["prompt", "seed", "answer", "hops"]
    assert set(rows["hops"]) == {2, 3, 4}
    for row in rows:
        _, *relations, entity = row["prompt"].split()
        assert len(set(relations)) == row["hops"]
        for relation in relations:
            entity = look_up(row["seed"], relation, entity)
        assert entity == row["answer"]


def test_two_seeds_give_disjoint_episodes_and_one_seed_the_same():
    first, second = TASK.dataset(200, 0), TASK.dataset(200, 1)
    assert not set(first["seed"]) & set(second["seed"])
    assert first.to_list() == TASK.dataset(200, 0).to_list()


def rewards_of_demonstrations(noise, task=TASK):
    """Rewards of 200 demonstrations, their questions rebuilt from the same generator's episodes."""
    rng, style = random.Random(3), style_of(task)
    rewards = []
    for _ in range(200):
        question = kinship._make_question(rng, style)
        text = "".join(segment.text for segment in kinship._demonstrate(question, noise, rng, style))
        rewards += task.reward_funcs[0]([text], [question["answer"]])
    return rewards


def style_of(task):
    return task.demonstrations.keywords["style"]


def test_a_clean_demonstration_always_earns_the_reward():
    assert set(rewards_of_demonstrations(noise=0.0)) == {1.0}


def test_noise_costs_reward():
    assert 0.2 < sum(rewards_of_demonstrations(noise=0.15)) / 200 < 0.85


def test_demonstrations_have_the_form_of_rollouts(tokenizer):
    for demonstration in make_demonstrations(100, 0, noise=0.3):
        text = "".join(segment.text for segment in demonstration.segments)
        ids = tokenizer(f"{demonstration.prompt}{text}")["input_ids"]
        assert tokenizer.unk_token_id not in ids
        *calls, last = [segment.text.split() for segment in demonstration.segments if segment.trained]
        results = [segment.text.split() for segment in demonstration.segments if not segment.trained]
        assert len(calls) == len(results)
        assert all(call[-1] == "</search>" for call in calls)
        assert all((result[0], result[-1]) == ("<result>", "</result>") for result in results)
        assert last[-3::2] == ["<answer>", "</answer>"]
        found = results[-1][-2] if results else demonstration.prompt.split()[-1]
        assert last[-2] == found


def test_each_plan_names_the_relation_asked_last():
    for demonstration in make_demonstrations(100, 1, noise=0.3):
        words = "".join(segment.text for segment in demonstration.segments).split()
        asked = ["start"] + [words[i + 1] for i, word in enumerate(words) if word == "<search>"]
        planned = [words[i - 1] for i in decision_positions(words)]
        assert planned == asked
        decided = [words[i] for i in decision_positions(words)]
        assert decided[-1] == "done"
        for i, decision in enumerate(decided[:-1]):
            assert asked[i + 1] == (asked[i] if decision == "retry" else decision)


def test_decision_positions_by_hand():
    text = "<think> so plan start boss ok </think> <search> boss e1 </search> plan boss done plan boss"
    words = text.split()
    assert decision_positions(words) == [4, 13]
    assert decision_positions([]) == []


def test_rewards():
    completions = [
        "<answer> e5 </answer>",
        "<answer> e6 </answer>",
        "<answer> e6 </answer> <answer> e5 </answer>",
        "<answer> e5 </answer> <answer> e6 </answer>",
        "<answer> e5",
        "e5 </answer>",
        "<answer> e5 e5 </answer>",
        "<answer> e5 </answer> <answer> e6",
        "",
    ]
    assert exact_answer(completions, ["e5"] * 9, prompts=None) == [1, 0, 1, 0, 0, 0, 0, 1, 0]


def test_rewards_of_messages():
    messages = [
        {"role": "assistant", "content": "<search> boss e1 </search>"},
        {"role": "tool", "content": "<answer> e9 </answer>"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": "<answer> e5 </answer>"},
    ]
    assert final_answer(messages) == "e5"
    assert final_answer(messages[:2]) is None


def test_the_model_is_small_and_repeatable():
    torch.manual_seed(0)
    model, tokenizer = TASK.make_model()
    assert 150_000 <= model.num_parameters() <= 300_000
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    torch.manual_seed(0)
    again, _ = TASK.make_model()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    ids = torch.tensor([tokenizer(CLEAN)["input_ids"]])
    with torch.no_grad():
        assert model(ids).logits.shape == (1, ids.shape[1], len(tokenizer))


# ---- the study's testbeds ----

STYLES = ["LOUD", "QUIET", "LONG", "COSTLY"]


def words_of(demonstration):
    return "".join(segment.text for segment in demonstration.segments).split()


def thoughts_of(words):
    """The words of each thought, without its tags."""
    opened = [i for i, word in enumerate(words) if word == "<think>"]
    return [words[i + 1 : words.index("</think>", i)] for i in opened]


@pytest.mark.parametrize("name", STYLES)
def test_a_clean_demonstration_of_every_style_earns_the_reward(name):
    assert set(rewards_of_demonstrations(0.0, getattr(kinship, name))) == {1.0}


@pytest.mark.parametrize("name", STYLES)
def test_every_style_is_text_of_the_tokenizer_and_fits_into_the_context(tokenizer, name):
    model, _ = getattr(kinship, name).make_model()
    for demonstration in getattr(kinship, name).demonstrations(50, 0):
        ids = tokenizer(f"{demonstration.prompt} {' '.join(words_of(demonstration))}")["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) < model.config.max_position_embeddings


@pytest.mark.parametrize("name", STYLES)
def test_a_style_asks_as_it_says_and_decides_where_it_says(name):
    task = getattr(kinship, name)
    assert task.dataset(20, 3).to_list() == TASK.dataset(20, 3).to_list()
    style = style_of(task)
    for demonstration in task.demonstrations(50, 1):
        words = words_of(demonstration)
        asked = ["start"] + [words[i + 1] for i, word in enumerate(words) if word == "<search>"]
        assert [words[i - 1] for i in task.decision_positions(words)] == asked
        for thought in thoughts_of(words):
            plan = thought.index("plan")
            assert style.before[0] <= plan <= style.before[1]
            assert style.after[0] <= len(thought) - plan - 3 <= style.after[1]


def test_quiet_fillers_follow_each_other_and_loud_ones_do_not():
    def follow(name):
        """Share of fillers that are those that the filler before them announces."""
        steps = []
        for demonstration in getattr(kinship, name).demonstrations(50, 2):
            for thought in thoughts_of(words_of(demonstration)):
                plan = thought.index("plan")
                for part in (thought[:plan], thought[plan + 3 :]):
                    numbers = [kinship.FILLERS.index(word) for word in part]
                    steps += [a == b for a, b in zip(numbers, range(len(numbers)), strict=True)]
        return sum(steps) / len(steps)

    assert follow("QUIET") == 1.0
    assert follow("LOUD") < 0.1


def test_most_tokens_of_loud_are_fillers():
    words = [word for demonstration in kinship.LOUD.demonstrations(50, 2) for word in words_of(demonstration)]
    assert sum(word in kinship.FILLERS for word in words) > 0.45 * len(words)


def test_the_outcome_of_long_is_decided_hundreds_of_tokens_before_the_end():
    for demonstration in kinship.LONG.demonstrations(50, 3):
        words = words_of(demonstration)
        answer = words.index("<answer>")
        explanation = words[answer + 2 : -1]
        assert words[answer + 1] in ENTITIES
        assert len(words) - answer - 2 > 440
        assert set(explanation) <= set(kinship.FILLERS)
        assert max(kinship.LONG.decision_positions(words)) < 0.3 * len(words)


def test_a_search_of_costly_returns_a_page_that_ends_with_the_entity():
    size = style_of(kinship.COSTLY).result_words
    assert size >= 32
    pages = set()
    for seed in range(40):
        costly, plain = kinship.COSTLY.environment_factory(), KinshipEnvironment()
        for environment in (costly, plain):
            environment.reset(seed)
        for _ in range(2):  # the second time, a weak answer is right
            *page, answer = costly.search("boss e3").partition(plain.search("boss e3"))[:2]
            assert answer
            assert len(page[0].split()) == size
            assert set(page[0].split()) <= set(kinship.FILLERS)
            pages.add(page[0])
        assert costly.fork().search("mother e1").split()[:size] == costly.search("mother e1").split()[:size]
    assert len(pages) == 40
    assert len(KinshipEnvironment().search("boss e3").split()) <= 2


def test_a_cold_start_of_costly_masks_its_pages():
    for demonstration in kinship.COSTLY.demonstrations(20, 4):
        results = [segment for segment in demonstration.segments if "<result>" in segment.text]
        assert not any(segment.trained for segment in results)
        written = [word for segment in demonstration.segments if segment.trained for word in segment.text.split()]
        read = [word for segment in results for word in segment.text.split()]
        assert len(read) > 1.5 * len(written) or not results


def test_leading_answer():
    completions = [
        "<answer> e5 </answer>",
        "<answer> e5 well so e6 </answer>",
        "<answer> so e5 </answer>",
        "<answer> e6 e5 </answer>",
        "<answer> e5 </answer> <answer> e6 so </answer>",
        "<answer> e5 so",
        "<answer> </answer>",
        "",
    ]
    assert leading_answer(completions, ["e5"] * 8, prompts=None) == [1, 1, 0, 0, 0, 0, 0, 0]
    assert exact_answer(completions[:2], ["e5"] * 2) == [1, 0]
    message = {"role": "assistant", "content": "<answer> e5 so </answer>"}
    assert leading_answer([[message]], ["e5"]) == [1.0]


@pytest.mark.parametrize("name", STYLES)
def test_a_task_is_named_by_module_and_attribute(name):
    assert load_task(RunConfig(f"kinship:{name}")) is getattr(kinship, name)
    assert load_task(RunConfig(f"appo.environments.kinship:{name}")) is getattr(kinship, name)


def test_without_an_attribute_it_is_the_modules_task():
    assert load_task(RunConfig("kinship")) is load_task(RunConfig("kinship:")) is TASK


@pytest.mark.parametrize("name", ["SHY", "FILLERS"])
def test_an_attribute_that_is_no_task_is_one_sentence(name):
    with pytest.raises(RecipeError) as error:
        load_task(RunConfig(f"kinship:{name}"))
    sentence = (
        f"task = 'kinship:{name}': the module holds no `{name}`; define {name} = appo.Task(...) in {kinship.__file__}."
    )
    assert str(error.value) == sentence


def test_a_style_of_ones_own_has_its_hops_and_its_noise():
    task = kinship.STYLED(noise=0.0, hops=[8, 8], before=[1, 1])
    assert {row["hops"] for row in task.dataset(20, 0)} == {8}
    text = "".join(segment.text for segment in next(iter(task.demonstrations(1, 0))).segments)
    assert text.count("plan") == 9 + text.count("retry")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"hop": [1, 2]}, "kinship has no hop"),
        ({"hops": [0, 2]}, "hops must be two numbers from 1 to 8, got [0, 2]"),
        ({"noise": 1.5}, "noise must lie in [0, 1], got 1.5"),
    ],
)
def test_a_style_that_cannot_be_is_refused(given, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        kinship.STYLED(**given)
