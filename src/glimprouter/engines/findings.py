"""What an examination finds: one statement each, with a stable code, how bad it is, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glimprouter.config import Side

Level = Literal["ok", "note", "warn", "fail"]
"""`note` is worth knowing, `warn` costs accuracy or time, with a `fail` the pair cannot work."""

CODES: dict[str, str] = {
    "reachable": "the engine answers, which model it runs and which version it is",
    "replicas": "how many of a model's addresses can be used",
    "engine": "what the engine's adapter has to say of it",
    "context": "how many tokens a prompt and all that is written may have together",
    "call": "a call for one token, with every field that the router sends",
    "ids": "a text turned into ids and back is the same text",
    "drawn-ids": "ids that the engine draws stand for the text that it sends",
    "logprobs": "how many log-probabilities come with a token, and whether they are any",
    "temperature": "log-probabilities are raw, or changed by the temperature that is asked for",
    "thought": "the chat template can hold an open thought",
    "stream": "tokens come one by one",
    "release": "a stream that is left frees the engine at once",
    "cache": "a prefix seen before is not read again, and the engine says so",
    "pace": "milliseconds to the first token, for each further one, and for the cheapest call",
    "reentry": "what it costs the model to come back after the other one has written",
    "vocabulary": "both models number their tokens alike, so that ids are handed over, not text",
    "control": "both models number their control tokens alike",
    "ratio": "how much dearer a token of the large model is",
}
"""Every code with what it is about; `docs/doctor.md` explains them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`side` None: of both models together. `mend` is empty where there is nothing to mend."""

    code: str
    level: Level
    side: Side | None
    text: str
    mend: str = ""

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    @property
    def sentence(self) -> str:
        """What was found and what to do about it, as an error says it."""
        return f"{self.text}; {self.mend}" if self.mend else self.text
