"""What a user can rely on of model.py: it is exactly the families it claims to be, and the fast
bodies of its formulas agree with them."""

import math
import random
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
import torch
from helpers.models import random_ids, randomised

from kqv.efficient import causal_linear_attention, linear_features
from kqv.exchange.families import places, to_theirs
from kqv.kernels import (
    attend_fused,
    cross_entropy,
    drop,
    linear_cross_entropy,
)
from kqv.options.option_types import alternatives
from kqv.positions import rotate, rotation_table
from model import (
    ACTIVATIONS,
    GPT,
    GPT2,
    MASKS,
    NORMS,
    PADDING,
    SCALES,
    SCORES,
    GPTConfig,
    RMSNorm,
    attend,
)


@pytest.mark.parametrize(("mlp", "activation"), [("gelu", "gelu"), ("gelu_tanh", "gelu_new")])
def test_gpt2_shape_is_transformers_gpt2(mlp: str, activation: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = GPTConfig(
        vocab_size=65,
        block_size=48,
        n_layer=3,
        n_head=4,
        n_embd=64,
        bias=True,
        **GPT2 | {"mlp": mlp},
    )
    model = randomised(config)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=65,
            n_positions=48,
            n_layer=3,
            n_head=4,
            n_embd=64,
            activation_function=activation,
        )
    ).eval()
    missing, unexpected = theirs.load_state_dict(
        to_theirs(model.state_dict(), places(config, "huggingface")), strict=False
    )
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    theirs.tie_weights()
    ids = random_ids(config)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)


def test_default_shape_is_transformers_qwen3() -> None:
    transformers = pytest.importorskip("transformers")
    config = GPTConfig(vocab_size=65, block_size=48, n_layer=3, n_head=4, n_embd=64)
    model = randomised(config)
    theirs = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=65, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=model.blocks[0].mlp.up.out_features,
            num_key_value_heads=4, head_dim=16, max_position_embeddings=48, rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=False, attention_bias=False,
        )
    ).eval()  # fmt: skip
    assert (
        theirs.load_state_dict(
            to_theirs(model.state_dict(), places(config, "huggingface"))
        ).missing_keys
        == []
    )
    ids = random_ids(config)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)


LOOKS = [
    {"mask": mask, "window": window} for mask in ("causal", "none", "future") for window in (0, 5)
]
SCALED = [
    {**look, "attention_scale": scale} for look in LOOKS for scale in ("sqrt", "dim", "none", 0.3)
]


# linear scores have a body of their own under the plain causal mask only
@pytest.mark.parametrize("options", [*SCALED, {"attention_score": "linear"}], ids=str)
def test_fused_and_written_attention_agree(options: dict[str, Any]) -> None:
    config = GPTConfig(vocab_size=11, block_size=70, n_layer=2, n_head=2, n_embd=16, **options)
    model, ids = randomised(config), random_ids(config)
    with torch.no_grad():
        fused = model(ids)
        for block in model.blocks:
            assert block.attention.fused
            block.attention.fused = False
        torch.testing.assert_close(model(ids), fused, atol=1e-5, rtol=0)


