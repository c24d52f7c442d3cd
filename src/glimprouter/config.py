"""Settings: frozen dataclasses, each default once, read from TOML; unknown keys are refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from glimprouter.errors import ConfigError

__version__ = "0.1.0"

Side = Literal["small", "large"]
SIDES: tuple[Side, Side] = ("small", "large")

PUBLISHED_THRESHOLD_NATS = 0.9
"""The paper's tau. It does not travel between pairs: calibrate."""

SURE_DRAFT = 0.75
"""A draft model stops proposing where its likeliest token is less probable than this."""


SPLITTERS = {"blank-line": 0, "sentence": 0, "discourse": 0, "tokens": 64}
"""Where steps may end, by name, with the tokens that `NAME(n)` sets; 0: it takes no number."""


def parse_splitter(text: str) -> tuple[str, int]:
    """Name and number of tokens. Raises ConfigError for what names no splitter."""
    match = re.fullmatch(r"([a-z-]+)(?:\((\d{1,6})\))?", text)
    name, number = match.groups() if match else (text, None)
    if name not in SPLITTERS or (number is not None and not (SPLITTERS[name] and int(number))):
        shown = ", ".join(f"{one} or {one}(n)" if tokens else one for one, tokens in SPLITTERS.items())
        raise ConfigError(f"splitter is {text!r}; accepted: {shown}, with n a number of tokens", field="splitter")
    return name, SPLITTERS[name] if number is None else int(number)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Engines' own defaults never apply: every field is sent with every call.

    Penalties count as each engine counts them: over the output of one call, anew at each hand-over, or (llama.cpp) over
    the last tokens of prompt and output together.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        number("temperature", self.temperature, 0.0, 5.0)
        number("top_p", self.top_p, 0.0, 1.0, above=True)
        number("top_k", self.top_k, 0, 10**6)
        number("min_p", self.min_p, 0.0, 1.0)
        number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        number("seed", self.seed, 0, 2**63 - 1)


REFUSED_SAMPLING = {
    "min_tokens": "a step's author cannot hold it across hand-overs",
    "max_tokens": "thought and answer have budgets of their own, routing.max_thinking_tokens and max_answer_tokens",
    "logit_bias": "it names ids, and the two models may number theirs differently",
    "repetition_penalty": "engines count it over the prompt too, so it would change at each hand-over; "
    "use presence_penalty or frequency_penalty, which hold within a step",
    "stop": "stop strings belong to a request; they end its answer",
    "n": "ask several times with different seeds",
}
"""Sampling fields other programs know and this one refuses by name, with the reason."""


Param = bool | int | float | str | list[str]
"""A policy's own option, as TOML writes it."""


@dataclass(frozen=True, slots=True)
class Routing:
    """How an answer is routed. `threshold` None means: the pair's calibrated one, else the published 0.9 nats.

    `signal` is the number of a glimpse that the threshold is of; None: the calibrated one, else entropy.
    `params` are options that only the policy named knows; it checks them (`policies.check_policy`).
    `overlap`: the large model's stream runs on while the small one glimpses. `warm`: the idle model reads what the
    other writes, after each step and within it every `warm_every_tokens` (0: only after), unless more than
    `warm_beside_calls` of other answers are under way on its engine. `*_min_stay_steps`: how many steps a model keeps
    writing once it has taken over, for engines where coming back is dear. `splitter_moves`: a TOML file of phrases
    that open a step, besides those that ship, for the splitter discourse.
    """

    policy: str = "glimpse"
    threshold: float | None = None
    signal: str | None = None
    random_p: float = 0.5
    first_large_steps: int = 0
    answer_by: Side = "large"
    min_step_tokens: int = 4
    max_step_tokens: int = 512
    splitter: str = "blank-line"
    splitter_moves: str = ""
    max_thinking_tokens: int = 8192
    max_answer_tokens: int = 2048
    glimpse_top: int = 20
    loop_repeats: int = 3
    overlap: bool = True
    warm: bool = True
    warm_every_tokens: int = 24
    warm_beside_calls: int = 0
    small_min_stay_steps: int = 1
    large_min_stay_steps: int = 1
    params: dict[str, Param] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threshold is not None:
            number("threshold", self.threshold, 0.0, 100.0)
        number("random_p", self.random_p, 0.0, 1.0)
        number("first_large_steps", self.first_large_steps, 0, 10**6)
        if self.answer_by not in ("small", "large"):
            raise ConfigError(f"answer_by is {self.answer_by!r}; accepted: small, large", field="answer_by")
        number("min_step_tokens", self.min_step_tokens, 0, 10**4)
        number("max_step_tokens", self.max_step_tokens, 1, 10**6)
        parse_splitter(self.splitter)
        number("max_thinking_tokens", self.max_thinking_tokens, 1, 10**7)
        number("max_answer_tokens", self.max_answer_tokens, 1, 10**7)
        number("glimpse_top", self.glimpse_top, 2, 1000)
        number("loop_repeats", self.loop_repeats, 2, 1000)
        number("warm_every_tokens", self.warm_every_tokens, 0, 10**6)
        number("warm_beside_calls", self.warm_beside_calls, 0, 10**6)
        number("small_min_stay_steps", self.small_min_stay_steps, 1, 10**4)
        number("large_min_stay_steps", self.large_min_stay_steps, 1, 10**4)


