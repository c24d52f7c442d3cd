"""Pages as data: headings, paragraphs, tables and pictures, written as Markdown or as one HTML file without links.

The same pieces always give the same bytes: no dates, no random ids.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Points:
    """A list of short remarks."""

    items: tuple[str, ...]


@dataclass(slots=True)
class Grid:
    """A table of texts; the first column is of names, the others of figures."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add_row(self, *cells: str) -> None:
        self.rows.append(cells)


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG; `name` is the file's, `caption` says what is seen, units included."""

    name: str
    svg: str
    caption: str


Block = Heading | Paragraph | Points | Grid | Picture

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #111; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; font-size: 13px; }
caption { text-align: left; font-weight: bold; padding: .3em 0; }
th, td { text-align: right; padding: .2em .8em .2em 0; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; } figure { margin: 1.5em 0; } figcaption { color: #444; }
svg { max-width: 100%; height: auto; }
"""


def write_page(blocks: Sequence[Block], title: str, out: Path) -> list[Path]:
    """`report.md` with its pictures in `figures/`, and `report.html` with them inside; the files written."""
    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    files = {out / "report.md": markdown(blocks, title), out / "report.html": page(blocks, title)}
    files |= {figures / f"{block.name}.svg": block.svg for block in blocks if isinstance(block, Picture)}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)


def markdown(blocks: Sequence[Block], title: str) -> str:
    return "\n\n".join([f"# {title}", *map(_markdown, blocks)]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Points(items):
            return "\n".join(f"- {item}" for item in items)
        case Grid():
            return _markdown_table(block)
        case Picture(name, _, caption):
            return f"![{caption}](figures/{name}.svg)\n\n*{caption}*"


def _markdown_table(grid: Grid) -> str:
    """Without its empty columns' heads, GitHub's form has no title: it stands above in bold."""
    rules = ["---", *["---:"] * (len(grid.columns) - 1)]
    lines = [grid.columns, rules, *grid.rows]
    cells = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n".join([f"**{grid.title}**", "", *cells])


def page(blocks: Sequence[Block], title: str) -> str:
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *map(_html, blocks)])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Points(items):
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"
        case Grid():
            return _html_table(block)
        case Picture(name, svg, caption):
            return f"<figure>\n{_embedded(svg, name)}\n<figcaption>{html.escape(caption)}</figcaption>\n</figure>"


def _html_table(grid: Grid) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in grid.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in grid.rows)
    caption = f"<caption>{html.escape(grid.title)}</caption>"
    return f'<div class="wide"><table>{caption}\n<tr>{head}</tr>\n{rows}\n</table></div>'


def _inline(text: str) -> str:
    """Of Markdown, what our own sentences use: code and bold."""
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", escaped)


def _embedded(svg: str, name: str) -> str:
    """The drawing alone, its ids made its own, for many stand on one page."""
    drawing = svg[svg.index("<svg") :].strip()
    drawing = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', drawing)
    return re.sub(r'(url\(#|href="#)', rf"\1{name}-", drawing)
