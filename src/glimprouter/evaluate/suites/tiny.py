"""The tiny suite: six families of reasoning-gym problems, our solvers for them, and a checker of single steps.

What it is not: a benchmark of reasoning models. It exists so that two models of a few megabytes show the mechanism,
offline, on problems with known answers. Difficulty is fixed here and nowhere else. Questions are dealt to three
splits by a hash of their text, so that no question of one split ever occurs in another, whatever the seed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glimprouter.evaluate.suites.suite import Problem, Split

FAMILIES: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    "gcd": {"min_numbers": 2, "max_numbers": 2, "min_value": 2, "max_value": 50},
    "prime_factorization": {"min_value": 2, "max_value": 256},
    "leg_counting": {"min_animals": 2, "max_animals": 3, "min_instances": 1, "max_instances": 6},
    "simple_equations": {
        "min_terms": 2,
        "max_terms": 2,
        "min_value": 1,
        "max_value": 12,
        "operators_weights": [0.5, 0.5, 0.0],
    },
}
"""reasoning-gym settings of each family; a change of these needs a new pair."""

_SEED_BASE: dict[str, int] = {"train": 0, "calibrate": 1_000_000_000, "report": 2_000_000_000}
_EQUATION = re.compile(r"(-?\d+) = (-?\d+) ([-+*/]) (-?\d+)(?: \* (\d+))?\.")
_LEGS = re.compile(r"(-?\d+) legs on (\d+) ([a-z ]+), (\d+) each\.")


@dataclass(frozen=True, slots=True)
class SolvedStep:
    """A step of a written-out thought. `value` is the number it opens with; None marks a routine step."""

    text: str
    value: int | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    steps: tuple[SolvedStep, ...]
    answer: str


def split_of(question: str) -> Split:
    """Which split a question belongs to, by a hash of its text: 12/16 train, 1/16 calibrate, 3/16 report."""
    bucket = hashlib.sha256(question.encode()).digest()[0] & 15
    return "train" if bucket < 12 else "calibrate" if bucket == 12 else "report"


def problems(family: str, split: Split, *, start: int = 0) -> Iterator[Problem]:
    """Endless stream of a family's problems in a split; seeds of different splits do not meet.

    reasoning-gym seeds item i with `seed + i`, so splits start a thousand million apart.
    """
    import reasoning_gym

    seed = _SEED_BASE[split] + start
    dataset = reasoning_gym.create_dataset(family, seed=seed, size=500_000_000, **FAMILIES[family])
    index = 0
    while True:
        entry = dataset[index]
        question = str(entry["question"]).strip()
        if split_of(question) == split:
            yield Problem(f"{family}/{seed + index}", family, question, str(entry["answer"]), entry)
        index += 1


def score(problem: Problem, answer: str | None) -> float:
    """reasoning-gym's own scorer, made strict: 1.0 for a right answer, 0.0 for any other (it grants crumbs)."""
    import reasoning_gym

    if not answer:
        return 0.0
    dataset = reasoning_gym.create_dataset(problem.family, seed=0, size=1, **FAMILIES[problem.family])
    try:
        points = dataset.score_answer(answer.strip(), dict(problem.entry))
    except (ValueError, TypeError, ArithmeticError):
        # Some scorers convert before they look: what they cannot read is not an answer.
        return 0.0
    return 1.0 if points >= 1.0 else 0.0


def solve(problem: Problem) -> Solution:
    """The thought our solver writes for a problem: what the tiny pair is trained on."""
    steps = _SOLVERS[problem.family](problem.entry["metadata"])
    return Solution((*steps, SolvedStep(f"So the answer is {problem.answer}.")), problem.answer)


def step_is_right(step: str) -> bool | None:
    """Whether the arithmetic a step states holds; None for steps that state none (openings, the closing line)."""
    if match := _EQUATION.search(step):
        value, a, operator, b, factor = match.groups()
        right = int(b) * int(factor or 1)
        if operator == "/":
            return right != 0 and int(value) * right == int(a)
        return int(value) == {"+": int(a) + right, "-": int(a) - right, "*": int(a) * right}[operator]
    if match := _LEGS.search(step):
        value, count, animal, each = match.groups()
        return int(value) == int(count) * int(each) and _legs_of(animal) in (None, int(each))
    return None


