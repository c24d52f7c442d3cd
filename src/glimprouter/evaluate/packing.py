"""A run folder made small enough to be kept with the sources: what a report needs, and nothing else.

Traces are most of a folder. Packed, every answer keeps its outcome (right or not, times, tokens, glimpses), and one
answer its whole trace, for the picture of a timeline.
"""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import msgspec

from glimprouter.errors import ConfigError
from glimprouter.evaluate.case_study import clearest, corrections
from glimprouter.evaluate.folder import RunFolder
from glimprouter.evaluate.records import write_packed
from glimprouter.flow.trace import Trace


def example_of(folder: RunFolder) -> Trace | None:
    """The answer to draw: the clearest correction, else the first by both models."""
    found = clearest(corrections(folder.examples()))
    if found is not None:
        return found.trace
    return next((trace for trace in folder.examples() if 0.0 < trace.large_step_share < 1.0), None)


def pack_folder(folder: RunFolder, out: Path) -> list[Path]:
    """The files written. Raises ConfigError where there is no run, or `out` is one already."""
    folder.card()
    if (out / "run.json").exists():
        raise ConfigError(f"--out {out}: holds a run already; give another folder", field="out")
    out.mkdir(parents=True, exist_ok=True)
    packed = RunFolder(out)
    for name in ("run.json", "plan.json"):
        shutil.copyfile(folder.path / name, out / name)
    written = [out / "run.json", out / "plan.json"]
    if folder.answers_path.exists():
        write_packed(packed.packed_path, folder.outcomes())
        written.append(packed.packed_path)
        if (example := example_of(folder)) is not None:
            (out / "example.jsonl").write_bytes(msgspec.json.encode(example) + b"\n")
            written.append(out / "example.jsonl")
    if folder.collected_path.exists():
        target = out / "collected.jsonl.xz"
        target.write_bytes(lzma.compress(folder.collected_path.read_bytes(), preset=9))
        written.append(target)
    return written
