"""report.html: the text of the report with interactive charts, in one file that asks nobody.

The text is that of report.md. Raw HTML, links and foreign pictures in it are shown as they are
written, because parts of it are names from tables.
"""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from plotly.offline import get_plotlyjs

from benchmarks.report.html_figures import Chart

DATA = Path(__file__).parent
# Tables with more rows are folded.
FOLDED = 12


class Heading(NamedTuple):
    """A line of the table of contents."""

    anchor: str
    text: str


def page(
    lines: Iterable[str], charts: Mapping[str, Sequence[Chart]], pictures: Mapping[str, bytes]
) -> str:
    """The whole document.

    Args:
        lines: of Markdown; a picture is replaced by the charts of its name or by its bytes, and
            left out where there are neither.
        charts: by name of a picture.
        pictures: the bytes of PNG and GIF files, likewise.
    """
    parser = _parser()
    tokens = parser.parse("\n".join(lines))
    title, contents = _name_headings(tokens)
    _fold_tables(tokens)
    drawn: list[str] = []
    known = {"charts": charts, "pictures": pictures, "drawn": drawn}
    body = parser.renderer.render(tokens, parser.options, known)
    items = "".join(f'<li><a href="#{x.anchor}">{html.escape(x.text)}</a></li>' for x in contents)
    style, script = ((DATA / name).read_text("utf-8") for name in ("report.css", "report.js"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<nav aria-label="Contents"><details open><summary>Contents</summary><ul>{items}</ul></details></nav>
<main>{body}</main>
<script type="application/json" id="figures">[{",".join(drawn)}]</script>
<script>{script}</script>
</body>
</html>
"""


def _parser() -> MarkdownIt:
    """CommonMark with tables, without what could load or run anything."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["link", "autolink", "html_block", "html_inline"])
    rules: dict[str, Any] = {"image": _picture, "table_open": _table, "table_close": _table}
    for name, rule in rules.items():
        parser.add_render_rule(name, rule)
    return parser


def _name_headings(tokens: Sequence[Token]) -> tuple[str, list[Heading]]:
    """Gives every heading an anchor; the title, and what the table of contents shows."""
    title, contents = "", []
    for i, token in enumerate(tokens):
        if token.type != "heading_open":
            continue
        text = tokens[i + 1].content
        anchor = f"{re.sub('[^a-z0-9]+', '-', text.lower()).strip('-')}-{i}"
        token.attrSet("id", anchor)
        if token.tag == "h1":
            title = text
        if token.tag == "h2":
            contents.append(Heading(anchor, text))
    return title, contents


def _fold_tables(tokens: Sequence[Token]) -> None:
    """Tells every table how many rows it has."""
    opened: Token | None = None
    rows = 0
    for token in tokens:
        if token.type == "table_open":
            opened, rows = token, -1  # the header is a row too
        rows += token.type == "tr_open"
        if token.type == "table_close" and opened is not None:
            opened.meta["rows"] = token.meta["rows"] = rows


def _table(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: Any
) -> str:
    """A box in which a wide table scrolls; a long one waits until it is asked for."""
    del renderer, options, environment  # the tags depend on the table alone
    rows = tokens[index].meta["rows"]
    folded = rows > FOLDED
    if tokens[index].type == "table_open":
        fold = f"<details><summary>Table of {rows} rows</summary>" if folded else ""
        return f'{fold}<div class="scroll" tabindex="0"><table>'
    return f"</table></div>{'</details>' if folded else ''}"


def _picture(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: Any
) -> str:
    """The charts or the picture of this name."""
    del renderer, options  # nothing inside is rendered further
    token = tokens[index]
    name, caption = str(token.attrGet("src")), html.escape(token.content)
    if found := environment["charts"].get(name):
        figures = [_figure(chart, environment["drawn"]) for chart in found]
        return f'<div class="charts">{"".join(figures)}</div>'
    if name not in environment["pictures"]:
        return ""
    kind = html.escape(Path(name).suffix.removeprefix("."))
    data = base64.b64encode(environment["pictures"][name]).decode()
    return f'<img alt="{caption}" src="data:image/{kind};base64,{data}">'


def _figure(chart: Chart, drawn: list[str]) -> str:
    """The place of a chart; what the script draws there is added to `drawn`."""
    # Nothing in a script may look like its end.
    drawn.append(str(chart.figure.to_json()).replace("<", "\\u003c"))
    caption = html.escape(chart.caption)
    return f'<figure><figcaption>{caption}</figcaption><div class="chart"></div></figure>'
