"""Which slot of a llama.cpp server belongs to which answer.

Left to itself the server gives a new prompt the idle slot whose cache resembles it most. While an answer's other model
writes, its slot here is idle: a question that begins alike would take it, and the answer would be read from its
beginning when it comes back. So each answer keeps its slot from its first call to its end.
"""

from __future__ import annotations

from collections.abc import Sequence


class Slots:
    """Slots by session. A free one is chosen by how much of the prompt it has cached, else the one unused longest."""

    def __init__(self, count: int) -> None:
        self._held: dict[str, int] = {}
        self._free: dict[int, list[int]] = {slot: [] for slot in range(count)}
        """In the order in which they became free, each with the last prompt it was sent."""
        self._prompts: dict[int, list[int]] = {}

    def slot_of(self, session_id: str, prompt: Sequence[int]) -> int | None:
        """The slot for a call; None where all belong to others, and the server may choose."""
        slot = self._held.get(session_id)
        if slot is None:
            if not self._free:
                return None
            ids = list(prompt)
            slot = max(self._free, key=lambda free: shared_tokens(self._free[free], ids))
            del self._free[slot]
            self._held[session_id] = slot
        self._prompts[slot] = list(prompt)
        return slot

    def leave(self, session_id: str) -> None:
        slot = self._held.pop(session_id, None)
        if slot is not None:
            self._free[slot] = self._prompts.pop(slot)


def shared_tokens(first: list[int], second: list[int]) -> int:
    """The length of the common prefix, by comparing slices: prompts are long, and most of them nearly equal."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while high - low > 1:  # equal up to `low`, not equal up to `high`
        middle = (low + high) // 2
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle)
    return low
