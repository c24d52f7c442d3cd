"""Which answer works on which replica: rendezvous hashing with bounded load.

The ranking of replicas follows from the answer's id alone, so that two routers agree without a word, and a replica that
goes or comes moves only its own answers. The bound keeps a replica from more than 1.25 times the mean.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from hashlib import blake2b

MOST_OF_MEAN = 1.25


def ranked(key: str, names: Iterable[str]) -> list[str]:
    """Names by how well they suit a key, the best first."""

    def weight(name: str) -> bytes:
        return blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()

    return sorted(names, key=lambda name: (weight(name), name), reverse=True)


class Places:
    """Where each answer under way has its place. An answer keeps it, whoever comes or goes, while it may."""

    def __init__(self) -> None:
        self._place: dict[str, str] = {}
        self._answers: Counter[str] = Counter()

    def answers_on(self, name: str) -> int:
        return self._answers[name]

    def settle(self, key: str, names: Collection[str]) -> str:
        """The place of an answer. Where that is not among `names`: the best of them that is not full, from now on.

        Full is at 1.25 times the mean of all answers under way, this one included, rounded up.
        """
        place = self._place.get(key)
        if place is not None and place in names:
            return place
        self.leave(key)
        most = math.ceil(MOST_OF_MEAN * (len(self._place) + 1) / len(names))
        place = next(name for name in ranked(key, names) if self._answers[name] < most)
        self._place[key] = place
        self._answers[place] += 1
        return place

    def leave(self, key: str) -> None:
        place = self._place.pop(key, None)
        if place is not None:
            self._answers[place] -= 1
