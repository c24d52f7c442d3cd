"""The models that ship, on the engine that serves them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from glimprouter.config import Sampling, model_at
from glimprouter.engines import open_engine
from glimprouter.engines.gguf_file import read_metadata
from tests.engines.drawn import draw

SHIPPED = sorted(Path(str(files("glimprouter.models"))).glob("*.gguf"))
pytestmark = pytest.mark.skipif(not SHIPPED, reason="no model is there yet")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
async def test_a_shipped_model_thinks_in_ids_that_decode_to_its_text(path: Path) -> None:
    engine = await open_engine(model_at(str(path)), side="small")
    try:
        ids = await engine.encode_prompt([{"role": "user", "content": "What is 47 * 36?"}])
        ids += await engine.encode("<think>\n", special=True)
        drawn = await draw(engine, ids, Sampling(seed=1), max_tokens=80, top=20)
        assert await engine.decode(drawn.ids) == drawn.text
        assert all(len(token.top) == 20 for token in drawn.tokens)
    finally:
        await engine.close()


async def test_shipped_models_exchange_ids() -> None:
    vocabularies = set()
    for path in SHIPPED:
        engine = await open_engine(model_at(str(path)), side="small")
        vocabularies.add((await engine.facts()).vocabulary)
        await engine.close()
    assert len(vocabularies) == 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_model_names_itself(path: Path) -> None:
    assert read_metadata(path)["general.name"] == path.stem