def test_fused_and_written_attention_have_the_same_gradients() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 20, 8, requires_grad=True) for _ in range(3))
    mask = torch.ones(20, 20, dtype=torch.bool).tril()
    written, weights = attend(query, key, value, mask, scale=0.35)
    fused = attend_fused(query, key, value, mask, scale=0.35, causal=True)
    torch.testing.assert_close(written, fused, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 20))
    signal = torch.randn_like(written)
    gradients = [
        torch.autograd.grad(output, (query, key, value), signal) for output in (written, fused)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def elu_plus_one(x: torch.Tensor) -> list[float]:
    return [float(number) + 1 if number > 0 else math.exp(number) for number in x]


@pytest.mark.parametrize("length", [1, 64, 65, 200])
def test_linear_attention_is_that_of_all_pairs_and_has_its_gradients(length: int) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, length, 8, requires_grad=True) for _ in range(3))
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    pairs, weights = attend(query, key, value, mask, scale=1.0, score="linear")
    linear = causal_linear_attention(*linear_features(query, key), value)
    torch.testing.assert_close(pairs, linear, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, length))
    signal = torch.randn_like(pairs)
    gradients = [
        torch.autograd.grad(output, (query, key, value), signal) for output in (pairs, linear)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("score", ["dot", "squared", "linear"])
def test_attention_is_the_formula(score: str) -> None:
    """softmax(q·k / √d_k + mask) v, written out with loops over one head; for linear attention
    φ(q)·φ(k) over its sum."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 1, 6, 4).unbind()
    scale = 1 if score == "linear" else 1 / 2
    output, weights = attend(
        query, key, value, torch.ones(6, 6, dtype=torch.bool).tril(), scale, score
    )
    for t in range(6):
        scores = [
            sum(float(query[0, 0, t, i] * key[0, 0, s, i]) for i in range(4)) for s in range(t + 1)
        ]
        powers = [math.exp((s if score == "dot" else s * s) / 2) for s in scores]
        if score == "linear":
            ours, theirs = (
                elu_plus_one(query[0, 0, t]),
                [elu_plus_one(key[0, 0, s]) for s in range(t + 1)],
            )
            powers = [
                sum(q * k for q, k in zip(ours, features, strict=True)) for features in theirs
            ]
        for s in range(6):
            expected = powers[s] / sum(powers) if s <= t else 0
            assert float(weights[0, 0, t, s]) == pytest.approx(expected, abs=1e-6)
        assert float(output[0, 0, t, 2]) == pytest.approx(
            sum(p / sum(powers) * float(value[0, 0, s, 2]) for s, p in enumerate(powers)), abs=1e-5
        )


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal", "none"])
@pytest.mark.parametrize("mask", ["causal", "future"])
@pytest.mark.parametrize("window", [0, 3])
def test_nobody_sees_what_the_mask_hides(position: str, mask: str, window: int) -> None:
    """Changing one character changes exactly the outputs that may see it."""
    config = GPTConfig(
        vocab_size=11,
        block_size=12,
        n_layer=1,
        n_head=2,
        n_embd=16,
        position=position,
        mask=mask,
        window=window,
    )
    model, ids = randomised(config), random_ids(config, batch=1)
    other = ids.clone()
    other[0, 6] = (ids[0, 6] + 1) % 11
    with torch.no_grad():
        changed = (model(ids) - model(other)).abs().amax(-1)[0] > 1e-6
    reach = window or 12
    expected = [0 <= (t - 6 if mask == "causal" else 6 - t) < reach for t in range(12)]
    assert changed.tolist() == expected


def test_rotary_scores_depend_on_distance_only() -> None:
    config = GPTConfig(vocab_size=11, block_size=32, n_embd=16, n_head=1)

    table = rotation_table(config)
    query, key = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0)).unbind()
    scores = [
        float((rotate(query, table[:, t : t + 1]) * rotate(key, table[:, t - 5 : t - 4])).sum())
        for t in range(5, 32)
    ]
    assert max(scores) - min(scores) < 1e-5


def test_every_combination_of_options_trains() -> None:
    """Each way through the tables gives a finite loss and a gradient for each weight."""
    choices: dict[str, list[Any]] = {}
    for name, hint in get_type_hints(GPTConfig).items():
        words = [member for member in alternatives(hint) if isinstance(member, str)]
        if values := [True, False] if hint is bool else words:
            choices[name] = values
    assert len(choices) >= 9
    draw = random.Random(0)
    some = [{name: draw.choice(values) for name, values in choices.items()} for _ in range(300)]
    assert all({options[name] for options in some} == {*values} for name, values in choices.items())
    for options in some:
        if options["architecture"] == "encoder":
            options["mask"] = "none"
        model = GPT(
            GPTConfig(
                vocab_size=7, block_size=8, n_layer=1, n_head=2, n_embd=8, dropout=0.1, **options
            )
        )
        ids = random_ids(model.config)
        source = ids.flip(0) if model.config.has_cross_attention else None
        cross_entropy(model(ids, source=source), ids).backward()
        assert all(
            parameter.grad is not None and parameter.grad.isfinite().all()
            for parameter in model.parameters()
        ), options


def test_untrained_model_is_as_surprised_as_a_die() -> None:
    config = GPTConfig(vocab_size=65)
    ids = random_ids(config)
    assert cross_entropy(GPT(config)(ids), ids).item() == pytest.approx(math.log(65), abs=1e-5)


@pytest.mark.parametrize(
    ("option", "table"),
    [
        ("norm", NORMS), ("attention_scale", SCALES), ("attention_score", SCORES), ("mask", MASKS),
        ("mlp", ACTIVATIONS),
    ],
)  # fmt: skip
def test_the_choices_of_an_option_are_the_keys_of_its_table(
    option: str, table: dict[str, Any], refused: Callable
) -> None:
    for choice in table:
        GPTConfig(vocab_size=7, **{option: choice})
    with refused(f"{option}='rubbish'", *table):
        GPTConfig(vocab_size=7, **{option: "rubbish"})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("vocab_size", 0), ("n_layer", None), ("n_layer", 2.0), ("n_head", 3), ("n_head", 0),
        ("n_embd", 10**600), ("bias", 1), ("window", -1), ("mlp_width", 2**70), ("rope_base", 0.5),
        ("attention_scale", math.nan), ("attention_scale", 2.0**70), ("dropout", 1.0),
    ],
)  # fmt: skip
def test_a_shape_that_no_model_has_is_refused_by_name(
    option: str, value: Any, refused: Callable
) -> None:
    with refused(option):
        GPTConfig(**{"vocab_size": 7, option: value})


def test_gpt2s_first_weights_are_those_of_transformers_and_of_the_paper() -> None:
    """Name by name the standard deviation, to six of its standard errors."""
    transformers = pytest.importorskip("transformers")
    shape: dict[str, Any] = dict(vocab_size=500, n_layer=8, n_head=2, n_embd=64)
    model = GPT(GPTConfig(block_size=100, bias=True, **shape, **GPT2))
    ours = to_theirs(model.state_dict(), places(model.config, "huggingface"))
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_positions=100, **shape))
    for name, weight in theirs.named_parameters():
        mean, std = float(name.endswith("weight") and "ln_" in name), 0.0
        if weight.ndim == 2:
            std = 0.02 / math.sqrt(16) if "c_proj" in name else 0.02
        for drawn in (ours[name], weight.detach()):
            error = 6 * std / math.sqrt(drawn.numel())
            assert float(drawn.mean()) == pytest.approx(mean, abs=error), name
            assert float(drawn.std()) == pytest.approx(std, abs=error), name


def test_gpt2s_first_weights_begin_near_the_loss_of_a_die() -> None:
    config = GPTConfig(vocab_size=65, n_layer=6, n_embd=384, n_head=6, **GPT2)
    ids = random_ids(config, batch=8)
    loss = cross_entropy(GPT(config)(ids), ids.flip(0)).item()
    assert loss == pytest.approx(math.log(65), abs=0.2)


# --- fast bodies beside their formulas


@pytest.mark.parametrize("shape", [(3, 16), (2, 5, 7), (2, 3, 4, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rmsnorm_and_its_derivatives_are_torch_s(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x, signal = (5 * torch.randn(shape)).to(dtype).requires_grad_(), torch.randn(shape)
    norm = RMSNorm(shape[-1])
    torch.nn.init.normal_(norm.weight)
    ours = norm(x)
    theirs = torch.nn.functional.rms_norm(x.float(), shape[-1:], norm.weight, 1e-6)
    torch.testing.assert_close(ours, theirs)
    assert ours.dtype == torch.float32
    gradients = [torch.autograd.grad(output, (x, norm.weight), signal) for output in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(
            one, other, atol=1e-5, rtol=1e-4 if dtype == torch.float32 else 1e-2
        )


@pytest.mark.parametrize("share", [0.001, 0.1, 0.2, 0.5, 0.999])
def test_dropout_drops_its_share_anywhere_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 999, requires_grad=True)
    dropped = drop(x, share)
    kept = dropped != 0
    assert 1 - float(kept.float().mean()) == pytest.approx(share, abs=0.002)
    assert float(dropped.detach().mean()) == pytest.approx(1, rel=0.05)
    assert dropped[kept].unique().numel() == 1
    for line in (kept.float().mean(0), kept.float().mean(1)):  # no row or column is special
        assert (line - (1 - share)).abs().max() < 0.1
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_dropout_of_nothing_is_nothing_and_a_seed_is_a_mask() -> None:
    x = torch.randn(7, 5)
    assert drop(x, 0.0) is x
    assert drop(x, 0.9999999).isfinite().all()
    masks = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        masks.append(drop(x.to(torch.bfloat16), 0.5) != 0)
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])


def test_rotated_queries_and_keys_know_only_their_distance() -> None:
    config = GPTConfig(vocab_size=5, block_size=16, n_head=2, n_embd=16)
    query, key = torch.randn(2, 1, 1, 1, 8)
    for distance in (0, 3, 9):
        scores = [
            (
                rotate(query, rotation_table(config, t)[:, :1])
                * rotate(key, rotation_table(config, t - distance)[:, :1])
            ).sum()
            for t in (10, 15, 100_000)
        ]
        torch.testing.assert_close(torch.stack(scores), scores[0].expand(3), atol=1e-5, rtol=0)


# --- the loss of a large vocabulary, and activation checkpointing


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many targets each loss had that was computed in chunks."""
    calls: list[int] = []

    def recorded(
        hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *others: Any
    ) -> torch.Tensor:
        calls.append(targets.numel())
        return linear_cross_entropy(hidden, weight, targets, *others)

    monkeypatch.setattr("kqv.kernels.linear_cross_entropy", recorded)
    return calls


def loss_and_gradients(
    model: GPT, compiled: Any = None, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    torch.manual_seed(3)  # of the dropout
    ids, targets = random_ids(model.config), random_ids(model.config).flip(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = (model if compiled is None else compiled)(ids, targets=targets)
    assert loss.dtype == torch.float32 and loss.shape == ()
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


FAMILIES: list[dict[str, Any]] = [{}, {"bias": True, **GPT2}]


@pytest.mark.parametrize("family", FAMILIES, ids=["default", "gpt2"])
@pytest.mark.parametrize(
    "chunk", [1, 700, 130 * 30]
)  # logits: one position, some, all but the last few
@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3)])
def test_the_loss_in_chunks_is_that_of_all_logits_and_has_its_gradients(
    family, chunk, dtype, far, monkeypatch, in_chunks
) -> None:
    model = randomised(
        GPTConfig(vocab_size=130, block_size=20, n_layer=1, n_head=2, n_embd=16, **family)
    )
    plain = loss_and_gradients(model, dtype=dtype)
    assert not in_chunks
    monkeypatch.setattr("kqv.kernels.LOGITS_AT_ONCE", chunk)  # below what a CPU takes
    for one, other in zip(loss_and_gradients(model, dtype=dtype), plain, strict=True):
        torch.testing.assert_close(one, other, atol=far, rtol=0)
    with torch.no_grad():
        ids = random_ids(model.config)
        torch.testing.assert_close(
            model(ids, targets=ids), cross_entropy(model(ids), ids), atol=1e-5, rtol=0
        )
    assert in_chunks == [40, 40]


