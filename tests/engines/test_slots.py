"""Answers keep their slots, so that what one has had read is not lost to another that begins alike."""

from __future__ import annotations

from glimprouter.engines.slots import Slots
from glimprouter.flow.engine import Session, Usage
from tests.engines.bigram_gguf import ids_of
from tests.engines.conftest import Servers
from tests.engines.drawn import GREEDY

QUESTION = [1, 2, 3, 4]


def test_an_answer_keeps_its_slot_until_it_leaves() -> None:
    slots = Slots(2)
    first = slots.slot_of("a", QUESTION)
    assert slots.slot_of("b", QUESTION) != first
    assert slots.slot_of("a", [9, 9]) == first
    slots.leave("a")
    assert slots.slot_of("c", QUESTION) == first


def test_where_all_slots_are_taken_the_server_chooses() -> None:
    slots = Slots(1)
    assert slots.slot_of("a", QUESTION) == 0
    assert slots.slot_of("b", QUESTION) is None
    slots.leave("b")
    slots.leave("never seen")
    assert slots.slot_of("a", QUESTION) == 0


def test_a_conversation_that_goes_on_finds_its_old_slot_and_a_new_one_the_longest_unused() -> None:
    slots = Slots(3)
    taken = {name: slots.slot_of(name, [*QUESTION, *name.encode()]) for name in "abc"}
    for name in "bca":
        slots.leave(name)
    assert slots.slot_of("c goes on", [*QUESTION, *b"c", 5]) == taken["c"]
    assert slots.slot_of("new", [7]) == taken["b"]


async def test_a_question_that_begins_alike_leaves_an_answers_cache_alone(servers: Servers) -> None:
    engine = await servers.serve({b"x": {b"x": 1.0}}, parallel=3)
    begun = ids_of(*[b"x"] * 40)

    async def cached(session: Session, ids: list[int]) -> int:
        usage = Usage()
        async with engine.generate(ids, GREEDY, max_tokens=1, top=0, usage=usage, session=session) as stream:
            assert [token.text async for token in stream if token.text] == ["x"]
        return usage.cached_tokens

    ours, theirs = Session("ours", 0.0), Session("theirs", 0.0)
    own_thought = [*begun, *ids_of(*[b"y", b"x"] * 40)]
    await cached(ours, own_thought)
    await cached(theirs, [*begun, *ids_of(b"z", b"x")])
    assert await cached(ours, [*own_thought, *ids_of(b"x")]) >= len(own_thought) - 1
    for session in (ours, theirs):
        engine.leave(session)
