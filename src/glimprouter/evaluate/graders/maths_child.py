"""The process in which math-verify works: a line of JSON in, a line of JSON out, until its input is closed."""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

MEMORY_BYTES = 4 * 1024**3


def main() -> None:
    """Says `ready` once math-verify is loaded."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401

    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        print(json.dumps(compare(**json.loads(line))), flush=True)  # noqa: T201


def compare(gold: str, answer: str) -> dict[str, Any]:
    """Both are bare expressions: what would stand in a box."""
    from math_verify import parse, verify

    try:
        wanted, given = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer))
        if not wanted:
            wanted = [gold]
        if not given:
            return {"right": gold.strip() == answer.strip(), "reason": "not an expression"}
        right = bool(verify(wanted, given, timeout_seconds=None))
    except Exception as error:
        return {"right": False, "reason": f"math-verify failed ({type(error).__name__})"}
    return {"right": right, "reason": "" if right else "another value"}


if __name__ == "__main__":
    main()
