"""What the tiny pair is trained on: solvers are right, slips are wrong, nobody learns to slip, splits do not meet."""

import itertools
import random

import pytest

pytest.importorskip("reasoning_gym")

from glimprouter.evaluate.suites.tiny import FAMILIES, problems, score, solve, split_of, step_is_right
from lab.corpus import (
    Mixture,
    answer_document,
    choice_document,
    documents,
    drill_document,
    score_document,
    slip,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_solvers_reach_the_gold_answer_by_right_steps(family: str) -> None:
    for problem in itertools.islice(problems(family, "report"), 60):
        solution = solve(problem)
        assert score(problem, solution.answer) == 1.0
        for step in solution.steps:
            assert step_is_right(step.text) is (None if step.value is None else True)
            assert step.value is None or step.text.startswith(str(step.value))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slip_is_the_same_step_with_a_wrong_value(family: str) -> None:
    rng = random.Random(3)
    for problem in itertools.islice(problems(family, "report"), 40):
        for step in solve(problem).steps:
            if step.value is not None:
                wrong = slip(step, rng)
                assert wrong != step.text
                assert step_is_right(wrong) is False


def test_wrong_answers_score_nothing() -> None:
    problem = next(problems("gcd", "report"))
    assert score(problem, None) == score(problem, "") == score(problem, str(int(problem.answer) + 1)) == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_no_question_of_one_split_occurs_in_another(family: str) -> None:
    seen = {
        split: {problem.question for problem in itertools.islice(problems(family, split), 40)}
        for split in ("train", "calibrate", "report")
    }
    assert seen["train"].isdisjoint(seen["report"] | seen["calibrate"])
    assert seen["calibrate"].isdisjoint(seen["report"])
    assert all(split_of(question) == split for split, questions in seen.items() for question in questions)


def test_loss_falls_on_the_models_own_words_and_never_on_slips() -> None:
    rng = random.Random(5)
    slipped = 0
    for problem in itertools.islice(problems("chain_sum", "train"), 200):
        document = answer_document(problem, rng)
        learnt = "".join(document.text[start:end] for start, end in document.spans)
        learnt_steps = [document.text[start:end].strip() for start, end in document.spans]
        prompt = document.text.index("<think>")
        assert document.spans[0][0] == prompt
        assert learnt.startswith("<think>\n")
        assert learnt.endswith("<|im_end|>")
        for step in document.text[prompt:].split("\n\n"):
            if step_is_right(step) is False:
                slipped += 1
                assert step not in learnt_steps
        assert ("Wait, " in learnt) == (learnt != document.text[prompt:])
    assert slipped > 5


def test_grades_tell_right_from_wrong_and_choices_name_the_right_draft() -> None:
    rng = random.Random(7)
    for problem in itertools.islice(problems("products", "train"), 100):
        graded = score_document(problem, rng).text
        body, _, grade = graded.removesuffix("<|im_end|>").rpartition("<|im_start|>assistant\n")
        last_step = body.split("<|im_end|>\n<|im_start|>user\nScore")[0].rstrip("\n").rpartition("\n\n")[2]
        assert step_is_right(last_step) is (int(grade) >= 8)
        chosen = choice_document(problem, rng).text
        body, _, letter = chosen.removesuffix("<|im_end|>").rpartition("<|im_start|>assistant\n")
        drafts = dict(line.split(": ", 1) for line in body.splitlines() if line[:3] in ("A: ", "B: ", "C: ", "D: "))
        assert [step_is_right(draft) for draft in drafts.values()].count(True) == 1
        assert step_is_right(drafts[letter]) is True


def test_drills_are_right_and_the_mixture_is_kept() -> None:
    rng = random.Random(11)
    for _ in range(100):
        steps = drill_document(rng).text.split("<think>\n")[1].split("\n\n")[:-2]
        assert steps
        assert all(step_is_right(step) for step in steps)
    drawn = list(itertools.islice(documents(1, mixture=lambda: Mixture(drills=0.5, asides=0.0)), 400))
    drills = sum("\nWork out " in document.text for document in drawn)
    assert 150 < drills < 250
