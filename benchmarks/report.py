"""What every benchmark does with its figures: a table to read, a JSON file to keep, a last line to grep."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def save(name: str, figures: Mapping[str, Any]) -> None:
    """Write `results/NAME.json`: the command, the machine, the versions, and what was measured."""
    RESULTS.mkdir(exist_ok=True)
    head = {
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {processor()}",
        "versions": {package: version(package) for package in ("glimprouter", "xllamacpp", "aiohttp", "uvloop")},
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(head | dict(figures), indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need to be, the first to the left, the others to the right."""
    cells = [[_shown(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    )


def _shown(cell: object) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def key_values(**figures: float | str) -> str:
    """`key=value` pairs on one line."""
    return " ".join(
        f"{key}={value:.3f}" if isinstance(value, float) else f"{key}={value}" for key, value in figures.items()
    )


def median_and_range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"
