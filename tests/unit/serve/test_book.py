"""What a key wrote: turns, segments by token prefix, and how each turn came about."""

from appo.serve.book import Book, WrittenTurn


def turn(prompt, written, **options):
    return WrittenTurn(prompt, written, [-1.0] * len(written), "eos", **options)


def kinds(book):
    return [turn.kind for turn in book.turns.values()]


def test_a_prompt_that_holds_a_turn_continues_it():
    book = Book()
    book.add(turn([1, 2], [3, 4]))
    book.add(turn([1, 2, 3, 4, 5], [6]))
    book.add(turn([1, 2, 3, 4, 5, 6, 7], [8]))
    assert kinds(book) == ["opened", "continued", "continued"]
    assert [turn.previous for turn in book.turns.values()] == [None, 0, 1]
    assert book.segments() == [[0, 1, 2]]


def test_another_history_behind_the_same_opening_is_rewritten_and_begins_a_segment():
    book = Book()
    book.add(turn([1, 2], [3, 4]))
    book.add(turn([1, 2, 3, 9, 5], [6]))
    book.add(turn([1, 2, 3, 9, 5, 6], [7]))
    assert kinds(book) == ["opened", "rewritten", "continued"]
    assert book.segments() == [[0], [1, 2]]


def test_an_answer_that_nobody_wrote_is_rewritten_and_another_opening_is_a_conversation_of_its_own():
    book = Book()
    book.add(turn([1, 2], [3, 4]))
    book.add(turn([9, 2], [5], unknown_answer=True))
    book.add(turn([7], [8]))
    assert kinds(book) == ["opened", "rewritten", "opened"]


def test_who_rewrites_the_last_answer_does_not_continue_the_one_before_it():
    book = Book()
    book.add(turn([1], [2]))
    book.add(turn([1, 2, 3], [4]))
    book.add(turn([1, 2, 3, 9, 5], [6], unknown_answer=True))
    assert kinds(book) == ["opened", "continued", "rewritten"]
    assert book.segments() == [[0, 1], [2]]


def test_the_first_turn_opens_though_the_agent_brings_a_history():
    book = Book()
    book.add(turn([1, 2], [3], unknown_answer=True))
    assert kinds(book) == ["opened"]


def test_the_same_prompt_again_is_repeated_and_each_answer_can_be_continued():
    book = Book()
    book.add(turn([1], [2]))
    book.add(turn([1], [3]))
    book.add(turn([1, 2, 5], [6]))
    book.add(turn([1, 3, 5], [6]))
    assert kinds(book) == ["opened", "repeated", "continued", "continued"]
    assert book.segments() == [[0, 2], [1, 3]]


def test_two_turns_that_continue_the_same_one_are_two_segments():
    book = Book()
    for prompt in ([1], [1, 2, 5], [1, 2, 6]):
        book.add(turn(prompt, [2]))
    assert book.segments() == [[0, 1], [2]]
    assert book.turns[2].previous == 0


def test_what_the_template_writes_otherwise_is_counted_apart():
    book = Book()
    book.add(turn([1, 2], [3, 4]))
    book.add(turn([1, 2, 4, 5], [6], retold=True))
    assert book.counts == {"opened": 1, "retold": 1}


def test_the_oldest_turn_is_forgotten_where_there_is_no_room_and_stays_counted():
    book = Book(room=2)
    for n in range(3):
        book.add(turn([n], [9], said=f"talk {n}"))
    assert list(book.turns) == [1, 2] and book.counts["opened"] == 3
    assert book.find("talk 0") is None and book.find("talk 2").prompt_ids == [2]


def test_a_conversation_is_found_by_its_name_the_latest_first():
    book = Book()
    book.add(turn([1], [2], said="a"))
    book.add(turn([1], [3], said="a"))
    assert book.find("a").token_ids == [3]
    assert book.find("b") is None


def test_messages_that_two_turns_have_in_common_are_kept_once():
    book = Book()
    asked, more = {"role": "user", "content": "?"}, {"role": "user", "content": "!"}
    book.add(WrittenTurn([1], [2], [-1.0], "eos", messages=[dict(asked)]))
    book.add(WrittenTurn([1, 2, 3], [4], [-1.0], "eos", messages=[dict(asked), dict(more)]))
    first, second = book.turns.values()
    assert second.messages == [asked, more] and second.messages[0] is first.messages[0]
