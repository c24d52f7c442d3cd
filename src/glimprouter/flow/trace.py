"""The record of an answer, and every fold over it. Versioned JSON Lines; units stand in the names of fields."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import msgspec

from glimprouter.config import Sampling, Side
from glimprouter.errors import ConfigError
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.prior import Prior

TRACE_VERSION = 1

StepEnd = Literal[
    "boundary", "forced", "closed", "end_token", "budget", "context", "failed", "tokens", "cue", "sentence"
]
"""boundary: the splitter found it; forced: max_step_tokens; closed: the thought's closing tag; end_token: the model
ended its turn inside the thought; budget: thinking tokens used up; context: a context full; failed: broken off.
tokens, cue, sentence: a piece of a step, written until so many tokens, a cue word or a sentence's end."""

WITHIN_STEP: frozenset[StepEnd] = frozenset(("tokens", "cue", "sentence"))
"""Ends of pieces that are not the end of a step."""

ThoughtEnd = Literal["closed", "end_token", "thinking_budget", "context", "loop", "failed", "cancelled"]
AnswerEnd = Literal["stop", "length", "stop_string", "failed", "cancelled"]


class DraftRecord(msgspec.Struct, kw_only=True):
    """A step written on trial. `text` and `ids` are empty where it was kept: they are the step's.

    `mean_entropy_nats` and `perplexity` are of its tokens as its model drew them, None without log-probabilities.
    """

    author: Side
    kept: bool = False
    tokens: int
    text: str = ""
    ids: list[int] = []
    end: StepEnd
    mean_entropy_nats: float | None = None
    perplexity: float | None = None
    wall_ms: float = 0.0


class Judgement(msgspec.Struct, kw_only=True):
    """What was thought of drafts, and what it cost to ask. `drafts` are places among the step's drafts.

    score: `value` is the likeliest grade from 0 to 9, `expected` its mean. choice: `value` is a place in `drafts`, -1
    for none, `expected` the probability of that choice. reward: `value` from 0 to 1. `covered` is the probability of
    all replies that were asked for, taken together.
    """

    kind: Literal["score", "choice", "reward"]
    judge: str
    drafts: list[int]
    value: float
    expected: float | None = None
    covered: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    wall_ms: float = 0.0


class Step(msgspec.Struct, kw_only=True):
    """One step as written. `text` and `ids` agree: decoding the ids gives the text.

    `wait_ms` runs from the end of the step before to this step's first token, `decide_ms` to the verdict; `handover`
    says that a stream had to be opened for it, by its author or by a model that glimpsed or drafted. `drafts` and
    `judgements` came before the verdict.
    """

    index: int
    author: Side
    text: str = ""
    ids: list[int] = []
    end: StepEnd = "failed"
    glimpse: Glimpse | None = None
    handover: bool = False
    wait_ms: float = 0.0
    decide_ms: float = 0.0
    wall_ms: float = 0.0
    loop_cycle_steps: int = 0
    drafts: list[DraftRecord] = []
    judgements: list[Judgement] = []

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def ends_within(self) -> bool:
        """Whether this is a piece, and the step goes on in the next."""
        return self.end in WITHIN_STEP


class ModelUsage(msgspec.Struct, kw_only=True):
    """What one model did for an answer. `new_tokens` stand in it, `discarded_tokens` were drawn and thrown away.

    `aside_calls` of the `calls` asked it to judge a draft; the `aside_tokens` it replied with stand nowhere.
    `warm_calls` read `warm_tokens` ahead while the model was idle; they are not counted in the other numbers.
    `accepted_tokens` of the `drafted_tokens` that its draft model proposed were right, as far as its engine tells.
    """

    model: str = ""
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    discarded_tokens: int = 0
    warm_calls: int = 0
    warm_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    aside_calls: int = 0
    aside_tokens: int = 0


class AnswerText(msgspec.Struct, kw_only=True):
    author: Side
    text: str = ""
    ids: list[int] = []
    end: AnswerEnd = "failed"


