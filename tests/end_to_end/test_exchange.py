"""Models move in and out as a user moves them: export.py, --init_from=, resuming nanoGPT's runs."""

import math
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers.exchange import Llama, adamw, set_gradients
from helpers.shell import TINY, easy_text, metrics

from kqv.checkpoints.loading import load_checkpoint
from kqv.options.defaults import NANOGPT_FIXED

pytestmark = pytest.mark.slow

GREEDY = ("--start=The old", "--temperature=0", "--max_new_tokens=60", "--dtype=float32")
GPT2 = (
    "--position=learned",
    "--norm=layernorm",
    "--mlp=gelu",
    "--qk_norm=False",
    "--tie_weights=True",
    "--optimizer=adamw",
)


@pytest.fixture(scope="module")
def gpt2(shell, text, tmp_path_factory):
    """The folder of a tiny GPT-2 that has learnt its text."""
    folder = tmp_path_factory.mktemp("gpt2") / "run"
    done = shell.run(
        "train.py",
        text,
        TINY,
        *GPT2,
        "--learning_rate=1e-2",
        "--max_iters=200",
        f"--out_dir={folder}",
    )
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


def test_an_export_is_sampled_from_and_trained_on_like_the_run_it_came_from(
    shell, text, trained, tmp_path
):
    to, one_file = tmp_path / "there", tmp_path / "model.safetensors"
    assert export(shell, trained.folder, "--format=huggingface", f"--to={to}") == str(to)
    to_one_file = ("--format=safetensors", f"--to={one_file}")
    assert export(shell, trained.folder, *to_one_file) == str(one_file)
    written = sample(shell, f"--out_dir={trained.folder}")
    assert sample(shell, f"--init_from={to}") == written
    assert sample(shell, f"--init_from={one_file}") == written
    words = (
        "--batch_size=8",
        "--sample_chars=0",
        "--max_iters=2",
        "--learning_rate=1e-3",
        "--muon_learning_rate=1e-3",
    )
    done = shell.run(
        "train.py",
        text,
        f"--init_from={to}",
        *words,
        "--block_size=8",
        f"--out_dir={tmp_path / 'tuned'}",
    )
    assert done.status == 0, done.stderr
    first, _, last = metrics(tmp_path / "tuned")[0], *metrics(tmp_path / "tuned")[-2:]
    assert (
        first["val_loss"] < 1.0 and last["val_loss_full"] < 1.0
    )  # it has not forgotten what it knew
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
        *_, example = re.findall(
            r"```python\n(.*?)```", (there / "README.md").read_text(), re.DOTALL
        )
        (tmp_path / "example.py").write_text(example)
        done = shell.run(tmp_path / "example.py", cwd=there)
        assert done.status == 0, done.stderr
        assert len(done.stdout) == 16 + 1 and "The" in done.stdout  # print ends with a newline


def test_llama_cpp_in_float32_writes_what_was_trained(shell, trained, gpt2, tmp_path):
    pytest.importorskip("xllamacpp")

    for folder in (trained.folder, gpt2):
        path = tmp_path / f"{folder.parent.name}.gguf"
        export(shell, folder, "--format=gguf", f"--to={path}")
        written = Llama(path).complete("The old", 9)["choices"][0]["text"]
        assert sample(shell, f"--out_dir={folder}").startswith("The old" + written)


def test_a_model_goes_to_nanogpt_and_comes_back(shell, gpt2, tmp_path):
    there = export(shell, gpt2, "--format=nanogpt", f"--to={tmp_path / 'there'}")
    text = sample(shell, f"--out_dir={there}", "--past_block=half")
    assert text == sample(shell, f"--out_dir={gpt2}", "--past_block=half")
    assert sample(shell, f"--out_dir={there}") == sample(
        shell, f"--out_dir={gpt2}", "--past_block=slide"
    )


# --- nanoGPT: its checkpoints on its data, its config files on its defaults -----------------------

