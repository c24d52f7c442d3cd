"""`glimprouter trace`: recorded answers, shown again, summed up, compared, searched."""

from __future__ import annotations

import io
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from glimprouter.cli.screen import BAR_FULL_NATS, COLOURS, GUTTER, Screen
from glimprouter.errors import ConfigError, GlimprouterError
from glimprouter.flow import trace as traces
from glimprouter.flow.answer import Event, Finished, HoldBack, Started, StepFinished, StepStarted, Text
from glimprouter.flow.trace import Step, Summary, Times, Trace

WANTED_SHARES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Shares of steps for the large model, whose thresholds a summary gives."""

BINS = 12
EIGHTHS = " ▏▎▍▌▋▊▉█"

file_argument = click.argument("file", type=click.Path(path_type=Path))
files_argument = click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
no_color_option = click.option("--no-color", is_flag=True, help="Plain text.")
details_option = click.option(
    "--details", is_flag=True, help="Under each step: its glimpse, tokens, times, how it ended."
)
policy_option = click.option("--policy", help="Only answers whose policy begins so, like `glimpse` or `large`.")


@click.group("trace")
def command() -> None:
    """Look at recorded answers: files written with --trace, or the answers.jsonl of an evaluation."""


@command.command("show")
@file_argument
@click.option("--id", "id_", metavar="ID", help="The answer whose id begins so.")
@click.option("--number", type=click.IntRange(min=1), help="The answer at this place in the file, from 1.")
@details_option
@click.option("--picture", type=click.Path(path_type=Path), help="Draw it into this SVG file instead.")
@no_color_option
def show(file: Path, id_: str | None, number: int | None, details: bool, picture: Path | None, no_color: bool) -> None:
    """Draw one answer again, as `ask` drew it.

    The last of FILE, unless --id or --number names another.
    """
    trace = _chosen(file, id_, number)
    if picture is None:
        draw(trace, _console(no_color), details=details)
    else:
        draw_picture(trace, picture, details=details)


@command.command("summary")
@files_argument
@policy_option
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object instead.")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw H_init into this file (.svg, .png, .pdf).")
@click.option("--threshold", "threshold_nats", type=float, help="A threshold to mark in the picture, in nats.")
@no_color_option
def summary(
    files: tuple[Path, ...],
    policy: str | None,
    as_json: bool,
    picture: Path | None,
    threshold_nats: float | None,
    no_color: bool,
) -> None:
    """Sum up all answers of FILES.

    Shares, tokens, times, how thoughts ended, the spread of H_init, and which threshold gives which share of steps.
    """
    found = traces.summarise(_read(files, policy))
    if picture:
        draw_modes(found, picture, threshold_nats)
    if as_json:
        counts = {"bin_nats": BAR_FULL_NATS / BINS, "counts": _counts(found)}
        rows = traces.thresholds(found.entropies_nats, WANTED_SHARES)
        report = {**msgspec.to_builtins(found), "histogram": counts, "thresholds": msgspec.to_builtins(rows)}
        click.echo(json.dumps(report, indent=1))
        return
    print_summary(found, _console(no_color))


def draw_modes(found: Summary, picture: Path, threshold_nats: float | None) -> None:
    """Draw the histogram of H_init and say whether it has two humps."""
    from glimprouter.evaluate import modes

    humps = modes.modes_of(found.entropies_nats)
    modes.draw(found.entropies_nats, humps, picture, threshold_nats=threshold_nats)
    click.echo(
        f"{picture}: {humps.steps} steps, dip {humps.dip:.4f} (p = {humps.dip_p:.3g}), peaks at "
        f"{humps.low_peak_nats:.2f} and {humps.high_peak_nats:.2f} nats, valley at {humps.valley_nats:.2f} nats, "
        f"{humps.valley_ratio:.2f} of the lower peak",
        err=True,
    )
    for bin_nats in modes.OTHER_BINS_NATS:
        other = modes.modes_of(found.entropies_nats, bin_nats=bin_nats)
        click.echo(f"in bins of {bin_nats:g} nats: {other.valley_ratio:.2f} of the lower peak", err=True)


@command.command("compare")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@policy_option
@no_color_option
def compare(first: Path, second: Path, policy: str | None, no_color: bool) -> None:
    """Set two files side by side.

    Shares, tokens and times per answer. Which answers are right is the business of `evaluate`.
    """
    before, after = (traces.summarise(_read([file], policy)) for file in (first, second))
    console = _console(no_color)
    console.print(f"A: {first}\nB: {second}", soft_wrap=True)
    table = _table("per answer", "A", "B", "B - A")
    for label, of, shown in COMPARED:
        one, other = of(before), of(after)
        table.add_row(label, shown(one), shown(other), shown(other - one, "+") if one != other else "=")
    console.print(table)


@command.command("find-correction")
@files_argument
@click.option("--markdown", is_flag=True, help="Print it as a Markdown table instead.")
@details_option
@no_color_option
def find_correction(files: tuple[Path, ...], markdown: bool, details: bool, no_color: bool) -> None:
    """Find a slip of small that large mends.

    An answer in which small writes a wrong step, H_init rises above the threshold, large corrects it and small goes on.
    Steps are checked as the tiny suite's arithmetic. The clearest case is shown; exit code 1 if there is none.
    """
    from glimprouter.evaluate.case_study import clearest, corrections

    found = clearest(corrections(_read(files)))
    if found is None:
        raise GlimprouterError(
            "no correction found: in no answer does large mend a wrong step of small at a high H_init, with small "
            "going on; record more answers of the tiny suite under --policy glimpse"
        )
    if markdown:
        click.echo("\n".join(markdown_lines(found.trace, slip=found.slip, mended=found.mended)))
        return
    console = _console(no_color)
    console.print(f"Answer {found.trace.id}: step {found.slip + 1} is wrong, step {found.mended + 1} mends it.")
    draw(found.trace, console, details=details)


def _console(no_color: bool) -> Console:
    return Console(color_system=None if no_color else "auto", highlight=False, markup=False, emoji=False)


def _read(files: Sequence[Path], policy: str | None = None) -> Iterator[Trace]:
    """Raises ConfigError where there is nothing to read, or nothing of the policy."""
    kept: Counter[str] = Counter()
    for file in files:
        for trace in traces.read(file):
            wanted = trace.policy.startswith(policy or "")
            kept[trace.policy] += wanted
            if wanted:
                yield trace
    if not kept:
        raise ConfigError(f"{', '.join(map(str, files))}: no answer in it; record some with --trace", field="trace")
    if not kept.total():
        raise ConfigError(f"--policy {policy}: no answer has it; there are: {', '.join(kept)}", field="policy")


def _chosen(file: Path, id_: str | None, number: int | None) -> Trace:
    if id_ is not None and number is not None:
        raise ConfigError("--id and --number are both given; give one", field="id")
    if number is not None:
        wanted = list(islice(traces.read(file), number - 1, number))
    else:
        wanted = []
        for trace in traces.read(file):
            if id_ is None:
                wanted = [trace]
            elif trace.id.startswith(id_):
                wanted.append(trace)
    if not wanted:
        looked_for = f"--number {number}" if number else f"--id {id_}" if id_ is not None else ""
        raise ConfigError(f"{file}: no such answer {looked_for}".rstrip(), field="trace")
    if len(wanted) > 1:
        ids = ", ".join(trace.id for trace in wanted[:5])
        raise ConfigError(f"--id {id_}: {len(wanted)} answers begin so ({ids}); give more of it", field="id")
    return wanted[0]


def replay(trace: Trace) -> Iterator[Event]:
    """The events that the router gave when the answer was written."""
    yield Started(trace)
    for step in trace.steps:
        yield StepStarted(step)
        guard = HoldBack(trace.close_tag)
        yield Text(step.author, "thought", guard.feed(step.text) + guard.flush())
        yield StepFinished(step)
    if trace.answer is not None and trace.answer_text:
        yield Text(trace.answer.author, "answer", trace.answer_text)
    yield Finished(trace)


def draw_picture(trace: Trace, picture: Path, *, details: bool) -> None:
    """The same as a picture of a terminal. Raises ConfigError where the file cannot be written."""
    console = Console(
        record=True, width=110, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    draw(trace, console, details=details)
    try:
        # A fixed id: the same answer gives the same file.
        picture.write_text(console.export_svg(title="glimprouter", unique_id="glimprouter"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--picture {picture}: cannot be written ({error.strerror})", field="picture") from error


def draw(trace: Trace, console: Console, *, details: bool = False) -> None:
    """The question, then the answer as `ask` draws it."""
    for message in trace.messages:
        console.print(Styled(f"{message['role']}: {message['content'].strip()}", style="bold"), soft_wrap=True)
    screen = Screen(console)
    for event in replay(trace):
        screen.show(event)
        if details and isinstance(event, StepFinished):
            for line in Styled(_details(event.step), style="dim").wrap(console, max(20, console.width - GUTTER)):
                console.print(Styled(" " * GUTTER) + line, soft_wrap=True)


def _details(step: Step) -> str:
    parts = [f"step {step.index + 1}"]
    if glimpse := step.glimpse:
        drawn = json.dumps(glimpse.token_text, ensure_ascii=False)
        bounds = f"{glimpse.low_nats:.3f} to {glimpse.high_nats:.3f}"
        parts.append(f"H_init {glimpse.entropy_nats:.3f} ({bounds}) nats, {glimpse.covered:.1%} covered")
        parts.append(f"{drawn} thrown away" if step.author == "large" else drawn)
    parts.append(f"{step.tokens} {'token' if step.tokens == 1 else 'tokens'}")
    parts.append(f"{_ms(step.wall_ms)} ms, {_ms(step.wait_ms)} of it waiting")
    if step.drafts:
        kept = sum(draft.kept for draft in step.drafts)
        parts.append(f"{len(step.drafts)} drafted, {kept} kept")
    parts += [f"{one.kind} {one.value:g} by {one.judge}" for one in step.judgements]
    parts += ["hand-over"] if step.handover else []
    parts += [f"loop of {step.loop_cycle_steps}"] if step.loop_cycle_steps else []
    return " · ".join([*parts, step.end])


def print_summary(found: Summary, console: Console) -> None:
    """Everything a summary holds, in 60 columns."""

    def line(text: str, *, style: str = "") -> None:
        console.print(Styled(text, style=style))

    def head(text: str) -> None:
        line(f"\n{text}", style="bold")

    counted = {"answers": found.answers, "failed": found.failed, "steps": found.steps}
    counted["thought tokens"] = found.thought_tokens
    line(" · ".join(f"{name}: {_count(count)}" for name, count in counted.items()), style="bold")
    line("policy: " + ", ".join(f"{count} {name}" for name, count in found.policies.items()))
    line("thought ended: " + ", ".join(f"{count} {name}" for name, count in found.thought_ends.items()))
    line(f"by large: {found.large_token_share:.1%} of thought tokens, {found.large_step_share:.1%} of steps")

    head("Tokens")
    table = _table("", "calls", "prompt", "of it cached", "new", "discarded")
    for side, usage in (("small", found.small), ("large", found.large)):
        numbers = (usage.calls, usage.prompt_tokens, usage.cached_tokens, usage.new_tokens, usage.discarded_tokens)
        table.add_row(Styled(side, style=COLOURS[side]), *map(_count, numbers))
    console.print(table)
    for side, usage in (("small", found.small), ("large", found.large)):
        line(f"{side}: {usage.model}", style="dim")

    head("Time per answer")
    table = _table("ms", "mean", "median")
    for label, times in _latencies(found):
        table.add_row(label, _ms(times.mean_ms), _ms(times.median_ms))
    console.print(table)

    if found.entropies_nats:
        head("H_init of glimpsed steps")
        _print_histogram(found, console)
        head("Threshold for a share of glimpsed steps")
        table = _table("share wanted", "threshold, nats", "share above it")
        for row in traces.thresholds(found.entropies_nats, WANTED_SHARES):
            table.add_row(f"{row.wanted_share:.0%}", f"{row.threshold_nats:.4g}", f"{row.above_share:.1%}")
        console.print(table)


def _latencies(found: Summary) -> list[tuple[str, Times]]:
    return [
        ("to the first token", found.first_token),
        ("thought", found.thought),
        ("hand-overs in it", found.handover),
        ("answer", found.answer),
        ("whole", found.wall),
    ]


def _counts(found: Summary) -> list[int]:
    return traces.histogram(found.entropies_nats, bins=BINS, high=BAR_FULL_NATS)


def _print_histogram(found: Summary, console: Console) -> None:
    counts, width = _counts(found), BAR_FULL_NATS / BINS
    bar_cells = max(8, min(50, console.width - 30))
    values = found.entropies_nats
    console.print(f"{_count(len(values))} steps, mean {statistics.fmean(values):.2f} nats")
    table = _table("nats", "", "steps", "")
    table.columns[1].justify = "left"
    for place, count in enumerate(counts):
        low = place * width
        label = f"{low:.2f} - {low + width:.2f}" if place < BINS - 1 else f"from {low:.2f}"
        bar = Styled(_bar(count / max(counts), bar_cells), style="cyan")
        table.add_row(label, bar, _count(count), f"{count / len(values):.1%}")
    console.print(table)


def _bar(share: float, cells: int) -> str:
    whole, eighths = divmod(round(share * cells * 8), 8)
    return "█" * whole + (EIGHTHS[eighths] if eighths else "") + " " * (cells - whole - (eighths > 0))


def _table(*columns: str) -> Table:
    """Numbers to the right, no lines but one under the head."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def _count(number: float, sign: str = "") -> str:
    return f"{number:{sign},.0f}"


