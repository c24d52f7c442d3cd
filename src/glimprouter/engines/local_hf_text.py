"""What the tokens of a Hugging Face tokenizer add to a text, in bytes, so that no half character is ever shown."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glimprouter.engines.dialects import THOUGHT_TAGS
from glimprouter.engines.tokenizer_files import TokenizerFiles
from glimprouter.errors import ModelError, RequestError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece writes a byte that is in no word of its vocabulary."""


class Vocabulary(TokenizerFiles):
    """A model's tokenizer files, read as bytes: byte-level BPE and SentencePiece's kind with byte fallback."""

    def __init__(self, folder: Path, *, side: str) -> None:
        super().__init__(folder, side=side)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._added: dict[int, Any] = self._tokenizer.get_added_tokens_decoder()
        self._bytes: dict[int, bytes] = {}
        kinds = set(re.findall(r'"type": ?"(\w+)"', json.dumps(json.loads(self._tokenizer.to_str())["decoder"])))
        if not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
            raise ModelError(
                f"--{side} {folder}: its tokenizer writes text in a way that is not known here "
                f"({', '.join(sorted(kinds)) or 'no decoder'}); serve the model with vLLM and give its address",
                field=side,
            )
        self._is_byte_level = "ByteLevel" in kinds

    def bytes_of(self, id_: int) -> bytes:
        """Nothing for an id that only pads the vocabulary."""
        found = self._bytes.get(id_)
        if found is None:
            found = self._bytes[id_] = self._spelt(id_)
        return found

    def is_hidden(self, id_: int) -> bool:
        """Control tokens show no text as they are drawn, except those around a thought."""
        added = self._added.get(id_)
        return added is not None and added.special and added.content not in THOUGHT_TAGS

    def _spelt(self, id_: int) -> bytes:
        if id_ in self._added:
            return str(self._added[id_].content).encode()
        token: str | None = self._tokenizer.id_to_token(id_)
        if token is None:
            return b""
        if self._is_byte_level:
            return b"".join(_BYTES.get(character, character.encode()) for character in token)
        byte = _BYTE.fullmatch(token)
        return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()

    async def tokenize(self, text: str, *, special: bool, begin: bool = False) -> list[int]:
        try:
            return await super().tokenize(text, special=special, begin=begin)
        except (TypeError, UnicodeError) as error:
            raise RequestError(
                f"the text can not be read as UTF-8 ({error}); remove half surrogate pairs", field="messages"
            ) from error

    async def detokenize(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.bytes_of, ids)).decode(errors="replace")


class Spelling:
    """The text of a stream, token by token: nothing while a character is incomplete, then all of it at once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def add(self, id_: int) -> str:
        if self._vocabulary.is_hidden(id_):
            return ""
        return self._decode(self._vocabulary.bytes_of(id_))


def _byte_alphabet() -> dict[str, bytes]:
    """Byte-level BPE writes printable bytes as themselves and the others as characters from 256 on (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    return alphabet | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()
