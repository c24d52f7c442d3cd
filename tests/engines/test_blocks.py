"""Blocks: each token has its id, all text arrives, and a character may be cut by the end of a block."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from glimprouter.engines.dialects import Draw, Whole
from glimprouter.engines.dialects.vllm import vllm
from glimprouter.engines.http import HttpEngine
from glimprouter.flow.engine import Finish, Token, Usage
from tests.engines.bigram_gguf import ids_of
from tests.engines.drawn import Drawn, draw
from tests.engines.fake_model import Bigram, BigramCoder

MODEL = Bigram({})
TEXTS = st.text("aé你😀\n", min_size=1, max_size=12)
BYTES = st.lists(st.sampled_from(ids_of(b"a", b"\n", b"\xe4", b"\xbd", b"\xa0", b"\xf0", b"\x9f", b"\n\n")), min_size=1)


class Recital(HttpEngine):
    """Says the same ids to anybody, as a vLLM does that is asked for blocks."""

    def __init__(self, ids: list[int], block_tokens: int) -> None:
        dialect = vllm("recital", 512, priorities=False)
        super().__init__("http://nowhere", dialect=dialect, coder=BigramCoder(MODEL), block_tokens=block_tokens)
        self._recited = ids

    async def whole(self, draw: Draw, usage: Usage) -> Whole:
        said = self._recited[len(draw.ids) - 1 :][: draw.max_tokens]
        usage.requests += 1
        usage.generated_tokens += len(said)
        finish: Finish = "length" if len(said) == draw.max_tokens else "stop"
        text = MODEL.decode(said).rstrip("\ufffd")
        return Whole(said, text, finish, 1, 0, [Token(id_, "") for id_ in said])


def recited(ids: list[int], block_tokens: int) -> Drawn:
    return asyncio.run(draw(Recital(ids, block_tokens), ids_of(b"a"), max_tokens=500))


@settings(deadline=None)
@given(text=TEXTS, block_tokens=st.integers(1, 8))
def test_text_cut_anywhere_arrives_whole(text: str, block_tokens: int) -> None:
    ids = MODEL.encode(text)
    drawn = recited(ids, block_tokens)
    assert (drawn.text, drawn.ids, drawn.finish) == (text, ids, "stop")
    assert drawn.usage.requests == len(ids) // block_tokens + 1


@settings(deadline=None)
@given(ids=BYTES, block_tokens=st.integers(1, 8))
def test_bytes_that_are_no_text_lose_nothing_else(ids: list[int], block_tokens: int) -> None:
    drawn = recited(ids, block_tokens)
    assert drawn.ids == ids
    assert drawn.text.replace("\ufffd", "") == MODEL.decode(ids).replace("\ufffd", "")


def test_a_line_break_within_a_block_belongs_to_its_own_token() -> None:
    drawn = recited(MODEL.encode("你a.\n\nb"), 8)
    assert [token.text for token in drawn.tokens] == ["", "", "你", "a", ".\n\n", "b"]
