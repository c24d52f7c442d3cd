"""The paced pair writes its schedule, token for token, whoever writes which step; here small enough to be quick."""

from __future__ import annotations

from pathlib import Path

from benchmarks.paced_gguf import PacedTokens, Shape, write_paced_pair
from glimprouter.config import PUBLISHED_THRESHOLD_NATS, Routing, Sampling
from glimprouter.flow.request import ask
from glimprouter.pair import open_pair

LITTLE = Shape(hidden=(64, 96), width=256)


async def test_the_pair_writes_its_schedule_and_is_uncertain_where_it_says(tmp_path: Path) -> None:
    small, large, schedule = write_paced_pair(tmp_path, thought_tokens=300, small=LITTLE, large=LITTLE)
    order = PacedTokens(schedule, answer_tokens=8).order
    routing = Routing(threshold=PUBLISHED_THRESHOLD_NATS)
    async with open_pair(str(small), str(large)) as pair:
        request = ask("What is it?", routing=routing, sampling=Sampling(temperature=0.0))
        trace = await pair.router().answer(request)
        encoded = await pair.small.encode(trace.thought + "\n\n")
    steps = trace.steps[:-1]  # the last is the closing tag
    assert encoded == order[1:301]
    assert [len(step.ids) for step in steps] == [step.tokens for step in schedule.steps]
    assert [step.author == "large" for step in steps] == [step.is_large for step in schedule.steps]
    for step, wanted in zip(steps, schedule.steps, strict=True):
        assert step.glimpse is None or abs(step.glimpse.entropy_nats - wanted.entropy_nats) < 0.02
    assert trace.thought_end == "closed"
    assert trace.answer is not None
    assert trace.answer.ids == order[-9:-1]