def _ms(number: float, sign: str = "") -> str:
    return f"{number:{sign},.{0 if abs(number) >= 100 else 1}f}"


def _ratio(number: float, sign: str = "") -> str:
    return f"{number:{sign}.2f}"


def _percent(number: float, sign: str = "") -> str:
    """A share; its difference in percentage points."""
    return f"{number * 100:{sign}.1f} {'points' if sign else '%'}"


def _mean_entropy(found: Summary) -> float:
    return statistics.fmean(found.entropies_nats) if found.entropies_nats else 0.0


COMPARED: Sequence[tuple[str, Callable[[Summary], float], Callable[..., str]]] = (
    ("answers", lambda found: found.answers, _count),
    ("failed", lambda found: found.failed, _count),
    ("steps", lambda found: found.steps / found.answers, _ratio),
    ("thought tokens", lambda found: found.thought_tokens / found.answers, _ratio),
    ("large share of tokens", lambda found: found.large_token_share, _percent),
    ("large share of steps", lambda found: found.large_step_share, _percent),
    ("mean H_init, nats", _mean_entropy, _ratio),
    ("hand-overs", lambda found: found.handovers / found.answers, _ratio),
    ("calls", lambda found: (found.small.calls + found.large.calls) / found.answers, _ratio),
    ("discarded tokens", lambda found: _discarded(found) / found.answers, _ratio),
    ("first token, ms", lambda found: found.first_token.mean_ms, _ms),
    ("thought, ms", lambda found: found.thought.mean_ms, _ms),
    ("hand-overs in it, ms", lambda found: found.handover.mean_ms, _ms),
    ("answer, ms", lambda found: found.answer.mean_ms, _ms),
    ("whole, ms", lambda found: found.wall.mean_ms, _ms),
    ("whole, median ms", lambda found: found.wall.median_ms, _ms),
)


def _discarded(found: Summary) -> int:
    return found.small.discarded_tokens + found.large.discarded_tokens


def markdown_lines(trace: Trace, *, slip: int, mended: int) -> Iterator[str]:
    """A table of the answer for the documentation; the two steps of the correction stand out."""
    notes = {slip: " (wrong)", mended: " (corrects it)"}
    yield f"**{_cell(trace.messages[-1]['content'])}**"
    yield ""
    yield f"`{trace.small.model}` and `{trace.large.model}`, policy `{trace.policy}`"
    yield ""
    yield "| step | author | H_init (nats) | text |"
    yield "|---:|---|---:|---|"
    for step in trace.steps:
        glimpse = f"{step.glimpse.entropy_nats:.2f}" if step.glimpse else ""
        text = _cell(step.text.partition(trace.close_tag)[0]) or f"`{trace.close_tag}`"
        cells = [str(step.index + 1), step.author + notes.get(step.index, ""), glimpse, text]
        marked = [f"**{cell}**" if cell else "" for cell in cells] if step.index in notes else cells
        yield f"| {' | '.join(marked)} |"
    yield f"| answer | {trace.answer_by} | | {_cell(trace.answer_text)} |"


def _cell(text: str) -> str:
    return text.strip().replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")
