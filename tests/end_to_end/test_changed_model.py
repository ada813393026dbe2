"""A user changes model.py: what they see is what their model computes, or one line says what else
to change."""

import json
from pathlib import Path

import pytest
from helpers.shell import TINY, Shell, copy_project

pytestmark = pytest.mark.slow

# A plain loop over GPT.forward, in the changed copy of the project: greedy decoding.
PLAIN = """
import sys, torch
from kqv.checkpoints.loading import load_model
model, tokenizer, *_ = load_model(sys.argv[1])
model.eval().fuse_attention(sys.argv[2] == "fused")
ids = tokenizer.encode(sys.argv[3])
with torch.inference_mode():
    for _ in range(int(sys.argv[4])):
        ids.append(int(model(torch.tensor([ids[-model.config.block_size:]]))[0, -1].argmax()))
print(tokenizer.decode(ids))
"""
PROMPT, LENGTH = "The old", 40
GREEDY = (f"--start={PROMPT}", f"--max_new_tokens={LENGTH}", "--temperature=0", "--dtype=float32")
NOT_FAST = "decoding with a KV cache does not compute what model.py's forward does"

MLP_LINE = "return self.after(self.mlp_norm, x, self.mlp(self.before(self.mlp_norm, x)))"
SWIGLU_LINE = "return self.down(self.activation(gate) * up)"

# Changes of one line of model.py that leave the weights as they are: the line and its replacement.
# Decoding follows these, since it runs the same methods.
FOLLOWED = {
    "Block": (MLP_LINE, "return x + 0.9 * self.mlp(self.mlp_norm(x))"),
    "Attention": ("output.transpose(1, 2)", "0.8 * output.transpose(1, 2)"),
    "GatedMLP": (SWIGLU_LINE, SWIGLU_LINE.replace("self.activation", "F.gelu")),
    "GPT": ("return self.head(hidden)", "return 3 * torch.tanh(self.head(hidden) / 3)"),
}
# These have a fast body, which does not follow them.
NOT_FOLLOWED = {
    "query, key, value": (
        "value = self.heads(self.value(source))",
        "value = self.heads(self.value(source) + source)",
    ),
    "gate, up": ("return self.gate(x), self.up(x)", "return 0.9 * self.gate(x), self.up(x)"),
}
# Changes of the weights: one more, which begins at 0, and others under another name.
WEIGHTS = {
    "a gain": [
        (
            "self.attention = Attention(config)",
            "self.attention, self.gain = Attention(config), nn.Parameter(torch.zeros(1))",
        ),
        (MLP_LINE, "return (1 + self.gain) * x + self.mlp(self.mlp_norm(x))"),
    ],
    "a door": [("self.gate", "self.door")],
}


def changed(folder: Path, *changes: tuple[str, str]) -> Shell:
    """A copy of the project with these changes in model.py, wherever the old words stand."""
    shell = copy_project(folder)
    source = (folder / "model.py").read_text()
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    (folder / "model.py").write_text(source)
    (folder / "plain.py").write_text(PLAIN)
    return shell


def plain_text(shell: Shell, run: Path, attention: str = "fused") -> str:
    done = shell.run("plain.py", run, attention, PROMPT, LENGTH)
    assert done.status == 0, done.stderr
    return done.stdout


def assert_sampled_as_computed(shell: Shell, run: Path) -> None:
    done = shell.run("sample.py", f"--out_dir={run}", *GREEDY)
    assert done.status == 0, done.stderr
    assert (
        len(done.stderr.splitlines()) == 1
        and done.stderr.startswith(NOT_FAST)
        and "docs/code.md" in done.stderr
    )
    assert done.stdout == plain_text(shell, run)


def assert_decoded_as_computed(shell: Shell, run: Path) -> None:
    """With the KV cache, as far as the block of 16 goes: beyond it the cache reads other text."""
    done = shell.run(
        "sample.py", f"--out_dir={run}", *GREEDY[:1], "--max_new_tokens=9", *GREEDY[2:]
    )
    assert done.status == 0 and done.stderr == ""
    assert plain_text(shell, run).startswith(done.stdout[:-1])


@pytest.mark.parametrize("change", FOLLOWED)
def test_after_a_change_of_a_formula_a_sample_is_what_it_computes(change, trained, tmp_path):
    shell = changed(tmp_path / "kqv", FOLLOWED[change])
    assert_decoded_as_computed(shell, trained.folder)


@pytest.mark.parametrize("change", NOT_FOLLOWED)
def test_after_a_change_of_what_has_a_fast_body_a_sample_is_what_it_computes_and_that_is_said(
    change, trained, tmp_path
):
    assert_sampled_as_computed(changed(tmp_path / "kqv", NOT_FOLLOWED[change]), trained.folder)


