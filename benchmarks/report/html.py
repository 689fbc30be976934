"""report.html: the text of the report with interactive charts, in one file that asks nobody.

The text is that of report.md. Raw HTML, links and foreign pictures in it are shown as they are
written, because parts of it are names from tables.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from plotly.offline import get_plotlyjs

from benchmarks.report.charts import Chart, Facet
from benchmarks.report.html_figures import render
from benchmarks.report.markdown import Section

DATA = Path(__file__).parent


def page(
    title: str,
    sections: Iterable[Section],
    charts: Mapping[str, Chart],
    pictures: Mapping[str, bytes],
) -> str:
    """Returns the whole document.

    Args:
        title: of the report.
        sections: of Markdown; a picture NAME.png is replaced by the chart of its name, or by its
            bytes, and left out where there are neither.
        charts: by name.
        pictures: the bytes of PNG and GIF files by name.
    """
    parser, drawn = _parser(), []
    known = {"charts": charts, "pictures": pictures, "drawn": drawn}
    body = "".join(_section(parser, section, known) for section in sections)
    style, script = ((DATA / name).read_text("utf-8") for name in ("report.css", "report.js"))
    library = f"<script>{get_plotlyjs()}</script>\n" if drawn else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
{library}</head>
<body>
<main><h1>{html.escape(title)}</h1>{body}</main>
<script type="application/json" id="figures">[{",".join(drawn)}]</script>
<script>{script}</script>
</body>
</html>
"""


def _section(parser: MarkdownIt, section: Section, known: dict[str, Any]) -> str:
    """A section, folded or not."""
    heading, name = f"<h2>{html.escape(section.title)}</h2>", section.title.split()[0].lower()
    body = parser.render("\n".join(section.lines), known)
    if section.folded:
        return f"<details><summary>{heading}</summary>{body}</details>"
    return f'<section class="{html.escape(name)}">{heading}{body}</section>'


def _parser() -> MarkdownIt:
    """CommonMark with tables, without what could load or run anything."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["link", "autolink", "html_block", "html_inline"])
    rules: dict[str, Any] = {"image": _picture, "table_open": _table, "table_close": _table}
    for name, rule in rules.items():
        parser.add_render_rule(name, rule)
    return parser


def _table(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: Any
) -> str:
    """A box in which a wide table scrolls, and a button that saves the table."""
    del renderer, options, environment  # the tags depend on the token alone
    if tokens[index].type == "table_open":
        return '<div class="table"><div class="scroll" tabindex="0"><table>'
    return '</table></div><button data-save="csv">CSV</button></div>'


def _picture(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: Any
) -> str:
    """The chart or the picture of this name."""
    del renderer, options  # nothing inside is rendered further
    token = tokens[index]
    name, caption = str(token.attrGet("src")), html.escape(token.content)
    if chart := environment["charts"].get(Path(name).stem):
        figures = [_figure(chart, facet, environment["drawn"]) for facet in chart.facets]
        return f'<div class="charts">{"".join(figures)}</div>'
    if name not in environment["pictures"]:
        return ""
    kind = html.escape(Path(name).suffix.removeprefix("."))
    data = base64.b64encode(environment["pictures"][name]).decode()
    return f'<img alt="{caption}" src="data:image/{kind};base64,{data}">'


def _figure(chart: Chart, facet: Facet, drawn: list[str]) -> str:
    """The place of a panel; what the script draws there is added to `drawn`."""
    # Nothing in a script may look like its end.
    drawn.append(str(render(chart, facet).to_json()).replace("<", "\\u003c"))
    buttons = "".join(f'<button data-save="{x}">{x.upper()}</button>' for x in ("png", "svg"))
    caption = f"<figcaption><span>{html.escape(facet.title)}</span>{buttons}</figcaption>"
    return f'<figure>{caption}<div class="chart"></div></figure>'
