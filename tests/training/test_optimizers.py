"""Muon orthogonalizes, each weight is trained by one optimizer, and a resume is exact."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kqv.checkpoints.loading import load_checkpoint
from kqv.checkpoints.single import save_checkpoint
from kqv.options.settings import TrainSettings
from kqv.text.batches import training_batch
from kqv.text.characters import CharTokenizer
from kqv.training.optimizers import (
    Muon,
    make_optimizers,
    orthogonalize,
    restore_optimizers,
)
from kqv.training.schedule import rate_factor, set_rates
from model import GPT, GPT2, GPTConfig, cross_entropy

SHAPE = {"block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- Muon


@pytest.mark.parametrize(
    ("rows", "columns"), [(16, 16), (64, 16), (16, 64), (8, 9), (1, 5), (5, 1)]
)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_orthogonalizing_keeps_the_singular_vectors_and_evens_out_the_values(
    rows: int, columns: int, size: float, dtype: torch.dtype
) -> None:
    """Of USVᵀ, with S between 1/10 and 1, it keeps U and Vᵀ and brings S near 1."""
    count, rank = 3, min(rows, columns)
    u, v = (torch.linalg.qr(random(count, side, rank, seed=side))[0] for side in (rows, columns))
    values = torch.logspace(-1, 0, rank).flip(0) if rank > 1 else torch.ones(1)
    result = orthogonalize(size * (u * values) @ v.mT, dtype)
    assert result.shape == (count, rows, columns)
    assert result.dtype == torch.float32
    inner = u.mT @ result @ v  # diagonal if U and V are kept
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6
    assert torch.linalg.svdvals(result).max() < 1.3
    assert (inner - torch.diag_embed(diagonal)).abs().max() < 0.05
    assert torch.dist(u @ inner @ v.mT, result) < 0.1  # and nothing is outside U and V


def spectra() -> dict[str, Tensor]:
    """Singular values of 128 × 128 matrices: of random ones, and two that fall steeply."""
    gaussian = torch.linalg.svdvals(random(10, 128, 128))
    return {
        "Gaussian": gaussian,
        "to 1/1000": torch.logspace(0, -3, 128)[None],
        "1/n²": torch.arange(1, 129)[None] ** -2.0,
    }


def orthogonalized(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What becomes of singular values (count, n), in their order; and the mean cosine to the
    orthogonal factors."""
    count, n = values.shape
    u, v = (torch.linalg.qr(random(count, n, n, seed=seed))[0] for seed in (1, 2))
    result = orthogonalize((u * values[:, None]) @ v.mT, dtype)
    after = (u.mT @ result @ v).diagonal(dim1=1, dim2=2)
    cosines = torch.cosine_similarity(result.flatten(1), (u @ v.mT).flatten(1))
    return after, cosines.mean()


@pytest.mark.parametrize("spectrum", spectra())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_singular_values_come_out_within_the_bounds_that_the_docstring_gives(
    spectrum: str, dtype: torch.dtype
) -> None:
    values = spectra()[spectrum]
    share = values / values.norm(dim=1, keepdim=True)
    after, _ = orthogonalized(values, dtype)
    assert after.max() < 1.3
    assert after[share > 0.01].min() > 0.7
    if dtype == torch.float32:
        small = share < 0.01
        assert small.any()
        torch.testing.assert_close(after[small], 74 * share[small], rtol=4 / 74, atol=1e-4)


def test_the_five_steps_of_torch_come_closer_as_the_docstring_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = [orthogonalized(values, torch.float32)[1] for values in spectra().values()]
    five_steps = ((3.4445, -4.775, 2.0315),) * 5  # the default of torch.optim.Muon
    monkeypatch.setattr("kqv.training.optimizers.NEWTON_SCHULZ", five_steps)
    torchs = [orthogonalized(values, torch.float32)[1] for values in spectra().values()]
    assert ours == pytest.approx([0.97, 0.81, 0.43], abs=0.01)
    assert torchs == pytest.approx([0.98, 0.94, 0.65], abs=0.01)


@pytest.mark.parametrize(("rows", "columns"), [(12, 12), (40, 12), (12, 40)])
def test_nearly_all_singular_values_of_random_matrices_come_near_one(
    rows: int, columns: int
) -> None:
    values = torch.linalg.svdvals(orthogonalize(random(50, rows, columns)))
    assert values.max() < 1.3
    assert values.median() > 0.6
    assert (values > 0.3).float().mean() > 0.98  # a square matrix may be nearly singular