def test_weights_and_label_smoothing_mean_the_same_in_chunks(monkeypatch, in_chunks) -> None:
    config = GPTConfig(
        vocab_size=130, block_size=20, n_layer=1, n_head=2, n_embd=16, label_smoothing=0.1
    )
    model, ids = randomised(config).train(), random_ids(config)
    weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1))
    weights[0, :10] = 0

    def loss_and_head() -> list[torch.Tensor]:
        model.zero_grad()
        loss = model(ids, targets=ids, weights=weights)
        loss.backward()
        return [loss.detach(), model.head.weight.grad, model.embedding.weight.grad]

    plain = loss_and_head()
    losses = torch.nn.functional.cross_entropy(
        model(ids).flatten(0, 1), ids.flatten(), reduction="none", label_smoothing=0.1
    )
    torch.testing.assert_close(plain[0], (losses @ weights.flatten() / weights.sum()).detach())
    monkeypatch.setattr("kqv.kernels.LOGITS_AT_ONCE", 700)
    for one, other in zip(loss_and_head(), plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert in_chunks == [40]


def test_a_weighted_loss_in_bfloat16_is_as_exact_as_one_without_weights() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 9, 50).bfloat16(), torch.randint(50, (8, 9))
    with torch.autocast("cpu", torch.bfloat16):
        plain = cross_entropy(logits, targets)
        weighted = cross_entropy(logits, targets, torch.ones(8, 9))
    assert abs(plain - weighted) < 1e-5