class Trace(msgspec.Struct, kw_only=True):
    """Everything that happened for one answer. `router_close` is text the router set to close the thought.
    `prompt_tokens` is the length of the prompt as the model that writes the answer reads it.

    `prior` is what the policy knew of earlier answers, where it keeps anything of them.
    `reward` is what a reward model did for it. `attempts` are whole answers that were asked for on the way to this one
    and do not stand in it; their cost is in `small`, `large` and `wall_ms`, their tokens among the discarded.
    """

    version: int = TRACE_VERSION
    id: str
    created_unix_s: float
    policy: str
    answer_by: Side
    sampling: Sampling
    messages: list[dict[str, str]]
    prompt_tokens: int = 0
    prior: Prior | None = None
    small: ModelUsage
    large: ModelUsage
    reward: ModelUsage | None = None
    steps: list[Step] = []
    attempts: list[Trace] = []
    thought_end: ThoughtEnd = "failed"
    close_tag: str = "</think>"
    router_close: str = ""
    splitter: str = "blank-line"
    answer: AnswerText | None = None
    error: str | None = None
    first_token_ms: float = 0.0
    thought_ms: float = 0.0
    answer_ms: float = 0.0
    wall_ms: float = 0.0

    def mark_cancelled(self) -> None:
        """Note that the caller went away: what stands here is all there is."""
        self.error = "cancelled"
        if self.thought_end == "failed":
            self.thought_end = "cancelled"
        elif self.answer is not None and self.answer.end == "failed":
            self.answer.end = "cancelled"

    def usage_of(self, who: Side) -> ModelUsage:
        return self.small if who == "small" else self.large

    def whole_steps(self) -> tuple[list[str], str]:
        """The texts of the steps, their pieces put together, and what is written so far of one under way."""
        whole, rest = [], ""
        for step in self.steps:
            rest += step.text
            if not step.ends_within:
                whole.append(rest)
                rest = ""
        return whole, rest

    @property
    def thought(self) -> str:
        """The thought without its closing tag."""
        return "".join(step.text for step in self.steps).partition(self.close_tag)[0].strip("\n")

    @property
    def answer_text(self) -> str:
        return self.answer.text.strip() if self.answer else ""

    def thought_tokens(self, who: Side | None = None) -> int:
        return sum(step.tokens for step in self.steps if who in (None, step.author))

    @property
    def large_token_share(self) -> float:
        """Share of the thought's tokens that the large model wrote; 0 for an empty thought."""
        return self.thought_tokens("large") / max(1, self.thought_tokens())

    @property
    def large_step_share(self) -> float:
        return sum(step.author == "large" for step in self.steps) / max(1, len(self.steps))

    @property
    def handovers(self) -> int:
        return sum(step.handover for step in self.steps[1:])

    @property
    def handover_ms(self) -> float:
        """Time from the end of a step to the first token of the next, over steps for which a stream was opened."""
        return sum(step.wait_ms for step in self.steps[1:] if step.handover)

    @property
    def entropies_nats(self) -> list[float]:
        return [step.glimpse.entropy_nats for step in self.steps if step.glimpse is not None]


class Times(msgspec.Struct, kw_only=True):
    """Over the answers that finished; over all where none did."""

    mean_ms: float
    median_ms: float


class Summary(msgspec.Struct, kw_only=True):
    """Folds over many traces. Shares and means of steps are pooled over all steps (or tokens) of all answers."""

    answers: int
    failed: int
    policies: dict[str, int]
    steps: int
    thought_tokens: int
    large_token_share: float
    large_step_share: float
    handovers: int
    wall: Times
    first_token: Times
    thought: Times
    answer: Times
    handover: Times
    small: ModelUsage
    large: ModelUsage
    thought_ends: dict[str, int]
    entropies_nats: list[float]


@dataclass(frozen=True, slots=True)
class _Figures:
    """What a summary keeps of an answer, a hundredth of it, so that files larger than memory can be summed up."""

    policy: str
    thought_end: str
    failed: bool
    tokens: int
    large_tokens: int
    steps: int
    large_steps: int
    handovers: int
    wall_ms: float
    first_token_ms: float
    thought_ms: float
    answer_ms: float
    handover_ms: float
    small: ModelUsage
    large: ModelUsage
    entropies_nats: list[float]

    @classmethod
    def of(cls, trace: Trace) -> Self:
        return cls(
            policy=trace.policy,
            thought_end=trace.thought_end,
            failed=trace.error is not None,
            tokens=trace.thought_tokens(),
            large_tokens=trace.thought_tokens("large"),
            steps=len(trace.steps),
            large_steps=sum(step.author == "large" for step in trace.steps),
            handovers=trace.handovers,
            wall_ms=trace.wall_ms,
            first_token_ms=trace.first_token_ms,
            thought_ms=trace.thought_ms,
            answer_ms=trace.answer_ms,
            handover_ms=trace.handover_ms,
            small=trace.small,
            large=trace.large,
            entropies_nats=trace.entropies_nats,
        )


