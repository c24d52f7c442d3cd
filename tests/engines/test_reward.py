"""A process reward model over HTTP: what is asked of it, what its replies mean, and what goes wrong."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from glimprouter.config import Routing
from glimprouter.engines.reward import HttpReward, ScriptedReward
from glimprouter.engines.scripted import ScriptedEngine, Vocabulary
from glimprouter.errors import EngineError, EngineProtocolError, EngineTimeout, EngineUnavailable
from glimprouter.flow.engine import Usage
from glimprouter.flow.request import ask
from glimprouter.router import Router
from tests.engines.fake_model import serving

MESSAGES = [{"role": "user", "content": "Why?"}]


def server(reply: Callable[[dict[str, Any]], Any], asked: list[dict[str, Any]]) -> web.Application:
    """A pooling server that replies with `data`, or with the response given."""

    async def pooling(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        data = reply(asked[-1])
        if isinstance(data, web.StreamResponse):
            return data
        usage = {"prompt_tokens": 11, "total_tokens": 11}
        return web.json_response({"data": [{"index": 0, "object": "pooling", "data": data}], "usage": usage})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "prm"}]})

    app = web.Application()
    app.router.add_post("/pooling", pooling)
    app.router.add_get("/v1/models", models)
    return app


async def reward_from(reply: Callable[[dict[str, Any]], Any], **options: Any) -> tuple[float, dict[str, Any], Usage]:
    asked: list[dict[str, Any]] = []
    usage = Usage()
    async with serving(server(reply, asked)) as url:
        engine = HttpReward(url, **options)
        try:
            return await engine.reward(MESSAGES, ["One.\n\n", "Two."], usage=usage), asked[0], usage
        finally:
            await engine.close()


async def test_steps_are_sent_as_one_reply_with_a_tag_after_each() -> None:
    value, asked, usage = await reward_from(lambda body: [[0.4, 0.6], [0.1, 0.9]])
    assert value == 0.9
    assert asked["model"] == "prm"
    assert asked["messages"] == [*MESSAGES, {"role": "assistant", "content": "One.<extra_0>Two.<extra_0>"}]
    assert (usage.requests, usage.prompt_tokens) == (1, 11)


async def test_single_probabilities_are_read_as_well() -> None:
    assert (await reward_from(lambda body: [0.2, 0.3]))[0] == 0.3
    assert (await reward_from(lambda body: [[0.2], [0.4]]))[0] == 0.4


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ([], "no value for any step"),
        ([[-3.0, 2.5]], "not a probability"),
        (web.Response(status=400, text="no such model"), "answered 400: no such model"),
        (web.Response(text="<html>"), "not what a pooling server says"),
    ],
)
async def test_other_replies_are_told_apart(reply: Any, says: str) -> None:
    with pytest.raises(EngineProtocolError, match=says):
        await reward_from(lambda body: reply)


async def test_absent_and_silent_servers_are_named() -> None:
    engine = HttpReward("http://127.0.0.1:9")
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:9: cannot be reached"):
        await engine.reward(MESSAGES, ["One."], usage=Usage())
    await engine.close()
    with pytest.raises(EngineTimeout, match=r"no answer within 0 s"):
        await reward_from(lambda body: [[0.0, 1.0]], timeout_s=0.0)


async def test_rsd_keeps_what_is_worth_keeping_and_its_trace_tells_the_price() -> None:
    vocabulary = Vocabulary()
    small = ScriptedEngine(["A good step.\n\n", "A bad step.\n\n"], vocabulary=vocabulary)
    large = ScriptedEngine(["Large says this.\n\n"] * 2, vocabulary=vocabulary)
    router = Router(small, large, reward=ScriptedReward(lambda steps: 0.1 if "bad" in steps[-1] else 0.9))
    trace = await router.answer(ask("Why?", routing=Routing(policy="rsd", warm=False)))
    assert [step.author for step in trace.steps] == ["small", "large", "small"]
    assert [step.judgements[0].value for step in trace.steps] == [0.9, 0.1, 0.9]
    assert trace.reward is not None
    assert trace.reward.calls == 3


async def test_failing_reward_model_ends_the_answer_and_keeps_what_was_written() -> None:
    def fail(steps: Any) -> float:
        if len(steps) > 1:
            raise EngineUnavailable("the reward model is gone")
        return 1.0

    engines = [ScriptedEngine(["A good step.\n\n"] * 2, vocabulary=Vocabulary()) for _ in range(2)]
    router = Router(engines[0], engines[1], reward=ScriptedReward(fail))
    with pytest.raises(EngineError, match="is gone"):
        await router.answer(ask("Why?", routing=Routing(policy="rsd", warm=False)))
