"""The lines of answers.jsonl: one whole answer each, appended at once, so that a killed run loses nothing it had.

A line carries everything (its trace included); what stays in memory is the `Outcome`, the few figures that a report
needs of it.
"""

from __future__ import annotations

import fcntl
import lzma
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import msgspec

from glimprouter.errors import ConfigError
from glimprouter.flow.trace import ModelUsage, Trace

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
    """What a report keeps of a record. `glimpses` are (H_init in nats, tokens of that step); `authors` has a letter for
    each step, s or L."""

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
    authors: str
    small: ModelUsage
    large: ModelUsage
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
            authors="".join("L" if step.author == "large" else "s" for step in trace.steps),
            small=trace.small,
            large=trace.large,
            cut=trace.thought_end if trace.thought_end in CUT_THOUGHTS else None,
            glimpses=[(step.glimpse.entropy_nats, step.tokens) for step in trace.steps if step.glimpse is not None],
        )


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)
_outcome_decoder = msgspec.json.Decoder(Outcome)


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


def read_packed(path: Path) -> Iterator[Outcome]:
    """The outcomes of a compressed file. Raises ConfigError for one that holds something else."""
    try:
        with lzma.open(path, "rb") as file:
            yield from map(_outcome_decoder.decode, file)
    except (OSError, EOFError, lzma.LZMAError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: no packed outcomes of this version ({error})", field="out") from error


def write_packed(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Whole or not at all; the same outcomes give the same bytes."""
    lines = b"".join(_encoder.encode(outcome) + b"\n" for outcome in outcomes)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(lzma.compress(lines, preset=9))
    fresh.replace(path)


class LineFile:
    """A file of lines that a run adds to, each in one write, so that a killed run loses nothing. One process at a time.

    Raises ConfigError where another run has it open.
    """

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
        self._cut_incomplete_line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append_line(self, line: bytes) -> None:
        self._file.write(line + b"\n")
        self._file.flush()

    def _cut_incomplete_line(self) -> None:
        """A process that is killed while it writes leaves a line without its end; that answer is asked again."""
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
        if whole < size:
            os.ftruncate(self._file.fileno(), whole)


class AnswerFile(LineFile):
    """answers.jsonl while a run goes on: what it held before, and a place to add to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.outcomes = {outcome.key: outcome for outcome in read_outcomes(path)}
        except BaseException:
            self._file.close()
            raise

    def append(self, record: Record) -> Outcome:
        outcome = Outcome.of(record)
        assert outcome.key not in self.outcomes, f"{outcome.key} answered twice"
        self.append_line(_encoder.encode(record))
        self.outcomes[outcome.key] = outcome
        return outcome
