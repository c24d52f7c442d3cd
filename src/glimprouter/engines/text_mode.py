"""Text mode: for servers that take no ids. What the router handles as ids are our own numbers for pieces of text.

A piece is a word, a blank or a sign, so that there are about as many as a model's own tokens. The numbers are the same
for every server in this process: replicas exchange them. A server that renders nothing itself and for which no
tokenizer files were given is sent the messages as they are, and what has been written so far as the beginning of the
assistant's turn: then the first number of a prompt stands for its messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol
from zlib import crc32

from glimprouter.engines.control import cut, lookalikes, unused_mark, without_thought
from glimprouter.errors import EngineProtocolError
from glimprouter.flow.engine import Message
from glimprouter.flow.prompt import FORMATS

VOCABULARY = "text"
"""What stands for the fingerprint of a vocabulary: all engines in text mode have this one."""

_TAGS = [tag for known in FORMATS for tag in (known.open_tag, known.close_tag)]
_PIECES = re.compile("|".join([*map(re.escape, _TAGS), r"<[|｜][^<>\s]*[|｜]>", r" ?\w{1,32}", r"\s", r"[^\w\s]"]))
_CONTROL = re.compile(r"<[|｜].*[|｜]>|</?s>|<[be]os>|<(start|end)_of_turn>|\[/?INST\]|◁.*▷")

_FIRST_PIECE = 0x110000
"""Below it a number is a character's own."""
_APART = _FIRST_PIECE
"""Shows no text here and is sent as a zero-width space: set into control tokens that somebody wrote, for in text
nothing else tells them from real ones."""
_ZERO_WIDTH = "\u200b"
_MOST_PIECES = 2**19
"""More than any vocabulary has. When they are used up, new pieces are numbered character by character."""
_UNKNOWN = 2**31
_FIRST_CHAT = 2**33
_MOST_CHATS = 4096


class Renderer(Protocol):
    """What tokenizer files are needed for in text mode."""

    template: str

    async def render(self, messages: Sequence[Message]) -> str: ...

    async def tokenize(self, text: str, *, special: bool, begin: bool = False) -> list[int]: ...


class _Table:
    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self.numbers: dict[str, int] = {}
        self.chats: dict[int, list[Message]] = {}
        self.next_chat = _FIRST_CHAT


@lru_cache(maxsize=1)
def _table() -> _Table:
    return _Table()


class Pieces:
    """Texts and chats by number, for one model. Has what `Coding` has, for servers that are spoken to in text."""

    def __init__(self, files: Renderer | None) -> None:
        self._files = files
        self._table = _table()
        self.template = files.template if files is not None else ""

    # Numbers ---------------------------------------------------------------------------------------------------------

    def numbers(self, piece: str) -> list[int]:
        """The number of a piece, or one for each character where there are too many pieces already."""
        if len(piece) == 1:
            return [ord(piece)]
        table = self._table
        known = table.numbers.get(piece)
        if known is None:
            if len(table.texts) >= _MOST_PIECES:
                return [ord(character) for character in piece]
            known = table.numbers[piece] = _FIRST_PIECE + len(table.texts)
            table.texts.append(piece)
        return [known]

    def label(self, piece: str) -> int:
        """A number that tells a piece from others without remembering it."""
        if len(piece) == 1:
            return ord(piece)
        return self._table.numbers.get(piece) or _UNKNOWN + crc32(piece.encode(errors="replace"))

    def text(self, ids: Sequence[int]) -> str:
        """The text that numbers stand for; a chat has none."""
        return "".join([self._text_of(id_) for id_ in ids])

    def sent(self, ids: Sequence[int]) -> str:
        """The text that a server is sent for them."""
        return "".join([_ZERO_WIDTH if id_ == _APART else self._text_of(id_) for id_ in ids])

    def chat(self, ids: Sequence[int]) -> list[Message]:
        """The messages that a prompt begins with; none where it was not made of messages."""
        if not ids or ids[0] < _FIRST_CHAT:
            return []
        if ids[0] not in self._table.chats:
            raise EngineProtocolError(
                f"more than {_MOST_CHATS} answers at once: the messages of this one are no longer held; give the "
                "model's tokenizer files with --tokenizer FOLDER, or ask for fewer at once",
                final=True,
            )
        return self._table.chats[ids[0]]

    def _text_of(self, id_: int) -> str:
        if id_ < _FIRST_PIECE:
            return chr(id_)
        return self._table.texts[id_ - _FIRST_PIECE] if id_ < _FIRST_CHAT else ""

    def _numbered(self, parts: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for place, part in enumerate(parts):
            if place:
                ids.append(_APART)
            for piece in _PIECES.findall(part):
                ids += self.numbers(piece)
        return ids

    # What engines have of it -----------------------------------------------------------------------------------------

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self._numbered([text] if special else cut(text, await self._control_tokens(text)))

    async def decode(self, ids: Sequence[int]) -> str:
        return self.text(ids)

    async def render(self, messages: Sequence[Message]) -> str:
        return "".join(await self._rendered(messages))

    async def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        if self._files is None:
            return [await self._remembered(messages)]
        return self._numbered(await self._rendered(messages))

    async def _rendered(self, messages: Sequence[Message]) -> list[str]:
        """The rendered chat in parts, cut inside each control token in somebody's text."""
        if self._files is None:
            return [""]
        messages = [without_thought(message) for message in messages]
        tokens = await self._control_tokens("\n".join(message["content"] for message in messages))
        mark = unused_mark(messages)
        marked = [message | {"content": mark.join(cut(message["content"], tokens))} for message in messages]
        return (await self._files.render(marked)).split(mark)

    async def _remembered(self, messages: Sequence[Message]) -> int:
        """The number of a chat, whose control tokens are cut apart. The oldest of very many is forgotten."""
        table, chat = self._table, []
        for message in map(without_thought, messages):
            content = message["content"]
            chat.append(message | {"content": _ZERO_WIDTH.join(cut(content, await self._control_tokens(content)))})
        if len(table.chats) >= _MOST_CHATS:
            del table.chats[next(iter(table.chats))]
        table.next_chat += 1
        table.chats[table.next_chat] = chat
        return table.next_chat

    async def _control_tokens(self, text: str) -> set[str]:
        """Which of the look-alikes in a text the model may read as one token: as its files say, else by their looks."""
        found = lookalikes(text)
        if self._files is None:
            return {string for string in found if string in _TAGS or _CONTROL.fullmatch(string)}
        return {string for string in found if len(await self._files.tokenize(string, special=True)) == 1}
