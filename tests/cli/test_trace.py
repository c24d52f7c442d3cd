"""`glimprouter trace`: recorded answers shown, summed up, compared and searched, from the command line."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from glimprouter.cli.main import main
from glimprouter.config import Sampling, Side
from glimprouter.evaluate.case_study import Correction, clearest, corrections, verdict
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.trace import AnswerText, ModelUsage, Step, Trace, append, to_line

Written = tuple[Side, float, str]
"""Who wrote a step, at which H_init in nats, and its text."""

MENDED: Sequence[Written] = [
    ("small", 0.02, "Split 36 into 30 and 6.\n\n"),
    ("small", 0.2, "1400 = 47 * 30.\n\n"),
    ("large", 1.43, "Wait, 1410 = 47 * 30.\n\n"),
    ("small", 0.05, "282 = 47 * 6.\n\n"),
    ("small", 0.01, "So the answer is 1692.\n</think>"),
]


def trace(written: Sequence[Written], **fields: Any) -> Trace:
    steps = [
        Step(
            index=index, author=author, text=text, ids=[1] * 8, end="boundary", wait_ms=5.0, wall_ms=20.0,
            handover=author == "large", glimpse=Glimpse(nats, nats - 0.01, nats + 0.02, 0.98, 7, " So", ((7, -0.1),)),
        )
        for index, (author, nats, text) in enumerate(written)
    ]  # fmt: skip
    known: dict[str, Any] = {
        "id": "a1b2", "policy": "glimpse(threshold=0.9)", "thought_end": "closed", "wall_ms": 120.0,
        "answer": AnswerText(author="large", text="\n\n1692", ids=[1, 2], end="stop"),
        "small": ModelUsage(model="tiny-small", calls=2, prompt_tokens=1000, cached_tokens=900, new_tokens=32),
        "large": ModelUsage(model="tiny-large", calls=2, prompt_tokens=50, new_tokens=10, discarded_tokens=3),
    }  # fmt: skip
    return Trace(
        created_unix_s=0.0, answer_by="large", sampling=Sampling(),
        messages=[{"role": "user", "content": "What is 47 * 36?"}], steps=steps, **(known | fields),
    )  # fmt: skip


def recorded(folder: Path, *many: Trace, name: str = "traces.jsonl") -> str:
    for one in many:
        append(folder / name, one)
    return str(folder / name)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as left:
        main(["trace", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of a hundred columns, whatever runs the tests."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


def test_show_draws_question_steps_entropies_and_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", recorded(tmp_path, trace(MENDED)))
    assert code == 0
    assert "user: What is 47 * 36?" in out
    assert re.search(r"1\.43 ███··· L +Wait, 1410 = 47 \* 30\.\n", out)
    assert re.search(r"0\.01 ······ s +So the answer is 1692\.\n", out)
    assert re.search(r"\n +answer +1692\n", out)
    assert "</think>" not in out
    assert "5 steps, 1 by large" in out


def test_show_takes_the_last_answer_or_the_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recorded(tmp_path, *(trace([("small", 0.1, f"Step of {id_}.\n\n")], id=id_) for id_ in ("aa", "ab", "bb")))
    assert "Step of bb." in run(capsys, "show", file)[1]
    assert "Step of aa." in run(capsys, "show", file, "--number", "1")[1]
    assert "Step of ab." in run(capsys, "show", file, "--id", "ab")[1]
    assert "Step of bb." in run(capsys, "show", file, "--id", "b")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--number", "4"], "no such answer --number 4"),
        (["--id", "x"], "no such answer --id x"),
        (["--id", "a"], "2 answers begin so (aa, ab); give more of it"),
        (["--id", "aa", "--number", "1"], "--id and --number are both given"),
        (["--number", "0"], "0 is not in the range"),
    ],
)
def test_show_says_why_there_is_no_such_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    file = recorded(tmp_path, *(trace(MENDED, id=id_) for id_ in ("aa", "ab", "bb")))
    code, out, err = run(capsys, "show", file, *options)
    assert (code, out) == (2, "")
    assert message in err


def test_show_with_details_tells_every_step_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "show", recorded(tmp_path, trace(MENDED)), "--details")[1]
    told = " ".join(out.split())
    assert (
        'step 3 · H_init 1.430 (1.420 to 1.450) nats, 98.0% covered · " So" thrown away · 8 tokens · '
        "20.0 ms, 5.0 of it waiting · hand-over · boundary" in told
    )
    assert told.count("· boundary") == 5


def test_show_of_an_answer_that_broke_off_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = trace(MENDED[:1], answer=None, thought_end="failed", error="large: out of order")
    code, out, _ = run(capsys, "show", recorded(tmp_path, failed))
    assert code == 0
    assert "stopped: large: out of order" in out


def test_colours_are_those_of_the_authors_and_none_without_colour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = recorded(tmp_path, trace(MENDED))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = run(capsys, "show", file)[1]
    assert "\x1b[33mWait, 1410" in coloured
    assert "\x1b[36mSplit 36" in coloured
    for arguments in (
        ["show", file, "--details"],
        ["summary", file],
        ["compare", file, file],
        ["find-correction", file],
    ):
        assert "\x1b" not in run(capsys, *arguments, "--no-color")[1]


@pytest.mark.parametrize("arguments", [["summary"], ["show", "--details"], ["find-correction"]])
def test_narrow_terminal_is_wide_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = run(capsys, *arguments, recorded(tmp_path, trace(MENDED)))[1]
    # The lines that `ask` draws too, head and facts, are left to the terminal to wrap.
    assert all(len(line) <= 60 for line in out.splitlines() if " calls (" not in line and "s small: " not in line)


def test_summary_gives_shares_tokens_times_ends_and_thresholds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = trace(MENDED, wall_ms=360.0, thought_end="thinking_budget", error="gone")
    code, out, _ = run(capsys, "summary", recorded(tmp_path, trace(MENDED), trace(MENDED, wall_ms=240.0), slow))
    assert code == 0
    for pattern in (
        r"answers: 3 · failed: 1 · steps: 15 · thought tokens: 120",
        r"policy: 3 glimpse\(threshold=0.9\)",
        r"thought ended: 2 closed, 1 thinking_budget",
        r"by large: 20.0% of thought tokens, 20.0% of steps",
        r"small +6 +3,000 +2,700 +96 +0\n",
        r"large +6 +150 +0 +30 +9\n",
        r"small: tiny-small",
        r"whole +180 +180\n",
        r"hand-overs in it +5.0 +5.0\n",
        r"15 steps, mean 0.34 nats",
        r"0.00 - 0.25 +█+ +12 +80.0%",
        r"1.25 - 1.50 +█+[▏▎▍▌▋▊▉]? +3 +20.0%",
        r"from 2.75 +0 +0.0%",
        r"20% +0.815 +20.0%",
    ):
        assert re.search(pattern, out), pattern


def test_summary_of_several_files_and_of_one_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = recorded(tmp_path, trace(MENDED))
    second = recorded(tmp_path, trace(MENDED), trace(MENDED[:1], policy="large"), name="more.jsonl")
    assert "answers: 3 " in run(capsys, "summary", first, second)[1]
    assert "answers: 2 " in run(capsys, "summary", first, second, "--policy", "glimpse")[1]
    assert "answers: 1 " in run(capsys, "summary", first, second, "--policy", "large")[1]
    code, _, err = run(capsys, "summary", first, second, "--policy", "random")
    assert code == 2
    assert "there are: glimpse(threshold=0.9), large" in err


def test_summary_as_json_holds_the_same_and_the_histogram(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(run(capsys, "summary", recorded(tmp_path, trace(MENDED)), "--json")[1])
    assert (report["answers"], report["steps"], report["large_step_share"]) == (1, 5, 0.2)
    assert report["wall"] == {"mean_ms": 120.0, "median_ms": 120.0}
    assert report["histogram"]["bin_nats"] == 0.25
    assert report["histogram"]["counts"] == [4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert [row["wanted_share"] for row in report["thresholds"]] == [0.1, 0.2, 0.25, 0.3, 0.4, 0.5]
    assert report["small"]["cached_tokens"] == 900


def test_summary_of_answers_nobody_glimpsed_leaves_entropies_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "summary", recorded(tmp_path, trace([])))
    assert code == 0
    assert "H_init" not in out


def test_records_of_an_evaluation_are_read_like_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"question": "products/1", "method": "glimpse", "correct": 1, "trace": msgspec.to_builtins(trace(MENDED))}
    file = tmp_path / "answers.jsonl"
    file.write_bytes(json.dumps(record).encode() + b"\n")
    assert "answers: 1 " in run(capsys, "summary", str(file))[1]
    assert "Wait, 1410" in run(capsys, "show", str(file))[1]
    assert "step 2 is wrong, step 3 mends it" in run(capsys, "find-correction", str(file))[1]


def test_compare_sets_two_files_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    routed = recorded(tmp_path, trace(MENDED))
    alone = recorded(tmp_path, trace([("small", 0.1, "All.\n\n")], wall_ms=60.0), name="alone.jsonl")
    code, out, _ = run(capsys, "compare", routed, alone)
    assert code == 0
    for pattern in (
        rf"A: {routed}\nB: {alone}\n",
        r"answers +1 +1 +=",
        r"steps +5\.00 +1\.00 +-4\.00",
        r"large share of tokens +20\.0 % +0\.0 % +-20\.0 points",
        r"whole, ms +120 +60\.0 +-60\.0",
    ):
        assert re.search(pattern, out), pattern


def test_correction_is_found_and_shown_with_what_it_mends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = trace([("small", 0.1, "282 = 47 * 6.\n\n"), ("large", 1.5, "Wait.\n\n")], id="c3")
    code, out, _ = run(capsys, "find-correction", recorded(tmp_path, nothing, trace(MENDED)))
    assert code == 0
    assert out.startswith("Answer a1b2: step 2 is wrong, step 3 mends it.\n")
    assert "Wait, 1410 = 47 * 30." in out


def test_correction_as_markdown_is_a_table_for_the_documentation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    piped = [*MENDED[:3], ("small", 0.05, "|282| = 282,\nso 282 = 47 * 6.\n\n"), *MENDED[4:]]
    code, out, _ = run(capsys, "find-correction", recorded(tmp_path, trace(piped)), "--markdown")
    assert code == 0
    assert out.splitlines() == [
        "**What is 47 * 36?**",
        "",
        "`tiny-small` and `tiny-large`, policy `glimpse(threshold=0.9)`",
        "",
        "| step | author | H_init (nats) | text |",
        "|---:|---|---:|---|",
        "| 1 | small | 0.02 | Split 36 into 30 and 6. |",
        "| **2** | **small (wrong)** | **0.20** | **1400 = 47 * 30.** |",
        "| **3** | **large (corrects it)** | **1.43** | **Wait, 1410 = 47 * 30.** |",
        "| 4 | small | 0.05 | \\|282\\| = 282,<br>so 282 = 47 * 6. |",
        "| 5 | small | 0.01 | So the answer is 1692. |",
        "| answer | large | | 1692 |",
    ]


def test_without_a_correction_the_exit_code_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "find-correction", recorded(tmp_path, trace(MENDED[:2])))
    assert (code, out) == (1, "")
    assert "no correction found" in err


def changed(place: int, step: Written) -> Sequence[Written]:
    return [*MENDED[:place], step, *MENDED[place + 1 :]]


@pytest.mark.parametrize(
    "written",
    [
        changed(1, ("small", 0.2, "1410 = 47 * 30.\n\n")),  # nothing was wrong
        changed(1, ("large", 1.2, "1400 = 47 * 30.\n\n")),  # large slipped itself
        changed(2, ("small", 0.6, "Wait, 1410 = 47 * 30.\n\n")),  # small mended itself
        changed(2, ("large", 0.6, "Wait, 1410 = 47 * 30.\n\n")),  # not for its entropy
        changed(2, ("large", 1.43, "1410 = 47 * 30.\n\n")),  # no doubt is voiced
        changed(2, ("large", 1.43, "Wait, 1420 = 47 * 30.\n\n")),  # wrong as well
        changed(2, ("large", 1.43, "Wait, 282 = 47 * 6.\n\n")),  # right, but of something else
        MENDED[:3],  # small does not go on
    ],
)
def test_what_is_no_correction_is_not_taken_for_one(written: Sequence[Written]) -> None:
    assert list(corrections([trace(written)])) == []


def test_correction_counts_only_where_a_threshold_decided() -> None:
    assert list(corrections([trace(MENDED, policy="random(p=0.5, seed=0)")])) == []
    assert list(corrections([trace(MENDED, policy="glimpse(threshold=0.9) after first_large_steps=1")]))


def test_clearest_correction_is_right_to_the_end_and_comes_at_once() -> None:
    late = trace([*MENDED[:2], ("small", 0.1, "282 = 47 * 6.\n\n"), *MENDED[2:]], id="late")
    wrong = trace([*MENDED[:3], ("small", 0.1, "280 = 47 * 6.\n\n"), *MENDED[4:]], id="wrong after")
    broken = trace(MENDED, id="broken", error="gone")
    flat = trace([*MENDED[:2], ("large", 0.95, MENDED[2][2]), *MENDED[3:]], id="flat")
    good = trace(MENDED, id="good")
    found = [*corrections([late, wrong, broken, flat, good])]
    assert [one.trace.id for one in found] == ["late", "wrong after", "broken", "flat", "good"]
    assert clearest(found) == Correction(good, 1, 2)
    assert clearest(found[:4]) == Correction(flat, 1, 2)
    assert clearest([]) is None


def test_step_of_several_paragraphs_is_right_if_all_that_can_be_checked_is() -> None:
    assert verdict("Split it.\n\n282 = 47 * 6.\n\n") is True
    assert verdict("282 = 47 * 6.\n\n1400 = 47 * 30.\n\n") is False
    assert verdict("Split it.\n\n") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "traces.jsonl: no answer in it"),
        (b"{}\n", "traces.jsonl:1: not a trace"),
        (to_line(trace(MENDED)) + b"[1]\n", "traces.jsonl:2: not a trace"),
        (to_line(trace(MENDED, version=9)), "version 9"),
    ],
)
def test_bad_file_is_named_and_the_exit_code_is_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_bytes(content)
    code, _, err = run(capsys, "summary", str(file))
    assert code == 2
    assert message in err


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (["show"], ["summary"], ["find-correction"], ["compare", str(tmp_path)]):
        code, _, err = run(capsys, *verb, str(tmp_path / "none.jsonl"))
        assert code == 2
        assert "cannot be read" in err


def test_an_answer_can_be_drawn_into_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = recorded(tmp_path, trace(MENDED)), tmp_path / "t.svg"
    assert run(capsys, "show", file, "--picture", str(picture)) == (0, "", "")
    drawn = picture.read_text()
    assert drawn.startswith("<svg")
    assert "tiny-large" in drawn
    code, _, said = run(capsys, "show", file, "--picture", "/no/such/folder/t.svg")
    assert code == 2
    assert "--picture /no/such/folder/t.svg: cannot be written" in said


def test_a_spread_of_entropies_is_drawn_and_its_humps_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diptest")
    many: list[Written] = [("small", 0.1 + 0.01 * n, "x\n\n") for n in range(30)]
    many += [("large", 1.7 + 0.01 * n, "y\n\n") for n in range(30)]
    file, picture = recorded(tmp_path, trace(many)), tmp_path / "h.svg"
    code, _, said = run(capsys, "summary", file, "--picture", str(picture), "--threshold", "0.9")
    assert code == 0
    assert "60 steps" in said
    assert re.search(r"valley at \d\.\d\d nats, 0\.00 of the lower peak", said)
    assert picture.read_text().count("<svg") == 1
    few = recorded(tmp_path, trace(MENDED), name="few.jsonl")
    code, _, said = run(capsys, "summary", few, "--picture", str(picture))
    assert code == 2
    assert "5 glimpses are too few" in said
