"""The run folder: a card (run.json) that says what is run on what, the plan once it is fixed, answers, the summary.

Starting again with the same card goes on where the run stopped; with another card it is refused.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from glimprouter.config import Model, Routing, Sampling, __version__, named_model
from glimprouter.errors import ConfigError
from glimprouter.evaluate.methods import Method
from glimprouter.evaluate.records import AnswerFile, Outcome, read_outcomes
from glimprouter.flow.engine import Engine

CARD_FORMAT = 1
Mode = Literal["compare", "sweep", "calibrate"]
ThresholdSource = Literal["given", "profile", "published"]
"""Where glimpse's threshold comes from: the options, the pair's calibration, or the paper, whose pair was another."""

MEASURED_WITH = ("reasoning-gym", "xllamacpp")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a run. `random_p` None: taken from a pilot; `target_share` is of thought tokens."""

    suite: str = "tiny"
    suite_revision: str = ""
    mode: Mode = "compare"
    questions: int
    pilot_questions: int = 0
    samples: int = 1
    methods: tuple[str, ...]
    threshold_nats: float
    threshold_source: ThresholdSource = "given"
    random_p: float | None = None
    target_share: float = 0.25
    routing: Routing
    sampling: Sampling
    speculate: int = 0


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Which model it was: `vocabulary` and `template` are fingerprints, `sha256` is of the file where it is local."""

    given: str
    model: str
    context_tokens: int
    vocabulary: str
    template: str
    sha256: str | None


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """run.json. All of it but the time must be the same for a run to go on."""

    format: int = CARD_FORMAT
    settings: Settings
    small: ModelCard
    large: ModelCard
    versions: dict[str, str]
    machine: dict[str, str]
    started_unix_s: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """plan.json: the rows and the questions, in order, once pilots have settled what they depend on."""

    methods: tuple[Method, ...]
    questions: tuple[str, ...]
    notes: tuple[str, ...] = ()


async def model_card(engine: Engine, given: str, file: Path | None) -> ModelCard:
    """`given` is how the model was named, `file` its local file if it has one."""
    facts = await engine.facts()
    return ModelCard(
        given=given,
        model=facts.model,
        context_tokens=facts.context_tokens,
        vocabulary=facts.vocabulary,
        template=hashlib.sha256(facts.chat_template.encode()).hexdigest()[:16],
        sha256=_sha256(file) if file else None,
    )


def new_card(settings: Settings, small: ModelCard, large: ModelCard) -> Card:
    return Card(
        settings=settings,
        small=small,
        large=large,
        versions={"glimprouter": __version__, **{name: _version(name) for name in MEASURED_WITH}},
        machine={
            "system": platform.system(),
            "architecture": platform.machine(),
            "processor": _processor(),
            "cpus": str(os.cpu_count()),
        },
        started_unix_s=time.time(),
    )


T = TypeVar("T")


class RunFolder:
    """Where a run keeps everything. Raises ConfigError for one that cannot be written or is another run's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, card: Card) -> Card:
        """Make the folder, or go on in it: the card that stands in it from now on."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self._card.exists():
                if any(self.path.iterdir()):
                    raise ConfigError(
                        f"--out {self.path}: holds files that are no run; give a new or an empty folder", field="out"
                    )
                self._write(self._card, card)
        except OSError as error:
            raise ConfigError(
                f"--out {self.path}: cannot be written ({error.strerror}); give a folder that is yours", field="out"
            ) from error
        there = self.card()
        changed = list(_differences(_plain(there), _plain(card)))
        if changed:
            raise ConfigError(
                f"--out {self.path}: belongs to another run ({'; '.join(changed)}); "
                "give the options it was begun with, or another folder",
                field="out",
            )
        return there

    def card(self) -> Card:
        return self._read(self._card, Card)

    def plan(self) -> Plan:
        return self._read(self.path / "plan.json", Plan)

    def write_plan(self, plan: Plan) -> None:
        self._write(self.path / "plan.json", plan)

    def write_summary(self, summary: object) -> None:
        self._write(self.path / "summary.json", summary)

    @property
    def answers_path(self) -> Path:
        return self.path / "answers.jsonl"

    def answers(self) -> AnswerFile:
        """The reported answers."""
        return AnswerFile(self.answers_path)

    def outcomes(self) -> Iterator[Outcome]:
        """What is in the folder, to be read only."""
        return read_outcomes(self.answers_path) if self.answers_path.exists() else iter(())

    def pilot(self) -> AnswerFile:
        """Answers to questions of the calibrate split: they choose settings and are never reported."""
        return AnswerFile(self.path / "pilot.jsonl")

    @property
    def _card(self) -> Path:
        return self.path / "run.json"

    def _read(self, path: Path, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}); give the folder of a run", field="out"
            ) from error
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}: not written by this version ({error})", field="out") from error

    def _write(self, path: Path, value: object) -> None:
        """Whole or not at all, whenever the process is killed."""
        text = msgspec.json.format(msgspec.json.encode(value), indent=1)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(text + b"\n")
        fresh.replace(path)


def _plain(card: Card) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(card))
    del plain["started_unix_s"]
    return plain


def _differences(there: Any, now: Any, name: str = "") -> Iterator[str]:
    """`key: then, now` for every leaf in which two nested tables differ."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in there | now:
            yield from _differences(there.get(key), now.get(key), f"{name}.{key}".strip("."))
    elif there != now:
        yield f"{name} was {there!r}, now {now!r}"


def model_file(given: str, names: dict[str, str | Model]) -> Path | None:
    """The local file that a model's name stands for; None for an address, a folder or an unknown name."""
    given = named_model(given, names).at[0]
    shipped = files("glimprouter.models") / f"{given}.gguf"
    path = Path(str(shipped)) if shipped.is_file() else Path(given)
    return path if path.is_file() else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