def test_muon_updates_a_batch_of_matrices_as_it_updates_each() -> None:
    shapes = [(8, 8), (8, 8), (24, 8), (8, 24), (24, 8), (8, 8)]
    together = [nn.Parameter(random(*shape, seed=i)) for i, shape in enumerate(shapes)]
    alone = copy.deepcopy(together)
    options = {"lr": 0.1, "weight_decay": 0.2, "dtype": torch.float32}
    optimizers = [Muon(together, **options), *(Muon([matrix], **options) for matrix in alone)]
    for step in range(3):
        for i, matrix in enumerate(itertools.chain(together, alone)):
            matrix.grad = random(*matrix.shape, seed=100 * step + i % len(shapes))
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_muon_step_has_the_documented_length() -> None:
    """lr · √max(1, rows/columns) along the orthogonal factor, after the decay lr · weight_decay."""
    for rows, columns, longer in ((8, 8, 1.0), (32, 8, 2.0), (8, 32, 1.0)):
        matrix, momentum = nn.Parameter(random(rows, columns)), torch.zeros(rows, columns)
        optimizer = Muon([matrix], lr=0.1, momentum=0.8, weight_decay=0.5, dtype=torch.float32)
        for seed in (1, 2, 3):
            before, matrix.grad = matrix.detach().clone(), random(rows, columns, seed=seed)
            optimizer.step()
            momentum = 0.8 * momentum + 0.2 * matrix.grad
            ahead = 0.8 * momentum + 0.2 * matrix.grad  # Nesterov's
            step = (0.95 * before - matrix.detach()) / (0.1 * longer)
            torch.testing.assert_close(
                step, orthogonalize(ahead[None], torch.float32)[0], atol=1e-3, rtol=0
            )


def test_a_matrix_without_a_gradient_stays_as_it_is() -> None:
    zero, none, some = (nn.Parameter(random(4, 6, seed=i)) for i in range(3))
    before = [matrix.detach().clone() for matrix in (zero, none, some)]
    zero.grad, some.grad = torch.zeros(4, 6), random(4, 6)
    optimizer = Muon([zero, none, some], lr=0.1)
    for _ in range(3):
        optimizer.step()
    assert torch.equal(zero, before[0])
    assert torch.equal(none, before[1])
    assert some.isfinite().all()
    assert not torch.equal(some, before[2])


# --- groups

FAMILIES = [
    {},
    {**GPT2, "bias": True},
    {"norm": "layernorm", "bias": True, "mlp": "relu2", "position": "sinusoidal"},
]


