"""The prompt, once per model: the model's own template rendered once, with its thought left open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from glimprouter.config import Side
from glimprouter.errors import ContextError, EngineError, InputError, PairError
from glimprouter.flow.engine import Engine, EngineFacts, Message
from glimprouter.flow.request import Request


@dataclass(frozen=True, slots=True)
class ThoughtFormat:
    """How a family opens and closes a thought. `after` stands between the closing tag and the answer."""

    name: str
    open_tag: str
    close_tag: str
    after_open: str = "\n"
    after: str = "\n\n"


FORMATS = (
    ThoughtFormat("think", "<think>", "</think>"),  # Qwen3, QwQ, DeepSeek-R1 and its distillations, most others
    ThoughtFormat("magistral", "[THINK]", "[/THINK]", after_open="", after=""),
    ThoughtFormat("kimi", "◁think▷", "◁/think▷"),
    ThoughtFormat("seed", "<seed:think>", "</seed:think>", after_open="\n", after="\n"),
    ThoughtFormat("reasoning", "<reasoning>", "</reasoning>"),
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The ids a model starts from: rendered chat, thought open. `close_ids` is its closing tag, `after_ids` what
    stands between that and the answer."""

    ids: tuple[int, ...]
    format: ThoughtFormat
    close_ids: tuple[int, ...]
    after_ids: tuple[int, ...]
    facts: EngineFacts

    @property
    def room_tokens(self) -> int:
        """How many tokens the context holds beyond the prompt."""
        return self.facts.context_tokens - len(self.ids)


LEAST_ROOM_TOKENS = 32
"""A question that leaves less than this to write in is refused."""


ALIASES = {"qwen3": "think", "r1": "think", "qwq": "think", "deepseek": "think"}
"""Families by the name that people know, and the format they share."""


def format_named(name: str, *, side: Side) -> ThoughtFormat:
    """The format that a user named. Raises PairError for an unknown one."""
    wanted = ALIASES.get(name, name)
    found = next((known for known in FORMATS if known.name == wanted), None)
    if found is None:
        accepted = ", ".join([*(known.name for known in FORMATS), *ALIASES])
        raise PairError(f"--thought-format is {name!r}; accepted: auto, {accepted}", field=f"{side}.thought_format")
    return found


async def format_of(engine: Engine, facts: EngineFacts, *, side: Side) -> ThoughtFormat:
    """The thought format of a model: as the user named it, as its template says, or whose tags it reads as tokens.

    Raises PairError where there is none.
    """
    if facts.thought_format:
        return format_named(facts.thought_format, side=side)
    for known in FORMATS:
        if known.open_tag in facts.chat_template or known.close_tag in facts.chat_template:
            return known
    if not facts.chat_template and facts.takes_ids:  # a server that does not tell its template
        for known in FORMATS:
            if all([len(await engine.encode(tag, special=True)) == 1 for tag in (known.open_tag, known.close_tag)]):
                return known
    tags = ", ".join(known.open_tag for known in FORMATS)
    raise PairError(
        f"--{side} {facts.model}: no thought tags ({tags}) in its chat template or among its tokens, so it cannot "
        "hold an open thought; give a reasoning model, or name its tags with --thought-format",
        field=side,
    )


class Prompter:
    """Renders requests for both models of a pair. What stays the same between requests is asked of the engines once."""

    def __init__(self, small: Engine, large: Engine) -> None:
        self._engines: dict[Side, Engine] = {"small": small, "large": large}
        self._families: dict[Side, _Family] = {}

    async def open(self, request: Request) -> dict[Side, Prompt]:
        """The prompt of each model. Raises PairError, or ContextError where a model has no room left to write in."""
        for side in self._engines:
            await self._family(side)
        small, large = self._families["small"], self._families["large"]
        if small.reads_like == large.reads_like:
            # One family: one rendering serves both.
            ids = await self._engines["small"].encode_prompt(request.messages)
            return {"small": _opened(small, ids), "large": _opened(large, ids)}
        rendered = await asyncio.gather(
            *(self._engines[side].encode_prompt(request.messages) for side in self._families)
        )
        return {side: _opened(self._families[side], ids) for side, ids in zip(self._families, rendered, strict=True)}

    async def open_side(self, side: Side, messages: Sequence[Message]) -> Prompt:
        """The prompt of one model alone; the other is not asked anything. Raises what `open` raises."""
        family = await self._family(side)
        return _opened(family, await self._engines[side].encode_prompt(messages))

    async def _family(self, side: Side) -> _Family:
        if side not in self._families:
            self._families[side] = await _family_of(self._engines[side], side)
        return self._families[side]


