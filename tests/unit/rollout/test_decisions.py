from appo.rollout.decisions import found_in, text_of_words


def test_whole_words_are_joined_by_spaces():
    assert text_of_words(["plan", "start", "mother"]) == ("plan start mother", [0, 5, 11])


def test_byte_level_tokens_bring_their_own_spaces():
    assert text_of_words(["<", "act", ">", "pick", "Ġb", "all", "Ċ"]) == ("<act>pick ball\n", [0, 1, 4, 5, 9, 11, 14])


def test_a_match_stands_at_the_word_in_which_its_last_group_begins():
    words = ["<act>", "move", "a", "b", "</act>", "<act>", "move", "c", "a", "</act>"]
    assert [(i, m[1]) for i, m in found_in(words, r"<act> move (\w)")] == [(2, "a"), (7, "c")]
    assert [i for i, _ in found_in(words, r"</act>")] == [4, 9]
