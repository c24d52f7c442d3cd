"""Published data sets: from the Hugging Face hub at a pinned revision, or from a local file in the same format."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glimprouter.errors import ConfigError
from glimprouter.evaluate.suites.livecodebench import question_of
from glimprouter.evaluate.suites.suite import Problem, Split

if TYPE_CHECKING:
    from glimprouter.evaluate.graders.grade import Grader

Row = Mapping[str, Any]
Kind = Literal["maths", "choice", "code"]

MATHS = "{question}\n\nReason step by step and put the final answer into \\boxed{{}}."
CHOICE = "{question}\n\n{options}\n\nReason step by step and put the letter of the one right option into \\boxed{{}}."
CODE = "{question}\n\nWrite the whole program in Python, in one block that begins with ```python."


@dataclass(frozen=True, slots=True)
class PublishedSuite:
    """A data set as it was published. It is one whole: calibrate on one suite, report another."""

    name: str
    source: str
    revision: str
    prompt: str
    kind: Kind
    hub_split: str
    fields: tuple[str, ...]
    read: Callable[[Row, int, str], Problem]
    config: str | None = None
    file: str | None = None
    """One file of the data set, for those that are loaded by a script (which `datasets` runs no more)."""

    data: Path | None = None
    splits: tuple[Split, ...] = ("report",)

    def of_file(self, data: Path | None, seed: int) -> PublishedSuite:
        """The same suite from a local file, and with options shuffled by a seed."""
        read = partial(_choice, seed=seed) if self.kind == "choice" else self.read
        return replace(self, data=data, read=read)

    def problems(self, split: Split, count: int | None) -> list[Problem]:
        if split not in self.splits:
            raise ConfigError(
                f"{self.name} has no questions set apart for calibration; calibrate on another suite and give "
                "--threshold and --random-p",
                field="suite",
            )
        found = [self._problem(row, number) for number, row in enumerate(self._rows(), 1)]
        if not found:
            raise ConfigError(f"{self._place()}: holds no questions", field="data")
        # Files are sorted by contest or subject: the first few in this order are spread over all of them.
        found.sort(key=lambda problem: hashlib.sha256(problem.id.encode()).digest())
        return found if count is None else found[:count]

    def grader(self) -> Grader:
        if self.kind == "maths":
            from glimprouter.evaluate.graders.maths import MathsGrader

            return MathsGrader()
        if self.kind == "choice":
            from glimprouter.evaluate.graders.choice import ChoiceGrader

            return ChoiceGrader()
        from glimprouter.evaluate.graders.code import CodeGrader

        return CodeGrader()

    def _problem(self, row: Row, number: int) -> Problem:
        missing = [name for name in self.fields if row.get(name) is None]
        if missing:
            raise ConfigError(
                f"{self._place()}, record {number}: lacks {', '.join(missing)}; "
                f"{self.name} has the fields {', '.join(self.fields)}",
                field="data",
            )
        return self.read(row, number, self.prompt)

    def _place(self) -> str:
        return str(self.data) if self.data else f"{self.source} at {self.revision}"

    def _rows(self) -> Iterable[Row]:
        return read_file(self.data) if self.data is not None else self._from_hub()

    def _from_hub(self) -> Iterable[Row]:
        """Raises ConfigError, with the ways to the data, where it cannot be had."""
        try:
            from datasets import load_dataset  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise self._missing("the package datasets is not installed (pip install 'glimprouter[data]')") from None
        try:
            if self.file is not None:
                url = f"hf://datasets/{self.source}@{self.revision}/{self.file}"
                rows: Iterable[Row] = load_dataset("json", data_files=url, split="train")
            else:
                rows = load_dataset(self.source, self.config, split=self.hub_split, revision=self.revision)
        except Exception as error:  # whatever the network, the hub or its licence gate answered
            raise self._missing(f"{type(error).__name__}: {str(error)[:200]}") from error
        return rows

    def _missing(self, reason: str) -> ConfigError:
        gated = " (its licence must be accepted there, and HF_TOKEN set)" if self.kind == "choice" else ""
        return ConfigError(
            f"{self.name}: its data cannot be had: {reason}; it comes from https://huggingface.co/datasets/{self.source}"
            f" at revision {self.revision}{gated}; or give a local file with --data FILE, JSON Lines or CSV with the "
            f"fields {', '.join(self.fields)}",
            field="data",
        )


def read_file(path: Path) -> list[Row]:
    """JSON Lines, or CSV by its name. Raises ConfigError that names the line."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                return list(csv.DictReader(file))
            return [_parsed(line, path, number) for number, line in enumerate(file, 1) if line.strip()]
    except OSError as error:
        raise ConfigError(f"--data {path}: cannot be read ({error.strerror})", field="data") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--data {path}: is no text; accepted: JSON Lines or CSV in UTF-8", field="data") from error


