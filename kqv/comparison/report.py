"""The report of a comparison: a section for each group, written as an HTML page and as Markdown.

The page is one file that loads nothing and runs nothing; its pictures are inside. Whatever the
texts contain is shown as it is, and has no effect.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kqv.comparison.pictures import inner_picture, loss_picture
from kqv.comparison.runs import Configuration
from kqv.comparison.tables import (
    LOSS,
    MEASURES,
    assignments,
    bits,
    change,
    loss,
    measured,
    parameters,
    speed,
    training_seconds,
)
from kqv.files import replacing
from kqv.project import ASSETS

# The policy tells the browser what the page needs: its own pictures and style, nothing else.
CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
LONGEST_FILE_NAME = 60


def write_report(
    configurations: Sequence[Configuration], out_dir: Path, overrides: str
) -> list[Path]:
    """Write report.html, report.md and pictures/. Returns the paths of the two.

    `overrides` is what the command line set for all, as it is written there.
    """
    groups: dict[str, list[Configuration]] = {}
    for each in configurations:
        groups.setdefault(each.group, []).append(each)
    beginning: list[Part] = [Text(line) for line in introduction(configurations, overrides)]
    sections = {group: section(group, members) for group, members in groups.items()}
    (out_dir / "pictures").mkdir(exist_ok=True)
    for parts in sections.values():
        for part in parts:
            if isinstance(part, Picture):
                with replacing(out_dir / part.file) as file:
                    file.write(part.png)
    contents = {
        "report.html": as_html(beginning, sections),
        "report.md": as_markdown(beginning, sections),
    }
    for name, content in contents.items():
        with replacing(out_dir / name) as file:
            file.write(content.encode(errors="backslashreplace"))
    return [out_dir / name for name in contents]


def introduction(configurations: Sequence[Configuration], overrides: str) -> list[str]:
    """What was trained where, and what the numbers mean."""
    facts = [run.facts for each in configurations for run in each.runs if run.facts]
    machines = dict.fromkeys(f"{fact['machine']}; torch {fact['torch']}" for fact in facts)
    texts = dict.fromkeys(each.text or each.settings.dataset for each in configurations)
    seeds = [run.settings.seed for run in configurations[0].runs]
    several = len(seeds) > 1
    trained = (
        f"Trained on {', '.join(texts)} with seed{'s' if several else ''} "
        f"{', '.join(map(str, seeds))}: the same batches in the same order for all whose batches "
        f"have the same size."
    )
    if overrides:
        trained += f" For all: {overrides}"
    spread = "One seed does not tell how much of a difference is chance: --seeds=3 does."
    if several:
        spread = (
            "Over the seeds: mean ± sample standard deviation; bands are from the lowest to the "
            "highest."
        )
    return [
        trained,
        *(f"On {machine}." for machine in machines),
        "The loss is the mean cross-entropy in nats per character over the whole validation "
        "split, of the model after its last step. The time is that of training alone, without "
        f"evaluations. {spread}",
        "Var(q·k) is the variance of the scores of a head, about d_k before training, Var(scaled) "
        "that after the scale. Entropy and saturated rows (with more than 0.9 of their weight on "
        "one character) are of the attention weights, the softmax of the scaled scores; of "
        "encoder-decoders, those of cross-attention. Of Linformers they are not recorded.",
    ]


def section(group: str, configurations: Sequence[Configuration]) -> list["Part"]:
    """The section of a group: its question, tables, pictures and samples."""
    common = common_changes(configurations)
    questions = dict.fromkeys(each.question for each in configurations if each.question)
    parts: list[Part] = [Text(question) for question in questions]
    if common:
        parts.append(Text(f"All have {assignments(common)}."))
    file = re.sub(r"\W", "-", group)[:LONGEST_FILE_NAME]
    loss_file, inner_file = f"pictures/{file}-loss.png", f"pictures/{file}-inside.png"
    parts += [
        losses_table(configurations, common),
        *([Text(kinds)] if (kinds := measured(configurations)) else []),
        Picture(loss_file, f"validation loss of {group}", loss_picture(configurations)),
        Text("Inside, before → after training, means over the layers and heads:"),
        inner_table(configurations),
        Picture(inner_file, f"inside the layers of {group}", inner_picture(configurations)),
    ]
    for each in configurations:
        if (facts := each.runs[0].facts) and facts["sample"]:
            parts.append(Sample(f"{each.name}, seed {each.runs[0].settings.seed}", facts["sample"]))
    return parts


def common_changes(configurations: Sequence[Configuration]) -> dict[str, object]:
    """The options that several configurations all set to the same value."""
    first, *others = configurations
    return {
        name: value
        for name, value in first.changes.items()
        if others and all(other.changes.get(name, ...) == value for other in others)
    }


def losses_table(configurations: Sequence[Configuration], common: dict[str, object]) -> "Table":
    """A row for each configuration: its loss, its size and speed, and what it is."""
    headers = [
        "configuration", LOSS, "bits per character", "parameters", "seconds of training",
        "tokens/s", "what it changes", "what it is",
    ]  # fmt: skip
    rows = []
    for each in configurations:
        own = {name: value for name, value in each.changes.items() if name not in common}
        remark = " ".join(each.remark.split())
        rows.append([
            each.name, loss(each), bits(each), parameters(each), training_seconds(each),
            speed(each), assignments(own), remark,
        ])  # fmt: skip
    return Table(headers, rows)


def inner_table(configurations: Sequence[Configuration]) -> "Table":
    """A row for each configuration: the measures of its attention, before and after training."""
    measures = [measure for measure in MEASURES if measure != "grad_norm_layers"]
    headers = ["configuration", "d_k", *(MEASURES[measure] for measure in measures)]
    rows = []
    for each in configurations:
        d_k = each.settings.n_embd // each.settings.n_head
        rows.append([each.name, str(d_k), *(change(each, measure) for measure in measures)])
    return Table(headers, rows)


# --- its parts -----------------------------------------------------------------------------------


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
        head = _html_row(self.headers, "th")
        body = "".join(_html_row(row, "td") for row in self.rows)
        return f'<div class="wide"><table>{head}{body}</table></div>'

    def markdown(self) -> str:
        rows = [[plain(cell) for cell in row] for row in self.rows]
        lines = [self.headers, ["---"] * len(self.headers), *rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escaped(cell)}</{tag}>" for cell in cells) + "</tr>"


@dataclass
class Picture:
    """A picture, and the path of its file from report.md."""

    file: str
    alternative: str
    png: bytes

    def html(self) -> str:
        source = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        return f'<div class="wide"><img alt="{escaped(self.alternative)}" src="{source}"></div>'

    def markdown(self) -> str:
        return f"![{plain(self.alternative)}]({self.file})"


@dataclass
class Sample:
    """A text that a model generated."""

    name: str
    text: str

    def html(self) -> str:
        # HTML drops the first newline of a <pre>.
        return f"<h3>{escaped(self.name)}</h3><pre>\n{escaped(self.text)}</pre>"

    def markdown(self) -> str:
        # Indented, nothing in it has a meaning in Markdown.
        lines = "\n".join(f"    {line}" for line in visible(self.text).split("\n"))
        return f"{plain(self.name)} writes\n\n{lines}"


Part = Text | Table | Picture | Sample


# --- the two formats -----------------------------------------------------------------------------


def as_html(beginning: Sequence[Part], sections: dict[str, list[Part]]) -> str:
    """One page that loads nothing and runs nothing."""
    style = (ASSETS / "style.css").read_text() + (ASSETS / "report.css").read_text()
    links = " · ".join(
        f'<a href="#{number}">{escaped(group)}</a>' for number, group in enumerate(sections)
    )
    body = "\n".join(
        f'<h2 id="{number}">{escaped(group)}</h2>\n' + "\n".join(part.html() for part in parts)
        for number, (group, parts) in enumerate(sections.items())
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Compared</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">\n'
        f"<style>{style}</style></head>\n<body><h1>Compared</h1>\n"
        + "\n".join(part.html() for part in beginning)
        + f"\n<p>{links}</p>\n{body}\n</body></html>\n"
    )


def as_markdown(beginning: Sequence[Part], sections: dict[str, list[Part]]) -> str:
    """The same, to read in a terminal or a repository."""
    parts = ["# Compared", *(part.markdown() for part in beginning)]
    for group, of_group in sections.items():
        parts += [f"## {plain(group)}", *(part.markdown() for part in of_group)]
    return "\n\n".join(parts) + "\n"


def visible(text: str) -> str:
    """A text with control characters, except newlines, as their visible Unicode symbols."""
    return re.sub(r"[\0-\x09\x0b-\x1f]", lambda found: chr(0x2400 + ord(found[0])), text)


def escaped(text: str) -> str:
    """A text as HTML, which shows it as it is."""
    return html.escape(visible(text))


def plain(text: str) -> str:
    """A text on one line, escaped so that Markdown, and HTML inside it, shows it as it is.

    >>> plain("n_head <b> _x_")
    'n_head &lt;b> \\\\_x\\\\_'
    """
    text = " ".join(visible(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    # An underscore between letters or digits needs no escape.
    return re.sub(r"([\\`*\[\]|#~!]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
