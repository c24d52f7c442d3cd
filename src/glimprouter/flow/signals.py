"""Signals: one number of a glimpse each, that rises with the small model's doubt. Entropy is the published one.

    entropy           H_init, in nats
    margin            1 - (p1 - p2): how close the two likeliest tokens are, 0 to 1
    top1              1 - p1: what the likeliest token leaves to all others, 0 to 1
    varentropy        variance of the surprise, in nats squared: high where a few ways part, 0 where all are alike
    mean-entropy-2    mean entropy of the first two tokens of the step, in nats; -3: of three
    class-entropy     share of calibrated tokens of the same class with less entropy, 0 to 1

A threshold of one signal means nothing to another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from glimprouter.errors import ConfigError
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.quantiles import grid_of, rank

TokenClass = Literal["format", "connective", "digit", "other"]
TOKEN_CLASSES: tuple[TokenClass, ...] = get_args(TokenClass)

_CONNECTIVES = """
actually after again also alternatively although and as because before but first finally for hence hmm however if in
instead let lets maybe next no now ok okay on or otherwise perhaps second since so still then therefore third though
thus to well what when while which wait yes yet
"""
CONNECTIVES = frozenset(_CONNECTIVES.split())
"""Words that open a step and commit to nothing: many others would do, so they read high whatever the difficulty."""


@dataclass(frozen=True, slots=True)
class Signal:
    """`tokens`: how many tokens of the step it looks at. The small model's stream stays open meanwhile."""

    name: str
    measure: Callable[[Glimpse], float]
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class ClassScale:
    """Entropies of first tokens as they were calibrated: a grid of quantiles (nats) per class, and one of all."""

    every: tuple[float, ...]
    classes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def rank(self, glimpse: Glimpse) -> float:
        """Among tokens of its class; among all where too few of the class were seen."""
        return rank(self.classes.get(token_class(glimpse.token_text), self.every), glimpse.entropy_nats)


FEWEST_OF_CLASS = 20
"""A class seen less often has no quantiles worth the name."""


def class_scale(glimpses: Iterable[Glimpse]) -> ClassScale:
    """The scale of calibration traces."""
    seen: dict[str, list[float]] = {}
    every: list[float] = []
    for glimpse in glimpses:
        every.append(glimpse.entropy_nats)
        seen.setdefault(token_class(glimpse.token_text), []).append(glimpse.entropy_nats)
    classes = {name: grid_of(values) for name, values in sorted(seen.items()) if len(values) >= FEWEST_OF_CLASS}
    return ClassScale(grid_of(every), classes)


def token_class(text: str) -> TokenClass:
    """What kind of token opens a step: digits, formatting, a connective, or a word that may carry something."""
    bare = text.strip()
    if bare[:1].isdigit():
        return "digit"
    if not any(character.isalnum() for character in bare):
        return "format"
    return "connective" if bare.casefold() in CONNECTIVES else "other"


def _probabilities(glimpse: Glimpse) -> list[float]:
    """Of the tokens seen, the likeliest first."""
    return sorted((min(1.0, math.exp(logprob)) for _, logprob in glimpse.top), reverse=True)


def _entropy(glimpse: Glimpse) -> float:
    return glimpse.entropy_nats


def _margin(glimpse: Glimpse) -> float:
    first, second, *_ = *_probabilities(glimpse), 0.0, 0.0
    return 1.0 - (first - second) if glimpse.top else 0.0


def _top1(glimpse: Glimpse) -> float:
    return 1.0 - _probabilities(glimpse)[0] if glimpse.top else 0.0


def _varentropy(glimpse: Glimpse) -> float:
    """Of the tokens seen, renormalised, like the entropy it belongs to."""
    seen = [p for p in _probabilities(glimpse) if p > 0.0]
    total = math.fsum(seen)
    shares = [p / total for p in seen]
    mean = -math.fsum(p * math.log(p) for p in shares if p > 0.0)
    return math.fsum(p * (-math.log(p) - mean) ** 2 for p in shares if p > 0.0)


def _mean_entropy(tokens: int) -> Signal:
    def measure(glimpse: Glimpse) -> float:
        values = (glimpse.entropy_nats, *glimpse.next_nats[: tokens - 1])
        return math.fsum(values) / len(values)

    return Signal(f"mean-entropy-{tokens}", measure, tokens)


ENTROPY = Signal("entropy", _entropy)
CLASS_ENTROPY = "class-entropy"

_SIGNALS = {
    signal.name: signal
    for signal in (
        ENTROPY,
        Signal("margin", _margin),
        Signal("top1", _top1),
        Signal("varentropy", _varentropy),
        _mean_entropy(2),
        _mean_entropy(3),
    )
}
SIGNALS = (*_SIGNALS, CLASS_ENTROPY)


def signal_named(name: str, scale: ClassScale | None = None) -> Signal:
    """The signal; `scale` is what class-entropy is measured on. Raises ConfigError for an unknown name."""
    if name == CLASS_ENTROPY:
        if scale is None or not scale.every:
            raise ConfigError(
                "signal is 'class-entropy', which needs calibrated quantiles; make them with `glimprouter calibrate "
                "--signal class-entropy` and give the file with --profile",
                field="signal",
            )
        return Signal(name, scale.rank)
    if name not in _SIGNALS:
        raise ConfigError(f"signal is {name!r}; accepted: {', '.join(SIGNALS)}", field="signal")
    return _SIGNALS[name]
