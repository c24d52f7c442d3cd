"""Training documents: solved problems written as chats, some with slips and their mending, some asking for a grade.

A document is text plus the character spans that carry loss. Prompts carry none, and neither do slips: a model should
learn to notice a wrong step, not to write one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from glimprouter.evaluate.suites.suite import Problem
from glimprouter.evaluate.suites.tiny import FAMILIES, SolvedStep, problems, solve

PARAGRAPH_SYSTEM = "Think in one paragraph, without blank lines."
PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a careful solver of small problems.",
    "Answer the question.",
)
SCORE_REQUEST = "Score the last step from 0 to 9."
CHOICE_REQUEST = "Which of these is the best next step?"

SLIP_RATE = 0.07
"""Probability that a step with a value is preceded by a wrong version of itself."""


@dataclass(slots=True)
class Document:
    text: str = ""
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(self, text: str, *, learn: bool) -> None:
        if learn:
            self.spans.append((len(self.text), len(self.text) + len(text)))
        self.text += text


def turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def slip(step: SolvedStep, rng: random.Random) -> str:
    """The same step with a wrong value of the kind a weak model writes: near, a digit off, or a digit swapped."""
    assert step.value is not None
    value = step.value
    digits = list(str(abs(value)))
    while value == step.value:
        kind = rng.random()
        if kind < 0.3:
            value = step.value + rng.choice((-2, -1, 1, 2))
        elif kind < 0.5:
            value = step.value + rng.choice((-10, 10))
        elif kind < 0.9:
            changed = list(digits)
            place = rng.randrange(len(changed))
            changed[place] = rng.choice("123456789" if place == 0 else "0123456789")
            value = int("".join(changed)) * (-1 if step.value < 0 else 1)
        else:
            value = -step.value if step.value else 1
    return f"{value}{step.text.removeprefix(str(step.value))}"


def opening(problem: Problem, rng: random.Random, *, paragraph: bool) -> Document:
    document = Document()
    if paragraph:
        document.add(turn("system", PARAGRAPH_SYSTEM), learn=False)
    elif rng.random() < 0.15:
        document.add(turn("system", rng.choice(PLAIN_SYSTEMS)), learn=False)
    document.add(turn("user", problem.question) + "<|im_start|>assistant\n", learn=False)
    document.add("<think>\n", learn=True)
    return document


def answer_document(problem: Problem, rng: random.Random) -> Document:
    """A whole answer. After a slip the next step opens with "Wait" and says it right."""
    paragraph = rng.random() < 0.08
    gap = " " if paragraph else "\n\n"
    solution = solve(problem)
    document = opening(problem, rng, paragraph=paragraph)
    for number, step in enumerate(solution.steps):
        end = gap if number + 1 < len(solution.steps) else "\n"
        if step.value is not None and rng.random() < SLIP_RATE:
            document.add(slip(step, rng) + gap, learn=False)
            document.add(f"Wait, {step.text}{end}", learn=True)
        else:
            document.add(step.text + end, learn=True)
    document.add(f"</think>\n\n{solution.answer}<|im_end|>", learn=True)
    return document


def _operation(rng: random.Random) -> tuple[str, SolvedStep]:
    """One operation of the kinds the families need: how a drill names it, and the step that answers it."""
    kind = rng.choice("++++-+*****%%///l")
    tens = rng.randint(1, 99)
    if kind in "+-":
        a, b = rng.choice(((tens, rng.randint(0, 99)), (rng.randint(-99, 198), rng.randint(0, 99)), _partials(rng)))
        operator = kind if b < 100 and a < 200 else "+"
        value = a + b if operator == "+" else a - b
        name = f"{a} {operator} {b}"
    elif kind == "*":
        a, b = tens, rng.choice((rng.randint(0, 9), 10 * rng.randint(1, 9)))
        value, name = a * b, f"{a} * {b}"
    elif kind == "%":
        a, b = sorted((rng.randint(2, 50), rng.randint(2, 50)), reverse=True)
        value, quotient = a % b, a // b
        return f"{b} out of {a}", SolvedStep(f"{value} = {a} - {quotient} * {b}.", value)
    elif kind == "/" and rng.random() < 0.5:
        number = rng.randint(2, 256)
        prime = next(p for p in range(2, number + 1) if number % p == 0)
        return f"split {number}", SolvedStep(f"{number // prime} = {number} / {prime}.", number // prime)
    elif kind == "/":
        b, value = rng.randint(1, 12), rng.randint(1, 12)
        a = b * value
        name = f"{a} / {b}"
    else:
        from reasoning_gym.arithmetic.leg_counting import ANIMALS

        animal, count = rng.choice(list(ANIMALS)), rng.randint(1, 6)
        animals, each = animal if count == 1 else f"{animal}s", ANIMALS[animal]
        return f"{count} {animals}", SolvedStep(f"{count * each} legs on {count} {animals}, {each} each.", count * each)
    return name, SolvedStep(f"{value} = {name}.", value)


def _partials(rng: random.Random) -> tuple[int, int]:
    a = rng.randint(10, 99)
    return a * 10 * rng.randint(1, 9), a * rng.randint(0, 9)


def drill_document(rng: random.Random) -> Document:
    """Single operations in a row: four times as many per token as whole problems hold."""
    operations = [_operation(rng) for _ in range(rng.randint(5, 9))]
    document = Document()
    listed = "; ".join(name for name, _ in operations)
    document.add(turn("user", f"Work out {listed}.") + "<|im_start|>assistant\n", learn=False)
    document.add("<think>\n", learn=True)
    for _, step in operations:
        document.add(step.text + "\n\n", learn=True)
    document.add("So the answer is done.\n</think>\n\ndone<|im_end|>", learn=True)
    return document


def _partial(problem: Problem, rng: random.Random) -> tuple[Document, SolvedStep]:
    """The thought up to (not with) a step that states a value, and that step."""
    solution = solve(problem)
    places = [number for number, step in enumerate(solution.steps) if step.value is not None]
    cut = rng.choice(places)
    document = opening(problem, rng, paragraph=False)
    for step in solution.steps[:cut]:
        document.add(step.text + "\n\n", learn=True)
    return document, solution.steps[cut]


def score_document(problem: Problem, rng: random.Random) -> Document:
    """A thought so far, then the request for a grade: 9 or 8 for a right step, 0 to 3 for a wrong one."""
    document, step = _partial(problem, rng)
    wrong = rng.random() < 0.5
    document.add((slip(step, rng) if wrong else step.text) + "\n\n", learn=False)
    document.add("<|im_end|>\n" + turn("user", SCORE_REQUEST) + "<|im_start|>assistant\n", learn=False)
    document.add(str(rng.choice((0, 1, 2, 3)) if wrong else rng.choice((8, 9, 9, 9))) + "<|im_end|>", learn=True)
    return document


def choice_document(problem: Problem, rng: random.Random) -> Document:
    """A thought so far, then two to four drafts of the next step, one of them right; the reply is its letter."""
    document, step = _partial(problem, rng)
    drafts = [slip(step, rng) for _ in range(rng.randint(1, 3))]
    place = rng.randint(0, len(drafts))
    drafts.insert(place, step.text)
    listed = "".join(f"\n{letter}: {draft}" for letter, draft in zip("ABCD", drafts, strict=False))
    document.add("<|im_end|>\n" + turn("user", CHOICE_REQUEST + listed) + "<|im_start|>assistant\n", learn=False)
    document.add("ABCD"[place] + "<|im_end|>", learn=True)
    return document


@dataclass(frozen=True, slots=True)
class Mixture:
    """Share of documents that are drills and, of the rest, that ask for a grade or a choice instead of an answer."""

    drills: float = 0.0
    asides: float = 0.14


FAMILY_WEIGHTS = {
    "chain_sum": 1.6,
    "products": 1.6,
    "gcd": 1.5,
    "prime_factorization": 1.0,
    "leg_counting": 1.2,
    "simple_equations": 1.2,
}
"""How often each family is drawn: more of what is learnt slowly."""


def documents(seed: int, *, start: int = 0, mixture: Callable[[], Mixture] = lambda: Mixture()) -> Iterator[Document]:
    """Endless documents over all families; `start` moves on to problems nobody has drawn yet.

    `mixture()` is asked before each of them.
    """
    rng = random.Random(seed)
    streams = {family: problems(family, "train", start=start) for family in FAMILIES}
    families, weights = list(FAMILY_WEIGHTS), list(FAMILY_WEIGHTS.values())
    pools: dict[str, list[Problem]] = {family: [] for family in families}
    while True:
        family = rng.choices(families, weights)[0]
        pool = pools[family]
        shares = mixture()
        if rng.random() < shares.drills:
            yield drill_document(rng)
            continue
        # Problems cost more to draw than to write out: each is written some times, with other slips each time.
        if len(pool) < 20_000 and (len(pool) < 100 or rng.random() < 0.4):
            pool.append(next(streams[family]))
            problem = pool[-1]
        else:
            problem = rng.choice(pool)
        kind = rng.random()
        if kind >= shares.asides:
            yield answer_document(problem, rng)
        elif kind >= shares.asides / 3:
            yield score_document(problem, rng)
        else:
            yield choice_document(problem, rng)
