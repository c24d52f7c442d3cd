"""How tokens are drawn from logits: in vLLM's order, once, from a generator of the call's own.

Speculative sampling follows Leviathan et al. (2023), Fast Inference from Transformers via Speculative Decoding,
algorithm 1: what comes out is distributed as if the draft had not been there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glimprouter.config import Sampling

if TYPE_CHECKING:
    import torch

_SORTED = 1024
"""So many of the likeliest tokens nearly always hold the nucleus; only where they do not, all are sorted."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A token that the draft model drew, and the distribution it drew it from (None: it took the likeliest)."""

    id: int
    probabilities: torch.Tensor | None


class Drawing:
    """The draws of one call. `drawn`, wherever it is asked for, are the tokens that penalties count."""

    def __init__(self, sampling: Sampling, device: torch.device | str = "cpu") -> None:
        import torch

        self._sampling = sampling
        self._generator = torch.Generator(device).manual_seed(sampling.seed)

    def propose(self, logits: torch.Tensor, drawn: Sequence[int]) -> Proposal:
        """Draw from one row of logits."""
        if self._sampling.temperature == 0:
            return Proposal(int(self._penalised(logits, drawn).argmax()), None)
        probabilities = self._probabilities(logits, drawn)
        return Proposal(self._drawn_from(probabilities), probabilities)

    def draw(self, logits: torch.Tensor, drawn: Sequence[int]) -> int:
        return self.propose(logits, drawn).id

    def judge(self, rows: torch.Tensor, proposals: Sequence[Proposal], drawn: Sequence[int]) -> list[int]:
        """The proposals as far as they are accepted, and a token of the model's own after them.

        `rows` are the model's logits before each proposal and after the last one.
        """
        taken: list[int] = []
        for row, proposal in zip(rows, proposals, strict=False):
            own = self._instead_of(proposal, row, [*drawn, *taken])
            if own is not None:
                return [*taken, own]
            taken.append(proposal.id)
        return [*taken, self.draw(rows[len(proposals)], [*drawn, *taken])]

    def _instead_of(self, proposal: Proposal, row: torch.Tensor, drawn: Sequence[int]) -> int | None:
        """None where the proposal is accepted."""
        import torch

        if proposal.probabilities is None:
            best = self.draw(row, drawn)
            return None if best == proposal.id else best
        wanted, proposed = self._probabilities(row, drawn), proposal.probabilities
        chance = torch.rand((), generator=self._generator, device=row.device)
        if chance * proposed[proposal.id] < wanted[proposal.id]:
            return None
        rest = (wanted - proposed).clamp(min=0)
        return self._drawn_from(rest if rest.sum() > 0 else wanted)

    def _drawn_from(self, weights: torch.Tensor) -> int:
        import torch

        return int(torch.multinomial(weights, 1, generator=self._generator))

    def _penalised(self, logits: torch.Tensor, drawn: Sequence[int]) -> torch.Tensor:
        import torch

        sampling = self._sampling
        if not drawn or not (sampling.presence_penalty or sampling.frequency_penalty):
            return logits
        counts = torch.bincount(torch.tensor(drawn, device=logits.device), minlength=len(logits))
        return logits - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)

    def _probabilities(self, logits: torch.Tensor, drawn: Sequence[int]) -> torch.Tensor:
        """Penalties, temperature, min_p, top_k, top_p, each on what the one before it left."""
        import torch

        sampling = self._sampling
        left = torch.softmax(self._penalised(logits, drawn) / sampling.temperature, dim=-1)
        if sampling.min_p > 0:
            left = left.where(left >= sampling.min_p * left.max(), 0.0)
        if 0 < sampling.top_k < len(left):
            left = left.where(left >= torch.topk(left, sampling.top_k).values[-1], 0.0)
        if sampling.top_p < 1:
            left = _nucleus(left / left.sum(), sampling.top_p)
        return left / left.sum()


def _nucleus(probabilities: torch.Tensor, mass: float) -> torch.Tensor:
    """The fewest likeliest tokens that together have the mass; the others become 0."""
    import torch

    best, ids = torch.topk(probabilities, min(_SORTED, len(probabilities)))
    if best.sum() < mass:
        best, ids = probabilities.sort(descending=True)
    before = best.cumsum(dim=-1) - best
    return torch.zeros_like(probabilities).scatter(-1, ids, best.where(before < mass, 0.0))


def likeliest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, list[tuple[int, float]]]:
    """Natural log-probabilities at temperature 1, and the `count` best of them with their ids."""
    import torch

    logprobs = torch.log_softmax(logits, dim=-1)
    best, ids = torch.topk(logprobs, min(count, len(logprobs)))
    return logprobs, list(zip(ids.tolist(), best.tolist(), strict=True))
