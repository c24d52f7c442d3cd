"""One page from several run folders: comparisons and sweeps give tables, collections what signals know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from glimprouter.evaluate import tables
from glimprouter.evaluate.collect import read_collected
from glimprouter.evaluate.document import Block, Heading, Paragraph, Points, write_page
from glimprouter.evaluate.folder import Card, RunFolder
from glimprouter.evaluate.job import recalibrate
from glimprouter.evaluate.prices import Prices
from glimprouter.evaluate.report import report_of
from glimprouter.evaluate.self_correction import self_correction
from glimprouter.evaluate.signals import compare_signals, steps_of


def write_report(folders: Sequence[RunFolder], out: Path, prices: Prices) -> list[Path]:
    """The files written; the same folders always give the same bytes."""
    blocks = [block for folder in folders for block in _section(folder, prices)]
    return write_page(blocks, "Evaluation", out)


def _section(folder: RunFolder, prices: Prices) -> Iterator[Block]:
    card = folder.card()
    yield Heading(f"{card.settings.suite}: {card.small.given} and {card.large.given}, {card.settings.mode}")
    yield Paragraph(f"`{card.command}`")
    yield _origin(card)
    if card.settings.mode == "calibrate":
        yield from tables.calibration_blocks(recalibrate(folder))
    elif card.settings.mode == "collect":
        thoughts = list(read_collected(folder.collected_file))
        yield tables.signal_table(compare_signals(list(steps_of(thoughts))))
        yield tables.self_correction_table(self_correction(thoughts, card.settings.threshold_nats))
    else:
        yield from tables.report_blocks(report_of(folder, prices))


def _origin(card: Card) -> Points:
    """What ran on what: enough to run it again."""
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    sampling = card.settings.sampling
    return Points(
        (
            f"pair {card.pair_fingerprint}: {card.small.model} and {card.large.model}",
            f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, seed {sampling.seed}",
            f"threshold {card.settings.threshold_nats:.4g} nats ({card.settings.threshold_source})",
            ", ".join(f"{name} {what}" for name, what in card.machine.items()),
            versions,
        )
    )
