"""reasoning-gym's own scorers, made strict: right or not."""

from __future__ import annotations

import re

from glimprouter.evaluate.graders.extraction import extract
from glimprouter.evaluate.graders.grade import NOTHING, Grade
from glimprouter.evaluate.suites import tiny
from glimprouter.evaluate.suites.suite import Problem

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class TinyGrader:
    """Of the tiny suite's six families."""

    def grade(self, problem: Problem, answer: str) -> Grade:
        extracted = extract(answer)
        if extracted is None:
            return NOTHING
        return Grade(tiny.score(problem, extracted) >= 1.0, extracted)

    def close(self) -> None:
        pass


class GymGrader:
    """Of any task, as reasoning-gym sets it by default. Answers of several lines stand between <answer> tags."""

    def __init__(self, task: str) -> None:
        import reasoning_gym

        self._dataset = reasoning_gym.create_dataset(task, seed=0, size=1)

    def grade(self, problem: Problem, answer: str) -> Grade:
        tagged = _TAGGED.findall(answer)
        extracted = (tagged[-1].strip() or None) if tagged else extract(answer)
        if extracted is None:
            return NOTHING
        try:
            points = self._dataset.score_answer(extracted, dict(problem.entry))
        except Exception as error:  # scorers convert before they look: what they cannot read is not right
            return Grade(False, extracted, f"the scorer cannot read it ({type(error).__name__})")
        return Grade(points >= 1.0, extracted)

    def close(self) -> None:
        pass
