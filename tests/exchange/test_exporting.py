"""What a user can rely on of an export: the other side computes what ours does, reads and writes the same texts, and a model
that it cannot express is refused before anything is written."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.exchange import CHARACTERS, Llama, learnt_pairs
from helpers.models import random_ids, randomised
from hypothesis import given
from hypothesis import strategies as st

import export
from kqv.checkpoints.single import load_model, model_state, save_checkpoint
from kqv.errors import MachineError, UserError
from kqv.exchange.gguf import to_gguf
from kqv.exchange.huggingface import to_huggingface, to_nanogpt, to_onnx, to_safetensors
from kqv.exchange.tokenizer_json import from_tokenizer_json, merges, to_tokenizer_json
from kqv.generation.checks import forget
from kqv.generation.sampling import generate_text
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from model import GPT, GPT2, MLP, Attention, GPTConfig

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {**GPT2, "bias": True}, "gpt2 without biases": GPT2, "gpt2 tanh": {**GPT2, "mlp": "gelu_tanh", "bias": True},
    "gpt2 untied": {**GPT2, "tie_weights": False}, "qwen3": {}, "qwen3 tied": {"tie_weights": True},
    "qwen3 of other widths": {"mlp_width": 48, "rope_base": 1e6}, "gpt2 of another width": {**GPT2, "mlp_width": 48},
}  # fmt: skip
PROMPT = "Hats a  é\nis 😀\n\n"
TEXTS = [
    "",
    "a",
    " ",
    "   a  b",
    "\n\n \n",
    "é山😀",
    "He said: \"no\", 'no' \\ |\n\ttab",
    "Hat " * 5,
    "<unk>",
]
RECIPE = {"dataset": "cache/animals-1", "learning_rate": 0.02}
CHECKPOINT = {
    "config": RECIPE, "iter_num": 20, "best_val_loss": 2.5, "text": "ab12", "sources": ["/home/me/my animals.txt"],
}  # fmt: skip


def shaped(
    shape: str, tokenizer: Tokenizer | None = None, block_size: int = 96
) -> tuple[GPT, Tokenizer]:
    tokenizer = tokenizer or CharTokenizer(CHARACTERS)
    sizes = {
        "vocab_size": tokenizer.vocab_size,
        "block_size": block_size,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
    }
    return randomised(GPTConfig(**sizes, **SHAPES[shape])), tokenizer


def greedy(model: GPT, tokenizer: Tokenizer, prompt: str = PROMPT) -> str:
    return generate_text(model, tokenizer, prompt, SampleSettings(temperature=0, max_new_tokens=60))


# --- Hugging Face -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_computes_the_same_and_writes_the_same_text(
    shape: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = shaped(shape)
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "there", local_files_only=True
    )
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "there", local_files_only=True)
    ids = random_ids(model.config)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    prompt = reader(PROMPT, return_tensors="pt")
    assert prompt["input_ids"].tolist() == [tokenizer.encode(PROMPT)]
    assert reader.decode(
        theirs.generate(**prompt, max_new_tokens=60, do_sample=False)[0]
    ) == PROMPT + greedy(model, tokenizer)

    back, its_tokenizer, *_ = load_model(str(tmp_path / "there"))
    assert its_tokenizer == tokenizer
    with torch.no_grad():
        torch.testing.assert_close(back.eval()(ids), model(ids), atol=1e-6, rtol=0)


VOCABULARIES: dict[str, Callable[[], Tokenizer]] = {
    "characters": lambda: CharTokenizer(CHARACTERS + "<k>"), "bytes": ByteTokenizer,
    "byte pairs": lambda: from_tokenizer_json(learnt_pairs()),
    "byte pairs without an end": lambda: from_tokenizer_json(learnt_pairs(end=False)),
}  # fmt: skip


ENDS: dict[str, set[int]] = {
    "bytes": set(),
    "byte pairs": {276},
    "byte pairs without an end": {187},
}  # the last one is 0xFF


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_the_library_of_hugging_face_reads_and_writes_texts_as_ours(kind: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = VOCABULARIES[kind]()
    data = to_tokenizer_json(ours)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    for text in [*TEXTS, "the cat's hat  sat\n\n on 12 mats é"]:
        if not ours.knows(text):
            continue
        assert theirs.encode(text).ids == ours.encode(text)
        assert theirs.decode(ours.encode(text), skip_special_tokens=False) == text
    assert from_tokenizer_json(data) == ours
    assert from_tokenizer_json(json.loads(theirs.to_str())) == ours


def test_an_unknown_character_raises_and_never_vanishes() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(to_tokenizer_json(CharTokenizer(CHARACTERS))))
    with pytest.raises(Exception, match="Missing"):
        theirs.encode("aQa")


def test_merges_are_found_again_from_the_order_of_the_tokens() -> None:
    data = learnt_pairs()
    ours = to_tokenizer_json(from_tokenizer_json(data))["model"]["merges"]
    assert [tuple(pair) for pair in ours] == [tuple(pair) for pair in data["model"]["merges"]]
    with pytest.raises(UserError):
        merges([b"a", b"b", b"c", b"abc"])


def slow_merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]] | None:
    """By the definition: as long as there are more than two parts, merge the first pair of the lowest rank."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    found = []
    for token, own in ranks.items():
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            rank, i = min(
                (ranks.get(parts[i] + parts[i + 1], own), i) for i in range(len(parts) - 1)
            )
            if rank >= own:
                return None
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        found += [(parts[0], parts[1])] if len(parts) == 2 else []
    return found


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=10),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_merges_are_those_of_the_definition(
    pairs: list[tuple[int, int]], random: Any, mixed: bool
) -> None:
    tokens = [b"a", b"b"]
    for left, right in pairs:
        tokens.append(tokens[left % len(tokens)] + tokens[right % len(tokens)])
    tokens = list(dict.fromkeys(tokens))
    if mixed:
        random.shuffle(tokens)
    try:
        assert merges(tokens) == slow_merges(tokens)
    except UserError:
        assert slow_merges(tokens) is None


