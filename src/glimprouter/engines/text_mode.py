"""Text mode: for servers that take no ids. What the router handles as ids are our own numbers for pieces of text.

A piece is a word, a blank or a sign, so that a table of them stays about as small as a real vocabulary. A server that
renders nothing itself and for which no tokenizer files were given is sent the messages as they are, and what has been
written so far as the beginning of the assistant's turn: then the first number of a prompt stands for its messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from glimprouter.engines.control import cut, lookalikes
from glimprouter.engines.tokenizer_files import TokenizerFiles
from glimprouter.flow.engine import Message

_PIECES = re.compile(r"</?[a-zA-Z:]+>|\[/?THINK\]|◁/?think▷| ?\w{1,32}|\s|[^\w\s]")
_CHAT = -1
_UNSEEN = "\u200b"
"""A zero-width space: set into control tokens that somebody wrote, for in text nothing else tells them apart."""

_MOST_CHATS = 4096


class Pieces:
    """A coder that numbers pieces of text. Chats are remembered by number, the last few thousand of them."""

    def __init__(self, files: TokenizerFiles | None) -> None:
        self._files = files
        self.template = files.template if files is not None else ""
        self._texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self._chats: dict[int, list[Message]] = {}

    def number(self, piece: str) -> int:
        """The number of a piece; a new one is numbered now."""
        known = self._numbers.get(piece)
        if known is None:
            known = self._numbers[piece] = len(self._texts)
            self._texts.append(piece)
        return known

    def text(self, ids: Sequence[int]) -> str:
        """The text that numbers stand for; a chat has none."""
        return "".join([self._texts[id_] for id_ in ids if id_ not in self._chats])

    def chat(self, ids: Sequence[int]) -> list[Message] | None:
        """The messages that a prompt begins with, where it was made of messages."""
        return self._chats.get(ids[0]) if ids else None

    async def tokenize(self, text: str, *, special: bool, begin: bool = False) -> list[int]:  # noqa: ARG002
        return [self.number(piece) for piece in _PIECES.findall(text)]

    async def detokenize(self, ids: Sequence[int]) -> str:
        return self.text(ids)

    async def render(self, messages: Sequence[Message]) -> str:
        return "" if self._files is None else await self._files.render(messages)

    async def chat_ids(self, messages: Sequence[Message]) -> list[int] | None:
        messages = [message | {"content": _blunted(message["content"])} for message in messages]
        if self._files is not None:
            return await self.tokenize(await self._files.render(messages), special=True)
        if len(self._chats) >= _MOST_CHATS:
            del self._chats[next(iter(self._chats))]
        number = len(self._texts)
        self._texts.append("")
        self._chats[number] = messages
        return [number]


def _blunted(text: str) -> str:
    return _UNSEEN.join(cut(text, lookalikes(text)))
