"""Figures whose right values can be worked out by hand."""

import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from glimprouter.cli.blocks import show
from glimprouter.errors import ConfigError
from glimprouter.evaluate.columns import columns_of
from glimprouter.evaluate.formats import interval
from glimprouter.evaluate.matching import LATENCY, Mixture, mixture_for
from glimprouter.evaluate.prices import parse_prices
from glimprouter.evaluate.records import Key, Outcome
from glimprouter.evaluate.report import NOTE, Report, closing_line, make_report, report_of
from glimprouter.evaluate.tables import report_blocks
from glimprouter.stats import Estimate
from tests.evaluate.world import card, compare, outcome, plan, settings

METHODS = ("small", "large", "share0", "glimpse", "random-low", "random-high")
RIGHT = {"small": 30, "large": 80, "share0": 40, "glimpse": 70, "random-low": 40, "random-high": 60}
LARGE_TOKENS = {"small": 0, "large": 100, "share0": 0, "glimpse": 30, "random-low": 20, "random-high": 60}
WALL_MS = {"small": 5, "large": 20, "share0": 8, "glimpse": 10, "random-low": 9, "random-high": 13}
CLOSING = [
    "large_accuracy", "small_accuracy", "glimpse_accuracy", "random_accuracy", "large_token_share", "gap_recovered",
    "glimpse_minus_random", "glimpse_minus_random_low", "wall_ratio",
]  # fmt: skip


def answers(*, samples: int = 1, right: dict[str, int] | None = None) -> dict[Key, Outcome]:
    """A hundred questions of two families; of each method the first so many are right."""
    made = [
        outcome(
            f"q{number}",
            method,
            correct=int(number < (right or RIGHT)[method]),
            family="sums" if number % 2 else "products",
            sample=sample,
            large_tokens=LARGE_TOKENS[method],
            wall_ms=WALL_MS[method] * (1 + number % 3),
        )
        for number in range(100)
        for method in METHODS
        for sample in range(samples)
    ]
    return {one.key: one for one in made}


def report(outcomes: dict[Key, Outcome], *, samples: int = 1, methods: tuple[str, ...] = METHODS) -> Report:
    questions = [f"q{number}" for number in range(100)]
    return make_report(card(settings(samples=samples)), plan(methods, questions), outcomes)


def test_accuracies_and_shares_are_those_of_the_answers() -> None:
    made = report(answers())
    found = {row.method: (row.accuracy.value, row.large_token_share) for row in made.rows}
    assert found["large"] == (0.8, 1.0)
    assert found["small"] == (0.3, 0.0)
    assert found["glimpse"] == (0.7, 0.3)


def test_random_is_mixed_to_exactly_glimpse_s_share_and_accuracy_follows() -> None:
    made = report(answers())
    random = made.row("random")
    assert random is not None
    assert random.large_token_share == pytest.approx(0.3)
    assert random.accuracy.value == pytest.approx(0.45)
    assert made.differences["glimpse - random"].estimate.value == pytest.approx(0.25)
    assert made.differences["glimpse - random"].estimate.excludes_zero
    assert made.differences["glimpse - random"].p < 0.001


def test_mixture_matches_pooled_shares_also_where_answers_differ_in_length() -> None:
    made = {
        one.key: one
        for number in range(10)
        for one in (
            outcome(f"q{number}", "random-low", tokens=100 + number, large_tokens=10),
            outcome(f"q{number}", "random-high", tokens=300 - number, large_tokens=170),
            outcome(f"q{number}", "glimpse", tokens=50, large_tokens=15),
        )
    }
    questions = [f"q{number}" for number in range(10)]
    columns = columns_of(made, questions, ["random-low", "random-high", "glimpse"], 1)
    mixture = Mixture(columns["random-low"], columns["random-high"], columns["glimpse"])
    assert 0 < mixture.weight(range(10)) < 1
    assert mixture.column(range(10)).large_share("tokens")(range(10)) == pytest.approx(0.3)
    assert mixture.column([0, 0, 3]).large_share("tokens")([0, 0, 3]) == pytest.approx(0.3)


