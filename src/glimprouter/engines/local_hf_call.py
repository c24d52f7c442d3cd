"""One call of the transformers engine, in the engine's thread: read a chunk of the prefix, or draw one round of tokens.

A round is one token; with a draft model it is what the model accepts of the draft's proposals, and one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from glimprouter.config import SURE_DRAFT, Sampling
from glimprouter.engines.local_hf_draw import Drawing, Proposal, likeliest
from glimprouter.engines.local_hf_network import Place, Reading, Shelf
from glimprouter.engines.local_hf_text import Spelling
from glimprouter.flow.engine import Token, Usage

if TYPE_CHECKING:
    import torch

CHUNK_TOKENS = 512
"""Read at once; between chunks other calls have their turn, and a call that was left ends."""


class Call:
    """Begun and ended once each; what was drawn belongs to the prefix from then on."""

    def __init__(self, shelf: Shelf, ids: Sequence[int], usage: Usage) -> None:
        self._shelf = shelf
        self._ids = list(ids)
        self._usage = usage
        self._place: Place | None = None

    def begin(self) -> None:
        """Take a place. The last token of the prefix is read again where it is there: nothing else tells its logits."""
        place = self._place = self._shelf.take(self._ids)
        for reading in self._readings(place):
            reading.keep(min(reading.common_tokens(self._ids), len(self._ids) - 1))
        self._usage.prompt_tokens = len(self._ids)
        self._usage.cached_tokens = len(place.reading.ids)

    def end(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            self._shelf.put_back(place)

    def read_chunk(self, *, leave_tokens: int = 0) -> bool:
        """Read on, up to so many tokens before the end of the prefix; whether that is done."""
        most = len(self._ids) - leave_tokens
        for reading in self._readings(self._taken()):
            read = len(reading.ids)
            # A draft model with too small a context has nothing to say here.
            if read < most <= reading.network.context_tokens:
                reading.read(self._ids[read : min(most, read + CHUNK_TOKENS)])
                return False
        return True

    def _taken(self) -> Place:
        assert self._place is not None, "a call is begun before it is used"
        return self._place

    def _readings(self, place: Place) -> list[Reading]:
        return [place.reading] if place.draft is None else [place.reading, place.draft]


class Writing(Call):
    """A call that draws."""

    def __init__(
        self,
        shelf: Shelf,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        top: int,
        spelling: Spelling,
        speculate: int,
        usage: Usage,
    ) -> None:
        """`speculate`: how many tokens the draft proposes at a time."""
        super().__init__(shelf, ids, usage)
        self._drawing = Drawing(sampling, shelf.network.device)
        self._end_ids = shelf.network.end_ids
        self._left = min(max_tokens, shelf.network.context_tokens - len(ids))
        self._top = top
        self._spelling = spelling
        self._speculate = speculate
        self._drawn: list[int] = []

    def advance(self) -> list[Token]:
        """The tokens of the next round; none where it read a chunk of the prefix instead."""
        # The first round reads what is left itself: a pass of its own would cost as much as a token.
        if not self._drawn and not self.read_chunk(leave_tokens=CHUNK_TOKENS):
            return []
        proposals = self._propose()
        place = self._taken()
        unread = self._ids[len(place.reading.ids) :]
        rows = place.reading.read([*unread, *(one.id for one in proposals)], len(proposals) + 1)
        taken = self._drawing.judge(rows, proposals, self._drawn)
        if proposals:
            self._usage.drafted_tokens += len(proposals)
            self._usage.accepted_tokens += len(taken) - 1
            for reading in self._readings(place):
                reading.keep(len(self._ids) + len(taken) - 1)
        return self._tokens(taken, rows)

    def _propose(self) -> list[Proposal]:
        """What the draft model is sure of, as far as there is room; it stops at the end of an answer."""
        draft = self._taken().draft
        if draft is None:
            return []
        network = draft.network
        most = min(self._speculate, self._left - 1, network.context_tokens - len(self._ids))
        proposals: list[Proposal] = []
        unread = self._ids[len(draft.ids) :]
        while len(proposals) < most and not (proposals and proposals[-1].id in self._end_ids):
            row = _as_wide_as(self._shelf.network.vocabulary_size, draft.read(unread)[-1])
            if float(row.softmax(dim=-1).max()) < SURE_DRAFT:
                break
            proposals.append(self._drawing.propose(row, [*self._drawn, *(one.id for one in proposals)]))
            unread = [proposals[-1].id]
        return proposals

    def _tokens(self, ids: Sequence[int], rows: torch.Tensor) -> list[Token]:
        tokens: list[Token] = []
        for id_, row in zip(ids, rows, strict=False):
            if id_ in self._end_ids:
                return [*tokens, Token(-1, "", finish="stop")]
            self._ids.append(id_)
            self._drawn.append(id_)
            self._left -= 1
            self._usage.generated_tokens += 1
            tokens.append(self._token(id_, row, is_last=self._left == 0))
        return tokens

    def _token(self, id_: int, row: torch.Tensor, *, is_last: bool) -> Token:
        text, finish = self._spelling.add(id_), "length" if is_last else None
        if not self._top:
            return Token(id_, text, finish=finish)  # type: ignore[arg-type]
        logprobs, top = likeliest(row, self._top)
        return Token(id_, text, float(logprobs[id_]), top, finish)  # type: ignore[arg-type]


def _as_wide_as(size: int, row: torch.Tensor) -> torch.Tensor:
    """A draft model's logits over the vocabulary of another, which pads the same tokens to another length."""
    import torch

    if len(row) >= size:
        return row[:size]
    return torch.nn.functional.pad(row, (0, size - len(row)), value=float("-inf"))
