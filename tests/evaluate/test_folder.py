"""The run folder: whole lines, one writer, one configuration."""

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from glimprouter.errors import ConfigError
from glimprouter.evaluate.folder import ModelCard, RunFolder, model_card, model_file
from glimprouter.evaluate.records import AnswerFile
from tests.evaluate.world import begun, card, compare, engines, settings


async def test_an_incomplete_last_line_is_cut_off(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings())
    content = folder.answers_path.read_bytes()
    folder.answers_path.write_bytes(content[:-10])
    with folder.answers() as kept:
        assert len(kept.outcomes) == 35
    assert folder.answers_path.read_bytes() == content[: content[:-10].rfind(b"\n") + 1]


async def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings())
    lines = folder.answers_path.read_bytes().splitlines(keepends=True)
    folder.answers_path.write_bytes(b"".join([lines[0], b'{"question": 1}\n', *lines[2:]]))
    with pytest.raises(ConfigError, match=r"answers\.jsonl:2: not an answer"):
        folder.answers()


def test_two_runs_do_not_write_into_one_file(tmp_path: Path) -> None:
    with AnswerFile(tmp_path / "a.jsonl"), pytest.raises(ConfigError, match="another run is writing"):
        AnswerFile(tmp_path / "a.jsonl")
    AnswerFile(tmp_path / "a.jsonl").__exit__()


def test_the_same_configuration_goes_on_under_its_first_date(tmp_path: Path) -> None:
    first = begun(tmp_path, settings()).card()
    assert RunFolder(tmp_path).begin(card(settings())) == first


def test_another_configuration_is_refused_by_the_names_of_what_differs(tmp_path: Path) -> None:
    begun(tmp_path, settings())
    with pytest.raises(ConfigError, match=r"settings\.questions was 6, now 7") as refused:
        begun(tmp_path, settings(questions=7))
    assert refused.value.field == "out"


def test_another_model_of_the_same_name_is_refused(tmp_path: Path) -> None:
    begun(tmp_path, settings())
    retrained = msgspec.structs.replace(card(settings()).large, sha256="another")
    with pytest.raises(ConfigError, match=r"large\.sha256 was None, now 'another'"):
        RunFolder(tmp_path).begin(msgspec.structs.replace(card(settings()), large=retrained))


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="holds files that are no run"):
        begun(tmp_path, settings())
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written") as refused:
        begun(tmp_path / "file" / "run", settings())
    assert refused.value.field == "out"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_folder_says_why(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        begun(tmp_path / "closed" / "run", settings())


def test_what_is_no_run_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the folder of a run"):
        RunFolder(tmp_path).card()
    (tmp_path / "run.json").write_text('{"format": "two"}')
    with pytest.raises(ConfigError, match="not written by this version"):
        RunFolder(tmp_path).card()


async def test_a_card_says_which_model_it_was(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"weights")
    made = await model_card(engines()[0], "m.gguf", file)
    assert isinstance(made, ModelCard)
    assert (made.given, made.model, made.vocabulary) == ("m.gguf", "small", "scripted-0")
    assert made.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert (await model_card(engines()[0], "http://x", None)).sha256 is None


def test_only_local_models_have_a_file(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"")
    assert model_file(str(file), {}) == file
    assert model_file("mine", {"mine": str(file)}) == file
    assert model_file("http://127.0.0.1:8000", {}) is None
    assert model_file(str(tmp_path), {}) is None
