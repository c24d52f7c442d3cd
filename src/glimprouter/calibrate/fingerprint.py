"""Which pair it is: not by names, which change, but by vocabularies, templates and how both models read a text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from glimprouter.config import Sampling
from glimprouter.flow.engine import Engine, Usage
from glimprouter.flow.glimpse import glimpse_of

TEXTS = ("The sum of 17 and 25 is", "So, first of all, we need to", "Wait, that", "Therefore x =")
TOP = 20
AGREE_WITHIN_NATS = 0.1
"""Precision, kernels and batches move an entropy by a few hundredths."""


@dataclass(frozen=True, slots=True)
class Model:
    """`reads_nats`: entropies after a few fixed texts; empty where the engine gives no log-probabilities."""

    name: str
    vocabulary: str
    template: str
    reads_nats: tuple[float, ...] = ()

    def differences(self, other: Model) -> list[str]:
        """What tells it from another; empty for the same model."""
        found = [
            f"{what} {mine!r}, now {yours!r}"
            for what, mine, yours in (
                ("vocabulary", self.vocabulary, other.vocabulary),
                ("chat template", self.template, other.template),
            )
            if mine != yours
        ]
        gaps = [abs(a - b) for a, b in zip(self.reads_nats, other.reads_nats, strict=False)]
        if max(gaps, default=0.0) > AGREE_WITHIN_NATS:
            found.append(f"the same text read {max(gaps):.2f} nats apart")
        return found


async def fingerprint(engine: Engine) -> Model:
    """Raises EngineError."""
    facts = await engine.facts()
    reads = []
    for text in TEXTS if facts.most_top > 1 else ():
        ids = await engine.encode(text)
        async with engine.generate(
            ids, Sampling(temperature=0.0, top_p=1.0), max_tokens=1, top=min(TOP, facts.most_top), usage=Usage()
        ) as tokens:
            drawn = [token async for token in tokens]
        if drawn and drawn[0].id >= 0 and drawn[0].top:
            reads.append(round(glimpse_of(drawn[0], facts.vocabulary_size).entropy_nats, 3))
    template = hashlib.sha256(facts.chat_template.encode()).hexdigest()[:16]
    return Model(facts.model, facts.vocabulary, template, tuple(reads) if len(reads) == len(TEXTS) else ())
