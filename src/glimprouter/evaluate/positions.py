"""Random matched to step positions and hand-overs: answers are routed as glimpse routed other questions.

H_init might do no more than say how far an answer has come. Then it would do as well to route each answer by the
pattern of authors that glimpse left on another question of the same family: same positions, same number of hand-overs,
nothing known of the question at hand. Patterns come from the pilot, whose questions are never reported.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from glimprouter.evaluate.records import Outcome
from glimprouter.evaluate.run import Slot


def with_patterns(todo: Iterable[Slot], pilot: Sequence[Outcome], *, seed: int) -> Iterator[Slot]:
    """The slots; each that follows a pattern is given one of its family, the same in every start of a run."""
    by_family: dict[str, list[str]] = {}
    for outcome in pilot:
        by_family.setdefault(outcome.family, []).append(outcome.authors)
    everything = [outcome.authors for outcome in pilot]
    for slot in todo:
        if slot.method.routing.policy != "pattern":
            yield slot
            continue
        patterns = by_family.get(slot.problem.family, everything)
        drawn = random.Random(f"{seed}/{slot.problem.id}/{slot.sample}").choice(patterns)
        yield replace(
            slot, method=replace(slot.method, routing=replace(slot.method.routing, params={"pattern": drawn}))
        )
