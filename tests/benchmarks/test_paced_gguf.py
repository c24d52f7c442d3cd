"""The paced pair writes its schedule, token for token, whoever writes which step; here small enough to be quick."""

from __future__ import annotations

from pathlib import Path

from benchmarks.paced_gguf import Size, write_paced_pair
from benchmarks.schedule import THRESHOLD_NATS
from glimprouter.config import Routing, Sampling
from glimprouter.flow.request import ask
from glimprouter.pair import open_pair

LITTLE = Size(layers=1, hidden=64)


async def test_the_pair_writes_its_schedule_and_hesitates_before_pivots(tmp_path: Path) -> None:
    small, large, steps = write_paced_pair(tmp_path, thought_tokens=300, small=LITTLE, large=LITTLE)
    routing = Routing(threshold=THRESHOLD_NATS)
    async with open_pair(str(small), str(large)) as pair:
        request = ask("What is it?", routing=routing, sampling=Sampling(temperature=0.0))
        trace = await pair.router().answer(request)
        encoded = await pair.small.encode(trace.thought + "\n\n")
    written = trace.steps[:-1]  # the last is the closing tag
    assert encoded == [id_ for step in written for id_ in step.ids]
    assert [step.tokens for step in written] == [step.tokens for step in steps]
    assert [step.author == "large" for step in written] == [step.pivot for step in steps]
    assert trace.thought_end == "closed"
    assert trace.answer_text == "The answer is 42."
