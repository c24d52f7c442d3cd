"""What is graded is what the answer states; where it states nothing, nothing is graded."""

import pytest

from glimprouter.evaluate.graders.extraction import extract


@pytest.mark.parametrize(
    ("answer", "graded"),
    [
        ("42", "42"),
        (" 42. \n", "42"),
        ("**42**", "42"),
        ("$2 \\times 3$", "2 \\times 3"),
        ("2 × 2 × 3", "2 × 2 × 3"),
        ("We get \\boxed{7}, not \\boxed{8}.", "8"),
        ("So\n\n\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("First 3, then 4.\n\nThe answer is 12.", "12"),
        ("Work.\n**Final answer:** 12", "12"),
        ("-3", "-3"),
    ],
)
def test_a_stated_answer_is_found(answer: str, graded: str) -> None:
    assert extract(answer) == graded


@pytest.mark.parametrize(
    "answer", ["", "  \n ", "One line.\nAnother line.", "\\boxed{}", "The answer is **", "\\boxed{4"]
)
def test_nothing_is_guessed(answer: str) -> None:
    assert extract(answer) is None
