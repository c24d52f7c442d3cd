"""kill -9 at random moments: what is resumed equals a run that nobody disturbed, times aside."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.evaluate.world import compare, settings

QUESTIONS, SAMPLES, KILLS = 60, 2, 10

RUN = f"""
import asyncio, sys
from pathlib import Path
from tests.evaluate.world import compare, settings
asked = settings(questions={QUESTIONS}, samples={SAMPLES}, concurrency=int(sys.argv[2]))
asyncio.run(compare(Path(sys.argv[1]), asked, tell=lambda count: print(count, flush=True)))
"""


def killed(path: Path, concurrency: int, *, after_answers: int, after_s: float) -> None:
    """A process of its own goes on in the folder, and is killed a moment after some answers."""
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", RUN, str(path), str(concurrency)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(after_answers + 1):
            process.stdout.readline()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)


def lines(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [json.loads(line) for line in (path / "answers.jsonl").read_bytes().splitlines()]
    return sorted(found, key=lambda line: (line["question"], line["method"], line["sample"]))


def without_times(value: Any) -> Any:
    """Ids of answers are drawn anew, scripted engines number words as they meet them, and what is read ahead depends on
    the moment: none of these is a result. Texts are."""
    if isinstance(value, dict):
        passing = (
            "_ms",
            "_unix_s",
            "warm_calls",
            "warm_tokens",
            "cached_tokens",
            "discarded_tokens",
            "id",
            "ids",
            "top",
        )
        return {key: without_times(item) for key, item in value.items() if not key.endswith(passing)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


async def test_a_run_killed_ten_times_equals_an_undisturbed_one_line_for_line(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "killed"
    for _ in range(KILLS):
        killed(path, 1, after_answers=rng.randrange(40), after_s=rng.random() * 0.03)
    kept = {tuple(line[key] for key in ("question", "method", "sample", "wall_ms")) for line in lines(path)}
    asked = settings(questions=QUESTIONS, samples=SAMPLES)
    await compare(path, asked)
    await compare(tmp_path / "whole", asked)
    resumed, whole = lines(path), lines(tmp_path / "whole")
    assert len(whole) == 6 * QUESTIONS * SAMPLES
    assert 0 < len(kept) < len(whole)
    assert without_times(resumed) == without_times(whole)
    assert kept <= {tuple(line[key] for key in ("question", "method", "sample", "wall_ms")) for line in resumed}


async def test_several_answers_at_once_are_resumed_alike(tmp_path: Path) -> None:
    path = tmp_path / "killed"
    asked = settings(questions=QUESTIONS, samples=SAMPLES, concurrency=4)
    killed(path, 4, after_answers=100, after_s=0.01)
    await compare(path, asked)
    await compare(tmp_path / "whole", asked)
    assert without_times(lines(path)) == without_times(lines(tmp_path / "whole"))
