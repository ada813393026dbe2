"""The Transformer of 2017, BERT and T5 come out exact: the real classes with random weights, which
are copied by the tables that export and import use, compute the same in float32."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.models import randomised
from torch import Tensor, nn

from kqv.exchange.config_json import from_config_json, to_config_json
from kqv.exchange.families import places, to_ours, to_theirs
from kqv.options.config import BERT, T5
from kqv.positions import relative_buckets
from model import GPT, PADDING, GPTConfig

SIZE: dict[str, Any] = dict(vocab_size=29, block_size=300, n_layer=2, n_head=4, n_embd=32)
LENGTHS = [300, 1, 150]  # of the sources of a batch, longest first


def ids(batch: int, time: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(29, (batch, time), generator=generator)


def padded_source() -> Tensor:
    """Sources of LENGTHS, (batch, longest)."""
    source = ids(len(LENGTHS), max(LENGTHS), seed=1)
    for row, length in enumerate(LENGTHS):
        source[row, length:] = PADDING
    return source


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


# --- the Transformer of 2017 --------------------------------------------------------------------

TRANSFORMER: dict[str, Any] = dict(
    architecture="encoder_decoder", position="sinusoidal", norm="layernorm", mlp="relu",
    qk_norm=False, bias=True, scale_embedding=True, tie_weights=True, encoder_layers=3,
)  # fmt: skip


def their_transformer(config: GPTConfig) -> nn.Transformer:
    """torch's Transformer of this shape. The paper's post-norm has no norm after the last block,
    where torch's default has one."""
    options: dict[str, Any] = dict(
        d_model=config.n_embd, nhead=config.n_head, dim_feedforward=config.hidden, dropout=0.0,
        activation="relu", batch_first=True, norm_first=config.norm_first,
    )  # fmt: skip
    encoder_norm, decoder_norm = (
        nn.LayerNorm(config.n_embd) if config.norm_first else None for _ in range(2)
    )
    encoder_layer, decoder_layer = (
        nn.TransformerEncoderLayer(**options),
        nn.TransformerDecoderLayer(**options),
    )
    options |= {
        "custom_encoder": nn.TransformerEncoder(
            encoder_layer, config.encoder.n_layer, encoder_norm, enable_nested_tensor=False
        ),
        "custom_decoder": nn.TransformerDecoder(decoder_layer, config.n_layer, decoder_norm),
    }
    return nn.Transformer(**options).eval()


def transformer_weights(model: GPT) -> dict[str, Tensor]:
    """Our weights under the names of torch.nn.Transformer."""
    norms = {"attention_norm": "norm1", "cross_norm": "norm2", "mlp_norm": "norm3"}
    attentions = {"attention": "self_attn", "cross_attention": "multihead_attn"}
    found = {}
    for ours, theirs in (("encoder.blocks", "encoder.layers"), ("blocks", "decoder.layers")):
        for i, block in enumerate(model.get_submodule(ours)):
            names = {"mlp.up": "linear1", "mlp.down": "linear2"} | norms
            if ours == "encoder.blocks":
                names = {**names, "mlp_norm": "norm2"}
            for name, attention in attentions.items():
                names[f"{name}.output"] = f"{attention}.out_proj"
                for kind in ("weight", "bias"):
                    parts = [
                        dict(block.named_parameters()).get(f"{name}.{each}.{kind}")
                        for each in ("query", "key", "value")
                    ]
                    if parts[0] is not None:
                        found[f"{theirs}.{i}.{attention}.in_proj_{kind}"] = torch.cat(parts)
            for name, weight in block.named_parameters():
                module, _, kind = name.rpartition(".")
                if module in names:
                    found[f"{theirs}.{i}.{names[module]}.{kind}"] = weight
    for stack in ("encoder", "decoder"):
        norm = model.encoder.norm if stack == "encoder" else model.norm
        found |= {f"{stack}.norm.{name}": weight for name, weight in norm.named_parameters()}
    return found


@pytest.mark.parametrize("norm_first", [False, True])
@torch.no_grad()
def test_the_transformer_of_2017_is_torch_s_with_both_orders_of_norms(norm_first: bool) -> None:
    config = GPTConfig(**SIZE, **TRANSFORMER, norm_first=norm_first)
    model, theirs = randomised(config), their_transformer(config)
    theirs.load_state_dict(transformer_weights(model), strict=True)
    source, target = padded_source(), ids(len(LENGTHS), 40)
    padding, future = source == PADDING, nn.Transformer.generate_square_subsequent_mask(40)
    embedded = model.encoder.embed(source.clamp_min(0), 0), model.embed(target, 0)
    hidden = theirs(
        *embedded,
        tgt_mask=future,
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
        tgt_is_causal=True,
    )
    encoded = model.encode(source)
    ours = model.run(target, source=encoded, source_mask=(source != PADDING)[:, None, None, :])
    assert_close(ours, hidden)
    assert_close(model(target, source=source), hidden @ model.head.weight.T)


