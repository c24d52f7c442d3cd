"""Text into ids and back, and chats into prompts, with control tokens in other people's text kept from becoming tokens.

A `Coder` does the plain work: a server's own routes (`http.py`), a model's tokenizer files (`tokenizer_files.py`), or
numbers of our own for pieces of text (`text_mode.py`). `Coding` is what engines have of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from glimprouter.engines.control import cut, lookalikes, unused_mark, without_thought
from glimprouter.flow.engine import Message
from glimprouter.flow.prompt import FORMATS

_REMEMBERED_STRINGS = 4096
_BROKEN = "\ufffd"
_MAY_END = frozenset("\n" + "".join({tag[-1] for known in FORMATS for tag in (known.open_tag, known.close_tag)}))


class Coder(Protocol):
    """How one model's text becomes ids. Control tokens in a text become themselves."""

    async def tokenize(self, text: str, *, special: bool, begin: bool = False) -> list[int]:
        """Ids of a text; `begin` adds BOS where the model wants one. Without `special` the text holds no control token
        whole, unless the coder can tell them apart itself."""
        ...

    async def detokenize(self, ids: Sequence[int]) -> str: ...

    async def render(self, messages: Sequence[Message]) -> str:
        """The chat as the model's template writes it, with the generation prompt."""
        ...

    async def chat_ids(self, messages: Sequence[Message]) -> list[int] | None:
        """Ids of the rendered chat, where they are to be had at once."""
        ...


class Coding:
    """The coding half of the Engine protocol."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self._is_control: dict[str, bool] = {}

    async def render(self, messages: Sequence[Message]) -> str:
        return "".join(await self._render(messages))

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        if special:
            return await self._coder.tokenize(text, special=True)
        ids: list[int] = []
        for part in cut(text, await self._control_tokens(text)):
            ids += await self._coder.tokenize(part, special=False)
        return ids

    async def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        messages = [without_thought(message) for message in messages]
        if not await self._control_tokens(_contents(messages)):
            ids = await self._coder.chat_ids(messages)
            if ids is not None:
                return ids
        ids = []
        for index, part in enumerate(await self._render(messages)):
            ids += await self._coder.tokenize(part, special=True, begin=index == 0)
        return ids

    async def decode(self, ids: Sequence[int]) -> str:
        return await self._coder.detokenize(list(ids))

    async def _render(self, messages: Sequence[Message]) -> list[str]:
        """The rendered chat in parts, cut inside each control token in somebody's text.

        Tokenised one by one the parts cannot form that token. The template sees the text with a private-use character
        at each cut: it may trim or inspect it, but finds no tag there that a user wrote.
        """
        messages = [without_thought(message) for message in messages]
        tokens = await self._control_tokens(_contents(messages))
        mark = unused_mark(messages) if tokens else ""
        marked = [message | {"content": mark.join(cut(message["content"], tokens))} for message in messages]
        text = await self._coder.render(marked)
        return text.split(mark) if mark else [text]

    async def _control_tokens(self, text: str) -> set[str]:
        """Which of the look-alikes in a text this model reads as one token."""
        known = self._is_control
        found = lookalikes(text)
        for string in found:
            if string not in known:
                if len(known) >= _REMEMBERED_STRINGS:
                    known.clear()
                known[string] = len(await self.encode(string, special=True)) == 1
        return {string for string in found if known.get(string, True)}


def _contents(messages: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in messages)


class TokensApart:
    """The texts of single tokens, each asked for once."""

    def __init__(self, decode: Callable[[Sequence[int]], Awaitable[str]]) -> None:
        self._decode = decode
        self._known: dict[int, str] = {}

    async def text(self, id_: int) -> str:
        text = self._known.get(id_)
        if text is None:
            text = self._known[id_] = await self._decode([id_])
        return text

    async def texts(self, ids: Sequence[int], joint: str) -> list[str]:
        """The text of each of some tokens of which only the joint text is known.

        It matters only where a step or the thought may end among them; else, and where their texts by themselves do not
        make up the joint one, all text goes with the last.
        """
        if len(ids) > 1 and not _MAY_END.isdisjoint(joint) and _BROKEN not in joint:
            texts = await self._parted(ids, joint)
            if len(texts) == len(ids) and "".join(texts) == joint:
                return texts
        return [*[""] * (len(ids) - 1), joint] if ids else []

    async def _parted(self, ids: Sequence[int], joint: str) -> list[str]:
        """As far as it works. A token that ends within a character shows nothing, the one that completes it all."""
        texts: list[str] = []
        begun: list[int] = []
        place = 0
        for id_ in ids:
            begun.append(id_)
            text = await (self.text(id_) if len(begun) == 1 else self._decode(begun))
            # Some tokenizers drop the space that a text begins with.
            shown = next((form for form in (text, " " + text) if joint.startswith(form, place)), None)
            if shown is None and not text.endswith(_BROKEN):
                break
            texts.append(shown or "")
            if shown is not None:
                place += len(shown)
                begun = []
        return texts
