"""Models that come and go, as a user moves them: export.py, --init_from=, a nanoGPT folder that is gone on with."""

import math
import pickle
import re
from pathlib import Path

import pytest
import torch
from shell import TINY, easy_text, metrics
from test_nanogpt import adamw, gradients

GREEDY = ("--start=The old", "--temperature=0", "--max_new_tokens=60", "--dtype=float32")
GPT2 = ("--position=learned", "--norm=layernorm", "--mlp=gelu", "--qk_norm=False", "--tie_weights=True", "--optimizer=adamw")


@pytest.fixture(scope="module")
def gpt2(shell, text, tmp_path_factory):
    """The folder of a tiny GPT-2 that has learnt its text."""
    folder = tmp_path_factory.mktemp("gpt2") / "run"
    done = shell.run("train.py", text, TINY, *GPT2, "--learning_rate=1e-2", "--max_iters=200", f"--out_dir={folder}")
    assert done.status == 0, done.stderr
    return folder


def export(shell, folder, *words):
    done = shell.run("export.py", f"--out_dir={folder}", *words)
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()[-1]


def sample(shell, *words):
    done = shell.run("sample.py", *GREEDY, *words)
    assert (done.status, done.stderr) == (0, "")
    return done.stdout


def test_an_export_is_sampled_from_and_trained_on_like_the_run_it_came_from(shell, text, trained, tmp_path):
    to, one_file = tmp_path / "there", tmp_path / "model.safetensors"
    assert export(shell, trained.folder, "--format=huggingface", f"--to={to}") == str(to)
    assert export(shell, trained.folder, "--format=safetensors", f"--to={one_file}") == str(one_file)
    written = sample(shell, f"--out_dir={trained.folder}")
    assert sample(shell, f"--init_from={to}") == written
    assert sample(shell, f"--init_from={one_file}") == written
    words = ("--batch_size=8", "--sample_chars=0", "--max_iters=2", "--learning_rate=1e-3", "--muon_learning_rate=1e-3")
    done = shell.run("train.py", text, f"--init_from={to}", *words, "--block_size=8", f"--out_dir={tmp_path / 'tuned'}")
    assert done.status == 0, done.stderr
    first, _, last = metrics(tmp_path / "tuned")[0], *metrics(tmp_path / "tuned")[-2:]
    assert first["val_loss"] < 1.0 and last["val_loss_full"] < 1.0  # it has not forgotten what it knew
    assert shell.run("explain.py", f"--out_dir={to}", "--format=json", "--text=The old").status == 0
    assert (to / "explain.json").exists()


def test_transformers_loads_what_was_trained_and_writes_its_text(shell, trained, gpt2, tmp_path):
    transformers = pytest.importorskip("transformers")
    for folder in (trained.folder, gpt2):
        there = export(shell, folder, f"--to={tmp_path / folder.parent.name}")
        model = transformers.AutoModelForCausalLM.from_pretrained(there, local_files_only=True)
        reader = transformers.AutoTokenizer.from_pretrained(there, local_files_only=True)
        prompt = reader("The old", return_tensors="pt")
        written = reader.decode(model.generate(**prompt, max_new_tokens=9, do_sample=False)[0])
        assert sample(shell, f"--out_dir={folder}").startswith(written)


def test_the_example_of_a_model_card_is_a_program_that_runs(shell, trained, gpt2, tmp_path):
    """Blocks of 16 tokens: a GPT-2 has no positions beyond."""
    pytest.importorskip("transformers")
    for folder in (trained.folder, gpt2):
        there = Path(export(shell, folder, f"--to={tmp_path / folder.parent.name}"))
        *_, example = re.findall(r"```python\n(.*?)```", (there / "README.md").read_text(), re.DOTALL)
        (tmp_path / "example.py").write_text(example)
        done = shell.run(tmp_path / "example.py", cwd=there)
        assert done.status == 0, done.stderr
        assert len(done.stdout) == 16 + 1 and "The" in done.stdout  # print ends with a newline


def test_llama_cpp_in_float32_writes_what_was_trained(shell, trained, gpt2, tmp_path):
    pytest.importorskip("xllamacpp")
    from test_exporting import Llama

    for folder in (trained.folder, gpt2):
        path = tmp_path / f"{folder.parent.name}.gguf"
        export(shell, folder, "--format=gguf", f"--to={path}")
        written = Llama(path).complete("The old", 9)["choices"][0]["text"]
        assert sample(shell, f"--out_dir={folder}").startswith("The old" + written)


def test_a_model_goes_to_nanogpt_and_comes_back(shell, gpt2, tmp_path):
    there = export(shell, gpt2, "--format=nanogpt", f"--to={tmp_path / 'there'}")
    text = sample(shell, f"--out_dir={there}", "--past_block=half")
    assert text == sample(shell, f"--out_dir={gpt2}", "--past_block=half")
    assert sample(shell, f"--out_dir={there}") == sample(shell, f"--out_dir={gpt2}", "--past_block=slide")


