"""How a judge is asked: in the words it knows, in turns that its own template writes, by ids of single replies."""

from collections.abc import Sequence

import pytest

from glimprouter.engines.scripted import Opening, ScriptedEngine, Vocabulary
from glimprouter.errors import PairError
from glimprouter.flow.engine import Message
from glimprouter.flow.judging import Judge, words_of
from glimprouter.flow.prompt import FORMATS

THINK = FORMATS[0]


class OneTurn(ScriptedEngine):
    async def render(self, messages: Sequence[Message]) -> str:
        return await super().render(messages[-1:])


async def turns(engine: ScriptedEngine, model: str) -> tuple[str, str]:
    judge = Judge("large", engine)
    return await judge._turns(THINK, words_of(model))


def test_models_of_ours_are_asked_as_they_were_trained_and_others_in_general_words() -> None:
    corpus = pytest.importorskip("lab.corpus", reason="needs reasoning-gym", exc_type=ImportError)
    for name in ("tiny-large", "models/tiny-large", "/somewhere/tiny-large.gguf"):
        assert words_of(name).score == corpus.SCORE_REQUEST
        assert words_of(name).choice == corpus.CHOICE_REQUEST
        assert not words_of(name).thinks
    assert words_of("Qwen3-32B").thinks
    assert "0" in words_of("Qwen3-32B").score


async def test_a_model_trained_on_grades_replies_at_once() -> None:
    before, after = await turns(ScriptedEngine([]), "tiny-large")
    assert (before, after) == ("<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("opening", ["model", "template", "closed"])
async def test_a_thinking_model_is_shown_a_thought_that_is_closed_already(opening: Opening) -> None:
    _, after = await turns(ScriptedEngine([], opening=opening), "Qwen3-32B")
    reply = after.partition("assistant\n")[2]
    assert reply.count("<think>") == reply.count("</think>") == 1
    assert reply.endswith("</think>\n\n")


async def test_template_that_takes_no_second_question_is_told() -> None:
    with pytest.raises(PairError, match="cannot judge drafts") as told:
        await turns(OneTurn([]), "any")
    assert told.value.field == "large"


async def test_replies_are_known_with_and_without_a_blank_before_them() -> None:
    engine = ScriptedEngine([], vocabulary=Vocabulary())
    places = await Judge("large", engine)._single_ids("012")
    assert len(places) == 6
    assert set(places.values()) == {0, 1, 2}