def test_a_long_token_has_its_merges_soon() -> None:
    doubled = [b"a" * (1 << i) for i in range(13)]
    assert merges(doubled)[-1] == (b"a" * 2048, b"a" * 2048)


def test_the_card_tells_the_recipe_the_text_and_the_loss(tmp_path: Path) -> None:
    to_huggingface(*shaped("qwen3"), CHECKPOINT, tmp_path / "there")
    card = (tmp_path / "there" / "README.md").read_text()
    for part in ("2.5000 nats", "ab12", "learning_rate = 0.02", "Qwen3", "2 layers of 32"):
        assert part in card


def test_the_card_calls_the_text_what_its_user_calls_it(tmp_path: Path) -> None:
    to_huggingface(*shaped("qwen3"), CHECKPOINT, tmp_path / "there")
    assert "- text: my animals.txt\n" in (tmp_path / "there" / "README.md").read_text()
    older = {name: value for name, value in CHECKPOINT.items() if name != "sources"}
    to_huggingface(*shaped("qwen3"), older, tmp_path / "older")
    assert "- text: cache/animals-1\n" in (tmp_path / "older" / "README.md").read_text()


def use_of_card(folder: Path) -> str:
    """The example of a model card, Python as it stands there."""
    card = (folder / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", card[card.index("## Use") :], re.DOTALL)[0]


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
@pytest.mark.parametrize("block_size", [1, 24])
def test_the_example_of_the_card_runs_as_it_stands(
    shape: str,
    kind: str,
    block_size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    pytest.importorskip("transformers")
    model, tokenizer = shaped(shape, VOCABULARIES[kind](), block_size)
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    torch.manual_seed(0)
    made: dict[str, Any] = {}
    exec(use_of_card(Path()), made)
    assert capsys.readouterr().out.startswith("\n")
    assert made["options"]["max_new_tokens"] == max(1, block_size - 1)


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
def test_a_padded_batch_is_continued_like_each_of_its_prompts(
    shape: str, kind: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = shaped(shape, VOCABULARIES[kind]())
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "there", local_files_only=True
    )
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "there", local_files_only=True)
    prompts = ["a", "Hats a  é\nis 😀\n\n", "the mat", reader.pad_token + "H"]
    prompts = [prompt for prompt in prompts if tokenizer.knows(prompt)]
    batch = reader(prompts, padding=True, return_tensors="pt")
    start = batch["input_ids"].shape[1]
    assert batch["attention_mask"].sum(dim=1).tolist() == [
        len(tokenizer.encode_prompt(prompt)) for prompt in prompts
    ]
    written = theirs.generate(**batch, max_new_tokens=40, do_sample=False)
    for prompt, ids in zip(prompts, written, strict=True):
        alone = reader(prompt, return_tensors="pt")
        assert alone["input_ids"][0].tolist() == tokenizer.encode_prompt(prompt)
        expected = theirs.generate(**alone, max_new_tokens=40, do_sample=False)[
            0, alone["input_ids"].shape[1] :
        ]
        assert ids[start:].tolist() == expected.tolist()

    # no number of the model is another, and what transformers saves of it comes back
    assert (
        theirs.config.vocab_size
        == model.config.vocab_size
        == theirs.get_input_embeddings().num_embeddings
    )
    theirs.save_pretrained(tmp_path / "again")
    reader.save_pretrained(tmp_path / "again")
    for folder in ("there", "again"):
        back, its_tokenizer, *_ = load_model(str(tmp_path / folder))
        assert its_tokenizer == tokenizer
        assert all(
            torch.equal(weight, back.state_dict()[name])
            for name, weight in model.state_dict().items()
        )


@pytest.mark.parametrize("rare", ["山", "H", "\n"])
def test_the_character_that_the_model_expects_least_pads_and_the_card_says_so(
    rare: str, tmp_path: Path
) -> None:
    """transformers leaves it out of what a pipeline writes: that must be told, and be seldom missed."""
    transformers = pytest.importorskip("transformers")
    model, tokenizer = shaped("gpt2")
    model.norm.bias.data[:] = 1
    model.head.weight.data[
        tokenizer.encode(rare)
    ] = -1  # times that bias, summed: far below all others
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "there", local_files_only=True)
    assert (reader.pad_token, reader.padding_side) == (rare, "left")
    ids = reader(PROMPT)["input_ids"]
    assert reader.decode(ids) == PROMPT and reader.decode(
        ids, skip_special_tokens=True
    ) == PROMPT.replace(rare, "")
    card = (tmp_path / "there" / "README.md").read_text()
    assert (
        f"pads a batch on the left with `{rare!r}`" in card and "skip_special_tokens=True" in card
    )


