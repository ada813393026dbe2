"""A report of sections, as one HTML page and as Markdown.

The page is one file that loads nothing and runs nothing; its pictures are in it. Whatever the texts hold is shown as it
is, and does nothing.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PARTS = Path(__file__).parent / "page"

@dataclass
class Text:
    """A paragraph."""

    text: str

    def html(self) -> str:
        return f"<p>{escaped(self.text)}</p>"

    def markdown(self) -> str:
        return plain(self.text)


@dataclass
class Table:
    """Rows of cells below their headers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escaped(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = "".join(row(cells, "td") for cells in self.rows)
        return f'<div class="wide"><table>{row(self.headers, "th")}{body}</table></div>'

    def markdown(self) -> str:
        lines = [self.headers, ["---"] * len(self.headers), *([plain(cell) for cell in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@dataclass
class Picture:
    """A picture, and the name of its file beside report.md."""

    file: str
    alternative: str
    png: bytes

    def html(self) -> str:
        data = base64.b64encode(self.png).decode()
        return f'<div class="wide"><img alt="{escaped(self.alternative)}" src="data:image/png;base64,{data}"></div>'

    def markdown(self) -> str:
        return f"![{plain(self.alternative)}]({self.file})"


@dataclass
class Sample:
    """What a model wrote."""

    name: str
    text: str

    def html(self) -> str:
        return f"<h3>{escaped(self.name)}</h3><pre>\n{escaped(self.text)}</pre>"  # HTML drops a first newline

    def markdown(self) -> str:
        lines = "\n".join(f"    {line}" for line in visible(self.text).split("\n"))  # indented, nothing in it has a meaning
        return f"{plain(self.name)} writes\n\n{lines}"


Part = Text | Table | Picture | Sample


def as_html(beginning: Sequence[Part], sections: dict[str, list[Part]]) -> str:
    """One page that loads nothing and runs nothing, which its policy also tells the browser."""
    style = (PARTS / "style.css").read_text() + (PARTS / "report.css").read_text()
    links = " · ".join(f'<a href="#{number}">{escaped(group)}</a>' for number, group in enumerate(sections))
    body = "\n".join(
        f'<h2 id="{number}">{escaped(group)}</h2>\n' + "\n".join(part.html() for part in parts)
        for number, (group, parts) in enumerate(sections.items())
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Compared</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<style>{style}</style></head>\n<body><h1>Compared</h1>\n"
        + "\n".join(part.html() for part in beginning)
        + f"\n<p>{links}</p>\n{body}\n</body></html>\n"
    )


def as_markdown(beginning: Sequence[Part], sections: dict[str, list[Part]]) -> str:
    """The same for reading in a terminal or a repository."""
    parts = ["# Compared", *(part.markdown() for part in beginning)]
    for group, of_group in sections.items():
        parts += [f"## {plain(group)}", *(part.markdown() for part in of_group)]
    return "\n\n".join(parts) + "\n"


def visible(text: str) -> str:
    """A text with its control characters, but for newlines, as the signs that stand for them."""
    return re.sub(r"[\0-\x09\x0b-\x1f]", lambda found: chr(0x2400 + ord(found[0])), text)


def escaped(text: str) -> str:
    """A text that HTML shows as it is."""
    return html.escape(visible(text))


def plain(text: str) -> str:
    """A text on one line that Markdown, and HTML in it, shows as it is.

    >>> plain("n_head <b> _x_")
    'n_head &lt;b> \\\\_x\\\\_'
    """
    text = " ".join(visible(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    # _ between letters or digits has no meaning
    return re.sub(r"([\\`*\[\]|#~!]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
