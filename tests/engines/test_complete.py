"""A blocking call: what clients without streaming do, and what streaming is compared with."""

from glimprouter.config import Sampling
from glimprouter.engines.http import HttpEngine
from glimprouter.flow.engine import Usage
from glimprouter.pair import open_pair


async def test_a_blocking_call_gives_what_the_stream_gives() -> None:
    async with open_pair(exact=True) as pair:
        assert isinstance(pair.small, HttpEngine)
        prompt = await pair.small.encode_prompt([{"role": "user", "content": "Solve for x: 7*x + 5 = 61"}])
        for max_tokens in (5, 300):
            sampling = Sampling(temperature=0.0)
            async with pair.small.generate(prompt, sampling, max_tokens=max_tokens, top=0, usage=Usage()) as tokens:
                streamed = [token async for token in tokens]
            whole = await pair.small.complete(prompt, sampling, max_tokens=max_tokens, usage=Usage())
            assert whole.ids == tuple(token.id for token in streamed if token.id >= 0)
            assert whole.text == "".join(token.text for token in streamed)
            assert whole.finish == streamed[-1].finish == ("length" if max_tokens == 5 else "stop")
