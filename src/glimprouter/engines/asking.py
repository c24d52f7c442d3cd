"""What a server of a known kind can do, found by asking it once, before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct
from msgspec.json import Decoder

from glimprouter.config import Sampling
from glimprouter.engines.dialects import Exchange
from glimprouter.engines.dialects.vllm import METRICS
from glimprouter.engines.http import HttpEngine
from glimprouter.errors import EngineError, EngineProtocolError, InputError
from glimprouter.flow.engine import Usage

GREEDY = Sampling(temperature=0.0, top_p=1.0)
_GPU_BLOCK_TOKENS = 16

_PROMPTS = ("The answer is", "1 + 1 =", "a")

_COUNTING = "Write the words one, two, three, four, five, six, seven, eight in this order, and nothing else."
_BEGUN = "one, two, three, four,"


@dataclass(frozen=True, slots=True)
class VllmWays:
    """`priorities`: the field is taken, whether or not the server schedules by it. Without `ids` (in and out, and to
    and from text) it is spoken to in text."""

    priorities: bool
    ids: bool
    block_tokens: int


class _Choice(Struct):
    token_ids: list[int] | None = None


class _Reply(Struct):
    choices: list[_Choice]


async def vllm_ways(scout: HttpEngine, name: str, *, has_files: bool) -> VllmWays:
    """Raises EngineError where the server cannot be used at all. `has_files`: it need not tokenise."""
    body: dict[str, Any] = {"model": name, "prompt": "a", "max_tokens": 1, "return_token_ids": True}
    priorities = True
    try:
        reply = await scout.exchange(_completion(body | {"priority": 1}))
    except EngineProtocolError as error:
        if not error.final:
            raise
        priorities = False
        reply = await scout.exchange(_completion(body))
    ids = bool(reply.choices) and reply.choices[0].token_ids is not None
    if ids and not has_files:
        ids = await _answers(scout, Exchange("/tokenize", lambda: {"model": name, "prompt": "a"}, len))
    try:
        block_tokens = await scout.exchange(METRICS)
    except (EngineError, InputError):  # they may be closed to us
        block_tokens = _GPU_BLOCK_TOKENS
    return VllmWays(priorities, ids, block_tokens)


def _completion(body: dict[str, Any]) -> Exchange[_Reply]:
    return Exchange("/v1/completions", lambda: body, Decoder(_Reply).decode)


async def _answers(scout: HttpEngine, exchange: Exchange[Any]) -> bool:
    try:
        await scout.exchange(exchange)
    except EngineProtocolError as error:
        if not error.final:
            raise
        return False
    return True


class SglangModel(Struct):
    model_path: str
    tokenizer_path: str = ""


class _SglangServer(Struct):
    incremental_streaming_output: bool | None = None
    stream_output: bool | None = None


SLOW_STREAM = (
    "every event of its streams repeats all before it, which costs more with every token: start SGLang with "
    "--incremental-streaming-output (before 0.5.10: --stream-output)"
)


async def sglang_model(scout: HttpEngine) -> SglangModel:
    """Raises EngineError where the server does not tell its model."""
    decode = Decoder(SglangModel).decode
    try:
        return await scout.exchange(Exchange("/model_info", lambda: None, decode))
    except EngineProtocolError:  # it had another name before 0.5
        return await scout.exchange(Exchange("/get_model_info", lambda: None, decode))


async def sglang_repeats_itself(scout: HttpEngine) -> bool:
    """Whether each event of a stream tells everything from the start, as it does by default; False where unknown."""
    decode = Decoder(_SglangServer).decode
    for path in ("/server_info", "/get_server_info"):
        try:
            server = await scout.exchange(Exchange(path, lambda: None, decode))
        except (EngineError, InputError):
            continue
        return not (server.incremental_streaming_output or server.stream_output)
    return False


async def takes_seeds(engine: HttpEngine) -> bool:
    """Whether one more token can be drawn with a seed; an older SGLang refuses the field."""
    try:
        async with engine.generate(await engine.encode("a"), GREEDY, max_tokens=1, top=0, usage=Usage()) as tokens:
            await anext(tokens)
    except EngineProtocolError as error:
        if "sampling_seed" not in str(error):
            raise
        return False
    return True


async def is_scaled(engine: HttpEngine) -> bool:
    """Whether the same prompt has other log-probabilities at another temperature; as by default where none are had."""
    for text in _PROMPTS:
        ids = await engine.encode(text)
        plain, warm = [await _gap_nats(engine, ids, temperature) for temperature in (1.0, 2.0)]
        if plain is not None and warm is not None:
            return abs(plain - warm) > 0.1 * plain
    return True


async def _gap_nats(engine: HttpEngine, ids: Sequence[int], temperature: float) -> float | None:
    """Between the best token and the second best; None where the model ends at once or both are as good."""
    sampling = Sampling(temperature=temperature, top_p=1.0)
    async with engine.generate(ids, sampling, max_tokens=1, top=2, usage=Usage()) as tokens:
        top = (await anext(tokens)).top
    return (top[0][1] - top[1][1] or None) if len(top) > 1 else None


async def streams(engine: HttpEngine) -> bool:
    """Whether a text host streams when asked to, rather than answer at once."""
    ids = await engine.encode_prompt([{"role": "user", "content": "a"}])
    try:
        async with engine.generate(ids, GREEDY, max_tokens=1, top=0, usage=Usage()) as tokens:
            await anext(tokens)
    except EngineProtocolError as error:
        if "not a stream" not in str(error):
            raise
        return False
    return True


async def begins_anew(engine: HttpEngine) -> bool:
    """Whether a host, asked to continue the assistant's turn, writes it again from its start."""
    ids = await engine.encode_prompt([{"role": "user", "content": _COUNTING}])
    begun = await engine.encode(_BEGUN)
    said = (await engine.complete([*ids, *begun], GREEDY, max_tokens=12, usage=Usage())).text
    return said.strip().lower().startswith(_BEGUN[:8])
