"""The report of a comparison: a section for each group, all written twice, as one HTML page and as Markdown.

The page is one file that loads nothing and runs nothing; its pictures are in it. Whatever the texts hold is shown as it
is, and does nothing.
"""

import base64
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kqv.comparison.pictures import inner_picture, loss_picture
from kqv.comparison.runs import (
    MEASURES,
    Configuration,
    assignments,
    bits,
    change,
    loss,
    parameters,
    speed,
    training_seconds,
)
from kqv.files import replacing
from kqv.project import ASSETS


def section(group: str, configurations: Sequence[Configuration]) -> list["Part"]:
    """All that there is to say of a group."""
    common = {
        name: value
        for name, value in configurations[0].changes.items()
        if all(name in each.changes and each.changes[name] == value for each in configurations)
    }
    if len(configurations) == 1:
        common = {}
    parts: list[Part] = [
        Text(question)
        for question in dict.fromkeys(each.question for each in configurations)
        if question
    ]
    if common:
        parts.append(Text(f"All have {assignments(common)}."))
    columns: dict[str, Callable[[Configuration], str]] = {
        "configuration": lambda each: each.name,
        "validation loss": loss,
        "bits per character": bits,
        "parameters": parameters,
        "seconds of training": training_seconds,
        "tokens/s": speed,
        "what it changes": lambda each: assignments(
            {k: v for k, v in each.changes.items() if k not in common}
        ),
        "what it is": lambda each: " ".join(each.remark.split()),
    }
    parts.append(
        Table(list(columns), [[cell(each) for cell in columns.values()] for each in configurations])
    )
    file = re.sub(r"\W", "-", group)[:60]
    parts.append(
        Picture(
            f"pictures/{file}-loss.png", f"validation loss of {group}", loss_picture(configurations)
        )
    )
    figures = {
        words: measure for measure, words in MEASURES.items() if measure != "grad_norm_layers"
    }
    rows = [
        [
            each.name,
            str(each.settings.n_embd // each.settings.n_head),
            *(change(each, measure) for measure in figures.values()),
        ]
        for each in configurations
    ]
    parts.append(Text("Inside, before → after training, means over the layers and heads:"))
    parts.append(Table(["configuration", "d_k", *figures], rows))
    parts.append(
        Picture(
            f"pictures/{file}-inside.png",
            f"inside the layers of {group}",
            inner_picture(configurations),
        )
    )
    for each in configurations:
        if facts := each.runs[0].facts:
            parts.append(Sample(f"{each.name}, seed {each.runs[0].settings.seed}", facts["sample"]))
    return parts


def write_report(
    configurations: Sequence[Configuration], out_dir: Path, laid_over: str
) -> list[Path]:
    """Write report.html, report.md and pictures/. Returns the paths of the two."""
    groups: dict[str, list[Configuration]] = {}
    for each in configurations:
        groups.setdefault(each.group, []).append(each)
    beginning = [Text(line) for line in introduction(configurations, laid_over)]
    sections = {group: section(group, members) for group, members in groups.items()}
    (out_dir / "pictures").mkdir(exist_ok=True)
    for parts in sections.values():
        for part in parts:
            if isinstance(part, Picture):
                with replacing(out_dir / part.file) as file:
                    file.write(part.png)
    written = []
    for name, content in (
        ("report.html", as_html(beginning, sections)),
        ("report.md", as_markdown(beginning, sections)),
    ):
        with replacing(out_dir / name) as file:
            file.write(content.encode(errors="backslashreplace"))
        written.append(out_dir / name)
    return written


def introduction(configurations: Sequence[Configuration], laid_over: str) -> list[str]:
    """What was run and where, and what the numbers mean."""
    facts = [run.facts for each in configurations for run in each.runs if run.facts]
    machines = dict.fromkeys(f"{fact['machine']}; torch {fact['torch']}" for fact in facts)
    datasets = dict.fromkeys(each.text or each.settings.dataset for each in configurations)
    seeds = [run.settings.seed for run in configurations[0].runs]
    return [
        f"Trained on {', '.join(datasets)} with seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))}: the same batches in "
        f"the same order for all whose batches have the same size." + (f" For all: {laid_over}" if laid_over else ""),
        *(f"On {machine}." for machine in machines),
        "The validation loss is the mean cross-entropy in nats per character over the whole validation split, of the model after "
        "its last step. The time is that of training alone, without evaluations. "
        + ("Over the seeds: mean ± sample standard deviation; bands are from the least to the greatest." if seeds[1:] else
           "One seed does not tell how much of a difference is chance: --seeds=3 does."),
        "Var(q·k) is the variance of the scores of a head, about d_k before training, Var(scaled) that after the scale; entropy "
        "and saturated rows (with more than 0.9 of their weight on one character) are of the weights that the softmax makes of "
        "them.",
    ]  # fmt: skip


# --- its parts -------------------------------------------------------------------------------------------------------


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
        lines = [
            self.headers,
            ["---"] * len(self.headers),
            *([plain(cell) for cell in row] for row in self.rows),
        ]
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
        lines = "\n".join(
            f"    {line}" for line in visible(self.text).split("\n")
        )  # indented, nothing in it has a meaning
        return f"{plain(self.name)} writes\n\n{lines}"


Part = Text | Table | Picture | Sample


# --- the two ways to write it ----------------------------------------------------------------------------------------


def as_html(beginning: Sequence[Part], sections: dict[str, list[Part]]) -> str:
    """One page that loads nothing and runs nothing, which its policy also tells the browser."""
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
