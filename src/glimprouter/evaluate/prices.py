"""What answers cost: tokens that each model read and wrote, and money where prices are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glimprouter.config import SIDES, Side
from glimprouter.errors import ConfigError
from glimprouter.evaluate.columns import Column

PER_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens, in whatever money the prices are in. What a model reads is paid, unless it was cached."""

    read: float
    written: float
    cached: float


Prices = dict[Side, Price]


def parse_prices(given: Sequence[str]) -> Prices:
    """From `SIDE=IN:OUT` or `SIDE=IN:OUT:CACHED`; without the third, what is cached costs what is read."""
    prices: Prices = {}
    for text in given:
        side, _, numbers = text.partition("=")
        try:
            parts = [float(part) for part in numbers.split(":")]
        except ValueError:
            parts = []
        if side not in SIDES or len(parts) not in (2, 3) or not all(part >= 0.0 for part in parts):
            raise ConfigError(
                f"--price is {text!r}; accepted: small=IN:OUT or large=IN:OUT, each in money for a million tokens "
                "read and written, and after another colon the price of cached ones",
                field="price",
            )
        prices[side] = Price(parts[0], parts[1], parts[2] if len(parts) == 3 else parts[0])
    if prices and len(prices) < len(SIDES):
        raise ConfigError("--price names one model only; give a price for small and one for large", field="price")
    return prices


def money_per_question(column: Column, prices: Prices) -> list[float]:
    """Summed over the samples of each question."""
    weights = [
        (column.values[f"{side}_{kind}"], getattr(price, kind) / PER_TOKENS)
        for side, price in prices.items()
        for kind in ("read", "written", "cached")
    ]
    return [sum(values[place] * weight for values, weight in weights) for place in range(len(weights[0][0]))]