def summarise(traces: Iterable[Trace]) -> Summary:
    """Raises ConfigError where there is no trace to summarise."""
    many = [_Figures.of(trace) for trace in traces]
    if not many:
        raise ConfigError("no traces to summarise: there are none in the file", field="trace")
    tokens, steps = sum(one.tokens for one in many), sum(one.steps for one in many)
    finished = [one for one in many if not one.failed] or many
    return Summary(
        answers=len(many),
        failed=sum(one.failed for one in many),
        policies=dict(Counter(one.policy for one in many).most_common()),
        steps=steps,
        thought_tokens=tokens,
        large_token_share=sum(one.large_tokens for one in many) / max(1, tokens),
        large_step_share=sum(one.large_steps for one in many) / max(1, steps),
        handovers=sum(one.handovers for one in many),
        wall=_times(one.wall_ms for one in finished),
        first_token=_times(one.first_token_ms for one in finished),
        thought=_times(one.thought_ms for one in finished),
        answer=_times(one.answer_ms for one in finished),
        handover=_times(one.handover_ms for one in finished),
        small=_total(one.small for one in many),
        large=_total(one.large for one in many),
        thought_ends=dict(Counter(one.thought_end for one in many).most_common()),
        entropies_nats=[value for one in many for value in one.entropies_nats],
    )


def _times(values: Iterable[float]) -> Times:
    all_ms = list(values)
    return Times(mean_ms=statistics.fmean(all_ms), median_ms=statistics.median(all_ms))


def _total(usages: Iterable[ModelUsage]) -> ModelUsage:
    many = list(usages)
    counts = {name: sum(getattr(usage, name) for usage in many) for name in ModelUsage.__struct_fields__[1:]}
    return ModelUsage(model=", ".join(dict.fromkeys(usage.model for usage in many)), **counts)


class ThresholdRow(msgspec.Struct, kw_only=True):
    """`above_share` of the steps seen have more entropy than `threshold_nats`; `wanted_share` was asked for."""

    wanted_share: float
    threshold_nats: float
    above_share: float


def thresholds(entropies_nats: Iterable[float], wanted_shares: Iterable[float]) -> list[ThresholdRow]:
    """For each share the threshold that sends as nearly as can be that share of these steps to large.

    It lies midway between two entropies that were seen, so that rounding it moves no step. Empty without entropies.
    """
    seen = sorted(entropies_nats, reverse=True)
    return [_threshold(seen, share) for share in wanted_shares] if seen else []


def _threshold(seen: list[float], share: float) -> ThresholdRow:
    """`seen` from the highest down. Equal entropies go to large together or not at all."""
    wanted = share * len(seen)
    edge = seen[min(int(wanted), len(seen) - 1)]
    without, through = (sum(value > edge for value in seen), sum(value >= edge for value in seen))
    above = min(without, through, key=lambda count: abs(count - wanted))
    below_nats = seen[above] if above < len(seen) else 0.0
    threshold = (seen[above - 1] + below_nats) / 2 if above else below_nats
    above_share = sum(value > threshold for value in seen) / len(seen)
    return ThresholdRow(wanted_share=share, threshold_nats=threshold, above_share=above_share)


def histogram(values: Iterable[float], *, bins: int, high: float) -> list[int]:
    """Counts in `bins` equal bins over [0, high); what lies beyond counts in the last."""
    counts = [0] * bins
    for value in values:
        if not math.isnan(value):
            counts[min(bins - 1, int(value / high * bins))] += 1
    return counts


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Trace)


def to_line(trace: Trace) -> bytes:
    """One JSON line, newline included."""
    return _encoder.encode(trace) + b"\n"


def append(path: Path, trace: Trace) -> None:
    """Add a trace to a file in one write. Raises ConfigError naming the file where that cannot be done."""
    try:
        with path.open("ab") as file:
            file.write(to_line(trace))
    except OSError as error:
        raise unwritable(path, error) from error


def check_writable(path: Path) -> None:
    """Raises ConfigError now rather than after an answer has been written in vain."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"--trace {path}: cannot be written ({error.strerror}); give a file in a folder that exists and is yours",
        field="trace",
    )


def read(path: Path) -> Iterator[Trace]:
    """Traces of a JSON Lines file, of bare traces or of records that hold one under `trace`.

    Raises ConfigError naming the line that does not parse; an incomplete last line (a killed writer) is passed over.
    """
    try:
        with path.open("rb") as file:
            yield from _traces(path, file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a trace file", field="trace") from error


def _traces(path: Path, lines: Iterable[bytes]) -> Iterator[Trace]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            trace = _parse(line)
        except msgspec.DecodeError as error:
            # Only the last line can be without its end.
            if not line.endswith(b"\n"):
                return
            raise ConfigError(f"{path}:{number}: not a trace of this version ({error})", field="trace") from error
        yield trace


class _Holder(msgspec.Struct):
    trace: Trace | msgspec.UnsetType = msgspec.UNSET


_holder_decoder = msgspec.json.Decoder(_Holder)


def _parse(line: bytes) -> Trace:
    held = _holder_decoder.decode(line).trace
    trace = _decoder.decode(line) if held is msgspec.UNSET else held
    assert isinstance(trace, Trace)
    if trace.version != TRACE_VERSION:
        raise msgspec.ValidationError(f"version {trace.version}, this program reads {TRACE_VERSION}")
    return trace
