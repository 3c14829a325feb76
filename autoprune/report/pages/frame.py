"""The frame of every page: a head whose content policy lets nothing in from anywhere, and nothing out."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from autoprune.report import formats

#: The browser itself then refuses what a page would load, whatever a string in it became.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>@TITLE@</title>
<style>@STYLE@</style>
</head>
<body@CLASS@>
@BODY@
</body>
</html>
"""


def html_page(title: str, *, style: str, body: str, class_: str = "") -> str:
    """Returns a whole page.

    Args:
        title: text of any kind.
        style: the style sheet.
        body: markup.
        class_: of the body element.
    """
    parts = {
        "TITLE": html.escape(formats.one_line(title, limit=4000), quote=True),
        "STYLE": style,
        "CLASS": f' class="{class_}"' if class_ else "",
        "BODY": body,
    }
    return filled(_PAGE, parts)


def filled(text: str, parts: Mapping[str, str]) -> str:
    """Returns a text with every `@NAME@` replaced, in one pass: what is put in is never searched itself."""
    return re.sub("@(" + "|".join(parts) + ")@", lambda match: parts[match[1]], text)