@dataclass(frozen=True, slots=True)
class Model:
    """Where one model runs: `at` names a GGUF file, a Hugging Face folder, or the addresses of its replicas.

    `dialect` is how its servers speak (auto: found by asking). `model` is the name by which they know it (empty: the
    first one they list). `tokenizer` is a folder with tokenizer.json and chat template, for servers that render and
    tokenise nothing themselves. `thought_format` is how it opens and closes a thought, where its template does not
    tell. `key_variable` names the environment variable that holds the servers' key (empty: GLIMPROUTER_SMALL_KEY or
    GLIMPROUTER_LARGE_KEY).
    `speculate`: how many tokens the small model proposes to the large one at a time (0: none); both run here then.
    """

    at: tuple[str, ...]
    dialect: str = "auto"
    model: str = ""
    tokenizer: str = ""
    thought_format: str = "auto"
    key_variable: str = ""
    speculate: int = 0

    def __post_init__(self) -> None:
        if not self.at or not all(self.at):
            raise ConfigError("at is empty; give a file, a folder or one address for each replica", field="at")
        number("speculate", self.speculate, 0, 64)


def model_at(text: str) -> Model:
    """What `--small` and `--large` say: one place, or the addresses of several replicas with commas between them."""
    places = text.split(",") if text.startswith(("http://", "https://")) else [text]
    return Model(tuple(place.strip() for place in places))


def named_model(text: str, names: dict[str, str | Model]) -> Model:
    """The model that a name of the config stands for, or that a text which is none describes."""
    known = names.get(text, text)
    return known if isinstance(known, Model) else model_at(known)


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration file. `models` gives names to models: `--small NAME`. A text there is what `model_at`
    reads, a table is a `Model`. `speculate` is the large model's, where its table does not say. `reward` is the address
    of a process reward model, for policies that ask one."""

    small: str | None = None
    large: str | None = None
    reward: str | None = None
    speculate: int = 0
    models: dict[str, str | Model] = field(default_factory=dict)
    routing: Routing = field(default_factory=Routing)
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        number("speculate", self.speculate, 0, 64)


def load_config(path: Path) -> Config:
    """Read a TOML file; every error names the key, what was given and what is accepted."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        message = f"--config {path}: cannot be read ({error.strerror}); give a TOML file"
        raise ConfigError(message, field="config") from error
    except ValueError as error:  # bad TOML, bad UTF-8, a number of thousands of digits
        raise ConfigError(f"--config {path}: not valid TOML ({error})", field="config") from error
    table.pop("gateway", None)  # read by gateway/settings.py
    return from_table(Config, table, where=str(path))


T = TypeVar("T")


def from_table(kind: type[T], table: dict[str, Any], *, where: str, prefix: str = "") -> T:
    """Build a dataclass from a table, refusing unknown keys and wrong types."""
    hints = typing.get_type_hints(kind)
    known = {f.name: hints[f.name] for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if kind is Sampling and key in REFUSED_SAMPLING:
            raise ConfigError(f"{where}: {name} is not taken: {REFUSED_SAMPLING[key]}", field=name)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"{where}: unknown key {name!r}; accepted: {', '.join(known)}.{hint}", field=name)
        expected = known[key]
        if dataclasses.is_dataclass(expected):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {name} must be a table, [{name}]", field=name)
            value = from_table(typing.cast("type[Any]", expected), value, where=where, prefix=f"{name}.")
        elif key == "models" and isinstance(value, dict):
            value = {
                one: from_table(Model, entry, where=where, prefix=f"{name}.{one}.")
                if isinstance(entry, dict)
                else entry
                for one, entry in value.items()
            }
        elif typing.get_origin(expected) is tuple:
            value = tuple(value) if isinstance(value, list) else (value,)
        if not dataclasses.is_dataclass(expected) and not _fits(value, expected):
            raise ConfigError(f"{where}: {name} is {value!r}; accepted: {_in_words(expected)}", field=name)
        values[key] = value
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {prefix}{error}", field=f"{prefix}{error.field}") from None


def _in_words(expected: Any) -> str:
    origin, options = typing.get_origin(expected), typing.get_args(expected)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_in_words(option) for option in options if option is not types.NoneType)
    if origin is Literal:
        return ", ".join(options)
    if origin is dict:
        of_models = Model in typing.get_args(options[1])
        return (
            "a table of texts and tables" if of_models else "a table of numbers, texts, true or false, lists of texts"
        )
    if origin in (tuple, list):
        return "a text or a list of texts"
    return {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}[expected]


def _fits(value: Any, expected: Any) -> bool:
    origin, options = typing.get_origin(expected), typing.get_args(expected)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in options)
    if origin is Literal:
        return value in options
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, options[1]) for item in value.values())
    if origin in (tuple, list):
        return isinstance(value, origin) and all(isinstance(item, str) for item in value)
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)


def number(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    """Raises ConfigError unless `low <= value <= high`, or `low < value` where `above`; NaN never passes.

    Whole bounds ask for a whole number.
    """
    kind, noun = (int, "a whole number") if isinstance(low, int) else ((int, float), "a number")
    bounds = f"above {low:g}, up to {high:g}" if above else f"from {low:g} to {high:g}"
    fits = isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high
    if not fits or (above and value == low):
        raise ConfigError(f"{name} is {value!r}; accepted: {noun} {bounds}", field=name)