def _parsed(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}:{number}: not a line of JSON ({error})", field="data") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{path}:{number}: not an object; accepted: one record a line", field="data")
    return row


def _aime(row: Row, number: int, prompt: str) -> Problem:
    name = str(row.get("id", number))
    return Problem(name, "aime", prompt.format(question=row["problem"].strip()), str(row["answer"]).strip(), row)


def _math500(row: Row, _: int, prompt: str) -> Problem:
    question = prompt.format(question=row["problem"].strip())
    return Problem(row["unique_id"], row["subject"], question, row["answer"].strip(), row)


def _choice(row: Row, _: int, prompt: str, *, seed: int = 0) -> Problem:
    """Options in an order that follows from the seed and the question; the right one stands first in the file."""
    name = row["Record ID"]
    options = [row[field].strip() for field in _OPTIONS]
    order = list(range(len(options)))
    random.Random(f"{seed}/{name}").shuffle(order)
    letters = "ABCD"
    shown = [options[place] for place in order]
    question = prompt.format(
        question=row["Question"].strip(),
        options="\n".join(f"{letter}) {option}" for letter, option in zip(letters, shown, strict=True)),
    )
    return Problem(name, row["High-level domain"], question, letters[order.index(0)], {**row, "options": shown})


def _code(row: Row, _: int, prompt: str) -> Problem:
    # Prompts of code are full of braces, so the question is put in last and by itself.
    question = prompt.replace("{question}", question_of(row))
    return Problem(str(row["question_id"]), row["difficulty"], question, "all tests pass", row)


_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_CODE_FIELDS = (
    "question_id", "question_content", "difficulty", "starter_code", "public_test_cases", "private_test_cases",
)  # fmt: skip
_LIVECODEBENCH = "livecodebench/code_generation_lite"
_LIVECODEBENCH_REVISION = "0fe84c3912ea0c4d4a78037083943e8f0c4dd505"

PUBLISHED = (
    PublishedSuite(
        "aime24", "HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", MATHS, "maths", "train",
        ("problem", "answer"), _aime,
    ),
    PublishedSuite(
        "aime25", "math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", MATHS, "maths", "test",
        ("problem", "answer"), _aime,
    ),
    PublishedSuite(
        "math500", "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", MATHS, "maths", "test",
        ("problem", "answer", "subject", "unique_id"), _math500,
    ),
    PublishedSuite(
        "gpqa-diamond", "Idavidrein/gpqa", "83022cefff930aea54f654c0b282e74b9eeda5c6", CHOICE, "choice", "train",
        ("Record ID", "Question", "High-level domain", *_OPTIONS), _choice, config="gpqa_diamond",
    ),
    PublishedSuite(
        "livecodebench-v5", _LIVECODEBENCH, _LIVECODEBENCH_REVISION, CODE, "code", "test",
        _CODE_FIELDS, _code, file="test5.jsonl",
    ),
    PublishedSuite(
        "livecodebench-v6", _LIVECODEBENCH, _LIVECODEBENCH_REVISION, CODE, "code", "test",
        _CODE_FIELDS, _code, file="test6.jsonl",
    ),
)  # fmt: skip
"""v5 and v6 are the problems that these releases added (167 and 175), as the paper counts them."""