NANOGPT_RUN = dict(
    dataset="from_nanogpt", device="cuda", backend="nccl", out_dir="out", batch_size=8,
    learning_rate=1e-2, min_lr=1e-3, max_iters=60, lr_decay_iters=60, warmup_iters=0,
    eval_interval=50, eval_iters=5,
)  # fmt: skip
HERE = ("--sample_chars=0", "--device=cpu")


def nanogpt_run(nanogpt, data):
    """A run of 10 steps as nanoGPT leaves it in nanogpt/out, the ids of its text in `data`."""
    characters = "".join(sorted(set(easy_text())))
    size = len(characters)
    sizes = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, bias=False, vocab_size=size)
    shapes = {
        "wte": (size, 16), "wpe": (16, 16), "h.0.ln_1": (16,), "h.0.attn.c_attn": (48, 16),
        "h.0.attn.c_proj": (16, 16), "h.0.ln_2": (16,), "h.0.mlp.c_fc": (64, 16),
        "h.0.mlp.c_proj": (16, 64), "ln_f": (16,),
    }  # fmt: skip
    torch.manual_seed(0)
    weights = {
        f"transformer.{name}.weight": torch.nn.Parameter(
            0.02 * torch.randn(shape) + (len(shape) == 1)
        )
        for name, shape in shapes.items()
    }
    optimizer = adamw(weights)
    for step in range(3):
        set_gradients(weights, step)
        optimizer.step()
    model = {name: weight.detach() for name, weight in weights.items()}
    model["lm_head.weight"] = model["transformer.wte.weight"]
    state = {
        "model": model, "model_args": {**sizes, "dropout": 0.0}, "iter_num": 10,
        "optimizer": optimizer.state_dict(), "best_val_loss": torch.tensor(9.0),
        "config": NANOGPT_RUN,
    }  # fmt: skip
    out = nanogpt / "out"
    out.mkdir(parents=True)
    torch.save(state, out / "ckpt.pt")

    data.mkdir(parents=True)
    ids = {character: number for number, character in enumerate(characters)}
    numbers = torch.tensor([ids[character] for character in easy_text()], dtype=torch.uint16)
    for name in ("train", "val"):
        (data / f"{name}.bin").write_bytes(numbers.numpy().tobytes())
    meta = {"vocab_size": len(ids), "stoi": ids, "itos": dict(enumerate(characters))}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))
    return out


@pytest.mark.parametrize("beside", [True, False], ids=["its data", "our data"])
def test_a_run_of_nanogpt_is_resumed(shell, tmp_path, beside):
    """Training resumes at its step, with its rates, on the data beside it if that is there."""
    name = NANOGPT_RUN["dataset"]
    data = (tmp_path if beside else shell.folder) / "data" / name
    shutil.rmtree(shell.folder / "data" / name, ignore_errors=True)
    out = nanogpt_run(tmp_path, data)
    if beside:  # what lies in a checkout of another project is not run
        (data / "prepare.py").write_text("raise SystemExit('prepare.py was run')")
    theirs = (out / "ckpt.pt").read_bytes()

    done = shell.run("train.py", "--init_from=resume", f"--out_dir={out}", *HERE)
    assert done.status == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "val.bin" in line)
    assert (f"{data}: its train.bin" if beside else f"kqv's data/{name} is used") in line
    assert (out / "nanogpt.pt").read_bytes() == theirs and str(out / "nanogpt.pt") in done.stderr
    lines = metrics(out)
    assert [line["step"] for line in lines] == [20, 30, 40, 50, 60]
    cosine = math.cos(math.pi * 19 / 60)  # as nanoGPT computes it
    assert lines[0]["learning_rate"] == pytest.approx(1e-3 + 0.5 * (1 + cosine) * 9e-3, rel=1e-6)
    assert lines[-1]["val_loss_full"] < lines[0]["train_loss"] - 0.3
    again = shell.run("train.py", "--init_from=resume", f"--out_dir={out}", *HERE, "--max_iters=61")
    assert again.status == 0, again.stderr  # it is our run now, and still knows its data