# --- BERT and T5 --------------------------------------------------------------------------------


def options_of(config: GPTConfig) -> dict[str, Any]:
    options = to_config_json(config)
    return {key: options[key] for key in options if key not in ("architectures", "model_type")}


@pytest.mark.parametrize("mlp", ["gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-12, 0.1])
@torch.no_grad()
def test_hidden_states_are_those_of_bert(mlp: str, epsilon: float) -> None:
    transformers = pytest.importorskip("transformers")
    options = {**BERT, "mlp": mlp, "mlp_width": 72, "norm_epsilon": epsilon, "bias": True}
    model = randomised(GPTConfig(**SIZE, **options))
    theirs = transformers.BertModel(
        transformers.BertConfig(**options_of(model.config)), add_pooling_layer=False
    )
    weights = to_theirs(model.state_dict(), places(model.config, "huggingface"))
    weights = {name.removeprefix("bert."): weight for name, weight in weights.items()}
    weights["embeddings.token_type_embeddings.weight"] = torch.zeros(2, SIZE["n_embd"])
    del weights["lm_head.weight"]
    theirs.load_state_dict(weights, strict=True)
    for time in (1, 40, 300):
        found = theirs.eval()(ids(2, time)).last_hidden_state
        assert_close(model.run(ids(2, time)), found)


@torch.no_grad()
def random_t5(**options: Any) -> Any:
    """A T5 v1.1 of transformers with random weights, its head untied."""
    transformers = pytest.importorskip("transformers")
    shape = dict(
        vocab_size=29, d_model=32, d_kv=8, d_ff=72, num_heads=4, num_layers=3, n_positions=300,
        num_decoder_layers=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**(shape | options)))
    theirs.lm_head.weight = nn.Parameter(torch.empty(29, 32))
    generator = torch.Generator().manual_seed(0)
    for name, weight in theirs.named_parameters():
        mean = 1.0 if "norm" in name else 0.0
        weight.copy_(mean + 0.2 * torch.randn(weight.shape, generator=generator))
    return theirs.eval()


@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
@torch.no_grad()
def test_logits_are_those_of_t5_also_where_sources_are_padded(epsilon: float) -> None:
    theirs = random_t5(layer_norm_epsilon=epsilon)
    config = from_config_json(theirs.config.to_dict() | {"n_positions": 300})
    model = GPT(config).eval()
    weights = {
        name: weight for name, weight in theirs.state_dict().items() if "embed_tokens" not in name
    }
    model.load_state_dict(to_ours(weights, config, "huggingface"))
    source, target = padded_source(), ids(len(LENGTHS), 200)
    found = theirs(
        input_ids=source.clamp_min(0),
        attention_mask=(source != PADDING).long(),
        decoder_input_ids=target,
    )
    assert_close(model(target, source=source), found.logits)
    real = source != PADDING  # what stands at padding is used by nobody
    assert_close(model.encode(source)[real], found.encoder_last_hidden_state[real])


def test_the_buckets_of_distances_are_t5_s() -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distance = torch.arange(-5000, 5000)
    for both_ways in (False, True):
        expected = t5.T5Attention._relative_position_bucket(-distance, both_ways, 32, 128)
        assert torch.equal(relative_buckets(distance, both_ways), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"d_kv": 16}, "d_kv is 16"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj is relu"),
        ({"relative_attention_num_buckets": 16}, "relative_attention_num_buckets is 16"),
        ({"relative_attention_max_distance": 64}, "relative_attention_max_distance is 64"),
        ({"scale_decoder_outputs": True}, "scale_decoder_outputs is True"),
    ],
)
def test_what_a_t5_of_ours_cannot_be_is_named(
    change: dict[str, Any], words: str, refused: Callable
) -> None:
    config = to_config_json(GPTConfig(**SIZE, **T5))
    assert from_config_json(config).architecture == "encoder_decoder"
    with refused(words):
        from_config_json(config | change)


def test_the_first_t5_which_scales_its_decoder_s_output_is_named(refused: Callable) -> None:
    config = to_config_json(GPTConfig(**SIZE, **T5)) | {"tie_word_embeddings": True}
    del config["scale_decoder_outputs"]
    with refused("scale_decoder_outputs is True"):
        from_config_json(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "silu"}, "hidden_act is silu"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
    ],
)
def test_what_a_bert_of_ours_cannot_be_is_named(
    change: dict[str, Any], words: str, refused: Callable
) -> None:
    config = to_config_json(GPTConfig(**SIZE, **BERT))
    assert from_config_json(config).architecture == "encoder"
    with refused(words):
        from_config_json(config | change)
