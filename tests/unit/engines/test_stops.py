"""A turn ends with the token that completes a stop string, however that is cut into tokens."""

import pytest
from scripted_model import byte_tokenizer

from appo.engines.base import Stop
from appo.engines.stops import StopMatcher, closing_tokens


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def ends(matcher, ids):
    """After how many tokens the turn would have ended, for each token that ends it."""
    return [count for count in range(1, len(ids) + 1) if matcher.ended(ids[:count])]


@pytest.mark.parametrize(
    ("strings", "text", "expected"),
    [
        (("end",), "the end", [7]),
        (("end",), "the en d", []),
        (("x", "end"), "an end", [6]),
        (("</b>",), "a</b", []),
        (("</b>",), "a</b>", [5]),
        (("é",), "café", [5]),  # two bytes
        (("\n\n",), "a\n\n", [3]),
        ((), "anything", []),
    ],
)
def test_a_string_ends_the_turn_with_its_last_token(tokenizer, strings, text, expected):
    assert ends(StopMatcher(Stop(strings=strings), tokenizer), tokenizer(text)["input_ids"]) == expected


def test_a_token_that_reads_like_a_string_ends_the_turn(tokenizer):
    """`</search>` is one token here, and nine in bytes."""
    matcher = StopMatcher(Stop(strings=("</search>",)), tokenizer)
    whole = tokenizer("q</search>")["input_ids"]
    spelled = [index for letter in "q</search>" for index in tokenizer(letter)["input_ids"]]
    assert (len(whole), ends(matcher, whole)) == (2, [2])
    assert (len(spelled), ends(matcher, spelled)) == (10, [10])


def test_token_ids_end_the_turn_whatever_they_read(tokenizer):
    ids = tokenizer("abc")["input_ids"]
    matcher = StopMatcher(Stop(token_ids=frozenset(ids[1:2])), None)
    assert ends(matcher, ids) == [2]
    assert matcher.candidates == frozenset(ids[1:2])


def test_only_tokens_that_can_complete_a_string_are_looked_at(tokenizer):
    letters = {index: token for token, index in tokenizer.get_vocab().items()}
    found = {letters[index] for index in closing_tokens(tokenizer, ["</search>"])}
    assert found == {">", "</search>"}
    assert closing_tokens(tokenizer, ["é"]) is None  # a vocabulary writes it in its own way: any token may
    assert closing_tokens(tokenizer, ["a b"]) is None


def test_a_byte_token_can_complete_a_string(tokenizer):
    class Bytes:
        def __len__(self):
            return 4

        def get_vocab(self):
            return {"<0x3E>": 7, "<0x3F>": 8, "x>": 9, "b>": 10}

    assert closing_tokens(Bytes(), ["</b>"]) == {7, 10}


def test_tokens_that_are_added_later_are_found_too():
    tokenizer = byte_tokenizer()
    before = closing_tokens(tokenizer, ["</new>"])
    tokenizer.add_tokens(["</new>"])
    assert closing_tokens(tokenizer, ["</new>"]) == before | {tokenizer.convert_tokens_to_ids("</new>")}


def test_an_empty_string_is_refused(tokenizer):
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(Stop(strings=("",)), tokenizer)


def test_strings_without_a_tokenizer_are_refused():
    with pytest.raises(ValueError, match="tokenizer"):
        StopMatcher(Stop(strings=("x",)), None)
