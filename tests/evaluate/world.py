"""A world small enough to know by heart: two scripted engines, questions without reasoning-gym, folders of runs."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from glimprouter.config import Routing, Sampling
from glimprouter.engines.scripted import Line, ScriptedEngine, Vocabulary
from glimprouter.evaluate.folder import Card, Mode, ModelCard, Plan, RunFolder, Settings, new_card
from glimprouter.evaluate.graders.extraction import extract
from glimprouter.evaluate.graders.grade import Grade
from glimprouter.evaluate.job import Answered, Comparison
from glimprouter.evaluate.methods import METHODS, methods_of
from glimprouter.evaluate.records import Key, Outcome
from glimprouter.evaluate.run import Runner
from glimprouter.evaluate.suites.suite import Problem

FAMILIES = ("sums", "products")
SMALL_SAYS, LARGE_SAYS = "4", "5"


def problems(count: int, *, split: str = "report") -> list[Problem]:
    """Two families in turn; the gold answer is what small says for every third question, else what large says."""
    return [
        Problem(
            f"{split}/{number}",
            FAMILIES[number % 2],
            f"{split} question {number}?",
            LARGE_SAYS if number % 3 else SMALL_SAYS,
            {},
        )
        for number in range(count)
    ]


def engines() -> tuple[ScriptedEngine, ScriptedEngine]:
    """Three steps each; small is unsure of the second only. They share a vocabulary."""
    vocabulary = Vocabulary()
    lines = [
        Line("Look at the question well.\n\n"),
        Line("So it is a sum.\n\n", entropy_nats=1.8),
        Line("Add it up.\n\n"),
    ]
    small = ScriptedEngine(lines, answer=SMALL_SAYS, name="small", vocabulary=vocabulary)
    return small, ScriptedEngine(lines, answer=LARGE_SAYS, name="large", vocabulary=vocabulary)


def grade(problem: Problem, answer: str) -> Grade:
    extracted = extract(answer)
    return Grade(extracted == problem.answer, extracted)


def runner(small: ScriptedEngine, large: ScriptedEngine, *, seed: int = 0) -> Runner:
    return Runner(small, large, sampling=Sampling(seed=seed), grade=grade)


def settings(
    *, questions: int = 6, samples: int = 1, mode: Mode = "compare", random_p: float | None = 0.4,
    threshold: float = 0.9, methods: Sequence[str] = ("small", "large", "share0", "glimpse", "random"),
) -> Settings:  # fmt: skip
    return Settings(
        mode=mode,
        questions=questions,
        samples=samples,
        methods=tuple(methods),
        threshold_nats=threshold,
        random_p=random_p,
        routing=Routing(),
        sampling=Sampling(),
    )


def card(asked: Settings) -> Card:
    model = ModelCard(given="a", model="a", context_tokens=9, vocabulary="v", template="t", sha256=None)
    return new_card(asked, model, model)


def begun(path: Path, asked: Settings) -> RunFolder:
    folder = RunFolder(path)
    folder.begin(card(asked))
    return folder


async def compare(
    path: Path, asked: Settings, *, stop_after: int | None = None, tell: Callable[[int], None] | None = None
) -> RunFolder:
    """A whole comparison in a folder, or the first `stop_after` answers of it; `tell` is told of each answer."""
    folder = begun(path, asked)
    job = Comparison(
        runner(*engines()),
        folder,
        asked,
        report=problems(asked.questions),
        pilot=problems(4, split="calibrate"),
    )
    count = 0
    async with aclosing(job.run()) as events:
        async for event in events:
            count += isinstance(event, Answered)
            if tell:
                tell(count)
            if count == stop_after:
                break
    return folder


def outcome(
    question: str, method: str, *, correct: int = 0, family: str = "sums", sample: int = 0, tokens: int = 100,
    large_tokens: int = 0, wall_ms: float = 10.0, cpu_ms: float | None = 8.0,
    glimpses: Sequence[tuple[float, int]] = (),
) -> Outcome:  # fmt: skip
    """An answer as a report sees it, without any having been written."""
    return Outcome(
        key=Key(question, method, sample),
        family=family,
        correct=correct,
        answered=True,
        wall_ms=wall_ms,
        cpu_ms=cpu_ms,
        tokens=tokens,
        large_tokens=large_tokens,
        steps=10,
        large_steps=large_tokens * 10 // tokens,
        handovers=2,
        discarded_tokens=1,
        cut=None,
        glimpses=list(glimpses),
    )


def plan(methods: Sequence[str], questions: Sequence[str]) -> Plan:
    """As a comparison of these methods makes it; the two of Random are named `random-low` and `random-high`."""
    known = methods_of(list(METHODS), Routing(), threshold_nats=0.9, random_p=0.4)
    return Plan(methods=tuple(one for one in known if one.name in methods), questions=tuple(questions))
