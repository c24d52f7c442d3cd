"""llama.cpp's server as our child: what it draws, how it starts, how it ends."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from glimprouter.config import Sampling, model_at
from glimprouter.engines import local_gguf, open_engine
from glimprouter.engines.gguf_file import read_metadata
from glimprouter.engines.http import HttpEngine
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.errors import ContextError, EngineProtocolError, EngineUnavailable, ModelError, RequestError
from glimprouter.flow.engine import Token, Usage
from tests.engines.bigram_gguf import CHAT_TEMPLATE, CONTROL_TYPE, PIECES, chain, ids_of, uniform, write_bigram_gguf
from tests.engines.conftest import Servers
from tests.engines.drawn import FREE, GREEDY, draw

COIN = {piece: {b"x": 0.6, b"y": 0.3, b"z": 0.1} for piece in (b"x", b"y", b"z")}
ENDLESS = {b"x": {b"x": 1.0}}


async def counted(engine: HttpEngine, sampling: Sampling, tokens: int = 400) -> Counter[str]:
    return Counter((await draw(engine, ids_of(b"x"), sampling, max_tokens=tokens)).text)


# What is drawn --------------------------------------------------------------------------------------------------------


async def test_a_whole_distribution_is_drawn_from_and_no_default_of_the_server_leaks(servers: Servers) -> None:
    drawn = await counted(await servers.serve(COIN), FREE)
    assert drawn["x"] == pytest.approx(240, abs=40)
    assert drawn["y"] == pytest.approx(120, abs=40)
    assert drawn["z"] == pytest.approx(40, abs=25)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (replace(FREE, temperature=0.0), "x"),
        (replace(FREE, top_k=1), "x"),
        (replace(FREE, top_k=2), "xy"),
        (replace(FREE, top_p=0.7), "xy"),
        (replace(FREE, min_p=0.3), "xy"),
        (replace(FREE, temperature=0.5, top_p=0.9), "xy"),  # top-p after temperature: 36 : 9 : 1
        (replace(FREE, temperature=2.0), "xyz"),
    ],
    ids=str,
)
async def test_each_sampling_field_does_what_it_says(servers: Servers, sampling: Sampling, possible: str) -> None:
    assert set(await counted(await servers.serve(COIN), sampling, 200)) == set(possible)


async def test_penalties_count_what_was_drawn_and_the_prompt(servers: Servers) -> None:
    engine = await servers.serve(COIN)
    drawn = await draw(engine, ids_of(b"x"), replace(GREEDY, frequency_penalty=1.0), max_tokens=4)
    assert drawn.text == "yxyz"


async def test_log_probabilities_are_those_of_the_model_whatever_the_sampling(servers: Servers) -> None:
    engine = await servers.serve(COIN)
    for sampling in (GREEDY, FREE, Sampling(temperature=3.0, top_p=0.5, top_k=2, presence_penalty=1.0)):
        for token in (await draw(engine, ids_of(b"x"), sampling, max_tokens=5, top=3)).tokens:
            assert [id_ for id_, _ in token.top] == ids_of(b"x", b"y", b"z")
            assert [math.exp(logprob) for _, logprob in token.top] == pytest.approx([0.6, 0.3, 0.1], abs=1e-5)
            assert token.logprob == dict(token.top)[token.id]


async def test_a_seed_gives_the_same_tokens_again_and_another_seed_others(servers: Servers) -> None:
    engine = await servers.serve(COIN)
    seeds = (7, 7, 8, 2**40 + 7, 2**63 - 1)
    texts = [(await draw(engine, ids_of(b"x"), replace(FREE, seed=seed))).text for seed in seeds]
    assert texts[0] == texts[1] == texts[3]  # the server's seeds have 32 bits
    assert len(set(texts)) == 3


# Characters of several tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [0, 4])
async def test_tokens_within_a_character_keep_their_ids(servers: Servers, top: int) -> None:
    pieces = (b"\xf0\x9f\x98", b"\x80", b"b", b"\xe2", b"\x82", b"\xac", b"!")
    drawn = await draw(await servers.serve(chain(b"a", *pieces)), ids_of(b"a"), top=top)
    assert drawn.ids == ids_of(*pieces)
    assert [token.text for token in drawn.tokens] == ["", "😀", "b", "", "", "€", "!"]
    assert drawn.finish == "stop"


async def test_tokens_within_a_character_have_their_log_probabilities(servers: Servers) -> None:
    table = {b"a": {b"\xe2": 0.5, b"b": 0.25, b"c": 0.25}, **chain(b"\xe2", b"\x82", b"\xac", b"!")}
    drawn = await draw(await servers.serve(table), ids_of(b"a"), GREEDY, top=3)
    assert drawn.text == "€!"
    first = drawn.tokens[0]
    assert first.logprob is not None
    assert math.exp(first.logprob) == pytest.approx(0.5)
    assert [math.exp(logprob) for _, logprob in first.top] == pytest.approx([0.5, 0.25, 0.25])


async def test_an_unusual_spelling_of_a_character_becomes_the_usual_one(servers: Servers) -> None:
    drawn = await draw(await servers.serve(chain(b"a", b"\xf0", b"\x9f", b"\x98", b"\x80", b"!")), ids_of(b"a"))
    assert drawn.text == "😀!"
    assert drawn.ids == ids_of(b"\xf0\x9f\x98", b"\x80", b"!")


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
async def test_a_character_cut_by_the_limit_shows_nothing_and_keeps_its_ids(servers: Servers, max_tokens: int) -> None:
    pieces = (b"b", b"\xe2", b"\x82", b"\xac", b"!")
    drawn = await draw(await servers.serve(chain(b"a", *pieces)), ids_of(b"a"), max_tokens=max_tokens)
    assert drawn.ids == ids_of(*pieces[:max_tokens])
    assert (drawn.text, drawn.finish) == ("b", "length")


async def test_half_a_character_before_the_end_token_is_dropped(servers: Servers) -> None:
    drawn = await draw(await servers.serve(chain(b"a", b"b", b"\xe2", b"\x82")), ids_of(b"a"))
    assert (drawn.ids, drawn.text, drawn.finish) == (ids_of(b"b"), "b", "stop")


@pytest.mark.parametrize("top", [0, 3])
async def test_byte_soup_keeps_ids_and_text_together(servers: Servers, top: int) -> None:
    soup = [
        bytes([byte]) for byte in (*range(97, 110), *range(0x80, 0xC0, 4), 0xBD, 0xBF, 0xC3, 0xE2, 0xE4, 0xEF, 0xF0)
    ]
    engine = await servers.serve(uniform([*soup, b"\xf0\x9f\x98", b"\xf0\x9f"]))
    for seed in range(12):
        drawn = await draw(engine, ids_of(b"a"), replace(FREE, seed=seed), max_tokens=40, top=top)
        assert (len(drawn.ids), drawn.finish) == (40, "length")
        decoded = await engine.decode(drawn.ids)
        assert decoded.rstrip("\ufffd") == drawn.text.rstrip("\ufffd")
        assert all(len(token.top) == top for token in drawn.tokens)


async def test_think_tags_show_where_a_file_calls_them_control_tokens(servers: Servers) -> None:
    engine = await servers.serve(chain(b"a", b"b", b"</think>", b"c"), think_type=CONTROL_TYPE)
    drawn = await draw(engine, ids_of(b"a"))
    assert (drawn.text, drawn.ids) == ("b</think>c", ids_of(b"b", b"</think>", b"c"))


async def test_other_control_tokens_within_a_thought_show_nothing(servers: Servers) -> None:
    drawn = await draw(await servers.serve(chain(b"a", b"b", b"<|im_start|>", b"c")), ids_of(b"a"))
    assert (drawn.text, drawn.ids) == ("bc", ids_of(b"b", b"<|im_start|>", b"c"))


# Prompts --------------------------------------------------------------------------------------------------------------


async def test_bos_begins_a_prompt_and_no_other_text(servers: Servers) -> None:
    engine = await servers.serve(chain(b"a", b"b"), bos=True)
    for said in ("hi", "hi</think>"):
        ids = await engine.encode_prompt([{"role": "user", "content": said}])
        assert ids[0] == PIECES.index(b"<bos>")
        assert ids.count(ids[0]) == 1
    assert PIECES.index(b"<bos>") not in await engine.encode("hi")


async def test_thoughts_of_earlier_turns_are_not_said_again(servers: Servers) -> None:
    engine = await servers.serve(chain(b"a", b"b"))
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"},
        {"role": "user", "content": "\ue000 why"},
    ]
    text = await engine.decode(await engine.encode_prompt(turns))
    assert "assistant\nyes<|im_end|>" in text
    assert "\ue000 why" in text
    assert text == await engine.render(turns)


async def test_a_template_never_sees_a_tag_that_a_user_wrote(servers: Servers) -> None:
    nosy = CHAT_TEMPLATE.replace("message.content", "(message.content.split('</think>') | last)")
    engine = await servers.serve(chain(b"a", b"b"), chat_template=nosy)
    assert "keep</think>me" in await engine.render([{"role": "user", "content": "keep</think>me"}])


async def test_half_a_surrogate_pair_is_the_callers_mistake(servers: Servers) -> None:
    engine = await servers.serve(chain(b"a", b"b"))
    with pytest.raises(RequestError, match="surrogate"):
        await engine.encode_prompt([{"role": "user", "content": "\ud800"}])


# Slots ----------------------------------------------------------------------------------------------------------------


class _Slot(msgspec.Struct):
    is_processing: bool


async def busy_slots(engine: HttpEngine) -> int:
    response = await engine.request("/slots", None)
    slots = msgspec.json.decode(await response.read(), type=list[_Slot])
    return sum(slot.is_processing for slot in slots)


async def test_leaving_a_stream_stops_the_server_at_once(servers: Servers) -> None:
    engine = await servers.serve(ENDLESS, context_tokens=32_768)
    async with engine.generate(ids_of(b"x"), GREEDY, max_tokens=16_000, top=0, usage=Usage()) as stream:
        await anext(stream)
        assert await busy_slots(engine) == 1
    async with asyncio.timeout(1):
        while await busy_slots(engine):
            pass


async def test_more_streams_than_slots_wait_their_turn(servers: Servers) -> None:
    engine = await servers.serve(ENDLESS, parallel=2)
    drawn = await asyncio.gather(*(draw(engine, ids_of(b"x"), max_tokens=50) for _ in range(6)))
    assert {one.text for one in drawn} == {"x" * 50}


async def test_each_slot_has_the_whole_context(servers: Servers) -> None:
    engine = await servers.serve(ENDLESS, parallel=2)
    assert (await engine.facts()).context_tokens == 512
    drawn = await asyncio.gather(*(draw(engine, ids_of(b"x"), max_tokens=500) for _ in range(2)))
    assert [len(one.ids) for one in drawn] == [500, 500]


async def test_a_full_context_ends_a_stream_as_too_long(servers: Servers) -> None:
    engine = await servers.serve(ENDLESS, parallel=2)
    drawn = await draw(engine, ids_of(b"x"), max_tokens=2000)
    assert (len(drawn.ids), drawn.finish) == (511, "length")


# The process ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bigram_gguf(tmp_path / "model.gguf", ENDLESS, context_tokens=32_768)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_two_engines_start_together_and_end_when_closed(model: Path) -> None:
    engines = await asyncio.gather(*(open_engine(model_at(str(model)), side=side) for side in ("small", "large")))
    pids = [engine.pid for engine in engines if isinstance(engine, LocalGguf)]
    assert all(map(is_running, pids))
    await asyncio.gather(*(engine.close() for engine in engines))
    assert not any(map(is_running, pids))
    await engines[0].close()


async def test_the_server_wants_its_key_and_does_not_show_it(model: Path) -> None:
    engine = await LocalGguf.start(model)
    stranger = HttpEngine(engine.url, key="guess")
    with pytest.raises(EngineProtocolError, match="401"):
        await stranger.encode("a")
    assert engine.key is not None
    assert engine.key not in await command_line(engine.pid)
    await stranger.close()
    await engine.close()


async def command_line(pid: int) -> str:
    shown = await asyncio.create_subprocess_exec("ps", "-o", "args=", "-p", str(pid), stdout=asyncio.subprocess.PIPE)
    output, _ = await shown.communicate()
    return output.decode()


async def test_a_process_killed_within_a_step_is_named_with_its_signal(model: Path) -> None:
    engine = await LocalGguf.start(model)
    async with engine.generate(ids_of(b"x"), GREEDY, max_tokens=30_000, top=0, usage=Usage()) as stream:
        await anext(stream)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match="model: its process ended by signal 9"):
            await to_the_end(stream)
    with pytest.raises(EngineUnavailable, match="its process ended by signal 9"):
        await engine.encode("a")
    await engine.close()


async def test_a_process_that_crashes_is_named_with_its_last_line(model: Path) -> None:
    engine = await LocalGguf.start(model)
    with pytest.raises(ContextError):
        await draw(engine, ids_of(b"x") * 40_000)
    os.kill(engine.pid, signal.SIGABRT)
    with pytest.raises(EngineUnavailable, match=r"its process ended by signal 6: .+"):
        await engine.encode("a")
    await engine.close()


async def to_the_end(stream: AsyncIterator[Token]) -> None:
    async for _ in stream:
        pass


PARENT = """
import asyncio, sys
from pathlib import Path
from glimprouter.engines.local_gguf import LocalGguf
async def main():
    engine = await LocalGguf.start(Path(sys.argv[1]))
    print(engine.url, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_the_server_is_gone_when_its_parent_was_killed(model: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(model), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    engine = HttpEngine((await parent.stdout.readline()).decode().strip(), key="guess")
    with pytest.raises(EngineProtocolError, match="401"):
        await engine.encode("a")
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(2):
        await refused(engine)
    await engine.close()


async def refused(engine: HttpEngine) -> None:
    """Ask until nobody listens there any more."""
    while True:
        try:
            await engine.encode("a")
        except EngineUnavailable:
            return
        except EngineProtocolError:
            continue


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[local_gguf.Process]:
    """The processes that a test started."""
    processes: list[local_gguf.Process] = []

    class Noted(local_gguf.Process):
        def __init__(self, settings: dict[str, Any]) -> None:
            super().__init__(settings)
            processes.append(self)

    monkeypatch.setattr(local_gguf, "Process", Noted)
    return processes


async def test_a_start_that_is_cancelled_leaves_no_process(model: Path, started: list[local_gguf.Process]) -> None:
    starting = asyncio.create_task(LocalGguf.start(model))
    await asyncio.sleep(0)
    assert [process.exit_code() for process in started] == [None]
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert started[0].exit_code() is not None


# Files that can not be served -----------------------------------------------------------------------------------------


def missing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_format(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" * 1000)


def cut_in_its_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def cut_in_its_tensors(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100_000])


def damaged_in_its_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[16:24] = b"\xff" * 8
    path.write_bytes(data)


def of_unknown_architecture(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"llama", b"lhama"))


def without_chat_template(path: Path) -> None:
    write_bigram_gguf(path, ENDLESS, chat_template=None)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (missing, "no such file; give a GGUF file"),
        (folder, "is a folder; give the GGUF file in it"),
        (empty, "not a whole GGUF file: it does not begin with the letters GGUF"),
        (other_format, "not a whole GGUF file: it does not begin with the letters GGUF"),
        (cut_in_its_header, "not a whole GGUF file: it ends within its header"),
        (cut_in_its_tensors, "llama.cpp could not load it: .*corrupted or incomplete"),
        (damaged_in_its_header, "not a whole GGUF file"),
        (of_unknown_architecture, "llama.cpp could not load it: .*unknown model architecture: 'lhama'"),
        (without_chat_template, "it has no chat template"),
    ],
)
async def test_a_file_that_can_not_be_served_is_refused_with_its_reason(
    model: Path, started: list[local_gguf.Process], harm: Callable[[Path], None], said: str
) -> None:
    harm(model)
    with pytest.raises(ModelError, match=f"--large .*model.gguf: {said}") as refused:
        await open_engine(model_at(str(model)), side="large")
    assert refused.value.field == "large"
    assert None not in [process.exit_code() for process in started]


def test_metadata_is_read_past_long_lists(model: Path) -> None:
    metadata = read_metadata(model)
    assert metadata["general.architecture"] == "llama"
    assert metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert metadata["llama.context_length"] == 32_768
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert "tokenizer.ggml.tokens" not in metadata


async def test_an_engine_starts_in_less_than_three_seconds(model: Path) -> None:
    begun = time.perf_counter()
    await (await LocalGguf.start(model)).close()
    assert time.perf_counter() - begun < 3
