"""One answer in several forms: numbers by size, values and equations, relations, sets and inequalities, small
signs, times of day.

Each pair has a careful reader's verdict and holds in both orders.
"""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from appo.rewards import math_equal

NUMBERS = [
    (r"\frac{1}{2^{60}}", r"\frac{1}{2^{61}}", False),
    (r"\frac{1}{20!}", r"\frac{1}{21!}", False),
    ("e^{-40}", "e^{-41}", False),
    ("0.0000001", r"\frac{1}{3} \cdot 10^{-7}", False),
    (r"\frac{x}{2^{60}}", r"\frac{x}{2^{61}}", False),
    (r"10^{-20}\pi", r"2 \cdot 10^{-20}\pi", False),
    ("10^{-20}", "0", False),
    ("e^{-40}", "0", False),
    (r"\frac{1}{2^{60}}", "2^{-60}", True),
    ("e^{-40}", r"\frac{1}{e^{40}}", True),
    (r"\frac{1}{20!}", r"\frac{21}{21!}", True),
    ("1.41421", r"\sqrt{2}", True),
    ("1.414214", r"\sqrt{2}", True),
    ("1.41421356", r"\sqrt{2}", True),
    ("1.414213", r"\sqrt{2}", False),
    ("1.4142", r"\sqrt{2}", False),
    ("1.41422", r"\sqrt{2}", False),  # more than half of the last place away, less than all of it
    (r"\frac{1}{2}+\frac{146912}{200000}+4.9\cdot 10^{-6}", "1.23456", True),
    (r"\frac{1}{2}+\frac{146912}{200000}+5.1\cdot 10^{-6}", "1.23456", False),
    (r"\frac{1}{2}+\frac{146912}{200000}-4.9\cdot 10^{-6}", "1.23456", True),
    (r"\frac{1}{2}+\frac{146912}{200000}-5.1\cdot 10^{-6}", "1.23456", False),
    (r"\frac{1}{2}+\frac{146912}{200000}-9.9\cdot 10^{-6}", "1.23456", False),
    ("3162277.66", r"1000000\sqrt{10}", True),
    ("3162277.67", r"1000000\sqrt{10}", False),
    ("0.00000141421356", r"\sqrt{2}\cdot 10^{-6}", True),
    ("0.00000141", r"\sqrt{2}\cdot 10^{-6}", False),
    ("0.000001", r"\sqrt{2}\cdot 10^{-6}", False),
    (r"0.5\pi", r"\frac{\pi}{2}", True),
    (r"\sqrt{2}\sqrt{3}-\sqrt{6}", "0", True),
    (r"\sin^2 1 + \cos^2 1", "1", True),
    ("2^{100}", "2^{100}+1", False),
    (r"\begin{pmatrix}2^{-60}&1\end{pmatrix}", r"\begin{pmatrix}2^{-61}&1\end{pmatrix}", False),
    (r"(\frac{1}{2^{60}},1)", r"(\frac{1}{2^{61}},1)", False),
    (r"(\frac{1}{2^{60}},1)\cup(2,3)", r"(\frac{1}{2^{61}},1)\cup(2,3)", False),
    (r"10^{20}+\pi", r"10^{20}+\pi+10^{-3}", False),
    (r"x+\frac{1}{2^{60}}", r"x+\frac{1}{2^{61}}", False),
    ("x+1.5", r"x+\frac{3}{2}", True),
    (r"\frac{1}{3}x", "0.33x", False),
]
LARGE = [
    ("2^{1984}", "2^{1984}-3", False),
    ("2^{1984}", "4^{992}", True),
    ("2^{2024}-1", "2^{2024}-3", False),
    ("2^{2024}-1", "(2^{1012}-1)(2^{1012}+1)", True),
    ("4^{2004}", "4^{2004}+2^{2004}", False),
    ("4^{2004}+2^{2004}", "2^{2004}(2^{2004}+1)", True),
    ("10^{324}-1", "10^{324}", False),
    ("10^{150}", "10^{150}+1", False),
    (r"\frac{2018}{5}", r"\frac{2018 \times 5^{2017}}{5^{2018} - 1}", False),
    (r"\frac{2018 \times 5^{2017}}{5^{2018} - 1}", r"\frac{2018}{5 - 5^{-2017}}", True),
    (r"\frac{3^{2020}-1}{2}", r"\frac{3^{2020}+1}{2}", False),
    (r"1-\frac{1}{2^{2023}}", "1", False),
    ("2024!-1", "2024!", False),
    ("2024!", r"2024 \cdot 2023!", True),
    ("2^{1000}i", "(2^{1000}+1)i", False),
    (r"\sqrt{10^{200}+1}", "10^{100}", False),
    (r"\sqrt{10^{200}+1}", r"\sqrt{5}\sqrt{2\cdot 10^{199}+\frac{1}{5}}", True),
    (r"\log(2^{1000}+1)", r"1000\log 2", False),
    (r"\log(2^{1000})", r"1000\log 2", True),
    (r"\frac{1}{\sqrt{2}}+2^{1000}", r"\frac{\sqrt{2}}{2}+2^{1000}", True),
    (r"\frac{1}{\sqrt{2}}+2^{1000}", r"\frac{\sqrt{2}}{2}+2^{1000}+10^{-300}", False),
    ("9^{9^9}", "9^{9^9}+1", False),
    ("n=2^{1000}+1", "n=2^{1000}", False),
    ("[0,2^{1000}]", "[0,2^{1000}+1]", False),
    (r"[0,2^{1000}]\cup[3^{900},\infty)", r"[0,2^{1000}+1]\cup[3^{900},\infty)", False),
    (r"[0,2^{1000}]\cup[3^{900},\infty)", r"[3^{900},\infty)\cup[0,4^{500}]", True),
    (r"x\le 2^{1000}", r"x\le 2^{1000}+1", False),
    (r"x\le 2^{1000}", r"x\le 4^{500}", True),
    ("x+y=2^{1000}", "x+y=2^{1000}+1", False),
    ("x+y=2^{1000}", "2x+2y=2^{1001}", True),
    ("x+y<2^{1000}", "x+y<2^{1000}+1", False),
    ("x+2^{1000}", "x+2^{1000}+1", False),
    (r"\begin{pmatrix}2^{1000}\\1\end{pmatrix}", r"\begin{pmatrix}2^{1000}+1\\1\end{pmatrix}", False),
]
VALUES = [
    ("x^2-5x+6=0", "0", False),
    ("3+4=8", "8", False),
    ("5", "x+y=5", False),
    ("2x=8", "8", False),
    ("2", "|x|=2", False),
    (r"\sin x = 1", "1", False),
    ("x=5", "5", True),
    ("3+4=7", "7", True),
    ("x=2+3=5", "5", True),
    ("y=2x=6", "6", False),
    ("f(x)=x+1", "x+1", True),
    ("x+1", "f(x)=x+1", True),
    ("a_n = 2n-1", "2n-1", True),
    (r"\theta = \frac{\pi}{3}", r"\frac{\pi}{3}", True),
    ("AB=5", "5", True),
    ("ab=5", "5", False),
    ("x^2=4", "4", False),
    ("x^2=4", "2", False),
    (r"\sqrt{x}=3", "3", False),
    ("-x=5", "5", False),
    ("-x=5", "-5", False),
    ("5=x", "5", True),
    ("0=0", "0", True),
    ("x+5", "x=5", False),
    (r"\frac{1}{x}=5", "5", False),
    ("f(2)=5", "5", True),
    ("f(x)=5", "5", True),
    ("x=5, y=6", "5,6", True),
    ("2x=8, y=6", "8,6", False),
    (r"\log_2 x = 3", "3", False),
    (r"x \equiv 3 \pmod 5", "3", False),
    (r"\binom{4}{2} = 6", "6", True),
    (r"\angle E = 135^\circ", "135", True),
    (r"P \cap M = \{0,1,2\}", r"\{0,1,2\}", True),
    ("(p,q)=(5,-1)", "(5,-1)", True),
    ("x = 1,000", "1000", True),
]
RELATIONS = [
    ("y=-x+5", "x+y=5", True),
    ("y=3x-2", "3x-y=2", True),
    ("2x+2y=10", "x+y=5", True),
    ("x+y=5", "x+y=6", False),
    ("y=-x+5", "x-y=5", False),
    ("x^2+y^2=25", "y^2=25-x^2", True),
    (r"\frac{x^2}{4}+y^2=1", "x^2+4y^2=4", True),
    (r"y=\frac{2}{x}", "xy=2", True),
    (r"\frac{y-1}{x-2}=3", "y=3x-5", False),
    ("5=x", "x=5", True),
    ("x=5", "y=5", False),
    ("2x=8", "x=4", False),
    ("x-5=0", "x=5", True),
    ("2x-8=0", "x-4=0", True),
    ("x=y", "y=x", True),
    (r"x=\frac{y+2}{3}", "y=3x-2", True),
    ("y=2x", "y=3x", False),
    ("y=|x|", "|x|=y", True),
    ("y^2=x^2", "y=x", False),
    ("xy=0", "x=0", False),
    ("0=0", "1=1", False),
    ("f(x)=x^2-1", "f(x)=(x-1)(x+1)", True),
    ("f(x)=x+1", "g(x)=x+1", False),
    ("a_n=2n-1", "a_n=2(n-1)+1", True),
    ("30+x=7(10-x)", "30+x=70-7x", True),
    ("30+x=7(10-x)", "x=5", False),
    ("3x+2y-6=0", "-3x-2y+6=0", True),
    ("y=2^{-60}x", "y=2^{-61}x", False),
    ("x+y=5", "x+z=5", False),
    ("5x - 7y + 11z + 4 = 0", "5x-7y+11z=-4", True),
    ("x+y=5", "x+y<5", False),
    ("x+y=5", "5", False),
    ("x+y=5", "2(x+y)=10", True),
]
SETS = [
    (r"x<2 \text{ or } x>5", r"(-\infty,2)\cup(5,\infty)", True),
    (r"(-\infty,2)\cup(5,\infty)", r"x<2 \text{ or } x>5", True),
    (r"x>5 \text{ or } x<2", r"(-\infty,2)\cup(5,\infty)", True),
    (r"x \le 2 \text{ or } x>5", r"(-\infty,2]\cup(5,\infty)", True),
    (r"x \le 2 \text{ or } x>5", r"(-\infty,2)\cup(5,\infty)", False),
    (r"x<2 \text{ or } x>5", r"(-\infty,2)\cup(6,\infty)", False),
    (r"x<2 \text{ and } x>5", r"(-\infty,2)\cup(5,\infty)", False),
    (r"x>2 \text{ and } x<5", "(2,5)", True),
    (r"x<2 \text{ or } y>5", r"(-\infty,2)\cup(5,\infty)", False),
    (r"x<2 \text{ or } x>5", r"x>5 \text{ or } x<2", True),
    (r"x<2 \text{ or } x>5", r"t<2 \text{ or } t>5", False),
    (r"x<2 \lor x>5", r"(-\infty,2)\cup(5,\infty)", True),
    (r"(5,\infty)\cup(-\infty,2)", r"(-\infty,2)\cup(5,\infty)", True),
    ("2<x<5", "(2,5)", True),
    ("5>x>2", "(2,5)", True),
    ("2<x<5", "[2,5]", False),
    (r"2 \le x \le 5", "[2,5]", True),
    (r"2 \leqslant x < 5", "[2,5)", True),
    (r"x \in (2,5)", "(2,5)", True),
    (r"x \in (2,5)", "2<x<5", True),
    (r"x \in (2,5)", "2<y<5", False),
    (r"x \geq 3", r"[3,\infty)", True),
    (r"x \geq 3", "x>3", False),
    (r"3 \le x", r"x \ge 3", True),
    (r"x \in \mathbb{R}", r"\mathbb{R}", True),
    (r"\mathbb{R}", r"(-\infty,\infty)", True),
    (r"\mathbb R", r"\mathbb{R}", True),
    (r"\R", r"\mathbb{R}", True),
    (r"x \in \mathbb{R}", r"(-\infty, +\infty)", True),
    (r"\mathbb{R}", r"(0,\infty)", False),
    (r"\mathbb{R}\setminus\{2\}", r"(-\infty,2)\cup(2,\infty)", True),
    (r"x \ne 2", r"(-\infty,2)\cup(2,\infty)", True),
    (r"x \ne 2", r"\mathbb{R}\setminus\{2\}", True),
    (r"x \ne 2", "2", False),
    (r"\emptyset", r"\varnothing", True),
    (r"\emptyset", r"\{\}", True),
    (r"\emptyset", "0", False),
    (r"\emptyset", r"\{0\}", False),
    (r"\emptyset", r"\mathbb{R}", False),
    (r"\text{no solution}", r"\emptyset", True),
    (r"\{x \mid 0<x<2\}", "(0,2)", True),
    (r"\{x|x \le 1\}", r"x \le 1", True),
    (r"\{x: x>3\}", r"(3,\infty)", True),
    (r"\{x \in \mathbb{R} \mid x>3\}", r"(3,\infty)", True),
    (r"\{x|0<x<2\}", "(0,1)", False),
    (r"(1,2)\cup(2,3)", r"(1,3)\setminus\{2\}", True),
    (r"(1,2]\cup[2,3)", "(1,3)", True),
    ("[2,5)", "[2,5]", False),
    (r"x=2 \text{ or } x=3", "2,3", True),
    (r"x=2 \text{ or } x=3", r"\{2,3\}", True),
    (r"x<-1 \text{ or } 2<x<3", r"(-\infty,-1)\cup(2,3)", True),
    (r"(-\infty, \frac{1}{2}]", r"x \le 0.5", True),
    ("2x<4", "x<2", False),
    ("x>5", "5", False),
    ("x>5", "x=5", False),
    (r"m \leqslant 6", r"(-\infty,6]", True),
    (r"(-\infty,-2] \cup (3,+\infty)", r"x \le -2 \text{ or } x > 3", True),
    ("[0,1]", r"\{0,1\}", False),
    ("(0,1)", "0<x<1", True),
    (r"x \in \{1,2\}", r"\{1,2\}", True),
    (r"x \in [2,5]", r"x \in (2,5)", False),
    (r"-5\leqslant k\leqslant -2", "[-5,-2]", True),
    ("x<2", r"x \le 2", False),
    ("x<y", "y>x", True),
    ("x+y<5", "y<5-x", True),
    ("x+y<5", "y>5-x", False),
    (r"x \ne 2 \text{ and } x \ne 3", r"\mathbb{R}\setminus\{2,3\}", True),
    (r"x \ne 2, 3", r"\mathbb{R}\setminus\{2,3\}", True),
    (r"x \ne 2 \text{ and } x<5", r"(-\infty,2)\cup(2,5)", True),
    ("x^2<9", "(-3,3)", False),
    (r"x>2 \text{ or } x<5", r"x>2 \text{ and } x<5", False),
]
SIGNS = [
    (r"p \land q", r"p \lor q", False),
    (r"p \lor \neg q", r"p \land \neg q", False),
    (r"p \land q \lor r", r"p \lor q \land r", False),
    (r"p \land q", r"p \wedge q", True),
    (r"x>2 \text{ and } y<3", r"x>2 \text{ or } y<3", False),
    (r"x=2 \text{ and } x=3", r"x=2 \text{ or } x=3", False),
    ("red and blue", "red or blue", False),
    ("red and blue", "blue and red", True),
    ("1 and 2", "1 or 2", False),
    ("1, 2 and 3", "1 and 2 and 3", True),
    ("1 or 2", "1, 2", True),
    ("f'(x)=2x", "f(x)=2x", False),
    ("f''(x)=6x", "f'(x)=6x", False),
    ("f'(x)=2x", "2x", True),
    ("f'(x)=2x", "f'(x)=x+x", True),
    ("f’(x)=2x", "f'(x)=x+x", True),
    ("f’(x)=2x", "f(x)=2x", False),
    ("f′(x)=2x", "f'(x)=x+x", True),
    (r"f^{\prime}(x)=2x", "f'(x)=x+x", True),
    (r"f^{\prime\prime}(x)=2x", "f'(x)=2x", False),
    ("-f(x_0)", "-f'(x_0)", False),
    ("f'(2)=3", "f(2)=3", False),
    ("y''+y=0", "y'+y=0", False),
    ("y''+y=0", "y+y=0", False),
    ("y''+y=0", "y''=-y", True),
    ("30''", "30'", False),
    ("5'10\"", "5\"10'", False),
    ("2'", "2", False),
    ("x_1'", "x_1", False),
    ('"5x"', "5x", True),
    (r'\boxed{"King of Cool"}', '"King of Cool"', True),
    ("A^T", "A", False),
    ("M^{T}", "M", False),
    ("A^TB", "AB", False),
    ("A^TB", "AB^T", False),
    ("A^T", r"\mathbf{A}^{T}", True),
    ("A^T+A^T", "2A^{T}", True),
    ("a=1,b=2", "2,1", False),
    ("a=1,b=2", "1,2", True),
    ("p=3,q=5", "5,3", False),
    ("m=2, n=3", "n=3, m=2", True),
    (r"x=3,y=5", r"\{5,3\}", False),
    (r"\angle A = 30^\circ, \angle B = 60^\circ", "60,30", False),
    ("x=3, x=5", "5,3", True),
    (r"\sin 30", r"\sin 30^\circ", False),
    (r"\cos(60^\circ)+1", r"\cos(60)+1", False),
    (r"\sin 30^\circ + \sin 60", r"\sin 30 + \sin 60^\circ", False),
    (r"2\sin 30^\circ", r"\sin 30^\circ + \sin 30^\circ", True),
    (r"\arctan 1 + 30^\circ", r"\arctan 1 + 30", True),
]
TIMES = [
    ("3:15 PM", "3:15 pm", True),
    ("3:15 PM", "3:15 p.m.", True),
    ("3:15PM", "3:15 pm", True),
    ("03:15 pm", "3:15 PM", True),
    (r"3\!:\!15 \text{ p.m.}", "3:15 PM", True),
    ("3:15 PM", "3:15 AM", False),
    ("3:15 PM", "15:15", True),
    ("12:00 AM", "0:00", True),
    ("12:00 PM", "12:00", False),
    ("3:15 PM", "3:16 PM", False),
    ("3:15", "3:15 PM", False),
    ("3 PM", "3:00 pm", True),
    ("3 p.m.", "3 PM", True),
    ("3 AM", "3 PM", False),
    ("3 am", "3 pm", False),
    ("3 PM", "3", False),
    ("3:15:00 PM", "3:15 PM", True),
    ("25:00", "1:00 AM", False),
    ("13:15 PM", "1:15 PM", False),
    ("3:15 A.M.", "3:15 am", True),
    ("3:00", "3", False),
]


