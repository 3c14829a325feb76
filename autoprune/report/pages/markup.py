"""Markup that the pages of reports share: escaped texts, sections, tables, figures for two widths of screen."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from autoprune.report import formats
from autoprune.report.pages.frame import html_page
from autoprune.report.pages.front_style import STYLE
from autoprune.report.pages.style import REPORT_STYLE
from autoprune.report.pictures.figures import NARROW, WIDE
from autoprune.report.pictures.svg import FIGURE_STYLE, Drawing

#: Draws a figure of a width in pixels.
Draw = Callable[[int], Drawing]


def escape(value: object) -> str:
    """Returns a value as one line of text that no browser reads as markup."""
    return html.escape(formats.one_line(str(value), limit=4000), quote=True)


def fill_page(title: str, body: str) -> str:
    """Returns a whole page around the markup of its body."""
    return html_page(title, style=STYLE + FIGURE_STYLE + REPORT_STYLE, body=body, class_="report")


def section(title: str, text: str, content: str) -> str:
    """Returns a section; text and content are markup already."""
    said = f"<p>{text}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{said}{content}</section>"


def figure(draw: Draw, caption: str) -> str:
    """Returns a figure for wide and for narrow screens, with a caption that is markup already."""
    return (
        f'<figure class="card"><div class="wide">{draw(WIDE).element()}</div>'
        f'<div class="narrow">{draw(NARROW).element()}</div><figcaption>{caption}</figcaption></figure>'
    )


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], *, texts: int = 1, strong: int | None = None) -> str:
    """Returns a table of markup cells; the first `texts` columns are flushed left, line `strong` stands out."""

    def cells(tag: str, line: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=text' if index < texts else ''}>{cell}</{tag}>" for index, cell in enumerate(line)
        )

    body = "".join(
        f"<tr{' class=result' if index == strong else ''}>{cells('td', line)}</tr>" for index, line in enumerate(lines)
    )
    kind = "table many" if len(heads) > 10 else "table"
    return f'<div class="{kind}"><table><thead><tr>{cells("th", heads)}</tr></thead><tbody>{body}</tbody></table></div>'


def meter(share: float, *, figure: bool = True) -> str:
    """Returns a share in [0, 1] as a figure, if asked, and as a bar."""
    text = formats.share(share) if figure else ""
    return f'{text}<span class="meter"><i style="width:{100 * share:.1f}%"></i></span>'


class Counter:
    """Numbers the figures."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, text: str) -> str:
        """Returns a caption with its number; the text is markup already."""
        self._count += 1
        return f"<b>Figure {self._count}.</b> {text}"
