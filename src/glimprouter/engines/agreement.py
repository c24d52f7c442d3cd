"""Whether replicas serve one and the same model, and what can be asked of all of them."""

from __future__ import annotations

from dataclasses import replace

from glimprouter.errors import PairError
from glimprouter.flow.engine import EngineFacts


def agreed(pool: EngineFacts, facts: EngineFacts, name: str) -> EngineFacts:
    """What holds for the replicas so far and for `name` too. Raises PairError where that serves another model.

    The path or name that a server knows its model by may differ. In text mode the ids are our own numbers, which
    replicas share, so that vocabularies say nothing there.
    """
    _refuse_unequal("takes_ids", "way to take prompts (ids or text)", pool, facts, name)
    if facts.takes_ids:
        _refuse_unequal("vocabulary", "vocabulary", pool, facts, name)
    if pool.chat_template and facts.chat_template:
        _refuse_unequal("chat_template", "chat template", pool, facts, name)
    return replace(
        pool,
        context_tokens=min(pool.context_tokens, facts.context_tokens),
        vocabulary_size=_least_told(pool.vocabulary_size, facts.vocabulary_size),
        most_top=min(pool.most_top, facts.most_top),
        cache_block_tokens=max(pool.cache_block_tokens, facts.cache_block_tokens),
        warnings=tuple(dict.fromkeys((*pool.warnings, *facts.warnings))),
    )


def agreed_later(pool: EngineFacts, facts: EngineFacts, name: str) -> None:
    """The same for a replica that comes when answers are under way, by what the pool has told of itself already."""
    agreed(pool, facts, name)
    for field, noun in (("context_tokens", "context"), ("most_top", "number of log-probabilities")):
        mine, wanted = getattr(facts, field), getattr(pool, field)
        if mine < wanted:
            raise PairError(
                f"{name} serves {facts.model} with a {noun} of {mine}, the replicas beside it with {wanted}; start it "
                "with as much, or start this program again",
                field="at",
            )


def _refuse_unequal(field: str, noun: str, pool: EngineFacts, facts: EngineFacts, name: str) -> None:
    if getattr(facts, field) != getattr(pool, field):
        raise PairError(
            f"{name} serves {facts.model}, whose {noun} is not that of {pool.model} on the replicas beside it; give "
            "addresses of one and the same model",
            field="at",
        )


def _least_told(first: int, second: int) -> int:
    """The smaller of two sizes; 0 stands for one that is not told."""
    return min(first, second) if first and second else first or second
