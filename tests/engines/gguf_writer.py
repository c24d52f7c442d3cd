"""Writes GGUF files without a library: fields and float32 tensors, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
ALIGNMENT = 32

Field = str | int | float | bool | list[str] | list[int]


class Values(Protocol):
    """Little-endian float32 numbers: an `array` or a numpy array."""

    def tobytes(self) -> bytes: ...


def write_gguf(path: Path, fields: Mapping[str, Field], tensors: Mapping[str, tuple[list[int], Values]]) -> Path:
    """Shapes as GGUF has them, the fastest dimension first."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(fields))
    head += b"".join(text(key) + _field(value) for key, value in fields.items())
    offset = 0
    sizes = [4 * _count(shape) for shape, _ in tensors.values()]
    for (name, (shape, _)), size in zip(tensors.items(), sizes, strict=True):
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        offset += size + -size % ALIGNMENT
    head += bytes(-len(head) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(head)
        for (_, values), size in zip(tensors.values(), sizes, strict=True):
            file.write(values.tobytes() + bytes(-size % ALIGNMENT))
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _field(value: Field) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(text(str(item)) for item in value)
    return struct.pack(f"<IIQ{len(value)}i", ARRAY, I32, len(value), *(int(item) for item in value))


def _count(shape: list[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
