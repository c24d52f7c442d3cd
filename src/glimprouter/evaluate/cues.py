"""RelayGen's profile: after which opening words of a sentence a model is surer of itself than elsewhere.

Sureness is the margin between the probabilities of its two best tokens (arXiv 2602.06454).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from glimprouter.flow.engine import Token

_OPENING = re.compile(r"\s*([A-Za-z]+)\b(?=.)", re.DOTALL)
_END = re.compile(r"[.!?]\s*$|\n\s*$")


@dataclass(frozen=True, slots=True)
class Cue:
    """A word, how many sentences opened with it, and the mean margin of the tokens that followed it there."""

    word: str
    times: int
    margin: float


def margin(token: Token) -> float:
    """Probability of the likeliest token less that of the next; 1 where only one was possible."""
    best = sorted((logprob for _, logprob in dict(token.top).items()), reverse=True)[:2]
    first, second = (*best, -math.inf, -math.inf)[:2]
    return math.exp(first) - math.exp(second)


def profile(thoughts: Iterable[Sequence[Token]], *, least_times: int, least_gain: float) -> list[Cue]:
    """Words that opened `least_times` sentences and whose margin is above the mean of all by `least_gain`, the surest
    first. Tokens must carry at least two log-probabilities."""
    after: dict[str, list[float]] = defaultdict(list)
    times: dict[str, int] = defaultdict(int)
    everywhere: list[float] = []
    for thought in thoughts:
        everywhere += map(margin, thought)
        for sentence in sentences(thought):
            if found := _opened(sentence):
                word, rest = found
                times[word] += 1
                after[word] += map(margin, rest)
    mean = fmean(everywhere) if everywhere else 0.0
    cues = [Cue(word, times[word], fmean(margins)) for word, margins in after.items() if margins]
    kept = [cue for cue in cues if cue.times >= least_times and cue.margin >= mean + least_gain]
    return sorted(kept, key=lambda cue: -cue.margin)


def sentences(thought: Sequence[Token]) -> Iterator[list[Token]]:
    """Its tokens, cut after those that end a sentence or a line."""
    sentence: list[Token] = []
    for token in thought:
        sentence.append(token)
        if _END.search(token.text):
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _opened(sentence: Sequence[Token]) -> tuple[str, Sequence[Token]] | None:
    """The word it opens with and the tokens after it; None where it opens with no word."""
    text = ""
    for place, token in enumerate(sentence):
        text += token.text
        if match := _OPENING.match(text):
            return match[1], sentence[place + (match.end() == len(text)) :]
        if text.strip() and not text.strip().isalpha():
            return None
    return None