def test_random_that_misses_the_share_says_so() -> None:
    outcomes = answers()
    for key, one in outcomes.items():
        if key.method == "glimpse":
            one.large_tokens = 90
    made = report(outcomes, methods=("glimpse", "random-low", "random-high"))
    assert any("NOT at glimpse's share" in note and "give a nearer --random-p" in note for note in made.notes)
    assert made.row("random") is None
    assert "random_accuracy=nan" in closing_line(made)
    assert not any("NOT" in note for note in report(answers()).notes)


def test_the_large_model_alone_is_random_at_one() -> None:
    outcomes = answers()
    for key, one in outcomes.items():
        if key.method == "glimpse":
            one.large_tokens = 90
    random = report(outcomes).row("random")
    assert random is not None
    assert random.large_token_share == pytest.approx(0.9)
    assert random.accuracy.value == pytest.approx(0.75)


def test_every_routed_method_stands_beside_random_at_its_own_share_and_time() -> None:
    made = report(answers())
    rows = {row.method: row for row in made.rows}
    assert rows["glimpse"].minus_random.value == pytest.approx(0.25)
    # 10 ms lie a quarter of the way from 9 to 13, where Random is right in 45 %.
    assert rows["glimpse"].minus_random_latency.value == pytest.approx(0.25)
    for end in ("small", "large", "share0", "random-low", "random"):
        assert math.isnan(rows[end].minus_random.value)


def test_the_nearest_runs_that_enclose_a_figure_are_mixed() -> None:
    names = ["share0", "random-low", "random-high", "large", "glimpse"]
    questions = [f"q{number}" for number in range(100)]
    columns = columns_of(answers(), questions, names, 1)
    runs = [columns[name] for name in names[:4]]
    found = mixture_for(columns["glimpse"], runs)
    assert found is not None
    assert (found.low.method, found.high.method) == ("random-low", "random-high")
    by_time = mixture_for(columns["large"], runs[:3], LATENCY)
    assert by_time is None


def test_costs_are_counted_in_tokens_and_with_prices_in_money() -> None:
    questions = [f"q{number}" for number in range(100)]
    prices = parse_prices(["small=1:2", "large=10:20:1"])
    made = make_report(card(settings()), plan(METHODS, questions), answers(), prices)
    row = made.row("glimpse")
    assert row is not None
    cost = row.cost
    assert (cost.small_read, cost.small_written, cost.large_read, cost.large_written) == (200, 70, 200, 31)
    assert cost.money is not None
    assert cost.money.value == pytest.approx((200 + 70 * 2 + 200 * 10 + 100 * 1 + 31 * 20) / 1e6)
    assert report(answers()).rows[0].cost.money is None


@pytest.mark.parametrize("bad", ["small", "small=1", "middle=1:2", "large=1:x", "large=-1:2", "large=1:2:3:4"])
def test_a_price_that_is_none_is_refused_with_what_is_accepted(bad: str) -> None:
    with pytest.raises(ConfigError, match="accepted: small=IN:OUT or large=IN:OUT"):
        parse_prices([bad])
    with pytest.raises(ConfigError, match="give a price for small and one for large"):
        parse_prices(["small=1:2"])


def test_gap_recovered_is_the_part_of_the_way_from_share0_to_large() -> None:
    made = report(answers())
    assert made.gap_recovered.value == pytest.approx(0.75)
    assert made.gap_recovered.low < 0.75 < made.gap_recovered.high


def test_no_gap_is_recovered_where_there_is_none() -> None:
    made = report(answers(right=RIGHT | {"share0": 80}))
    assert math.isnan(made.gap_recovered.value)
    assert "gap_recovered=nan" in closing_line(made)


def test_a_gap_that_may_be_none_has_no_interval() -> None:
    made = report(answers(right=RIGHT | {"share0": 79}))
    assert not math.isnan(made.gap_recovered.value)
    assert math.isnan(made.gap_recovered.low)


