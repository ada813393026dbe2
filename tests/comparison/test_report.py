"""What a user can rely on of a report: it says what differs, and whatever a text or a name contains
is shown as it is, and has no effect."""

import html.parser
import re
from pathlib import Path

import pytest
from helpers.comparison import made_up_configuration
from hypothesis import given
from hypothesis import strategies as st

from kqv.comparison.report import (
    Picture,
    Sample,
    Table,
    Text,
    as_html,
    as_markdown,
    plain,
    section,
    write_report,
)

PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE_TEXTS = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></td></table><h1>",
    '"><a href="javascript:1">',
    "&lt;b&gt; &amp;",
    "a | b\n| - |",
    "```\n# title\n```",
    "[link](javascript:1) ![picture](x)",
    "\0\x1b[31m\x7f",
    "\u202eabc",
    "小猫🐱",
    "\n\nabc",
]
HOSTILE_NAMES = [
    "_x",
    "$a^$ $\\frac$",
    "<img src=x>_a",
    "小猫_🐱",
    "a\nb_c",
    "../../up_a",
    "a" * 200 + "_b",
]


def test_a_section_has_the_question_what_differs_and_pictures(tmp_path: Path) -> None:
    members = [
        made_up_configuration(tmp_path, "a_x", 1.5, 2.0, n_layer=2, mask="causal"),
        made_up_configuration(tmp_path, "a_y", 3.0, n_layer=2),
    ]
    parts = section("a", members)
    assert [part.html() for part in parts[:3]] == [
        "<p>Why a_x?</p>",
        "<p>Why a_y?</p>",
        "<p>All have n_layer = 2.</p>",
    ]
    losses, inner = (part for part in parts if isinstance(part, Table))
    assert dict(zip(losses.headers, losses.rows[0], strict=True)) == {
        "configuration": "a_x",
        "loss, nats per character": "1.7500 ± 0.3536",
        "bits per character": "2.525",
        "parameters": "1,234",
        "seconds of training": "1.5",
        "tokens/s": "133",
        "what it changes": "mask = 'causal'",
        "what it is": "It is a_x.",
    }
    assert inner.rows[0][:3] == ["a_x", "32", "9 → 25"]
    pictures = [part for part in parts if isinstance(part, Picture)]
    assert len(pictures) == 2 and all(part.png.startswith(PNG) for part in pictures)
    samples = [part.name for part in parts if isinstance(part, Sample)]
    assert samples == ["a_x, seed 0", "a_y, seed 0"]


def test_a_configuration_alone_says_all_that_it_changes(tmp_path: Path) -> None:
    parts = section("a", [made_up_configuration(tmp_path, "a_x", 1.5, mask="none")])
    (losses, _) = (part for part in parts if isinstance(part, Table))
    assert "mask = 'none'" in losses.rows[0]
    assert not any("All have" in part.html() for part in parts if isinstance(part, Text))


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_any_name_is_drawn_and_written(name: str, tmp_path: Path) -> None:
    each = made_up_configuration(tmp_path, "a", 1.5)
    each.name, each.group = name, name.rpartition("_")[0]
    (tmp_path / "out").mkdir()
    page, report = write_report([each], tmp_path / "out", "")
    pictures = list((tmp_path / "out" / "pictures").iterdir())
    assert len(pictures) == 2 and all(path.read_bytes().startswith(PNG) for path in pictures)
    assert all(f"(pictures/{path.name})" in report.read_text() for path in pictures)
    assert "<img src=x" not in page.read_text() + report.read_text()
    assert not list(tmp_path.glob("*.png"))


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


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
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
        "html", "head", "meta", "title", "style", "body", "h1", "p", "a", "h2", "div", "table",
        "tr", "th", "td", "img", "h3", "pre",
    }  # fmt: skip
    assert all(not name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert [attributes["src"] for name, attributes in found.elements if name == "img"] == [
        "data:image/png;base64,cG5n"
    ]
    assert [attributes["href"] for name, attributes in found.elements if name == "a"] == ["#0"]
    shown = re.sub(r"[\0-\x09\x0b-\x1f]", lambda control: chr(0x2400 + ord(control[0])), text)
    # The first newline of a <pre> is not shown.
    assert found.of("pre")[0].rstrip("\n") == f"\n{shown}"
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
