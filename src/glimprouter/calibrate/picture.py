"""The curve as a picture: what the threshold gives, and where the chosen one lies."""

from __future__ import annotations

import math
from pathlib import Path

from glimprouter.calibrate.job import Result
from glimprouter.errors import ConfigError
from glimprouter.stats import Estimate

NEEDS = "pip install 'glimprouter[eval]'"


def draw(result: Result, path: Path) -> None:
    """Shares above, accuracy and ratios below where they were measured. The file's ending says the format."""
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError(f"--picture needs more packages: {NEEDS}", field="picture") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    points = [point for point in result.points if math.isfinite(point.threshold)]
    rows = [
        [("share of steps by large", "step_share", "-"), ("share of tokens by large", "token_share", "--")],
        [("accuracy", "accuracy", "-"), ("latency ratio", "latency_ratio", "--"), ("cost ratio", "cost_ratio", ":")],
    ]
    measured = [row for row in rows if any(not math.isnan(getattr(points[0], name).value) for _, name, _ in row)]
    figure, all_axes = pyplot.subplots(
        len(measured), 1, figsize=(7, 2.8 * len(measured)), sharex=True, squeeze=False, layout="constrained"
    )
    for axes, row in zip(all_axes[:, 0], measured, strict=True):
        for label, name, line in row:
            estimates: list[Estimate] = [getattr(point, name) for point in points]
            if not math.isnan(estimates[0].value):
                thresholds = [point.threshold for point in points]
                axes.plot(
                    thresholds, [one.value for one in estimates], line, color="0.1", marker="o", ms=3, label=label
                )
                bounds = ([one.low for one in estimates], [one.high for one in estimates])
                axes.fill_between(thresholds, *bounds, color="0.6", alpha=0.3, linewidth=0)
        if result.chosen is not None:
            axes.axvline(result.chosen.threshold, color="0.4", linewidth=0.8)
        axes.legend(fontsize="small")
    all_axes[-1, 0].set_xlabel(f"threshold of {result.calibrated.signal}")
    all_axes[0, 0].set_title(f"{points[0].questions} questions, chosen for {result.aim}", fontsize="medium")
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--picture {path}: cannot be written ({error}); give a .svg, .png or .pdf", field="picture"
        ) from error
    finally:
        pyplot.close(figure)