def test_a_model_of_nanogpt_s_is_measured_and_tuned_on_the_data_beside_it(shell, text, tmp_path):
    data = tmp_path / "nanoGPT" / "data" / NANOGPT_RUN["dataset"]
    out = nanogpt_run(tmp_path / "nanoGPT", data)
    init = f"--init_from={out}"
    for words in ((init, "--eval_only"), ("--init_from=resume", f"--out_dir={out}", "--eval_only")):
        done = shell.run("train.py", *words, *HERE)
        assert done.status == 0, done.stderr
        assert "validation loss" in done.stdout and f"{data}: its train.bin" in done.stderr
    tune = (init, "--optimizer=adamw", "--max_iters=1", *HERE, f"--out_dir={tmp_path / 'tuned'}")
    done = shell.run("train.py", *tune)
    assert done.status == 0 and f"{data}: its train.bin" in done.stderr, done.stderr
    assert load_checkpoint(tmp_path / "tuned" / "last.pt")["config"]["dataset"] == str(data)
    done = shell.run("train.py", text, *tune)
    assert done.status == 0 and str(data) not in done.stderr, done.stderr  # a text was named


def test_a_config_file_of_nanogpt_s_trains_nanogpt_s_model(shell, text, tmp_path):
    """What it does not set comes from nanoGPT's defaults, what is given from the command line."""
    config = tmp_path / "train_char.py"
    config.write_text(
        "out_dir = 'out-char'\nalways_save_checkpoint = False\nwandb_log = False\nbatch_size = 8\n"
        "gradient_accumulation_steps = 1\nn_layer = 2\nn_head = 2\nn_embd = 16\nblock_size = 16\n"
        "learning_rate = 1e-2\nlr_decay_iters = 4\nmin_lr = 1e-3\nwarmup_iters = 1\nmax_iters = 4\n"
    )
    out = tmp_path / "out"
    done = shell.run("train.py", text, config, "--n_layer=1", f"--out_dir={out}", *HERE)
    assert done.status == 0, done.stderr
    assert done.stderr.startswith(f"{config} is a config file of nanoGPT's (it sets wandb_log, ")
    assert "--like=kqv" in done.stderr.splitlines()[0]
    checkpoint = load_checkpoint(out / "last.pt")
    settings, shape = checkpoint["config"], checkpoint["model_args"]
    expected = NANOGPT_FIXED | dict(weight_decay=0.1, beta2=0.95, eval_iters=200, like="nanogpt")
    assert {name: settings[name] for name in expected} == expected
    assert (shape["n_layer"], shape["weight_init"], shape["tie_weights"]) == (1, "gpt2", True)
    rates = [line["learning_rate"] for line in metrics(out) if "learning_rate" in line]
    assert rates[:2] == [pytest.approx(0.5e-2), pytest.approx(1e-2)]  # warm-up, then a cosine
    assert rates[2] == pytest.approx(1e-3 + 0.5 * (1 + math.cos(math.pi / 3)) * 9e-3)

    resume = ("--init_from=resume", f"--out_dir={out}", "--n_layer=1", "--max_iters=5")
    done = shell.run("train.py", text, config, *resume, *HERE)
    assert done.status == 0 and "is a config file" not in done.stderr, done.stderr
    ours = ("--like=kqv", f"--out_dir={tmp_path / 'ours'}")
    done = shell.run("train.py", text, config, *ours, *HERE)
    assert done.status == 0 and "is a config file" not in done.stderr, done.stderr
    assert load_checkpoint(tmp_path / "ours" / "last.pt")["config"]["optimizer"] == "muon"