def test_wall_ratio_is_the_median_over_questions_of_paired_times() -> None:
    made = report(answers())
    glimpse = made.row("glimpse")
    assert glimpse is not None
    assert glimpse.wall_ratio == Estimate(0.5, 0.5, 0.5)
    assert glimpse.median_wall_ms.value == 20.0
    assert glimpse.mean_wall_ms.value == pytest.approx(19.9)
    assert glimpse.mean_wall_ms.low < 19.9 < glimpse.mean_wall_ms.high


def test_families_are_reported_apart() -> None:
    made = report(answers())
    assert set(made.families) == {"sums", "products"}
    assert made.families["sums"]["large"].value == 0.8
    assert set(made.families["sums"]) == set(METHODS)


def test_several_samples_of_a_question_are_one_unit() -> None:
    once, thrice = report(answers()), report(answers(samples=3), samples=3)
    one, three = (made.differences["glimpse - share0"] for made in (once, thrice))
    assert one.estimate == three.estimate
    assert one.p == pytest.approx(three.p)
    first, second = once.row("large"), thrice.row("large")
    assert first is not None
    assert second is not None
    assert second.answers == 3 * first.answers
    assert second.accuracy.high - second.accuracy.low > 0.1


def test_only_questions_that_all_have_answered_count() -> None:
    outcomes = answers()
    del outcomes[Key("q7", "small", 0)]
    made = report(outcomes)
    assert (made.questions, made.planned) == (99, 100)
    assert {row.answers for row in made.rows} == {99}
    assert any("99 of 100 questions" in note for note in made.notes)


def test_a_run_without_a_complete_question_has_no_report() -> None:
    with pytest.raises(ConfigError, match="go on with the run"):
        report({})


def test_closing_line_has_the_agreed_keys_in_one_line() -> None:
    line = closing_line(report(answers()))
    assert "\n" not in line
    assert [pair.partition("=")[0] for pair in line.split()] == CLOSING
    assert all(re.fullmatch(r"-?\d+\.\d{4}", pair.partition("=")[2]) for pair in line.split())


def test_closing_line_keeps_its_keys_where_methods_are_missing() -> None:
    outcomes = {key: one for key, one in answers().items() if key.method == "large"}
    line = closing_line(report(outcomes, methods=("large",)))
    assert [pair.partition("=")[0] for pair in line.split()] == CLOSING
    assert line.startswith("large_accuracy=0.8000 small_accuracy=nan")


def test_cpu_times_that_were_not_had_are_not_made_up() -> None:
    outcomes = answers()
    for one in outcomes.values():
        one.cpu_ms = None
    assert all(math.isnan(row.mean_cpu_ms) for row in report(outcomes).rows)


async def test_a_folder_shows_all_its_tables_without_engines(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings())
    console = Console(record=True, width=140, file=(tmp_path / "shown").open("w"))
    show(report_blocks(report_of(folder)), console)
    console.file.close()
    shown = console.export_text()
    for words in (
        "Accuracy in %",
        "Time per question",
        "Cost per answer",
        "Accuracy by family",
        "Paired differences",
        "gap recovered",
    ):
        assert words in shown
    assert NOTE[:60] in shown


async def test_a_sweep_says_where_it_comes_near_to_large(tmp_path: Path) -> None:
    folder = await compare(tmp_path / "run", settings(mode="sweep"))
    made = report_of(folder)
    assert made.near_large is not None
    assert made.near_large.startswith("within two points of large from H > ")
    assert [row.method for row in made.rows].count("random") == 1


def test_a_value_without_an_interval_is_marked() -> None:
    assert interval(Estimate(0.5, 0.25, 0.75), "{:.1f}", scale=100) == "50.0 [25.0, 75.0]"
    assert interval(Estimate(0.5, math.nan, math.nan), "{:.1f}", scale=100) == "50.0 [?]"
    assert interval(Estimate(math.nan, math.nan, math.nan), "{:.1f}") == "–"
