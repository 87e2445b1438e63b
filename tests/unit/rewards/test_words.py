"""Exact match and F1 against values worked out by hand."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appo.data.benchmarks import BENCHMARKS, benchmark_file, load_benchmark
from appo.rewards import exact_match, extract_answer, f1

REAL = Path(__file__).parents[4] / "shared" / "data" / "benchmarks"


@pytest.mark.parametrize(
    ("prediction", "truths", "score"),
    [
        ("Paris", ["Paris"], 1.0),
        ("the Paris.", ["paris"], 1.0),
        ("Eiffel Tower", ["the Eiffel tower in Paris"], 2 * 2 / (2 + 4)),
        ("Paris, France", ["Paris"], 2 / 3),
        ("Paris", ["London", "Paris, France"], 2 / 3),
        ("Paris", "Paris", 1.0),
        ("a a b", ["a b b"], 2 * 1 / (1 + 2)),  # the article a goes: b against b b
        ("x x y", ["x y y"], 2 * 2 / 6),
        ("January 2, 2020", ["2 January 2020"], 1.0),
        ("U.S.A.", ["USA"], 1.0),
        ("“Paris”", ["Paris"], 1.0),
        ("ｐａｒｉｓ", ["Paris"], 1.0),
        ("caf\u00e9", ["cafe\u0301"], 1.0),
        ("北京。", ["北京"], 1.0),
        ("北京市", ["北京"], 0.0),
        ("no idea", ["no"], 0.0),
        ("no", ["no idea"], 0.0),
        ("Yes.", ["yes"], 1.0),
        ("yes", ["no"], 0.0),
        ("A", ["A"], 1.0),
        ("A", ["the"], 0.0),
        ("", ["Paris"], 0.0),
        (None, ["Paris"], 0.0),
        ("", [""], 0.0),
        ("Paris", [], 0.0),
        ("five", ["5"], 0.0),
    ],
)
def test_f1(prediction, truths, score):
    assert f1(prediction, truths) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "truths", "expected"),
    [
        ("The Beatles!", ["Beatles"], True),
        ("Beatles", ["Stones", "the beatles"], True),
        ("Beatles", "beatles", True),
        ("Beatles band", ["Beatles"], False),
        ("A", ["a"], True),
        ("A", ["The"], False),
        ("", [""], False),
        (None, ["x"], False),
    ],
)
def test_exact_match(prediction, truths, expected):
    assert exact_match(prediction, truths) is expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.8 m tall", "18 m tall", False),
        ("1.8 m tall", "1-8 m tall", False),
        ("1.8 m tall", "1.8 m tall.", True),
        ("a 4-3 win", "43 win", False),
        ("a 4-3 win", "4–3 win", True),
        ("4--3 win", "4–3 win", True),
        ("1/2/2020", "12/2020", False),
        ("10:30 train", "1030 train", False),
        ("in 1,2", "in 12", False),
        ("1,000 men", "1000 men", True),
        ("1,234,567.5 men", "1234567.5 men", True),
        ("1,234,56 men", "123456 men", False),
        ("Boeing-747", "Boeing 747", False),  # as SQuAD has it
        ("No. 5", "no 5", True),
        ("U.S.A.", "USA", True),
        ("snake_case", "snakecase", True),
    ],
)
def test_signs_between_digits_count_and_other_signs_do_not(one, other, same):
    assert exact_match(one, [other]) is same
    assert exact_match(other, [one]) is same
    assert (f1(one, [other]) == 1.0) is same


def test_a_decimal_is_one_word():
    assert f1("1.8 m", ["1.9 m"]) == 0.5


@given(st.text(), st.text())
def test_any_text_has_a_score(prediction, truth):
    assert 0.0 <= f1(prediction, [truth]) <= 1.0
    assert f1(prediction, [truth]) == f1(truth, [prediction])
    if exact_match(prediction, [truth]):
        assert f1(prediction, [truth]) == 1.0


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"\text{Paris}", "Paris"),
        (r"\textbf{Paris}", "Paris"),
        (r"\mathrm{Paris}", "Paris"),
        (r"\textit{Paris}", "Paris"),
        (r"\mathbf{Paris}", "Paris"),
        (r"\textrm{Paris}", "Paris"),
        (r"\mathsf{Paris}", "Paris"),
        (r"\texttt{Paris}", "Paris"),
        (r"\emph{Paris}", "Paris"),
        (r"\underline{Paris}", "Paris"),
        (r"\mbox{Paris}", "Paris"),
        (r"\boxed{\text{Paris}}", "Paris"),
        (r"\operatorname{Paris}", "Paris"),
        (r"{\bf Paris}", "Paris"),
        (r"\left(\text{Paris}\right)", "Paris"),
        (r"\text{Barack Obama}", "Barack Obama"),
        (r"\textbf{\text{Barack}}\ \textit{Obama}", "Barack Obama"),
        ("Barack~Obama", "Barack Obama"),
        (r"Barack\,Obama", "Barack Obama"),
        (r"Barack\;Obama", "Barack Obama"),
        (r"Barack\quad Obama", "Barack Obama"),
        (r"Barack\\Obama", "Barack Obama"),
        (r"\\text{Barack} \\text{Obama}", "Barack Obama"),  # escaped once more
        (r"New\!York", "NewYork"),
        (r"\text{Paris, France}", "Paris, France"),
        (r"\text{yes}", "yes"),
        (r"\text{A}", "A"),
        (r"18^{\text{th}}", "18th"),
        (r"1\,000\,000", "1,000,000"),
        (r"5\,\text{km}", "5 km"),
        (r"50\%", "50%"),
        (r"\$5", "$5"),
        (r"AT\&T", "AT&T"),
        ("2000--2010", "2000–2010"),
        (r"30^\circ\text{C}", "30°C"),
        (r"\textquoteleft Yes\textquoteright", "yes"),
        (r"Jos\'e G\"odel, Fran\c{c}ois Erd\H{o}s", "José Gödel, François Erdős"),
        (r"Dvo\v{r}\'ak, Fran\c cois, \v Skoda", "Dvořák, François, Škoda"),
        (r"Stra\ss e, S\o ren, \AA land, \L{}uk{\ae}", "Straße, Søren, Åland, Łukæ"),
        (r"\textcolor{red}{Paris}", "Paris"),
        (r"{\color{red} Paris}", "Paris"),
        (r"{\Large Paris}", "Paris"),
        (r"\Large{Paris}", "Paris"),
        (r"\small Paris", "Paris"),
        (r"20\textsuperscript{th} century", "20th century"),
        (r"H\textsubscript{2}O", "H2O"),
        (r"1{,}000 men", "1,000 men"),
        (r"It\'s O\'Neill, \"odd\"", "It's O'Neill, odd"),  # apostrophes and quotation marks, escaped
    ],
)
def test_words_written_in_latex_are_the_words(written, read):
    assert exact_match(written, [read]) and exact_match(read, [written])
    assert f1(written, [read]) == 1.0


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"\text{Paris}", "London"),
        (r"\text{no}", "yes"),
        (r"\text{textile}", "ile"),
        (r"\textile", "ile"),
        (r"\left(1\right)", "left1"),
        (r"\frac{1}{2}", "12"),
        (r"New\,York", "NewYork"),
    ],
)
def test_other_words_written_in_latex_are_other_words(written, read):
    assert not exact_match(written, [read])


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real benchmarks are not in {REAL}")
@pytest.mark.parametrize("wrapper", ["%s", r"\text{%s}", r"\mathbf{\text{%s}}", r"{\bf %s}", r"\;%s~"])
def test_real_answers_are_found_in_a_box_whatever_is_around_them(wrapper):
    names = [name for name in BENCHMARKS if any(REAL.glob(f"{name}.*")) and benchmark_file(name, REAL)]
    answers = {answer for name in names for row in load_benchmark(name, REAL) for answer in row.answers}
    assert len(answers) > 2000
    boxes = {answer: rf"<answer>\boxed{{{wrapper % answer}}}</answer>" for answer in answers}
    assert [answer for answer, text in boxes.items() if not exact_match(extract_answer(text), answer)] == []
