"""Is H_init two-humped? Hartigan's dip test, the two peaks with the valley between them, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glimprouter.errors import ConfigError

BIN_NATS = 0.05
OTHER_BINS_NATS = (0.1, 0.15)
"""Where the humps are found depends on the bins; whoever reports one width should report these too."""

HIGH_NATS = 3.0
NEEDS = "pip install 'glimprouter[eval]' diptest"


@dataclass(frozen=True, slots=True)
class Modes:
    """Peaks and valley are middles of bins; `valley_ratio` is the valley's count over the lower peak's."""

    steps: int
    dip: float
    dip_p: float
    low_peak_nats: float
    high_peak_nats: float
    valley_nats: float
    valley_ratio: float


def modes_of(entropies_nats: Sequence[float], *, bin_nats: float = BIN_NATS) -> Modes:
    """Raises ConfigError with fewer than 50 values, or where the packages for it are not installed."""
    if len(entropies_nats) < 50:
        raise ConfigError(f"{len(entropies_nats)} glimpses are too few to tell humps; give at least 50", field="trace")
    try:
        import diptest
        import numpy
    except ImportError as error:
        raise ConfigError(f"this needs more packages: {NEEDS}", field="picture") from error
    values = numpy.asarray(entropies_nats, dtype=float)
    dip, p = diptest.diptest(values)
    counts, edges = numpy.histogram(
        numpy.clip(values, 0, HIGH_NATS), bins=round(HIGH_NATS / bin_nats), range=(0, HIGH_NATS)
    )
    low, high, valley = _humps(counts.tolist())
    middle = (edges[:-1] + edges[1:]) / 2
    ratio = counts[valley] / max(1, min(counts[low], counts[high]))
    return Modes(
        len(values), float(dip), float(p), float(middle[low]), float(middle[high]), float(middle[valley]), float(ratio)
    )


def _humps(counts: Sequence[int]) -> tuple[int, int, int]:
    """The two bins that stand highest above the lowest bin between them, and that bin: (low, high, valley)."""
    best, found = -1, (0, 0, 0)
    for first in range(len(counts)):
        for second in range(first + 2, len(counts)):
            valley = min(range(first + 1, second), key=counts.__getitem__)
            height = min(counts[first], counts[second]) - counts[valley]
            if height > best:
                best, found = height, (first, second, valley)
    return found


def draw(entropies_nats: Sequence[float], modes: Modes, path: Path, *, threshold_nats: float | None) -> None:
    """A histogram with its humps named, readable in greyscale; the file's ending says the format."""
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError(f"this needs more packages: {NEEDS}", field="picture") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    bins = [index * BIN_NATS for index in range(round(HIGH_NATS / BIN_NATS) + 1)]
    axes.hist(entropies_nats, bins=bins, color="0.7", edgecolor="0.2")
    axes.axvline(modes.valley_nats, color="0.2", linestyle=":", label=f"valley, {modes.valley_nats:.2f} nats")
    if threshold_nats is not None:
        axes.axvline(threshold_nats, color="0.0", label=f"threshold, {threshold_nats:.2f} nats")
    axes.set_xlabel("H_init of the small model (nats)")
    axes.set_ylabel("steps")
    axes.set_title(
        f"{modes.steps} steps, dip test p = {modes.dip_p:.2g}, valley at {modes.valley_ratio:.0%} of the lower peak",
        fontsize="medium",
    )
    axes.legend()
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--picture {path}: cannot be written ({error}); give a .svg, .png or .pdf", field="picture"
        ) from error
    finally:
        pyplot.close(figure)