@pytest.mark.parametrize("kind", ["bytes", "byte pairs", "byte pairs without an end"])
def test_padding_takes_nothing_from_texts_of_bytes(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = shaped("qwen3", VOCABULARIES[kind]())
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "there", local_files_only=True)
    for text in [*TEXTS, "ÿ", "señor ÿ"]:  # ÿ is the name of the byte 0xFF there
        ids = reader(text)["input_ids"]
        assert ids == tokenizer.encode(text)
        assert reader.decode(ids, skip_special_tokens=True) == text


def test_the_card_names_what_finds_an_unknown_character(tmp_path: Path) -> None:
    """The library's own error does not name it."""
    transformers = pytest.importorskip("transformers")
    to_huggingface(*shaped("qwen3"), CHECKPOINT, tmp_path / "there")
    card = (tmp_path / "there" / "README.md").read_text()
    (expression,) = re.findall(r"`(set\(text\).*?)` names", card)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        tmp_path / "there", local_files_only=True
    )
    with pytest.raises(Exception, match=re.escape("Missing [UNK] token")):
        tokenizer("a Queer Zoo")
    assert "Missing [UNK] token" in card
    assert eval(expression, {"text": "a Queer Zoo", "tokenizer": tokenizer}) == {"Q", "Z"}


# --- llama.cpp ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def our_loss(model: GPT, ids: list[int]) -> float:
    logits = model(torch.tensor([ids[:-1]]))
    return float(torch.nn.functional.cross_entropy(logits[0], torch.tensor(ids[1:])))


