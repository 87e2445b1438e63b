import pytest
from training_parts import make_trainer

from appo.errors import UserError
from appo.rollout.decisions import Decision, found_in, text_of_words
from appo.rollout.types import Rollout


def test_whole_words_are_joined_by_spaces():
    assert text_of_words(["plan", "start", "mother"]) == ("plan start mother", [0, 5, 11])


def test_byte_level_tokens_bring_their_own_spaces():
    assert text_of_words(["<", "act", ">", "pick", "Ġb", "all", "Ċ"]) == ("<act>pick ball\n", [0, 1, 4, 5, 9, 11, 14])


def test_a_match_stands_at_the_word_in_which_its_last_group_begins():
    words = ["<act>", "move", "a", "b", "</act>", "<act>", "move", "c", "a", "</act>"]
    assert [(i, m[1]) for i, m in found_in(words, r"<act> move (\w)")] == [(2, "a"), (7, "c")]
    assert [i for i, _ in found_in(words, r"</act>")] == [4, 9]


RULE = "the task's judge must return a list of appo.rollout.decisions.Decision, empty where nothing was decided"


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(what a judge returns, the skill it is asked with) -> what a method of the trainer's gets of two tokens."""
    found = []
    judge = lambda row, words, skill: found[-1]  # noqa: E731
    trainer = make_trainer(tmp_path_factory.mktemp("run"), extra={"judge": judge})

    def ask(returned, skill=1.0):
        found.append(returned)
        return trainer.method.judge({}, Rollout([1], completion_ids=[2, 3], policy_mask=[1, 1]), skill)

    return ask


def test_a_method_gets_what_the_judge_said(judged):
    decision = Decision(1, -0.5, False)
    assert judged((decision,), 0.5) == [decision] and judged([]) == []


@pytest.mark.parametrize(
    ("returned", "skill", "sentence"),
    [
        (None, 1.0, f"{RULE}, got None."),
        ([(1, 0.5, True)], 1.0, f"{RULE}, but number 0 is (1, 0.5, True)."),
        ([Decision(2, 0.5, True)], 1.0, f"{RULE}, but number 0 is at position 2 of 2 tokens."),
        ([], 0.0, "skill must lie above 0 and be at most 1, got 0.0: the chance to decide well."),
        ([], 1.5, "skill must lie above 0 and be at most 1, got 1.5: the chance to decide well."),
    ],
)
def test_what_is_no_judgement_is_one_sentence(judged, returned, skill, sentence):
    with pytest.raises(UserError) as error:
        judged(returned, skill)
    assert str(error.value) == sentence
