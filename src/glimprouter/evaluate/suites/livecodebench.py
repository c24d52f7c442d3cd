"""LiveCodeBench's records: a prompt with starter code, and tests, the private ones packed as base64 of zlib of pickle.

A pickle can run code when it is read. These hold one text; a reader that knows no classes reads that and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from glimprouter.errors import ConfigError

UNPACKED_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """`function` None: standard input and output. Otherwise both are JSON, one argument a line."""

    input: str
    output: str
    function: str | None


def cases_of(entry: Mapping[str, Any]) -> list[Case]:
    """Public tests, then private ones. Raises ConfigError for a record that cannot be read."""
    try:
        found = [*json.loads(entry["public_test_cases"]), *_private(entry["private_test_cases"])]
        function = json.loads(entry.get("metadata") or "{}").get("func_name")
        tests = [
            Case(case["input"], case["output"], function if case["testtype"] == "functional" else None)
            for case in found
        ]
    except (KeyError, TypeError, ValueError, EOFError, IndexError, zlib.error, pickle.UnpicklingError) as error:
        raise _damaged(entry, error) from error
    if not tests or any(case["testtype"] == "functional" for case in found) > bool(function):
        raise _damaged(entry, ValueError("no tests, or no name of the function they call"))
    return tests


def question_of(row: Mapping[str, Any]) -> str:
    """The task, how the program is called, and the starter code where there is one."""
    starter = row["starter_code"].strip()
    if starter:
        way = f"Complete this starter code:\n\n```python\n{starter}\n```"
    else:
        way = "Read the input from standard input and write the result to standard output."
    return f"{row['question_content'].strip()}\n\n{way}"


class _TextOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only text is read")


def _private(packed: str) -> list[dict[str, str]]:
    try:
        plain: list[dict[str, str]] = json.loads(packed)
    except ValueError:
        plain = json.loads(_unpacked(packed))
    return plain


def _unpacked(packed: str) -> str:
    unzip = zlib.decompressobj()
    content = unzip.decompress(base64.b64decode(packed, validate=True), UNPACKED_BYTES)
    if unzip.unconsumed_tail:
        raise ValueError(f"more than {UNPACKED_BYTES} bytes when unpacked")
    text = _TextOnly(io.BytesIO(content)).load()
    if not isinstance(text, str):
        raise pickle.UnpicklingError(f"it holds {type(text).__name__}, not text")
    return text


def _damaged(entry: Mapping[str, Any], error: Exception) -> ConfigError:
    kind = "base64" if isinstance(error, binascii.Error) else type(error).__name__
    return ConfigError(
        f"LiveCodeBench record {entry.get('question_id', '?')!r}: its tests cannot be read ({kind}: {error}); "
        "get the file anew",
        field="data",
    )
