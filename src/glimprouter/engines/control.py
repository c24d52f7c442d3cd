"""Control tokens in other people's text: found by their looks, kept from becoming tokens by cutting them apart."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from glimprouter.flow.engine import Message
from glimprouter.flow.prompt import FORMATS

_LOOKS = re.compile(r"<[|｜][^<>]*[|｜]>|</?[^<>\s]{1,32}>|\[/?[A-Za-z_]{2,32}\]|◁[^◁▷]*▷")
"""<|im_end|>, <｜User｜>, </think>, <s>, [INST], ◁think▷."""


def lookalikes(text: str) -> set[str]:
    """What in a text may be a control token of some family."""
    return set(_LOOKS.findall(text))


def cut(text: str, tokens: Collection[str]) -> list[str]:
    """A text in parts, cut after the first character of each control token, so that none can form."""
    places = [match.start() + 1 for match in _LOOKS.finditer(text) if match[0] in tokens]
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def unused_mark(messages: Sequence[Message]) -> str:
    """A private-use character that stands in no message."""
    used = {character for message in messages for character in message["content"]}
    return next(mark for mark in map(chr, range(0xE000, 0xF8FF)) if mark not in used)


def without_thought(message: Message) -> Message:
    """A message of the model's own without the thought in it, which reasoning templates drop from the history too."""
    content = message["content"]
    if message["role"] == "assistant":
        for known in FORMATS:
            if known.close_tag in content:
                content = content.rpartition(known.close_tag)[2].lstrip("\n")
    return message | {"content": content}