@pytest.mark.parametrize("change", WEIGHTS)
def test_after_a_change_of_the_weights_training_and_sampling_go_on(change, text, tmp_path):
    shell = changed(tmp_path / "kqv", *WEIGHTS[change])
    done = shell.run(
        "train.py",
        text,
        TINY,
        "--eval_interval=10",
        "--sample_chars=10",
        f"--out_dir={tmp_path / 'run'}",
    )
    assert done.status == 0, done.stderr
    assert done.stderr.count(NOT_FAST) == (change == "a door")  # of the three samples of the run
    if change == "a door":  # the fast body asks for a gate
        assert_sampled_as_computed(shell, tmp_path / "run")
    else:
        assert_decoded_as_computed(shell, tmp_path / "run")


def test_without_a_change_nothing_is_said(shell, trained):
    (shell.folder / "plain.py").write_text(PLAIN)
    done = shell.run(
        "sample.py", f"--out_dir={trained.folder}", *GREEDY[:1], "--max_new_tokens=9", *GREEDY[2:]
    )
    assert done.stderr == ""
    assert plain_text(shell, trained.folder).startswith(
        done.stdout[:-1]
    )  # as far as the block of 16 goes
    assert NOT_FAST not in trained.done.stderr


def test_a_change_of_the_written_attention_is_trained_and_sampled_whatever_the_fast_one_computes(
    text, tmp_path
):
    old = "weights = torch.softmax(scores, dim=-1)"
    shell = changed(
        tmp_path / "kqv", (old, "weights = torch.softmax(scores.clamp(max=0.3), dim=-1)")
    )
    losses = []
    for dtype in (
        "float32",
        "bfloat16",
    ):  # of which one would attend by the kernel, the other by the formula
        out_dir = tmp_path / dtype
        done = shell.run(
            "train.py", text, TINY, "--max_iters=60", f"--dtype={dtype}", f"--out_dir={out_dir}"
        )
        assert done.status == 0, done.stderr
        assert done.stderr.count("attend in model.py and its fast body differ") == 1
        losses.append(
            json.loads((out_dir / "metrics.jsonl").read_text().splitlines()[-1])["val_loss"]
        )
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    done = shell.run("sample.py", f"--out_dir={tmp_path / 'float32'}", *GREEDY)
    assert "attending with attend" in done.stderr and done.status == 0
    assert done.stdout == plain_text(shell, tmp_path / "float32", "written")


def test_an_activation_is_added_in_one_line_and_works_everywhere(text, tmp_path):
    shell = changed(
        tmp_path / "kqv", ('    "gelu": F.gelu,\n', '    "gelu": F.gelu,\n    "silu": F.silu,\n')
    )
    assert "silu" in shell.run("train.py", "--help").stdout
    done = shell.run("train.py", "--mlp=sila")
    assert done.status == 2 and "silu" in done.stderr and len(done.stderr.splitlines()) == 1
    run = tmp_path / "run"
    words = (text, TINY, "--mlp=silu", "--sample_chars=10", f"--out_dir={run}")
    done = shell.run("train.py", *words)
    assert done.status == 0 and NOT_FAST not in done.stderr, done.stderr
    done = shell.run("train.py", "--init_from=resume", f"--out_dir={run}", "--max_iters=30")
    assert done.status == 0, done.stderr
    assert shell.run("train.py", *words[:-2], "--dry_run=True", "--rate=1000").status == 0
    done = shell.run(
        "sample.py", f"--out_dir={run}", *GREEDY[:1], "--max_new_tokens=9", *GREEDY[2:]
    )
    assert done.status == 0 and done.stderr == ""
    assert plain_text(shell, run).startswith(done.stdout[:-1])
    for form in ("html", "json"):
        done = shell.run("explain.py", f"--out_dir={run}", f"--format={form}", "--text=The old cat")
        assert done.status == 0 and done.stderr == ""
    for form in ("huggingface", "gguf", "nanogpt"):
        done = shell.run("export.py", f"--out_dir={run}", f"--format={form}")
        assert done.status == 2 and "mlp=silu" in done.stderr and len(done.stderr.splitlines()) == 1
    assert shell.run("export.py", f"--out_dir={run}", "--format=safetensors").status == 0
    done = shell.run("sample.py", f"--init_from={run / 'model.safetensors'}", *GREEDY)
    assert done.status == 0 and done.stderr == ""


FIELD, USE = "    tie_weights: bool = False\n", "x = self.embedding(ids)"
DECLARED = (FIELD, f"{FIELD}    embedding_scale: float = 1.0\n")


def test_an_option_is_added_as_docs_code_md_says(text, trained, tmp_path):
    shell = changed(tmp_path / "kqv", (USE, USE.replace("= ", "= self.config.embedding_scale * ")))
    options = shell.folder / "kqv" / "options" / "model_options.py"
    options.write_text(options.read_text().replace(*DECLARED))
    run = tmp_path / "run"
    done = shell.run("train.py", text, TINY, "--embedding_scale=2", f"--out_dir={run}")
    assert done.status == 0, done.stderr
    assert_decoded_as_computed(shell, run)
    done = shell.run("export.py", f"--out_dir={run}", "--format=gguf")
    assert (
        done.status == 2
        and "embedding_scale=2.0" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )
    done = shell.run(
        "sample.py", f"--out_dir={trained.folder}", *GREEDY
    )  # an old checkpoint has the default
    assert done.status == 0 and done.stderr == ""
