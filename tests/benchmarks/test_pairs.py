"""What a user can rely on of the benchmarks of pairs: both sides have the same batch, and the same
weights. (The logits agree to 1e-6 with the real class, which tests do not have.)"""

import torch

from benchmarks.training_pairs import VOCABULARY, write_pairs
from benchmarks.translating import MODEL, peer_weights
from kqv.options.config import GPTConfig
from model import GPT

ATTENTION = ["w_qs.weight", "w_ks.weight", "w_vs.weight", "fc.weight"]
NORM = ["layer_norm.weight", "layer_norm.bias"]
MLP = ["w_1.weight", "w_1.bias", "w_2.weight", "w_2.bias"]
LAYER = [f"{part}.{name}" for part, names in {
    "slf_attn": ATTENTION + NORM, "pos_ffn": MLP + NORM,
}.items() for name in names]  # fmt: skip
CROSS = [f"enc_attn.{name}" for name in ATTENTION + NORM]


def test_all_weights_have_the_peers_names_and_its_further_biases_are_zero():
    shape = {name: MODEL[name] for name in ("embedding_norm", "bias")}
    config = GPTConfig(
        vocab_size=9, architecture="encoder_decoder", n_layer=1, n_head=2, n_embd=8, block_size=8,
        position="sinusoidal", norm="layernorm", norm_first=False, qk_norm=False, mlp="relu",
        tie_weights=True, **shape,
    )  # fmt: skip
    weights = GPT(config).state_dict()
    theirs = peer_weights(weights)
    assert sorted(theirs) == sorted(
        ["trg_word_prj.weight", "encoder.src_word_emb.weight", "decoder.trg_word_emb.weight"]
        + [f"{stack}.{name}" for stack in ("encoder", "decoder") for name in NORM]
        + [f"encoder.layer_stack.0.{name}" for name in LAYER]
        + [f"decoder.layer_stack.0.{name}" for name in LAYER + CROSS]
    )
    values = {tensor.data_ptr() for name, tensor in theirs.items() if not name.endswith("bias")}
    assert values == {tensor.data_ptr() for tensor in weights.values()}
    assert not any(tensor.any() for name, tensor in theirs.items() if name.endswith("bias"))
    assert torch.equal(
        theirs["decoder.layer_stack.0.enc_attn.w_ks.weight"],
        weights["blocks.0.cross_attention.key.weight"],
    )


def test_pairs_for_speed_have_one_length_and_as_many_letters_as_the_peer_has_tokens(tmp_path):
    texts = write_pairs(tmp_path, batch=128, length=16)
    pairs = [line.split("\t") for line in texts["train"].read_text(encoding="utf-8").splitlines()]
    assert {(len(source), len(target)) for source, target in pairs} == {(16, 15)}
    letters = {letter for pair in pairs for side in pair for letter in side}
    assert len(pairs) % 128 == 0 and len(letters) == VOCABULARY - 2