def test_label_smoothing_is_for_training_only() -> None:
    config = GPTConfig(vocab_size=13, block_size=8, n_layer=1, n_head=2, n_embd=16)
    smoothed = GPTConfig(**{**vars(config), "label_smoothing": 0.5})
    ids = random_ids(config)
    one, other = randomised(config), randomised(smoothed)
    assert torch.equal(one(ids, targets=ids), other.eval()(ids, targets=ids))
    assert not torch.equal(one.train()(ids, targets=ids), other.train()(ids, targets=ids))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal", "relative", "none"])
def test_a_padded_source_is_translated_as_it_is_alone(position: str, norm_first: bool) -> None:
    config = GPTConfig(
        vocab_size=11, source_vocab_size=7, architecture="encoder_decoder", block_size=12,
        n_layer=2, n_head=2, n_embd=16, position=position, norm_first=norm_first,
    )  # fmt: skip
    model, draw = randomised(config), torch.Generator().manual_seed(0)
    source, ids = (
        torch.randint(7, (3, 9), generator=draw),
        torch.randint(11, (3, 6), generator=draw),
    )
    source[1, 5:] = PADDING
    together = model(ids, source=source)
    alone = model(ids[1:2], source=source[1:2, :5])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together, model(ids, source=source.flip(0)), atol=1e-3)


