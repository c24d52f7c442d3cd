"""The options in docs/engines.md are those of the program."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from glimprouter.engines.breaker import BreakerRules
from glimprouter.engines.http import Timeouts
from glimprouter.engines.retries import Retries

DOCUMENT = Path(__file__).parents[2] / "docs" / "engines.md"


@pytest.mark.parametrize("kind", [Timeouts, Retries, BreakerRules])
def test_every_option_of_replicas_is_documented_with_its_default(kind: type[Timeouts | Retries | BreakerRules]) -> None:
    part = DOCUMENT.read_text(encoding="utf-8").partition(f"{kind.__name__}`)")[2].partition("\n\n")[2]
    table = part.partition("\n\n")[0]
    told = {name: float(value) for name, value in re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", table, re.MULTILINE)}
    assert told == {field.name: field.default for field in dataclasses.fields(kind)}