@dataclass(frozen=True, slots=True)
class _Family:
    side: Side
    facts: EngineFacts
    format: ThoughtFormat
    open_ids: tuple[int, ...]
    """What is left to write of the opening tag; nothing where the template writes it."""
    shut_ids: tuple[int, ...]
    """What the template writes to shut the thought before it began, to be taken off again."""
    close_ids: tuple[int, ...]
    after_ids: tuple[int, ...]
    reads_like: tuple[object, ...]
    """Equal only for models that render a chat alike and read the same ids the same way, control tokens included."""


_SAMPLE_CHAT = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is 1 + 1 = 2?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And why?"},
)


async def _family_of(engine: Engine, side: Side) -> _Family:
    """Raises PairError where the template leaves no room for a thought."""
    facts = await engine.facts()
    style = await format_of(engine, facts, side=side)
    texts = (style.open_tag + style.after_open, style.close_tag, style.after)
    open_ids, close_ids, after_ids = [tuple(await engine.encode(text, special=True)) for text in texts]
    sample = await _sample_of(engine)
    rendered = await engine.render(sample)
    end = rendered.rstrip()
    shut_ids: tuple[int, ...] = ()
    if end.endswith(style.close_tag):
        shut = rendered[rendered.rindex(style.open_tag) :] if style.open_tag in rendered else ""
        if not facts.thought_format or shut.split() != [style.open_tag, style.close_tag]:
            raise PairError(
                f"--{side} {facts.model}: its chat template closes the thought before the model can think; "
                f"use --thought-format {side}={style.name}, which opens it all the same, or give the model's thinking "
                "variant, or a template with thinking on (vLLM: --chat-template FILE, with enable_thinking true)",
                field=side,
            )
        shut_ids = tuple(await engine.encode(shut, special=True))
    reads_like = (facts.vocabulary, open_ids, close_ids, after_ids, await engine.encode_prompt(sample))
    left_to_open = () if end.endswith(style.open_tag) else open_ids
    return _Family(side, facts, style, left_to_open, shut_ids, close_ids, after_ids, reads_like)


async def _sample_of(engine: Engine) -> Sequence[Message]:
    """The sample chat, or its last question alone for a template that refuses more."""
    try:
        await engine.render(_SAMPLE_CHAT)
    except (EngineError, InputError):
        return _SAMPLE_CHAT[-1:]
    return _SAMPLE_CHAT


def _opened(family: _Family, ids: list[int]) -> Prompt:
    style, facts = family.format, family.facts
    shut = len(family.shut_ids)
    if shut and tuple(ids[-shut:]) != family.shut_ids:
        raise PairError(
            f"--{family.side} {facts.model}: its chat template closes the thought in a way that cannot be undone; give "
            "a template with thinking on",
            field=family.side,
        )
    all_ids = (*ids[: len(ids) - shut], *family.open_ids)
    if len(all_ids) + LEAST_ROOM_TOKENS > facts.context_tokens:
        raise ContextError(
            f"the question takes {len(all_ids)} tokens for --{family.side} {facts.model}, whose context holds "
            f"{facts.context_tokens}: too few are left to write in; shorten the question or serve the model with more",
            field="question",
        )
    return Prompt(all_ids, style, family.close_ids, family.after_ids, facts)
