"""Which answer works where."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from glimprouter.engines.rendezvous import Places, ranked


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True), st.integers(1, 200))
def test_no_replica_holds_more_than_a_quarter_over_the_mean(names: list[str], answers: int) -> None:
    places = Places()
    for number in range(answers):
        places.settle(f"{number}", names)
    most = max(places.answers_on(name) for name in names)
    assert most <= 1.25 * answers / len(names) + 1


@settings(deadline=None)
@given(st.sets(st.text(min_size=1), min_size=2, max_size=6), st.integers(0, 10**6))
def test_a_replica_that_goes_moves_only_its_own_answers(names: set[str], seed: int) -> None:
    gone = sorted(names)[seed % len(names)]
    for number in range(20):
        first = ranked(f"{number}", names)[0]
        if first != gone:
            assert ranked(f"{number}", names - {gone})[0] == first


def test_an_answer_keeps_its_place_until_it_leaves() -> None:
    places = Places()
    place = places.settle("x", ["a", "b", "c"])
    for number in range(50):
        places.settle(f"{number}", ["a", "b", "c"])
    assert places.settle("x", ["a", "b", "c"]) == place
    before = places.answers_on(place)
    places.leave("x")
    places.leave("x")
    assert places.answers_on(place) == before - 1


def test_an_answer_that_had_to_move_stays_where_it_went() -> None:
    places = Places()
    first = places.settle("x", ["a", "b"])
    second = places.settle("x", [name for name in "ab" if name != first])
    assert places.settle("x", ["a", "b"]) == second
    assert (places.answers_on(first), places.answers_on(second)) == (0, 1)
