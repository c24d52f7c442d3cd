"""How a thought is opened, whatever the template does about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glimprouter.engines.scripted import Opening, ScriptedEngine
from glimprouter.errors import PairError
from glimprouter.flow.engine import EngineFacts
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import ask


class Named(ScriptedEngine):
    """An engine whose user has named the thought format."""

    async def facts(self) -> EngineFacts:
        return replace(await super().facts(), thought_format="qwen3")


@pytest.mark.parametrize("opening", ["model", "template", "closed"])
async def test_every_template_leaves_the_thought_open_where_its_format_is_named(opening: Opening) -> None:
    engine = Named(["So.\n\n"], opening=opening)
    prompts = await Prompter(engine, engine).open(ask("Is 1 + 1 = 2?"))
    text = await engine.decode(prompts["small"].ids)
    assert text.endswith("Is 1 + 1 = 2?<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert text.count("<think>") == 1


async def test_a_template_that_shuts_the_thought_is_refused_with_the_option_that_opens_it() -> None:
    with pytest.raises(PairError, match="use --thought-format large=think, which opens it all the same"):
        await Prompter(ScriptedEngine([]), ScriptedEngine([], opening="closed")).open(ask("Is 1 + 1 = 2?"))


async def test_a_shut_thought_that_holds_text_cannot_be_opened() -> None:
    class Talking(Named):
        async def render(self, messages: object) -> str:
            return "<|im_start|>assistant\n<think>\nNo need to think.\n</think>\n\n"

    engine = Talking([])
    with pytest.raises(PairError, match="closes the thought"):
        await Prompter(engine, engine).open(ask("Is 1 + 1 = 2?"))


async def test_one_side_can_be_opened_without_asking_the_other() -> None:
    class Untouchable(ScriptedEngine):
        async def facts(self) -> EngineFacts:
            raise AssertionError

    small = ScriptedEngine([])
    prompter = Prompter(small, Untouchable([]))
    prompt = await prompter.open_side("small", ask("Why?").messages)
    assert (await small.decode(prompt.ids)).endswith("<think>\n")
