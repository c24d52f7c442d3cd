"""docs/methods.md tells of every policy and strategy, with every option and its default."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from glimprouter.policies import ADAPTIVE, POLICIES, WITH_PARAMS
from glimprouter.strategies import STRATEGIES

TEXT = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
KINDS = WITH_PARAMS | {name: options for name, (_, options) in ADAPTIVE.items()} | STRATEGIES


def row_of(name: str) -> str:
    [row] = [line for line in TEXT.splitlines() if re.match(rf"\|.*`{name}`.*\|", line) and line.startswith("| `")]
    return row


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_has_a_row(name: str) -> None:
    assert row_of(name)


@pytest.mark.parametrize("name", KINDS)
def test_every_option_is_told_and_its_number_is_the_default(name: str) -> None:
    options = row_of(name).rstrip("| ").rpartition("|")[2]
    fields: list[dataclasses.Field[Any]] = list(dataclasses.fields(KINDS[name]))
    for field in fields:
        bold = f"**`{field.name}`**" in options
        assert bold or f"`{field.name}`" in options, field.name
        assert bold == (field.default is dataclasses.MISSING), field.name
    told = dict(re.findall(r"`(\w+)` \(([\d.]+)\)", options))
    numbers = {field.name: field.default for field in fields if isinstance(field.default, int | float)}
    assert {key: float(value) for key, value in told.items()} == {
        key: float(value) for key, value in numbers.items() if not isinstance(value, bool)
    }
