import pytest

from appo.models.tiny import tiny_llama, word_tokenizer


def test_every_id_of_the_model_is_a_word():
    tokenizer = word_tokenizer(["north", "south"], ["<act>", "</act>"])
    words = tokenizer.convert_ids_to_tokens(range(tiny_llama(tokenizer).config.vocab_size))
    assert words == ["<unk>", "north", "south", "<eos>", "<pad>", "<act>", "</act>"]


def test_a_word_given_twice_is_refused():
    with pytest.raises(ValueError, match="must all be different, got north more than once"):
        word_tokenizer(["north", "south", "north"], [])