def test_a_run_of_nanogpt_is_gone_on_with(shell, tmp_path):
    """A folder as nanoGPT leaves it: training goes on at its step, with its rates and on its data."""
    characters = "".join(sorted(set(easy_text())))
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "bias": False, "vocab_size": len(characters)}
    shapes = {"wte": (len(characters), 16), "wpe": (16, 16), "h.0.ln_1": (16,), "h.0.attn.c_attn": (48, 16)}
    shapes |= {"h.0.attn.c_proj": (16, 16), "h.0.ln_2": (16,), "h.0.mlp.c_fc": (64, 16), "h.0.mlp.c_proj": (16, 64)}
    shapes |= {"ln_f": (16,)}
    torch.manual_seed(0)
    weights = {
        f"transformer.{name}.weight": torch.nn.Parameter(0.02 * torch.randn(shape) + (len(shape) == 1))
        for name, shape in shapes.items()
    }
    optimizer = adamw(weights)
    for step in range(3):
        gradients(weights, step)
        optimizer.step()
    data, out = shell.folder / "data" / "from_nanogpt", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    ids = {character: number for number, character in enumerate(characters)}
    numbers = torch.tensor([ids[character] for character in easy_text()], dtype=torch.uint16)
    for name in ("train", "val"):
        (data / f"{name}.bin").write_bytes(numbers.numpy().tobytes())
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(ids), "stoi": ids, "itos": {i: c for c, i in ids.items()}}))
    config = {"dataset": data.name, "device": "cuda", "learning_rate": 1e-2, "max_iters": 60, "batch_size": 8, "min_lr": 1e-3}
    config |= {"lr_decay_iters": 60, "warmup_iters": 0, "eval_interval": 50, "eval_iters": 5, "out_dir": "out", "backend": "nccl"}
    state = {"model": {name: weight.detach() for name, weight in weights.items()}, "model_args": {**size, "dropout": 0.0}}
    state["model"]["lm_head.weight"] = state["model"]["transformer.wte.weight"]
    state |= {"optimizer": optimizer.state_dict(), "iter_num": 10, "best_val_loss": torch.tensor(9.0), "config": config}
    torch.save(state, out / "ckpt.pt")
    theirs = (out / "ckpt.pt").read_bytes()

    done = shell.run("train.py", "--init_from=resume", f"--out_dir={out}", "--sample_chars=0", "--device=cpu")
    assert done.status == 0, done.stderr
    assert (out / "nanogpt.pt").read_bytes() == theirs and str(out / "nanogpt.pt") in done.stderr
    lines = metrics(out)
    assert [line["step"] for line in lines] == [20, 30, 40, 50, 60]
    cosine = math.cos(math.pi * 19 / 60)  # as nanoGPT computes it
    assert lines[0]["learning_rate"] == pytest.approx(1e-3 + 0.5 * (1 + cosine) * 9e-3, rel=1e-6)
    assert lines[-1]["val_loss_full"] < lines[0]["train_loss"] - 0.3


MISTAKES = [
    ("export.py", ("--format=pickle",), "gguf"),
    ("export.py", ("--format=nanogpt",), "position=rope"),
    ("export.py", ("--format=gguf", "--to=model.bin"), "end in .gguf"),
    ("export.py", ("--dtype=f16",), "--format=gguf"),
    ("export.py", ("--to=config",), "name another folder"),
    ("export.py", ("elsewhere",), "--out_dir=elsewhere"),
    ("export.py", ("--out_dir=nowhere",), "nowhere"),
    ("sample.py", ("--init_from=gpt2",), "hf download openai-community/gpt2"),
    ("sample.py", ("--init_from=gpt2-xl",), "--init_from=FOLDER"),
    ("sample.py", ("--init_from=nowhere",), "nowhere"),
    ("sample.py", ("--init_from=nowhere.safetensors",), "nowhere.safetensors"),
    ("train.py", ("--init_from=gpt2-medium",), "config.json"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "words", "told"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(shell, trained, script, words, told, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # an empty cache
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    before = sorted(path for path in shell.folder.rglob("*") if "__pycache__" not in path.parts)
    folder = () if any(word.startswith("--out_dir") for word in words) else (f"--out_dir={trained.folder}",)
    done = shell.run(script, *folder, *words)
    assert done.status == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and re.search(re.escape(told), done.stderr), done.stderr
    assert sorted(path for path in shell.folder.rglob("*") if "__pycache__" not in path.parts) == before
    assert not [path for path in trained.folder.iterdir() if path.name.startswith(("huggingface", "model", ".huggingface"))]
