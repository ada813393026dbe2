"""explain.py as a user starts it."""

import json
import shutil
from dataclasses import fields

import pytest
import torch
from helpers.models import randomised
from helpers.shell import TINY, copy_project, fake_browser

from kqv.checkpoints.loading import load_checkpoint
from kqv.checkpoints.restoring import model_state, restore_model
from kqv.checkpoints.single import save_checkpoint
from kqv.inside.figures import MEANINGS, DecoderFigures
from kqv.inside.text_view import shade_legend
from kqv.text.characters import CharTokenizer
from kqv.text.symbols import SymbolTokenizer
from kqv.text.tokenizer import PAIR_MARKERS
from model import GPTConfig

TEXT = "The red fox sits"


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the run `trained` that may be written to."""
    return shutil.copytree(trained.folder, tmp_path / "run")


@pytest.mark.slow
def test_the_terminal_shows_all_heads_one_map_and_what_comes_next(shell, trained):
    options = (f"--out_dir={trained.folder}", "--format=text")
    done = shell.run("explain.py", *options, f"--text={TEXT}", "--layer=0", "--head=1")
    assert done.status == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["layer", "head"], ["0", "0"], ["0", "1"]]
    legend = [line for line in lines[4:] if line.split(" ")[0] in MEANINGS]
    figures = {field.name for field in fields(DecoderFigures)}
    assert [line.split()[0] for line in legend] == [name for name in MEANINGS if name in figures]
    (map_title,) = (line for line in lines if line.startswith("layer 0, head 1"))
    assert shade_legend() in map_title
    assert "  The␣red␣fox␣sits" in lines
    (after_fox,) = (line for line in lines if line.startswith("x → "))
    assert after_fox.startswith("x → ␣ ")  # it has learnt its text


def test_the_json_holds_the_models_numbers(shell, folder):
    done = shell.run("explain.py", f"--out_dir={folder}", f"--text={TEXT}", "--format=json")
    path = folder / "explain.json"
    assert done.status == 0 and done.stdout == f"{path}\n"
    numbers = json.loads(path.read_text())
    model, tokenizer = restore_model(load_checkpoint(folder / "ckpt.pt"), folder)
    with torch.no_grad():
        expected = model.eval()(torch.tensor([tokenizer.encode(TEXT)]))[0].softmax(-1)
    torch.testing.assert_close(
        torch.tensor(numbers["predictions"])[-1], expected, atol=1e-5, rtol=1e-5
    )
    assert numbers["text"] == TEXT and numbers["vocabulary"] == list(tokenizer.characters)
    assert torch.tensor(numbers["layers"][0]["weights"]).shape == (2, len(TEXT), len(TEXT))


def test_the_picture_is_one(shell, folder):
    done = shell.run(
        "explain.py", f"--out_dir={folder}", "--text=-", "--format=png", input="The old\ncat"
    )
    assert done.status == 0, done.stderr
    assert (folder / "explain.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.slow
def test_pictures_do_not_mind_the_matplotlib_backend_of_a_notebook(
    shell, text, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    new = (f"--out_dir={tmp_path / 'new'}", "--tensorboard=True")
    done = shell.run("train.py", text, TINY, *new, forked=False)
    assert (done.status, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "new" / "loss.png").exists() and "to sample" in done.stdout
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    words = (f"--out_dir={folder}", f"--text={TEXT}", "--format=png")
    done = shell.run("explain.py", *words, forked=False)
    assert done.status == 0 and (folder / "explain.png").exists(), done.stderr


def test_a_curve_that_cannot_be_drawn_costs_one_line_and_loses_nothing(text, tmp_path):
    shell = copy_project(tmp_path / "kqv")
    (shell.folder / "matplotlib.py").write_text("raise ImportError('its binary\\nis broken')")
    words = (text, TINY, "--max_iters=2", f"--out_dir={tmp_path / 'run'}")
    done = shell.run("train.py", *words, forked=False)
    assert done.status == 0
    (remark,) = (line for line in done.stderr.splitlines() if "curve" in line)
    assert "its binary is broken" in remark and str(tmp_path / "run" / "metrics.jsonl") in remark
    assert done.stdout.startswith("validation loss") and "to sample" in done.stdout
    assert "loss.png" not in done.stdout


@pytest.mark.slow
def test_at_a_terminal_the_page_opens_in_the_browser(shell, folder, tmp_path):
    browser, shown = fake_browser(tmp_path)
    page = folder / "explain.html"
    words = (f"--out_dir={folder}", f"--text={TEXT}")
    done = shell.run_at_terminal("explain.py", *words, **browser)
    assert (done.status, done.stdout) == (0, f"{page}\n")
    assert shown.read_text() == f"{page.as_uri()}\n"
    shown.unlink()
    variables = browser | {"SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}
    done = shell.run_at_terminal("explain.py", *words, **variables)
    assert (done.status, done.stdout) == (0, f"{page}\n") and not shown.exists()


@pytest.mark.slow
def test_in_a_pipe_a_picture_opens_only_if_asked_for(shell, folder, tmp_path, monkeypatch):
    browser, shown = fake_browser(tmp_path)
    for name, value in browser.items():
        monkeypatch.setenv(name, value)
    words = (f"--out_dir={folder}", f"--text={TEXT}", "--format=png")
    assert shell.run("explain.py", *words).status == 0 and not shown.exists()
    assert shell.run("explain.py", *words, "--open").status == 0
    assert shown.read_text() == f"{(folder / 'explain.png').as_uri()}\n"


def test_a_browser_that_cannot_be_started_costs_one_line(shell, folder, tmp_path, monkeypatch):
    page = folder / "explain.html"
    monkeypatch.delenv("BROWSER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # where no browser is
    done = shell.run("explain.py", f"--out_dir={folder}", f"--text={TEXT}", "--open")
    assert (done.status, done.stdout) == (0, f"{page}\n")
    assert done.stderr == f"no browser could be started: open {page} in one\n"


@pytest.mark.slow
def test_step_0_is_the_model_that_training_began_with(shell, text, folder, tmp_path):
    still = ("--max_iters=1", "--eval_interval=1", "--learning_rate=0", "--muon_learning_rate=0")
    assert shell.run("train.py", text, TINY, *still, f"--out_dir={tmp_path}").status == 0
    for run, *more in ((tmp_path,), (folder, "--step=0")):
        words = (f"--out_dir={run}", f"--text={TEXT}", "--format=json", *more)
        assert shell.run("explain.py", *words).status == 0
    before, began = (json.loads((run / "explain.json").read_text()) for run in (tmp_path, folder))
    assert before == began


@pytest.mark.slow
def test_a_model_of_another_alphabet_is_shown_a_text_of_its_own(shell, tmp_path):
    (tmp_path / "greek.txt").write_text("μῆνιν ἄειδε θεὰ\n" * 40)
    done = shell.run("train.py", tmp_path / "greek.txt", TINY, f"--out_dir={tmp_path}")
    assert done.status == 0, done.stderr
    done = shell.run("explain.py", f"--out_dir={tmp_path}", "--format=json")
    assert done.status == 0, done.stderr
    shown = json.loads((tmp_path / "explain.json").read_text())["text"]
    assert 0 < len(shown) <= 16 and set(shown) <= set("μῆνιν ἄειδε θεὰ\n")


@pytest.mark.parametrize("kind", ["html", "text", "png", "json"])
def test_a_model_whose_numbers_are_not_finite_is_refused(shell, trained, tmp_path, kind):
    state = load_checkpoint(trained.folder / "ckpt.pt")
    state["model"]["blocks.0.attention.query.weight"].fill_(1e30)
    state["model"]["blocks.0.attention_norm.weight"].fill_(1e30)
    parts = {name: state[name] for name in ("model", "model_args", "tokenizer")}
    save_checkpoint(tmp_path / "ckpt.pt", parts)
    done = shell.run("explain.py", f"--out_dir={tmp_path}", f"--text={TEXT}", f"--format={kind}")
    assert done.status == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "not finite" in done.stderr


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["--text=The ☃"], ["'☃'", "position 4"]),
        (["--text="], ["0 characters"]),
        (["--text=" + "The " * 5], ["20 characters", "1 to 16"]),
        (["--layer=7"], ["layers 0 to 0"]),
        (["--step=5"], ["--step=0"]),
        (["--txt=x"], ["did you mean text?"]),
        (["--against=nowhere"], ["nowhere"]),
        (["--open", "--format=json"], ["leave out --format=json"]),
        (["--against=x", "--format=png"], ["one page", "leave out --format=png"]),
        (["The cat"], ["--text='The cat'"]),
    ],
)
def test_a_mistake_is_one_line(shell, trained, words, hints):
    done = shell.run("explain.py", f"--out_dir={trained.folder}", f"--text={TEXT}", *words)
    assert done.status == 2 and len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert all(hint in done.stderr for hint in hints), done.stderr


@pytest.fixture
def translator(tmp_path):
    """A folder with an encoder-decoder of random weights, from letters to sounds."""
    letters = CharTokenizer("acelno")
    sounds = SymbolTokenizer(["k", "ɝ", "n"]).with_markers(PAIR_MARKERS)
    config = GPTConfig(
        sounds.vocab_size,
        source_vocab_size=letters.vocab_size,
        architecture="encoder_decoder",
        **{"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16},
    )
    model = randomised(config, spread=0.4)
    state = model_state(model, sounds, letters) | {"config": {"seed": 1}}
    save_checkpoint(tmp_path / "ckpt.pt", state)
    return tmp_path


@pytest.mark.slow
def test_an_encoder_decoder_is_shown_with_its_source_and_its_target(shell, translator):
    words = ("explain.py", f"--out_dir={translator}")
    target = ("--text=-", "--target=k ɝ")
    done = shell.run(*words, *target, "--format=json", input="colonel\n")
    assert done.status == 0, done.stderr
    numbers = json.loads((translator / "explain.json").read_text())
    assert numbers["text"] == "colonel" and len(numbers["target"]) == 3
    for kind, shape in (("encoder", (7, 7)), ("decoder", (3, 3)), ("cross", (3, 7))):
        weights = torch.tensor(numbers["parts"][kind]["layers"][1]["weights"])
        assert weights.shape == (2, *shape)
    for form in ("text", "png", "html"):
        done = shell.run(*words, f"--format={form}", "--open=False")  # a text that it can read
        assert done.status == 0 and done.stderr == "", done.stderr
    beside = ("--step=0", f"--against={translator}", "--open=False")
    assert shell.run(*words, "--text=once", *beside).status == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["--text=Colonel"], ["'C'", "position 0"]),
        (["--text="], ["the text has 0"]),
        (["--text=" + "once" * 5], ["20 characters", "1 to 16"]),
        (["--text=once", "--target=q"], ["'q'"]),
        (["--text=once", "--target=" + "k " * 20], ["the target has 20", "at most 15"]),
        (["--text=once", "--layer=2"], ["layers 0 to 1"]),
    ],
)
def test_a_mistake_about_a_pair_is_one_line(shell, translator, words, hints):
    done = shell.run("explain.py", f"--out_dir={translator}", *words)
    assert done.status == 2 and len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert all(hint in done.stderr for hint in hints), done.stderr


@pytest.mark.slow
def test_models_of_different_architectures_are_not_put_on_one_page(shell, trained, translator):
    for first, second in ((trained.folder, translator), (translator, trained.folder)):
        done = shell.run("explain.py", f"--out_dir={first}", f"--against={second}", "--open=False")
        assert done.status == 2 and len(done.stderr.splitlines()) == 1
        assert "encoder-decoder" in done.stderr
    done = shell.run("explain.py", f"--out_dir={trained.folder}", "--target=x", "--open=False")
    assert done.status == 2 and "--target=" in done.stderr and "leave it out" in done.stderr
