"""docs/gateway.md says what the code does: every option, field and metric, with its default or outcome."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from glimprouter.gateway.fields import CHAT, COMPLETION, ROUTING
from glimprouter.gateway.metrics import Metrics
from glimprouter.gateway.settings import GatewaySettings, Key
from glimprouter.gateway.wire import ChatBody, CompletionBody, RoutingBody

PAGE = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text(encoding="utf-8")


def test_every_option_stands_in_the_page_with_its_default() -> None:
    options = [field for kind in (GatewaySettings, Key) for field in dataclasses.fields(kind)]
    for option in options:
        assert option.name in ("keys", "sha256") or f"| `{option.name}` | `{option.default!r}` |" in PAGE


@pytest.mark.parametrize("table", [CHAT, COMPLETION, ROUTING], ids=["chat", "completion", "routing"])
def test_every_field_stands_in_the_page_with_its_outcome(table: dict[str, object]) -> None:
    for name, field in table.items():
        assert f"| `{name}` | {field.outcome} | {field.note} |" in PAGE  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("table", "body"), [(CHAT, ChatBody), (COMPLETION, CompletionBody), (ROUTING, RoutingBody)], ids=str
)
def test_the_table_and_the_parser_honour_the_same_fields(table: dict[str, object], body: type) -> None:
    honoured = {name for name, field in table.items() if field.outcome == "honoured"}  # type: ignore[attr-defined]
    assert honoured == set(body.__struct_fields__)  # type: ignore[attr-defined]


def test_every_metric_stands_in_the_page() -> None:
    for metric in Metrics().registry.collect():
        assert f"| `{metric.name}` | {metric.type} | {metric.documentation} |" in PAGE
