"""The pages that explain.py and compare.py write, in a real browser: the system's Chromium.

The numbers are read from what the page shows and compared with the model's.
"""

import io
import shutil
from pathlib import Path

import pytest
import torch
from helpers.models import randomised

from docs.pictures import find_browser
from kqv.checkpoints.restoring import model_state
from kqv.checkpoints.single import save_checkpoint
from kqv.comparison.report import Picture, Sample, Table, Text, as_html
from kqv.inside.labels import visible
from kqv.inside.page import GUESSES, render
from kqv.inside.pair_view import pair_to_read, view_pair
from kqv.inside.reading import look
from kqv.inside.trace import LayerTrace, captured, record
from kqv.inside.view import Reader, View, view_text
from kqv.text.characters import CharTokenizer
from kqv.text.symbols import SymbolTokenizer
from kqv.text.tokenizer import MASK, PAIR_MARKERS
from model import GPT, GPTConfig

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
CHROMIUM = find_browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
]

# White space, markup with a script, right-to-left letters, a lone accent, characters without a
# shape, emoji, a placeholder.
ODD = "a\n\t <b>&amp;</script><img src=x onerror=alert(1)>שלום e\u0301\u202e\u200d👩 '\"{{data}}"
SHAPE = {"n_layer": 3, "n_head": 2, "n_embd": 16, "block_size": 96}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a file in a window. When the test ends, there must have been no error and no request."""
    windows, trouble = [], []

    def open_page(path: Path, **options):
        window = browser.new_context(viewport={"width": 1280, "height": 900}, **options).new_page()
        windows.append(window)
        window.on("pageerror", lambda error: trouble.append(str(error)))
        window.on("console", lambda message: trouble.append(message.text))
        window.on("dialog", lambda dialog: trouble.append(dialog.message))
        window.on(
            "request", lambda request: request.url == path.as_uri() or trouble.append(request.url)
        )
        window.goto(path.as_uri())
        return window

    yield open_page
    for window in windows:
        window.context.close()
    assert trouble == []


def random_model(text: str, seed: int = 1, **options) -> tuple[GPT, CharTokenizer]:
    """A model of random weights and its tokenizer, of the characters of a text."""
    tokenizer = CharTokenizer.of(text)
    config = GPTConfig(vocab_size=tokenizer.vocab_size, **SHAPE | options)
    return randomised(config, seed, spread=0.4), tokenizer


def make_checkpoint(folder: Path, text: str, seed: int = 1, **options) -> tuple[GPT, CharTokenizer]:
    """Save a `random_model` as a run does."""
    model, tokenizer = random_model(text, seed, **options)
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder / "ckpt.pt", model_state(model, tokenizer) | {"config": {"seed": 1337}})
    return model, tokenizer


def write_page(path: Path, model: GPT, tokenizer: CharTokenizer, text: str) -> View:
    """Write the page that explain.py would, without its process."""
    view = view_text(model, tokenizer, text, "a model")
    path.write_text(render([view], view.heads[0]), encoding="utf-8")
    return view


TEXT = "The cat sat on the mat.\nThe fox"


@pytest.fixture(scope="module")
def explained(shell, tmp_path_factory):
    """A page, the folder it is in, the model and its trace."""
    folder = tmp_path_factory.mktemp("explained")
    model, tokenizer = make_checkpoint(folder, TEXT)
    done = shell.run("explain.py", f"--out_dir={folder}", f"--text={TEXT}", "--layer=1", "--head=1")
    assert done.status == 0 and done.stdout == f"{folder / 'explain.html'}\n", done.stderr
    return folder, model, record(model, tokenizer.encode(TEXT))


def cells(window, table: str, column: int = -1) -> list[str]:
    """The texts of a column of one of the tables in a stage."""
    return window.eval_on_selector_all(
        f".{table} tbody tr", f"rows => rows.map(row => [...row.cells].at({column}).textContent)"
    )


def numbers(window, table: str, column: int = -1) -> torch.Tensor:
    return torch.tensor([float(text.replace("∞", "inf")) for text in cells(window, table, column)])


def close(shown: torch.Tensor, computed: torch.Tensor) -> None:
    torch.testing.assert_close(shown, computed, atol=1.1e-5, rtol=1e-5)  # five digits are shown


def masked(seen: LayerTrace) -> torch.Tensor:
    """What softmax is applied to, (heads, time, seen)."""
    scores = seen.scaled if seen.bias is None else seen.scaled + seen.bias
    return scores.masked_fill(~seen.allowed, -torch.inf)


def choose(window, stage: str, layer: int | None = None, head: int | None = None) -> None:
    if layer is not None:
        window.click(f".heads [data-layer='{layer}'][data-head='{head}']")
    window.click(f"[role=tab][data-stage={stage}]")


VARIANTS = [
    {},
    {"attention_score": "squared", "window": 9},
    {"attention_score": "linear"},
    {"mask": "none"},
    {"position": "relative", "window": 9},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_each_stage_shows_the_model_s_numbers(options, tmp_path, open_page) -> None:
    page = tmp_path / "page.html"
    trace = write_page(page, *random_model(TEXT, **options), TEXT).trace
    window = open_page(page)
    for layer, head, position in ((0, 1, 30), (2, 0, 11)):
        window.click(f".strip [data-position='{position}']")
        seen = trace.layers[layer]
        choose(window, "vectors", layer, head)
        for column, vector in ((1, seen.query), (2, seen.key), (3, seen.value)):
            close(numbers(window, "vectors", column), vector[head, position])
        for stage in ("raw", "scaled", "weights"):
            choose(window, stage)
            close(numbers(window, stage), getattr(seen, stage)[head, position])
        choose(window, "masked")
        close(
            numbers(window, "masked"),
            masked(seen)[head, position],
        )


SOURCE, TARGET = "colonel", "k ɝ n ə l"


def pair_reader(**options) -> Reader:
    """An encoder-decoder of random weights, from letters to sounds."""
    letters = CharTokenizer.of(SOURCE)
    sounds = SymbolTokenizer.of(TARGET.split()).with_markers(PAIR_MARKERS)
    sizes = {"vocab_size": sounds.vocab_size, "source_vocab_size": letters.vocab_size}
    config = GPTConfig(architecture="encoder_decoder", **sizes, **SHAPE | options)
    return Reader("a model", randomised(config, 1, spread=0.4), sounds, letters)


def write_pair_page(path: Path, reader: Reader) -> View:
    view = view_pair(reader, pair_to_read(reader, SOURCE, TARGET))
    path.write_text(render([view], view.heads[0]), encoding="utf-8")
    return view


PAIR_VARIANTS = [
    {"encoder_layers": 2},
    {"position": "relative", "attention_scale": "none", "norm_first": False, "window": 3},
    {"attention_score": "linear"},
]


@pytest.mark.parametrize("options", PAIR_VARIANTS)
def test_each_stage_of_each_kind_of_attention_shows_the_model_s_numbers(
    options, tmp_path, open_page
) -> None:
    view = write_pair_page(tmp_path / "page.html", pair_reader(**options))
    window = open_page(tmp_path / "page.html")
    for part in view.parts:
        window.click(f".kinds [data-kind={part.kind}]")
        heads = window.locator(".heads button").count()
        assert heads == 2 * len(part.layers)
        text = ".strip.source" if part.kind == "encoder" else ".strip.characters"
        for layer, head, position in ((0, 1, 2), (len(part.layers) - 1, 0, 5)):
            window.click(f"{text} [data-position='{position}']")
            seen = part.layers[layer]
            choose(window, "vectors", layer, head)
            # Cross-attention shows the key and the value of the character of most weight.
            key = int(seen.weights[head, position].argmax()) if part.kind == "cross" else position
            close(numbers(window, "vectors", 1), seen.query[head, position])
            close(numbers(window, "vectors", 2), seen.key[head, key])
            close(numbers(window, "vectors", 3), seen.value[head, key])
            for stage in ("raw", "scaled", "weights"):
                choose(window, stage)
                close(numbers(window, stage), getattr(seen, stage)[head, position])
            choose(window, "masked")
            close(numbers(window, "masked"), masked(seen)[head, position])
            choose(window, "output")
            for dimension in (0, 7):
                window.click(f".bars button:nth-child({dimension + 1})")
                total = float(window.text_content(".sum tfoot td:last-child"))
                assert total == pytest.approx(
                    float(seen.output[head, position, dimension]), abs=1.1e-5
                )


def test_cross_attention_is_shown_first_with_both_texts(tmp_path, open_page) -> None:
    view = write_pair_page(tmp_path / "page.html", pair_reader())
    weights = view.trace.cross[0].weights[0]
    window = open_page(tmp_path / "page.html")
    assert window.text_content(".kinds [aria-selected=true]") == "cross"
    strips = [window.locator(f".strip.{name} button") for name in ("source", "characters")]
    labels = [
        [text.evaluate("button => button.firstElementChild.textContent") for text in strip.all()]
        for strip in strips
    ]
    assert labels == [list(SOURCE), ["⊢", *TARGET.split()]]
    window.click(".strip.characters [data-position='1']")
    key = int(weights[1].argmax())
    sentence = window.text_content(".sentence").replace("\u2068", "").replace("\u2069", "")
    assert "“k” (1)" in sentence and f"“{SOURCE[key]}” ({key}) of the source" in sentence
    assert sentence.endswith(f"weight {weights[1, key]:.2f}.")
    assert "of the target, keys and values of the source" in window.text_content(".head-name")
    # A character of the source is chosen as the key of a score.
    window.click(".strip.source [data-position='4']")
    layer = view.trace.cross[0]
    close(numbers(window, "product"), layer.query[0, 1] * layer.key[0, 4])
    # The map is not square: rows are the target, columns the source.
    window.locator(".map").scroll_into_view_if_needed()
    box = window.locator(".map").bounding_box()
    column, row = box["width"] / (len(SOURCE) + 1), box["height"] / 7
    window.mouse.move(box["x"] + 6.5 * column, box["y"] + 4.5 * row)
    readout = window.text_content(".readout").replace("\u2068", "").replace("\u2069", "")
    assert readout.startswith("query of “n” (3), key of “e” (5): score ")
    assert readout.endswith(f"weight {weights[3, 5]:.5f}")


def test_odd_characters_of_a_pair_are_seen_and_do_nothing(tmp_path, open_page) -> None:
    tokenizer = CharTokenizer.of(ODD).with_markers(PAIR_MARKERS)
    config = GPTConfig(tokenizer.vocab_size, architecture="encoder_decoder", **SHAPE)
    reader = Reader(ODD, randomised(config, 1), tokenizer, tokenizer)
    view = view_pair(reader, pair_to_read(reader, ODD, ODD))
    (tmp_path / "page.html").write_text(render([view], view.heads[0]), encoding="utf-8")
    window = open_page(tmp_path / "page.html")
    for kind in ("encoder", "decoder", "cross"):
        window.click(f".kinds [data-kind={kind}]")
        for stage in ("vectors", "raw", "output"):
            choose(window, stage)
            assert window.locator("img").count() == 0 and window.locator("script").count() == 2


def test_kinds_of_attention_are_chosen_with_keys_and_a_phone_is_wide_enough(
    tmp_path, open_page
) -> None:
    write_pair_page(tmp_path / "page.html", pair_reader(encoder_layers=1))
    window = open_page(tmp_path / "page.html")
    window.set_viewport_size({"width": 360, "height": 700})
    for kind, layers in (("decoder", 3), ("encoder", 1)):
        window.focus(".kinds [aria-selected=true]")
        window.keyboard.press("ArrowLeft")
        assert window.text_content(".kinds [aria-selected=true]") == kind
        assert window.locator(".heads button").count() == 2 * layers
        assert window.locator(".strip.source").is_visible() == (kind == "encoder")
        assert window.locator(".predictions").is_visible() == (kind == "decoder")
        for stage in ("vectors", "raw", "scaled", "masked", "weights", "output"):
            choose(window, stage)
            assert window.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_weighted_sum_is_what_fused_attention_hands_on(explained, open_page) -> None:
    folder, model, trace = explained
    model.fuse_attention(True)
    with torch.no_grad(), captured(model) as activations:
        model(torch.tensor([trace.ids]))
    handed_on = activations.joined_heads[2][0]
    window = open_page(folder / "explain.html")
    choose(window, "output", 2, 1)
    for dimension in range(8):
        window.click(f".bars button:nth-child({dimension + 1})")
        assert cells(window, "sum", 0)[0].endswith("(0)")
        total = float(window.text_content(".sum tfoot td:last-child"))
        rounding = len(TEXT) * 5e-6  # each product is rounded to 5 digits
        assert total == pytest.approx(float(numbers(window, "sum").sum()), abs=rounding)
        assert total == pytest.approx(float(handed_on[-1, 8 + dimension]), abs=1.1e-5)


def test_a_score_is_shown_as_the_sum_it_is(explained, open_page) -> None:
    folder, _, trace = explained
    window = open_page(folder / "explain.html")
    choose(window, "raw", 0, 0)
    window.click(".raw tbody tr:nth-child(5)")
    query, key = trace.layers[0].query[0, -1], trace.layers[0].key[0, 4]
    close(numbers(window, "product"), query * key)
    total = float(window.text_content(".product tfoot td:last-child"))
    assert total == pytest.approx(float(query @ key), abs=1.1e-5)


def test_it_opens_on_the_head_that_was_asked_for_and_answers_keys(explained, open_page) -> None:
    folder, _, trace = explained
    window = open_page(folder / "explain.html")

    def selected(where: str) -> str:
        return window.get_attribute(f"{where} [aria-selected=true]", "title")

    assert selected(".heads") == "layer 1, head 1"
    window.focus(".strip [aria-selected=true]")
    keys = {"ArrowLeft": 29, "ArrowUp": 29, "ArrowRight": 30, "Home": 0, "ArrowDown": 0, "End": 30}
    for key, position in keys.items():
        window.keyboard.press(key)
        assert selected(".strip").endswith(f"({position})")
    window.focus(".heads [aria-selected=true]")
    keys = {"ArrowUp": "0, head 1", "ArrowLeft": "0, head 0", "End": "2, head 1"}
    for key, head in keys.items():
        window.keyboard.press(key)
        assert selected(".heads") == f"layer {head}"
    window.focus("[role=tab][aria-selected=true]")
    window.keyboard.press("ArrowLeft")
    assert window.text_content("[role=tab][aria-selected=true]") == "masked"
    window.keyboard.press("End")
    window.focus(".map")
    window.keyboard.press("ArrowUp")
    close(numbers(window, "sum", 1), trace.layers[2].weights[1, 29, :30])


def test_pointing_shows_and_clicking_stays(explained, open_page) -> None:
    folder, _, trace = explained
    window = open_page(folder / "explain.html")
    window.hover(".strip [data-position='5']")
    close(numbers(window, "weights"), trace.layers[1].weights[1, 5])
    window.hover("h1")
    close(numbers(window, "weights"), trace.layers[1].weights[1, 30])
    window.click(".strip [data-position='5']")
    window.hover("h1")
    close(numbers(window, "weights"), trace.layers[1].weights[1, 5])
    # The first row and the first column of the map are the characters themselves.
    window.locator(".map").scroll_into_view_if_needed()
    box = window.locator(".map").bounding_box()
    cell = box["width"] / (len(TEXT) + 1)
    window.mouse.move(box["x"] + 3.5 * cell, box["y"] + 13.5 * cell)
    score, weight = trace.layers[1].scaled[1, 12, 2], trace.layers[1].weights[1, 12, 2]
    assert window.text_content(".readout").endswith(f"score {score:.5f}, weight {weight:.5f}")


def test_a_finger_is_enough(explained, open_page) -> None:
    folder, _, trace = explained
    window = open_page(folder / "explain.html", has_touch=True, is_mobile=True)
    window.tap(".strip [data-position='7']")
    window.tap(".heads [data-layer='0'][data-head='0']")
    close(numbers(window, "weights"), trace.layers[0].weights[0, 7])


def test_heads_are_sorted_by_any_figure_and_chosen_from_the_list(tmp_path, open_page) -> None:
    page = tmp_path / "page.html"
    heads = write_page(page, *random_model(TEXT), TEXT).heads
    window = open_page(page)
    for key in ("entropy", "previous", "line_start", "induction", "scaled_variance"):
        for descending in (True, False):
            window.click(f".figures th [data-key={key}]")
            shown = window.locator(f".figures td[data-key={key}]").all_text_contents()
            expected = sorted((getattr(head, key) for head in heads), reverse=descending)
            assert [float(text) for text in shown] == pytest.approx(expected, abs=6e-3)
    window.click(".figures tbody tr:first-child")
    lowest = min(heads, key=lambda head: head.scaled_variance)
    title = window.text_content(".head-name")
    assert title.startswith(f"Layer {lowest.layer}, head {lowest.head}:")


def test_it_shows_the_prediction_after_each_layer(explained, open_page) -> None:
    folder, _, trace = explained
    characters = sorted(set(TEXT))
    window = open_page(folder / "explain.html")
    window.click(".strip [data-position='10']")
    for depth in range(4):
        guesses = window.locator(f".predictions [data-depth='{depth}'] .guess").all_text_contents()
        chances, ids = trace.predictions[depth, 10].topk(5)
        shown = [float(guess.split()[-1]) for guess in guesses]
        assert shown == pytest.approx(chances.tolist(), abs=6e-4)
        assert [guess[1] for guess in guesses] == [visible(characters[i]) for i in ids]
    likeliest = trace.predictions[-1].argmax(-1)
    below = window.locator(".strip .next").all_text_contents()
    assert below == [visible(characters[i]) for i in likeliest]


def test_an_encoder_s_page_shows_what_each_blank_would_be(tmp_path, open_page) -> None:
    tokenizer = CharTokenizer.of(TEXT).with_markers(MASK)
    config = GPTConfig(tokenizer.vocab_size, **SHAPE | {"architecture": "encoder"})
    reader = Reader("a model", randomised(config, 1, spread=0.4), tokenizer, tokenizer)
    view = look(reader, "The c_t sat on_".replace("_", MASK))
    page = tmp_path / "page.html"
    page.write_text(render([view], view.heads[0]), encoding="utf-8")
    window = open_page(page)
    likeliest = view.trace.predictions[-1].topk(GUESSES)
    shown = window.eval_on_selector_all(".next", "spans => spans.map(span => span.textContent)")
    expected = {
        place: visible(tokenizer.decode([int(likeliest.indices[place, 0])])) for place in (5, 14)
    }
    assert {place: text for place, text in enumerate(shown) if text} == expected
    assert "Below each blank" in window.inner_text(".of-next")
    assert window.get_attribute(".strip [aria-selected=true]", "data-position") == "5"
    for place in (5, 2):  # a blank, and a character that stands there
        window.click(f".strip [data-position='{place}']")
        guesses = window.eval_on_selector_all(
            ".predictions tr:last-child .guess", "all => all.map(guess => guess.textContent)"
        )
        chances = torch.tensor([float(guess.split()[-1]) for guess in guesses])
        torch.testing.assert_close(chances, likeliest.values[place], atol=5.1e-4, rtol=0)
        right = window.query_selector_all(".predictions tr:last-child .right")
        token = tokenizer.encode("The c")[place] if place == 2 else -1
        assert len(right) == (token in likeliest.indices[place].tolist())


def test_odd_characters_are_seen_and_do_nothing(shell, tmp_path, open_page) -> None:
    make_checkpoint(tmp_path, ODD)
    done = shell.run("explain.py", f"--out_dir={tmp_path}", "--text=-", input=ODD)
    assert done.status == 0, done.stderr
    window = open_page(tmp_path / "explain.html")
    shown = window.eval_on_selector_all(
        ".strip button", "all => all.map(button => button.firstElementChild.textContent)"
    )
    signs = {
        "\n": "⏎",
        "\t": "⇥",
        " ": "␣",
        "\u0301": "◌\u0301",
        "\u202e": "U+202E",
        "\u200d": "U+200D",
    }
    assert shown == [signs.get(character, character) for character in ODD]
    assert window.locator("img").count() == 0 and window.locator("script").count() == 2
    for stage in ("vectors", "raw", "output"):
        choose(window, stage)
        assert window.locator("img").count() == 0


def test_a_text_from_right_to_left_runs_that_way(tmp_path, open_page) -> None:
    text, page = "שלום world", tmp_path / "page.html"
    write_page(page, *random_model(text), text)
    window = open_page(page)
    left = [
        window.locator(f".strip [data-position='{position}']").bounding_box()["x"]
        for position in range(len(text))
    ]
    assert left == sorted(left, reverse=True)
    window.focus(".strip [aria-selected=true]")
    window.keyboard.press("ArrowRight")  # to the right is back
    selected = window.get_attribute(".strip [aria-selected=true]", "data-position")
    assert selected == str(len(text) - 2)


def test_two_models_stand_side_by_side_and_show_the_same_place(
    shell, explained, tmp_path, open_page
) -> None:
    folder, *_ = explained
    other, tokenizer = make_checkpoint(tmp_path / "other", TEXT, seed=2, n_layer=1, n_head=4)
    words = (f"--out_dir={folder}", "--step=0", f"--against={tmp_path / 'other'}", f"--text={TEXT}")
    shutil.copy(folder / "explain.html", tmp_path)
    done = shell.run("explain.py", *words, "--layer=2", "--head=0")
    page = (folder / "explain.html").replace(tmp_path / "beside.html")
    shutil.copy(tmp_path / "explain.html", folder)
    assert done.status == 0, done.stderr
    window = open_page(page)
    titles = window.locator(".title").all_text_contents()
    assert titles == [f"{folder / 'ckpt.pt'}, before training", str(tmp_path / "other" / "ckpt.pt")]
    window.click(".viewer:nth-child(1) .strip [data-position='9']")
    untrained, beside = window.locator(".viewer").all()
    shown = beside.locator(".weights tbody tr td:last-child").all_text_contents()
    weights = record(other, tokenizer.encode(TEXT)).layers[0].weights[0, 9]
    close(torch.tensor([float(text) for text in shown]), weights)
    guesses = untrained.locator(".guess").all_text_contents()
    assert len(guesses) == (SHAPE["n_layer"] + 1) * GUESSES
    chances = [float(guess.split()[-1]) for guess in guesses]
    assert chances == pytest.approx([1 / len(set(TEXT))] * len(chances), abs=6e-4)  # all alike


def test_it_fits_a_phone_and_follows_light_and_dark(explained, open_page) -> None:
    folder, *_ = explained
    colours = set()
    for scheme in ("light", "dark"):
        window = open_page(folder / "explain.html", color_scheme=scheme)
        colours.add(window.evaluate("getComputedStyle(document.body).backgroundColor"))
        window.set_viewport_size({"width": 360, "height": 700})
        for stage in ("vectors", "raw", "scaled", "masked", "weights", "output"):
            choose(window, stage)
            assert window.evaluate("document.documentElement.scrollWidth") <= 360
    assert len(colours) == 2


def test_the_report_of_compare_fits_a_phone_and_no_text_in_it_does_anything(
    tmp_path, open_page
) -> None:
    from matplotlib.figure import Figure

    picture = io.BytesIO()
    Figure(figsize=(11, 3)).savefig(picture, format="png")
    table = Table(["configuration", "validation loss"], [[ODD, "1.2345 ± 0.0067"]])
    parts = [Text(ODD), table, Picture("loss.png", ODD, picture.getvalue()), Sample(ODD, ODD)]
    (tmp_path / "report.html").write_text(as_html([Text(ODD)], {ODD: parts}))
    window = open_page(tmp_path / "report.html")
    assert window.locator("script").count() == 0 and window.locator("img").count() == 1
    assert window.locator("img").evaluate("image => image.naturalWidth") > 1000
    assert "alert(1)" in window.text_content("td")
    assert "1.2345 ± 0.0067" in window.text_content("table")
    window.set_viewport_size({"width": 360, "height": 700})
    assert window.evaluate("document.documentElement.scrollWidth") <= 360
