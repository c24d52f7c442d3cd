"""The record of an answer, and every fold over it. Versioned JSON Lines; units stand in the names of fields."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from glimprouter.config import Sampling, Side
from glimprouter.errors import ConfigError
from glimprouter.flow.glimpse import Glimpse

TRACE_VERSION = 1

StepEnd = Literal["boundary", "forced", "closed", "end_token", "budget", "context", "failed"]
"""boundary: the splitter found it; forced: max_step_tokens; closed: the thought's closing tag; end_token: the model
ended its turn inside the thought; budget: thinking tokens used up; context: a context full; failed: broken off."""

ThoughtEnd = Literal["closed", "end_token", "thinking_budget", "context", "loop", "failed", "cancelled"]
AnswerEnd = Literal["stop", "length", "stop_string", "failed", "cancelled"]
TIMES = ("wall_ms", "first_token_ms", "wait_ms", "thought_ms", "answer_ms")


class Step(msgspec.Struct, kw_only=True):
    """One step as written. `text` and `ids` agree: decoding the ids gives the text.

    `wait_ms` runs from the end of the step before to this step's first token; `handover` says that a stream had to be
    opened for it, by its author or by the model that glimpsed.
    """

    index: int
    author: Side
    text: str = ""
    ids: list[int] = []
    end: StepEnd = "failed"
    glimpse: Glimpse | None = None
    handover: bool = False
    wait_ms: float = 0.0
    wall_ms: float = 0.0
    loop_cycle_steps: int = 0

    @property
    def tokens(self) -> int:
        return len(self.ids)


class ModelUsage(msgspec.Struct, kw_only=True):
    """What one model did for an answer. `new_tokens` stand in it, `discarded_tokens` were drawn and thrown away."""

    model: str = ""
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    discarded_tokens: int = 0


class AnswerText(msgspec.Struct, kw_only=True):
    author: Side
    text: str = ""
    ids: list[int] = []
    end: AnswerEnd = "failed"


class Trace(msgspec.Struct, kw_only=True):
    """Everything that happened for one answer. `router_close` is text the router set to close the thought."""

    version: int = TRACE_VERSION
    id: str
    created_unix_s: float
    policy: str
    answer_by: Side
    sampling: Sampling
    messages: list[dict[str, str]]
    small: ModelUsage
    large: ModelUsage
    steps: list[Step] = []
    thought_end: ThoughtEnd = "failed"
    close_tag: str = "</think>"
    router_close: str = ""
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
        return sum(step.handover for step in self.steps)

    @property
    def handover_ms(self) -> float:
        """Time from the end of a step to the first token of the next, over steps for which a stream was opened."""
        return sum(step.wait_ms for step in self.steps[1:] if step.handover)

    @property
    def entropies_nats(self) -> list[float]:
        return [step.glimpse.entropy_nats for step in self.steps if step.glimpse is not None]


class Summary(msgspec.Struct, kw_only=True):
    """Folds over many traces; every mean is over answers."""

    answers: int
    failed: int
    steps: int
    large_token_share: float
    large_step_share: float
    mean_wall_ms: float
    median_wall_ms: float
    mean_first_token_ms: float
    mean_thought_ms: float
    mean_answer_ms: float
    mean_handover_ms: float
    small: ModelUsage
    large: ModelUsage
    thought_ends: dict[str, int]
    entropies_nats: list[float]


def summarise(traces: Iterable[Trace]) -> Summary:
    """Shares are pooled over tokens and steps, times are means (and one median) over answers."""
    many = list(traces)
    if not many:
        raise ConfigError("no traces to summarise: the file holds none", field="trace")
    tokens = {who: sum(trace.thought_tokens(who) for trace in many) for who in ("small", "large")}
    steps = [step for trace in many for step in trace.steps]
    ends: dict[str, int] = {}
    for trace in many:
        ends[trace.thought_end] = ends.get(trace.thought_end, 0) + 1
    return Summary(
        answers=len(many),
        failed=sum(trace.error is not None for trace in many),
        steps=len(steps),
        large_token_share=tokens["large"] / max(1, sum(tokens.values())),
        large_step_share=sum(step.author == "large" for step in steps) / max(1, len(steps)),
        mean_wall_ms=statistics.fmean(trace.wall_ms for trace in many),
        median_wall_ms=statistics.median(trace.wall_ms for trace in many),
        mean_first_token_ms=statistics.fmean(trace.first_token_ms for trace in many),
        mean_thought_ms=statistics.fmean(trace.thought_ms for trace in many),
        mean_answer_ms=statistics.fmean(trace.answer_ms for trace in many),
        mean_handover_ms=statistics.fmean(trace.handover_ms for trace in many),
        small=_total(trace.small for trace in many),
        large=_total(trace.large for trace in many),
        thought_ends=ends,
        entropies_nats=[value for trace in many for value in trace.entropies_nats],
    )


def _total(usages: Iterable[ModelUsage]) -> ModelUsage:
    total = ModelUsage()
    for usage in usages:
        total.model = usage.model
        total.calls += usage.calls
        total.prompt_tokens += usage.prompt_tokens
        total.cached_tokens += usage.cached_tokens
        total.new_tokens += usage.new_tokens
        total.discarded_tokens += usage.discarded_tokens
    return total


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
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a trace file", field="trace") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _parse(line)
        except msgspec.DecodeError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                return
            raise ConfigError(f"{path}:{number}: not a trace of this version ({error})", field="trace") from error


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
