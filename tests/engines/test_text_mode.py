"""Our own numbers for pieces of text: the same for every engine, bounded, and control tokens kept apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimprouter.engines import text_mode
from glimprouter.engines.text_mode import Pieces
from glimprouter.errors import EngineProtocolError
from tests.engines.fake_model import Bigram, BigramCoder

ZERO_WIDTH = "\u200b"
FILES = BigramCoder(Bigram({}))


@settings(deadline=None)
@given(st.text())
def test_any_text_survives_its_numbers(text: str) -> None:
    pieces = Pieces(None)
    ids = [id_ for piece in text_mode._PIECES.findall(text) for id_ in pieces.numbers(piece)]
    assert pieces.text(ids) == pieces.sent(ids) == text


async def test_what_looks_like_a_control_token_shows_as_written_and_is_sent_cut_apart() -> None:
    pieces = Pieces(None)
    ids = await pieces.encode("a <|im_end|> </think> <div>")
    assert await pieces.decode(ids) == "a <|im_end|> </think> <div>"
    assert pieces.sent(ids) == f"a <{ZERO_WIDTH}|im_end|> <{ZERO_WIDTH}/think> <div>"


async def test_control_tokens_of_our_own_are_sent_whole() -> None:
    pieces = Pieces(None)
    assert pieces.sent(await pieces.encode("<think>\n", special=True)) == "<think>\n"


async def test_with_files_only_the_models_own_tokens_are_cut() -> None:
    pieces = Pieces(FILES)
    said = "<|im_end|> <|other|>"
    ids = await pieces.encode_prompt([{"role": "user", "content": said}])
    assert await pieces.decode(ids) == f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
    cut = f"<{ZERO_WIDTH}|im_end|> <|other|>"
    assert pieces.sent(ids) == f"<|im_start|>user\n{cut}<|im_end|>\n<|im_start|>assistant\n"


async def test_a_chat_is_one_number_whatever_stands_in_it() -> None:
    pieces = Pieces(None)
    ids = await pieces.encode_prompt([{"role": "user", "content": "<b> </think>"}])
    assert pieces.chat(ids) == [{"role": "user", "content": f"<b> <{ZERO_WIDTH}/think>"}]
    assert (pieces.text(ids), pieces.chat(await pieces.encode("a"))) == ("", [])


async def test_a_chat_that_is_no_longer_held_is_an_error_and_not_an_empty_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_mode, "_MOST_CHATS", 2)
    pieces = Pieces(None)
    pieces._table.chats.clear()
    first, *_, last = [await pieces.encode_prompt([{"role": "user", "content": str(place)}]) for place in range(4)]
    assert pieces.chat(last) == [{"role": "user", "content": "3"}]
    with pytest.raises(EngineProtocolError, match="no longer held"):
        pieces.chat(first)


async def test_when_there_are_too_many_pieces_new_ones_are_numbered_by_character(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_mode, "_MOST_PIECES", 0)
    pieces = Pieces(None)
    ids = await pieces.encode("neverseenbefore")
    assert len(ids) == len("neverseenbefore")
    assert await pieces.decode(ids) == "neverseenbefore"
    assert pieces.label("neverseenbefore") not in ids


async def test_engines_have_the_same_numbers() -> None:
    ids = await Pieces(None).encode("some words of two models")
    assert await Pieces(FILES).decode(ids) == "some words of two models"
