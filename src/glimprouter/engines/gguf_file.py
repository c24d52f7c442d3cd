"""The metadata of a GGUF file, read without a library: the header's key-value pairs, long lists skipped.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Final

MAGIC = b"GGUF"
_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

Scalar = int | float | bool | str


def read_metadata(path: Path) -> dict[str, Scalar]:
    """All single values. Raises ValueError where the file is none of ours or ends too early, OSError where it cannot
    be read."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError("it does not begin with the letters GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).pairs()
            except struct.error as error:
                raise ValueError("it ends within its header") from error
            except (KeyError, UnicodeDecodeError, OverflowError) as error:
                raise ValueError(f"its header is damaged ({error})") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._place = len(MAGIC)

    def pairs(self) -> dict[str, Scalar]:
        version = self._scalar("<I")
        if version not in (2, 3):
            raise ValueError(f"it is of GGUF version {version}; versions 2 and 3 are read")
        self._scalar("<Q")  # number of tensors
        found: dict[str, Scalar] = {}
        for _ in range(int(self._scalar("<Q"))):
            key = self._string()
            value = self._value(int(self._scalar("<I")))
            if value is not None:
                found[key] = value
        return found

    def _scalar(self, form: str) -> int | float | bool:
        (value,) = struct.unpack_from(form, self._data, self._place)
        self._place += struct.calcsize(form)
        return value  # type: ignore[no-any-return]

    def _string(self) -> str:
        start = self._place + 8
        self._skip_string()
        return self._data[start : self._place].decode()

    def _skip_string(self) -> None:
        (length,) = struct.unpack_from("<Q", self._data, self._place)
        self._skip(8 + length)

    def _skip(self, length: int) -> None:
        self._place += length
        if self._place > len(self._data):
            raise ValueError("it ends within its header")

    def _value(self, kind: int) -> Scalar | None:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        kind, length = int(self._scalar("<I")), int(self._scalar("<Q"))
        if kind == _STRING:
            for _ in range(length):
                self._skip_string()
        elif kind == _ARRAY:
            for _ in range(length):
                self._value(_ARRAY)
        else:
            self._skip(length * struct.calcsize(_SCALARS[kind]))
        return None