@torch.no_grad()
def lead(model: GPT, ids: list[int]) -> float:
    """By how much the likeliest next token is likelier than the second, in nats. llama.cpp looks GELU up in a table of
    16 bits, so that near-ties may come out the other way."""
    first, second = model(torch.tensor([ids]))[0, -1].topk(2).values.tolist()
    return first - second


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_llama_cpp_has_our_loss_and_in_float32_our_text_up_to_near_ties(
    shape: str, dtype: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    model, tokenizer = shaped(shape)
    narrow = dtype == "q8_0" and "mlp_width" in SHAPES[shape]  # 48 is no multiple of 32
    assert to_gguf(model, tokenizer, dtype, tmp_path / "model.gguf") == (
        ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"] if narrow else []
    )
    llama = Llama(tmp_path / "model.gguf")
    ids = tokenizer.encode("The hat is on the mat, and\nthe é is 😀 " * 2)[:24]
    far = {"f32": 0.002, "f16": 0.01, "q8_0": 0.05}[dtype]
    assert llama.loss(ids, tokenizer.vocab_size) == pytest.approx(our_loss(model, ids), abs=far)
    if dtype == "f32":
        theirs, ours = llama.complete(PROMPT, 60)["choices"][0]["text"], greedy(model, tokenizer)
        same = next((i for i in range(60) if theirs[i] != ours[i]), 60)
        assert same >= 20 and (
            same == 60 or lead(model, tokenizer.encode(PROMPT + ours[:same])) < 0.01
        )


@pytest.mark.parametrize("kind", ["bytes", "byte pairs", "byte pairs without an end"])
def test_llama_cpp_reads_other_vocabularies(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model, tokenizer = shaped("gpt2", VOCABULARIES[kind]())
    # llama.cpp tells nothing of a token that is half a character, and 0xFF is the end where there is no other
    halves = [
        token for token in range(tokenizer.vocab_size) if "\ufffd" in tokenizer.decode([token])
    ]
    model.embedding.weight.data[halves] = 0
    to_gguf(model, tokenizer, "f32", tmp_path / "model.gguf")
    for prompt in ("the cat's hat  sat\n\n on é", " the mat", "12 bats"):
        ids = tokenizer.encode(prompt)
        answer = Llama(tmp_path / "model.gguf").complete(prompt, 1, n_probs=1)
        assert answer["usage"]["prompt_tokens"] == len(ids)
        with torch.no_grad():
            (token,) = answer["choices"][0]["logprobs"]["content"]
            assert token["id"] == int(model(torch.tensor([ids]))[0, -1].argmax())
    # none of our tokens ends a text: not 11, which llama.cpp takes if it is not told, nor another
    llama = Llama(tmp_path / "model.gguf")
    for token in set(range(tokenizer.vocab_size)) - ENDS[kind]:
        answer = llama.complete("the mat", 3, n_probs=1, logit_bias=[[token, 1000.0]])
        assert answer["usage"]["completion_tokens"] == 3
        if token not in halves:
            assert [each["id"] for each in answer["choices"][0]["logprobs"]["content"]] == [
                token
            ] * 3


def test_llama_cpp_refuses_an_unknown_character(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    to_gguf(*shaped("gpt2"), "f32", tmp_path / "model.gguf")
    assert "invalid tokens" in Llama(tmp_path / "model.gguf").complete("HQ", 1)["error"]["message"]


# --- nanoGPT, ONNX, safetensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["gpt2", "gpt2 without biases"])
def test_what_nanogpt_gets_is_its_layout_and_comes_back(shape: str, tmp_path: Path) -> None:
    model, tokenizer = shaped(shape)
    to_nanogpt(model, tokenizer, CHECKPOINT, tmp_path / "there")
    state = torch.load(tmp_path / "there" / "ckpt.pt", weights_only=True)
    biased = shape == "gpt2"
    assert state["model_args"] == {
        "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 96, "bias": biased, "vocab_size": len(CHARACTERS), "dropout": 0.0
    }  # fmt: skip
    assert len(state["model"]) == 3 + 2 * (12 if biased else 6) + (2 if biased else 1)
    assert state["model"]["transformer.h.1.attn.c_attn.weight"].shape == (96, 32)
    assert state["config"]["dataset"] == "animals-1"
    meta = pickle.loads((tmp_path / "there" / "meta.pkl").read_bytes())
    assert meta["vocab_size"] == len(CHARACTERS)
    assert "".join(meta["itos"][meta["stoi"][character]] for character in PROMPT) == PROMPT
    back, its_tokenizer, checkpoint, _ = load_model(str(tmp_path / "there"))
    assert its_tokenizer == tokenizer and checkpoint["iter_num"] == 20
    assert all(
        torch.equal(weight, back.state_dict()[name]) for name, weight in model.state_dict().items()
    )


@pytest.mark.parametrize("shape", ["gpt2", "qwen3 tied"])
def test_a_safetensors_file_has_weights_and_settings(shape: str, tmp_path: Path) -> None:
    model, tokenizer = shaped(shape)
    to_safetensors(model, tokenizer, CHECKPOINT, tmp_path / "model.safetensors")
    back, its_tokenizer, *_ = load_model(str(tmp_path / "model.safetensors"))
    assert back.config == model.config and its_tokenizer == tokenizer
    assert all(
        torch.equal(weight, back.state_dict()[name]) for name, weight in model.state_dict().items()
    )


@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
def test_onnxruntime_computes_the_same_for_any_batch_and_length(shape: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, tokenizer = shaped(shape)
    to_onnx(model, tokenizer, tmp_path / "model.onnx")
    session = runtime.InferenceSession(
        str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    for batch, time in ((1, 1), (3, 40), (1, 96)):
        ids = random_ids(model.config, batch, time)
        (logits,) = session.run(["logits"], {"ids": ids.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(ids), atol=1e-4, rtol=0)


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """`run(shape, options...)`: export.py on a checkpoint of this shape. Returns the folder of the checkpoint."""

    def do(options: dict[str, Any], *words: str) -> Path:
        tokenizer = CharTokenizer(CHARACTERS)
        config = GPTConfig(
            vocab_size=tokenizer.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=16, **options
        )
        (tmp_path / "run").mkdir(exist_ok=True)
        save_checkpoint(
            tmp_path / "run" / "ckpt.pt", model_state(randomised(config), tokenizer) | CHECKPOINT
        )
        export.main([f"--out_dir={tmp_path / 'run'}", *words])
        return tmp_path / "run"

    return do


@pytest.mark.parametrize("form", ["huggingface", "gguf", "nanogpt"])
@pytest.mark.parametrize(
    "option",
    [{"mask": "future"}, {"window": 3}, {"attention_scale": "dim"}, {"attention_score": "linear"}],
)
def test_a_model_that_a_format_cannot_express_leaves_nothing(
    form: str, option: dict[str, Any], run: Callable, tmp_path: Path, refused: Callable
) -> None:
    (name, value), *_ = option.items()
    with refused(f"{name}={value}"):
        run(option, f"--format={form}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ckpt.pt"]


@pytest.mark.parametrize("form", ["huggingface", "gguf", "nanogpt"])
@pytest.mark.parametrize("kind", [MLP, Attention, GPT])
def test_a_model_whose_formula_was_changed_is_not_handed_on_as_one_of_a_family(
    form: str,
    kind: Any,
    run: Callable,
    tmp_path: Path,
    refused: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = kind.forward
    forget()
    monkeypatch.setattr(kind, "forward", lambda *inputs, **more: 1.01 * forward(*inputs, **more))
    try:
        with refused("model.py was changed", "GPT-2", "--format=onnx"):
            run(SHAPES["gpt2"], f"--format={form}")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["ckpt.pt"]
        run(SHAPES["gpt2"], "--format=safetensors")
    finally:
        forget()


def test_nanogpt_takes_its_own_shape_only(run: Callable, tmp_path: Path, refused: Callable) -> None:
    with refused("position=rope", "nanoGPT"):
        run({}, "--format=nanogpt")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ckpt.pt"]


def test_an_export_replaces_one_of_ours_and_nothing_else(
    run: Callable, tmp_path: Path, refused: Callable
) -> None:
    folder = run({}, "--format=huggingface")
    assert (run({}, "--format=huggingface") / "huggingface" / "config.json").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    run({}, f"--to={precious}")  # empty, so nothing is lost
    (tmp_path / "precious" / "notes.txt").write_text("added by hand")
    before = sorted(precious.iterdir())
    for target in (precious, folder, folder / "ckpt.pt"):
        with refused(str(target), "another folder"):
            run({}, f"--to={target}")
    assert sorted(precious.iterdir()) == before
    with refused("end in .gguf"):
        run({}, "--format=gguf", f"--to={folder / 'ckpt.pt'}")
    with refused("dtype=f16"):
        run({}, "--dtype=f16")
    assert {path.name for path in folder.iterdir()} == {"ckpt.pt", "huggingface"}


@pytest.mark.parametrize("form", ["huggingface", "gguf", "nanogpt", "safetensors"])
def test_a_full_disk_leaves_nothing_half_written(
    form: str, run: Callable, tmp_path: Path, small_disk: Callable
) -> None:
    run(SHAPES["gpt2"], f"--format={form}")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    small_disk(1000)
    with pytest.raises((MachineError, OSError)):
        export.main([f"--out_dir={tmp_path / 'run'}", f"--format={form}"])
    small_disk(1 << 30)
    assert {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
    } == before
