"""The lines of answers.jsonl: one whole answer each, appended at once, so that a killed run loses nothing it had.

A line carries everything (its trace included); what stays in memory is the `Outcome`, the few figures that a report
needs of it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

from glimprouter.errors import ConfigError
from glimprouter.flow.trace import Trace

CUT_THOUGHTS = ("thinking_budget", "context", "loop")
"""Ways for a thought to end that are none of the model's own."""


class Record(msgspec.Struct, kw_only=True):
    """One answer to one question by one method. `extracted` is what was graded, None where nothing could be;
    `reason` is why it is not right, as far as the grader can say.

    `wall_ms` runs from the request to the last token. `cpu_ms` is of this process and the engines it started, over the
    same time; None where that cannot be had.
    """

    question: str
    family: str
    method: str
    sample: int
    correct: int
    answer: str
    extracted: str | None
    gold: str
    wall_ms: float
    cpu_ms: float | None
    seed: int
    trace: Trace
    reason: str = ""


class Key(msgspec.Struct, frozen=True):
    """What an answer answers; no two lines of a run share it."""

    question: str
    method: str
    sample: int


class Outcome(msgspec.Struct, kw_only=True):
    """What a report keeps of a record. `glimpses` are (H_init in nats, tokens of that step)."""

    key: Key
    family: str
    correct: int
    answered: bool
    wall_ms: float
    cpu_ms: float | None
    tokens: int
    large_tokens: int
    steps: int
    large_steps: int
    handovers: int
    discarded_tokens: int
    cut: str | None
    glimpses: list[tuple[float, int]]

    @classmethod
    def of(cls, record: Record) -> Self:
        trace = record.trace
        return cls(
            key=Key(record.question, record.method, record.sample),
            family=record.family,
            correct=record.correct,
            answered=record.extracted is not None,
            wall_ms=record.wall_ms,
            cpu_ms=record.cpu_ms,
            tokens=trace.thought_tokens(),
            large_tokens=trace.thought_tokens("large"),
            steps=len(trace.steps),
            large_steps=sum(step.author == "large" for step in trace.steps),
            handovers=trace.handovers,
            discarded_tokens=trace.small.discarded_tokens + trace.large.discarded_tokens,
            cut=trace.thought_end if trace.thought_end in CUT_THOUGHTS else None,
            glimpses=[(step.glimpse.entropy_nats, step.tokens) for step in trace.steps if step.glimpse is not None],
        )


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def read_outcomes(path: Path) -> Iterator[Outcome]:
    """What a file of answers holds; an incomplete last line is passed over. Raises ConfigError for a damaged line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Outcome.of(_decoder.decode(line))
            except msgspec.DecodeError as error:
                raise ConfigError(f"{path}:{number}: not an answer of this version ({error})", field="out") from error


class AnswerFile:
    """answers.jsonl while a run goes on: what it held before, and a place to add to. One process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(
                f"{path}: another run is writing there; wait for it, or give another --out", field="out"
            ) from None
        try:
            self._cut_incomplete_line()
            self.outcomes = {outcome.key: outcome for outcome in read_outcomes(path)}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: Record) -> Outcome:
        """Add a line in one write."""
        outcome = Outcome.of(record)
        assert outcome.key not in self.outcomes, f"{outcome.key} answered twice"
        self._file.write(_encoder.encode(record) + b"\n")
        self._file.flush()
        self.outcomes[outcome.key] = outcome
        return outcome

    def _cut_incomplete_line(self) -> None:
        """A process that is killed while it writes leaves a line without its end; that answer is asked again."""
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
        if whole < size:
            os.ftruncate(self._file.fileno(), whole)