def step_follows(problem: Problem, thought: Sequence[str], step: str) -> bool:
    """Whether a step is the one that our solver writes next, after as much of its way as the thought has gone.

    The pair was trained on the solver's thoughts, which are the only way it knows. "Wait," before a step is no fault.
    """
    way = [solved.text for solved in solve(problem).steps]
    done = 0
    for text in thought:
        done += done < len(way) and _bare(text) == way[done]
    return done < len(way) and _bare(step) == way[done]


def _bare(step: str) -> str:
    return step.partition("</think>")[0].strip().removeprefix("Wait,").strip()


def _legs_of(plural: str) -> int | None:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    legs: int | None = ANIMALS.get(plural.removesuffix("s"), ANIMALS.get(plural))
    return legs


def _sum(a: int, b: int, operator: str) -> SolvedStep:
    value = a + b if operator == "+" else a - b
    return SolvedStep(f"{value} = {a} {operator} {b}.", value)


def _chain_sum(metadata: Mapping[str, Any]) -> Iterator[SolvedStep]:
    terms = metadata["expression"].split()
    yield SolvedStep(f"Go through {metadata['expression']} from left to right.")
    total = int(terms[0])
    for operator, term in zip(terms[1::2], terms[2::2], strict=True):
        step = _sum(total, int(term), operator)
        total = step.value or 0
        yield step


def _products(metadata: Mapping[str, Any]) -> Iterator[SolvedStep]:
    a, b = (int(term) for term in metadata["expression"].split(" * "))
    if b < 10:
        yield SolvedStep(f"Multiply {a} by {b} at once.")
        yield SolvedStep(f"{a * b} = {a} * {b}.", a * b)
        return
    tens, ones = b - b % 10, b % 10
    yield SolvedStep(f"Split {b} into {tens} and {ones}.")
    yield SolvedStep(f"{a * tens} = {a} * {tens}.", a * tens)
    yield SolvedStep(f"{a * ones} = {a} * {ones}.", a * ones)
    yield _sum(a * tens, a * ones, "+")


def _gcd(metadata: Mapping[str, Any]) -> Iterator[SolvedStep]:
    a, b = sorted(metadata["numbers"], reverse=True)
    yield SolvedStep(f"Take {b} out of {a} and go on with the rest.")
    while b:
        quotient, rest = divmod(a, b)
        yield SolvedStep(f"{rest} = {a} - {quotient} * {b}.", rest)
        a, b = b, rest


def _prime_factorization(metadata: Mapping[str, Any]) -> Iterator[SolvedStep]:
    left = metadata["number"]
    yield SolvedStep(f"Divide {left} by the smallest primes.")
    for prime in metadata["factors"]:
        yield SolvedStep(f"{left // prime} = {left} / {prime}.", left // prime)
        left //= prime


def _leg_counting(metadata: Mapping[str, Any]) -> Iterator[SolvedStep]:
    yield SolvedStep("Count the legs kind by kind.")
    total: int | None = None
    for animal, count in metadata["animals"].items():
        each = _legs_of(animal) or 0
        name = animal if count == 1 else f"{animal}s"
        yield SolvedStep(f"{count * each} legs on {count} {name}, {each} each.", count * each)
        if total is None:
            total = count * each
        else:
            step = _sum(total, count * each, "+")
            total = step.value or 0
            yield step


def _simple_equations(metadata: Mapping[str, Any]) -> Iterator[SolvedStep]:
    equation, variable = metadata["equation"], metadata["variable"]
    left, right = equation.split(" = ")
    value, (a, operator, b) = int(right), left.split(" ")
    yield SolvedStep(f"Isolate {variable} in {equation}.")
    if variable in a:
        step = _sum(value, int(b), "-" if operator == "+" else "+")
        term = a
    else:
        constant = int(a)
        step = _sum(constant, abs(value), "-" if value >= 0 else "+") if operator == "-" else _sum(value, constant, "-")
        term = b
    yield step
    coefficient = int(term.split("*")[0]) if "*" in term else 1
    total = step.value or 0
    yield SolvedStep(f"{total // coefficient} = {total} / {coefficient}.", total // coefficient)


_SOLVERS: dict[str, Callable[[Mapping[str, Any]], Iterator[SolvedStep]]] = {
    "chain_sum": _chain_sum,
    "products": _products,
    "gcd": _gcd,
    "prime_factorization": _prime_factorization,
    "leg_counting": _leg_counting,
    "simple_equations": _simple_equations,
}