@pytest.mark.parametrize(("one", "other", "same"), [*NUMBERS, *LARGE, *VALUES, *RELATIONS, *SETS, *SIGNS, *TIMES])
def test_forms(one, other, same):
    assert math_equal(one, other) is same
    assert math_equal(other, one) is same


@pytest.mark.parametrize(
    "pair", [("5 = x", "x = 5"), ("x<2", "x < 2"), (r"\mathbb R", r"\mathbb{R}"), ("3:15 pm", "3:15 PM")]
)
def test_forms_inside_a_list(pair):
    one, other = pair
    assert math_equal(f"{one}; y = 7", f"y = 7; {other}")


coefficients = st.integers(-9, 9).filter(bool)


@settings(max_examples=40, deadline=None)
@given(coefficients, coefficients, st.integers(-9, 9), coefficients)
def test_an_equation_is_its_multiple_and_no_other(a, b, c, factor):
    equation = f"{a}x + {b}y = {c}".replace("+ -", "- ")
    multiple = f"{factor * c} = {factor * b}y + {factor * a}x".replace("+ -", "- ")
    moved = f"{factor * a}x + {factor * b}y + {factor * (c + 1)} = 0".replace("+ -", "- ")
    assert math_equal(equation, multiple) and math_equal(multiple, equation)
    assume(-(c + 1) != c)
    assert not math_equal(equation, moved) and not math_equal(moved, equation)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(1, 90), st.integers(1, 90))