def test_a_config_that_tunes_gpt2_does_as_in_nanogpt(shell, text, gpt2, tmp_path):
    """The values of nanoGPT's finetune_shakespeare.py and eval_gpt2.py, of a small GPT-2."""
    there = export(shell, gpt2, f"--to={tmp_path / 'there'}")
    tune, measure = tmp_path / "finetune.py", tmp_path / "eval.py"
    tune.write_text(
        "import time\n\nout_dir = 'out-tuned'\neval_interval = 5\neval_iters = 40\n"
        "wandb_log = False\n"
        f"wandb_run_name = 'ft-' + str(time.time())\ninit_from = {there!r}\n"
        "always_save_checkpoint = False\nbatch_size = 1\ngradient_accumulation_steps = 32\n"
        "max_iters = 2\nlog_interval = 1\nlearning_rate = 3e-5\ndecay_lr = False\n"
    )
    measure.write_text(
        "batch_size = 8\neval_iters = 500\neval_only = True\nwandb_log = False\n"
        f"init_from = {there!r}\n"
    )
    done = shell.run("train.py", text, tune, f"--out_dir={tmp_path / 'tuned'}", *HERE)
    assert done.status == 0 and "nanoGPT's defaults are taken" in done.stderr, done.stderr
    checkpoint = load_checkpoint(tmp_path / "tuned" / "last.pt")
    settings, shape = checkpoint["config"], checkpoint["model_args"]
    assert settings["optimizer"] == "adamw"
    assert (settings["weight_decay"], settings["beta2"]) == (0.1, 0.95)
    sizes = (shape["n_layer"], shape["n_embd"], shape["block_size"])
    assert sizes == (1, 16, 16)  # the model's own
    lines = metrics(tmp_path / "tuned")
    assert {line["learning_rate"] for line in lines if "learning_rate" in line} == {3e-5}
    assert lines[0]["val_loss"] < 1.0  # it begins with what it knew
    before = sorted(tmp_path.rglob("*"))
    done = shell.run("train.py", text, measure, *HERE, cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert done.stdout.startswith("validation loss ")
    assert sorted(tmp_path.rglob("*")) == before


def test_nanogpt_s_recipe_is_planned_and_compared(shell, text, tmp_path):
    done = shell.run("train.py", "--like=nanogpt", "--dry_run", "--rate=100000", "--device=cpu")
    assert done.status == 0, done.stderr
    for part in ("124,373,760", "50,304 ids (50,257 of gpt2)", "491,520 a step", "adamw"):
        assert part in done.stdout
    config, tiny = tmp_path / "small.py", "n_layer = 3\nn_head = 2\nn_embd = 16\nblock_size = 16\n"
    signs = "wandb_log = False\nlr_decay_iters = 2\n"
    config.write_text(f"{tiny}{signs}batch_size = 4\nmax_iters = 2\n")
    words = ("--gradient_accumulation_steps=1", "--eval_iters=1", "--device=cpu")
    done = shell.run("compare.py", config, text, *words, f"--out_dir={tmp_path / 'compared'}")
    assert done.status == 0 and "nanoGPT's defaults are taken" in done.stderr, done.stderr
    (run,) = (tmp_path / "compared" / "runs").iterdir()
    settings = load_checkpoint(run / "last.pt")["config"]
    expected = dict(n_layer=3, optimizer="adamw", weight_init="gpt2", weight_decay=0.1)
    assert {name: settings[name] for name in expected} == expected  # 3 layers are our default, too
    assert "like = 'nanogpt'" in (tmp_path / "compared" / "report.md").read_text()


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
def test_a_mistake_is_one_line_and_leaves_nothing(
    shell, trained, script, words, told, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # an empty cache
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    before = files_of(shell)
    folder = [f"--out_dir={trained.folder}"]
    if any(word.startswith("--out_dir") for word in words):
        folder = []
    done = shell.run(script, *folder, *words)
    assert done.status == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and told in done.stderr, done.stderr
    assert files_of(shell) == before
    names = [path.name for path in trained.folder.iterdir()]
    assert not [name for name in names if name.startswith(("huggingface", "model", ".huggingface"))]


def files_of(shell):
    """All files of the copy of the project."""
    return sorted(path for path in shell.folder.rglob("*") if "__pycache__" not in path.parts)