@pytest.mark.parametrize("family", FAMILIES, ids=["Qwen3", "GPT-2", "other"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_each_weight_is_trained_by_the_right_optimizer_and_by_no_other(
    family: dict, optimizer: str
) -> None:
    model = GPT(GPTConfig(vocab_size=11, **SHAPE, **family))
    settings = TrainSettings(
        optimizer=optimizer, weight_decay=0.1, learning_rate=0.5, muon_learning_rate=0.25
    )
    made = make_optimizers(model, settings)
    groups = [(type(one), group) for one in made for group in one.param_groups]
    trained = [id(parameter) for _, group in groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in model.parameters())

    by_muon = {id(p) for kind, group in groups if kind is Muon for p in group["params"]}
    in_blocks = {id(p) for p in model.blocks.parameters() if p.ndim == 2}
    assert by_muon == (in_blocks if optimizer == "muon" else set())
    for kind, group in groups:
        assert group["initial_lr"] == group["lr"] == (0.25 if kind is Muon else 0.5)
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim == 2 else 0.0)
        if kind is not Muon:
            assert group["betas"] == (settings.beta1, settings.beta2)


def test_rates_are_set_in_proportion_to_their_peaks() -> None:
    optimizers = make_optimizers(
        GPT(GPTConfig(vocab_size=5, **SHAPE)),
        TrainSettings(learning_rate=0.5, muon_learning_rate=0.25),
    )
    for factor in (0.5, 0.1, 1.0):
        set_rates(optimizers, factor)
        rates = {
            type(made).__name__: group["lr"] for made in optimizers for group in made.param_groups
        }
        assert rates == {"AdamW": factor * 0.5, "Muon": factor * 0.25}


# --- training

VERSE = "So long as men can breathe or eyes can see,\nSo long"


def train(model: GPT, optimizers: list, settings: TrainSettings, first: int, last: int) -> float:
    """Train on VERSE from step `first` to before step `last`. Returns the last loss."""
    tokens = np.array(CharTokenizer.of(VERSE).encode(VERSE), dtype=np.uint16)
    device = next(model.parameters()).device
    for step in range(first, last):
        set_rates(optimizers, rate_factor(settings, step))
        x, y = training_batch(tokens, settings.seed, step, settings.batch_size, settings.block_size)
        loss = cross_entropy(model(x.to(device)), y.to(device))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return float(loss.detach())


def start(settings: TrainSettings) -> tuple[GPT, list]:
    torch.manual_seed(0)
    shape = {name: getattr(settings, name) for name in SHAPE}
    model = GPT(GPTConfig(vocab_size=len(set(VERSE)), **shape))
    return model, make_optimizers(model, settings)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_verse_is_learned_by_heart(optimizer: str) -> None:
    settings = TrainSettings(
        **{**SHAPE, "n_embd": 32, "block_size": 24},
        optimizer=optimizer,
        batch_size=16,
        max_iters=150,
    )
    model, optimizers = start(settings)
    first_loss = train(model, optimizers, settings, 0, 1)
    last_loss = train(model, optimizers, settings, 1, 150)
    assert first_loss == pytest.approx(math.log(len(set(VERSE))), abs=0.05)
    assert last_loss < 0.15  # the first character of a window cannot be known


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_is_exact(optimizer: str, tmp_path: Path) -> None:
    settings = TrainSettings(
        **SHAPE, optimizer=optimizer, batch_size=4, weight_decay=0.1, warmup_iters=3, max_iters=20
    )
    model, optimizers = start(settings)
    train(model, optimizers, settings, 0, 8)
    state = {"model": model.state_dict(), "optimizer": [made.state_dict() for made in optimizers]}
    save_checkpoint(tmp_path / "ckpt.pt", state)
    train(model, optimizers, settings, 8, 16)

    resumed, fresh = start(settings)
    state = load_checkpoint(tmp_path / "ckpt.pt")
    resumed.load_state_dict(state["model"])
    restore_optimizers(fresh, state["optimizer"])
    train(resumed, fresh, settings, 8, 16)
    for (name, one), other in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_run_moves_from_a_gpu_to_a_cpu_and_back(tmp_path: Path) -> None:
    settings = TrainSettings()
    model, optimizers = start(settings)
    for device, there in (("cuda", "cpu"), ("cpu", "cuda")):
        model.to(device)
        train(model, optimizers, settings, 0, 1)
        states = [optimizer.state_dict() for optimizer in optimizers]
        save_checkpoint(tmp_path / "last.pt", {"model": model.state_dict(), "optimizer": states})
        loaded = load_checkpoint(tmp_path / "last.pt")
        assert all(weight.device.type == "cpu" for weight in loaded["model"].values())
        model.to(there)
        model.load_state_dict(loaded["model"])
        optimizers = make_optimizers(model, settings)
        restore_optimizers(optimizers, loaded["optimizer"])
        for optimizer in optimizers:
            for moments in optimizer.state.values():
                assert {moment.device.type for moment in moments.values()} <= {there}


def test_a_resumed_run_takes_the_rates_and_decay_it_is_given() -> None:
    settings = TrainSettings(**SHAPE, batch_size=4, learning_rate=0.01, muon_learning_rate=0.02)
    model, optimizers = start(settings)
    train(model, optimizers, settings, 0, 3)
    renewed = TrainSettings(
        **SHAPE, learning_rate=0.1, muon_learning_rate=0.2, weight_decay=0.3, beta1=0.8
    )
    _, fresh = start(renewed)
    restore_optimizers(fresh, [made.state_dict() for made in optimizers])
    adamw, muon = (made.param_groups[0] for made in fresh)
    assert (adamw["lr"], adamw["initial_lr"]) == (0.1, 0.1)
    assert (adamw["weight_decay"], adamw["betas"]) == (0.3, (0.8, 0.95))
    assert (muon["lr"], muon["initial_lr"], muon["weight_decay"]) == (0.2, 0.2, 0.3)
    before, after = optimizers[1], fresh[1]
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(after.state[new]["momentum"], before.state[old]["momentum"])


@pytest.mark.parametrize("states", [[], None, [{}, {}], [None, None], 5], ids=repr)
def test_a_malformed_optimizer_state_is_refused(states: object, refused: Callable) -> None:
    _, optimizers = start(TrainSettings(**SHAPE))
    with refused("--optimizer"):
        restore_optimizers(optimizers, states)


@pytest.mark.parametrize(("then", "now"), [("muon", "adamw"), ("adamw", "muon")])
def test_resuming_with_another_optimizer_is_refused(then: str, now: str, refused: Callable) -> None:
    settings = TrainSettings(**SHAPE, optimizer=then, batch_size=4)
    model, optimizers = start(settings)
    train(model, optimizers, settings, 0, 1)
    states = [made.state_dict() for made in optimizers]
    _, others = start(TrainSettings(**SHAPE, optimizer=now))
    with refused("--optimizer"):
        restore_optimizers(others, states)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("shape", [(), (32, 32)])
def test_moments_of_another_shape_are_refused(
    optimizer: str, shape: tuple[int, ...], refused: Callable
) -> None:
    """AdamW's fused kernel would read and write beyond their end."""
    settings = TrainSettings(**SHAPE, optimizer=optimizer, batch_size=4)
    model, optimizers = start(settings)
    train(model, optimizers, settings, 0, 1)
    for moment in ("momentum",) if optimizer == "muon" else ("exp_avg", "exp_avg_sq"):
        states = copy.deepcopy([made.state_dict() for made in optimizers])
        next(iter(states[-1]["state"].values()))[moment] = torch.zeros(shape)
        with refused("--optimizer"):
            restore_optimizers(start(settings)[1], states)