def test_powers_are_equal_where_their_exponents_are(base, one, other):
    assert math_equal(rf"\frac{{1}}{{{base}^{{{one}}}}}", rf"{base}^{{-{other}}}") is (one == other)


bounds = st.tuples(st.integers(-20, 20), st.integers(-20, 20)).filter(lambda pair: pair[0] < pair[1])


@settings(max_examples=40, deadline=None)
@given(bounds, bounds, st.booleans(), st.booleans())
def test_what_lies_outside_is_a_union(one, other, closed, right_closed):
    def inequalities(pair, closed):
        sign = r"\le" if closed else "<"
        return rf"x {sign} {pair[0]} \text{{ or }} {pair[1]} {sign} x"

    def union(pair, closed):
        opening, closing = "[]" if closed else "()"
        return rf"{opening}{pair[1]}, \infty) \cup (-\infty, {pair[0]}{closing}"

    same = (one, closed) == (other, right_closed)
    assert math_equal(inequalities(one, closed), union(other, right_closed)) is same
    assert math_equal(union(other, right_closed), inequalities(one, closed)) is same


@settings(max_examples=150, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_whatever_reads_as_something_equals_itself(text):
    assume(math_equal(text, text) or any(character.isalnum() for character in text))
    assert math_equal(text, text)