def test_an_encoder_reads_both_ways_and_a_decoder_with_one_does_not() -> None:
    ids = torch.arange(6)[None]
    changed = torch.tensor([[0, 1, 2, 3, 4, 9]])
    shape = dict(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16)
    encoder = randomised(GPTConfig(architecture="encoder", **shape))
    assert (encoder(ids) != encoder(changed)).any(-1).all()
    both = randomised(GPTConfig(architecture="encoder_decoder", **shape))
    assert torch.equal(both(ids, source=ids)[:, :5], both(changed, source=ids)[:, :5])
    assert (both(ids, source=ids) != both(ids, source=changed)).any(-1).all()
    with pytest.raises(ValueError, match="needs a source"):  # it would run without cross-attention
        both(ids)


def test_one_vocabulary_has_one_embedding_for_both_sides() -> None:
    shape = dict(vocab_size=11, architecture="encoder_decoder", n_embd=16, n_head=2, n_layer=1)
    model = GPT(GPTConfig(**shape))
    assert model.encoder.embedding is model.embedding
    assert GPT(GPTConfig(source_vocab_size=5, **shape)).encoder.embedding.weight.shape == (5, 16)


@pytest.mark.parametrize("family", FAMILIES, ids=["default", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activation_checkpointing_changes_no_loss_and_no_gradient(family, dtype) -> None:
    model = randomised(
        GPTConfig(
            vocab_size=30, block_size=20, n_layer=2, n_head=2, n_embd=16, dropout=0.3, **family
        )
    ).train()
    plain = loss_and_gradients(model, dtype=dtype)
    model.activation_checkpointing = True
    for one, other in zip(loss_and_gradients(model, dtype=dtype), plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_compiled_model_computes_the_same_loss_in_chunks_and_with_blocks_computed_again(
    monkeypatch, in_chunks
) -> None:
    """What torch.compile makes of the model, without the C++ at its end, which needs a compiler."""
    monkeypatch.setattr("kqv.kernels.LOGITS_AT_ONCE", 1000)
    model = randomised(
        GPTConfig(vocab_size=130, block_size=20, n_layer=1, n_head=2, n_embd=16)
    ).train()
    plain = loss_and_gradients(model)
    model.activation_checkpointing = True
    compiled = torch.compile(model, backend="aot_eager")
    for one, other in zip(loss_and_gradients(model, compiled), plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert in_chunks == [40, 40]
