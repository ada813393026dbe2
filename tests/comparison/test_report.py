"""What a user can rely on of a report: whatever a text or a name holds is shown as it is, and does nothing."""

import html.parser
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqv.comparison.report import Picture, Sample, Table, Text, as_html, as_markdown, plain

HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</pre></td></table><h1>", '"><a href="javascript:1">',
    "&lt;b&gt; &amp;", "a | b\n| - |", "```\n# title\n```", "[link](javascript:1) ![picture](x)", "\0\x1b[31m\x7f",
    "\u202eabc", "小猫🐱", "\n\nabc",
]  # fmt: skip


class Page(html.parser.HTMLParser):
    """The elements of a page, and the text in its cells and samples."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data

    def of(self, tag: str) -> list[str]:
        """What stands at the beginning of each element of a kind."""
        return [
            text for (name, _), text in zip(self.elements, self.texts, strict=True) if name == tag
        ]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_shows_any_text_as_it_is_and_has_no_element_of_it(text: str) -> None:
    parts = [
        Text(text),
        Table([text, "b"], [["1", text]]),
        Picture("a.png", text, b"png"),
        Sample(text, text),
    ]
    page = as_html([Text(text)], {text: parts})
    found = Page(page)
    assert {name for name, _ in found.elements} == {
        "html", "head", "meta", "title", "style", "body", "h1", "p", "a", "h2", "div", "table", "tr", "th", "td", "img", "h3",
        "pre",
    }  # fmt: skip
    assert all(not name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert [attributes["src"] for name, attributes in found.elements if name == "img"] == [
        "data:image/png;base64,cG5n"
    ]
    assert [attributes["href"] for name, attributes in found.elements if name == "a"] == ["#0"]
    shown = re.sub(r"[\0-\x09\x0b-\x1f]", lambda control: chr(0x2400 + ord(control[0])), text)
    assert (
        found.of("pre")[0].rstrip("\n") == f"\n{shown}"
    )  # the first newline of a <pre> is not shown
    assert found.of("td")[-1].rstrip("\n") == found.of("h2")[0].rstrip("\n") == shown


def test_a_page_loads_nothing_and_forbids_scripts() -> None:
    page = as_html([Text("x")], {"group": [Picture("a.png", "curve", b"png")]})
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert not re.search(r"https?:|@import|url\(", page)


@given(st.text())
def test_what_stands_in_a_table_of_markdown_keeps_to_its_cell(text: str) -> None:
    row = as_markdown([], {"g": [Table(["a", "b"], [[text, "1"]])]}).splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3 and "<" not in row


def test_markdown_shows_names_and_samples_as_they_are() -> None:
    assert (
        plain("scale_dk8 _x_ *a* <b> `c` [d](e) # f")
        == r"scale_dk8 \_x\_ \*a\* &lt;b> \`c\` \[d\](e) \# f"
    )
    report = as_markdown([], {"g": [Sample("run", "one\n\n# two\n```\n<b>")]})
    assert report.endswith("run writes\n\n    one\n    \n    # two\n    ```\n    <b>\n")
