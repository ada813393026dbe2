"""What a user can rely on of the optimizers: Muon is Muon, each weight trains once, rates keep in bounds, a resume is exact."""

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


# --- Muon ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "columns"), [(16, 16), (64, 16), (16, 64), (8, 9), (1, 5), (5, 1)]
)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_orthogonalizing_evens_out_the_singular_values_and_turns_nothing(
    rows: int, columns: int, size: float, dtype: torch.dtype
) -> None:
    """Of U S Vᵀ, S between 1/10 and 1, it keeps U and Vᵀ and brings S near 1."""
    count, rank = 3, min(rows, columns)
    u, v = (torch.linalg.qr(random(count, side, rank, seed=side))[0] for side in (rows, columns))
    values = torch.logspace(-1, 0, rank).flip(0) if rank > 1 else torch.ones(1)
    result = orthogonalize(size * (u * values) @ v.mT, dtype)
    assert result.shape == (count, rows, columns) and result.dtype == torch.float32
    within = u.mT @ result @ v  # diagonal if U and V are kept
    assert within.diagonal(dim1=1, dim2=2).min() > 0.6 and torch.linalg.svdvals(result).max() < 1.3
    assert (within - torch.diag_embed(within.diagonal(dim1=1, dim2=2))).abs().max() < 0.05
    assert torch.dist(u @ within @ v.mT, result) < 0.1  # and nothing is outside U and V


def spectra() -> dict[str, Tensor]:
    """Singular values of 128 × 128 matrices: of random ones, and two that fall steeply."""
    gaussian = torch.linalg.svdvals(random(10, 128, 128))
    return {
        "Gaussian": gaussian,
        "to 1/1000": torch.logspace(0, -3, 128)[None],
        "1/n²": torch.arange(1, 129)[None] ** -2.0,
    }


def orthogonalized(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What becomes of singular values (count, n), in their order, and the cosine to the exact factor."""
    count, n = values.shape
    u, v = (torch.linalg.qr(random(count, n, n, seed=seed))[0] for seed in (1, 2))
    result = orthogonalize((u * values[:, None]) @ v.mT, dtype)
    return (u.mT @ result @ v).diagonal(dim1=1, dim2=2), torch.cosine_similarity(
        result.flatten(1), (u @ v.mT).flatten(1)
    ).mean()


@pytest.mark.parametrize("spectrum", spectra())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_singular_values_come_out_within_the_bounds_that_the_docstring_gives(
    spectrum: str, dtype: torch.dtype
) -> None:
    values = spectra()[spectrum]
    share = values / values.norm(dim=1, keepdim=True)
    after, _ = orthogonalized(values, dtype)
    assert after.max() < 1.3 and after[share > 0.01].min() > 0.7
    if dtype == torch.float32:
        small = share < 0.01
        assert small.any()
        torch.testing.assert_close(after[small], 74 * share[small], rtol=4 / 74, atol=1e-4)


def test_torch_s_five_steps_come_nearer_to_the_exact_factor_as_the_docstring_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = [orthogonalized(values, torch.float32)[1] for values in spectra().values()]
    monkeypatch.setattr(
        "kqv.training.optimizers.NEWTON_SCHULZ", ((3.4445, -4.775, 2.0315),) * 5
    )  # the defaults of torch.optim.Muon
    torchs = [orthogonalized(values, torch.float32)[1] for values in spectra().values()]
    assert ours == pytest.approx([0.97, 0.81, 0.43], abs=0.01)
    assert torchs == pytest.approx([0.98, 0.94, 0.65], abs=0.01)


@pytest.mark.parametrize(("rows", "columns"), [(12, 12), (40, 12), (12, 40)])
def test_orthogonalizing_random_matrices_leaves_none_behind(rows: int, columns: int) -> None:
    values = torch.linalg.svdvals(orthogonalize(random(50, rows, columns)))
    assert values.max() < 1.3
    assert (
        values.median() > 0.6 and (values > 0.3).float().mean() > 0.98
    )  # a square one may be nearly singular


def test_muon_does_to_many_matrices_what_it_does_to_each() -> None:
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


def test_a_muon_step_is_as_long_as_it_says() -> None:
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


def test_a_matrix_without_gradient_stays_as_it_is() -> None:
    zero, none, some = (nn.Parameter(random(4, 6, seed=i)) for i in range(3))
    before = [matrix.detach().clone() for matrix in (zero, none, some)]
    zero.grad, some.grad = torch.zeros(4, 6), random(4, 6)
    optimizer = Muon([zero, none, some], lr=0.1)
    for _ in range(3):
        optimizer.step()
    assert torch.equal(zero, before[0]) and torch.equal(none, before[1])
    assert some.isfinite().all() and not torch.equal(some, before[2])


# --- groups -------------------------------------------------------------------------------------------------------

FAMILIES = [
    {},
    {**GPT2, "bias": True},
    {"norm": "layernorm", "bias": True, "mlp": "relu2", "position": "sinusoidal"},
]


@pytest.mark.parametrize("family", FAMILIES, ids=["Qwen3", "GPT-2", "other"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_each_weight_is_trained_once_and_by_the_right_optimizer(
    family: dict, optimizer: str
) -> None:
    model = GPT(GPTConfig(vocab_size=11, **SHAPE, **family))
    settings = TrainSettings(
        optimizer=optimizer, weight_decay=0.1, learning_rate=0.5, muon_learning_rate=0.25
    )
    optimizers = make_optimizers(model, settings)
    groups = [(made, group) for made in optimizers for group in made.param_groups]
    trained = [id(parameter) for _, group in groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in model.parameters())
    assert trained.count(id(model.embedding.weight)) == trained.count(id(model.head.weight)) == 1

    matrices_of_blocks = (
        {id(p) for p in model.blocks.parameters() if p.ndim == 2} if optimizer == "muon" else set()
    )
    assert {
        id(p) for made, group in groups if isinstance(made, Muon) for p in group["params"]
    } == matrices_of_blocks
    for made, group in groups:
        assert group["initial_lr"] == group["lr"] == (0.25 if isinstance(made, Muon) else 0.5)
        assert all(
            group["weight_decay"] == (0.1 if parameter.ndim == 2 else 0.0)
            for parameter in group["params"]
        )
        assert isinstance(made, Muon) or group["betas"] == (settings.beta1, settings.beta2)


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


# --- training -----------------------------------------------------------------------------------------------------

VERSE = "So long as men can breathe or eyes can see,\nSo long"


def train(model: GPT, optimizers: list, settings: TrainSettings, first: int, last: int) -> float:
    """Some steps of training on VERSE. Returns the last loss."""
    tokens, device = (
        np.array(CharTokenizer.of(VERSE).encode(VERSE), dtype=np.uint16),
        next(model.parameters()).device,
    )
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
    first, last = (
        train(model, optimizers, settings, 0, 1),
        train(model, optimizers, settings, 1, 150),
    )
    assert first == pytest.approx(math.log(len(set(VERSE))), abs=0.05)
    assert (
        last < 0.15
    )  # what is left are the first characters of a window, which nothing comes before


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_goes_on_exactly(optimizer: str, tmp_path: Path) -> None:
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
        state = {
            "model": model.state_dict(),
            "optimizer": [optimizer.state_dict() for optimizer in optimizers],
        }
        save_checkpoint(tmp_path / "last.pt", state)
        read = load_checkpoint(tmp_path / "last.pt")
        assert all(weight.device.type == "cpu" for weight in read["model"].values())
        model.to(there)
        model.load_state_dict(read["model"])
        optimizers = make_optimizers(model, settings)
        restore_optimizers(optimizers, read["optimizer"])
        for optimizer in optimizers:
            assert all(
                moment.device.type == there
                for moments in optimizer.state.values()
                for moment in moments.values()
            )


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
    assert (adamw["lr"], adamw["initial_lr"], adamw["weight_decay"], adamw["betas"]) == (
        0.1,
        0.1,
        0.3,
        (0.8, 0.95),
    )
    assert (muon["lr"], muon["initial_lr"], muon["weight_decay"]) == (0.2, 0.2, 0.3)
    for ours, theirs in zip(muon["params"], optimizers[1].param_groups[0]["params"], strict=True):
        assert torch.equal(
            fresh[1].state[ours]["momentum"], optimizers[1].state[theirs]["momentum"]
        )


@pytest.mark.parametrize("states", [[], None, [{}, {}], [None, None], 5], ids=repr)
def test_what_is_no_state_of_these_optimizers_is_refused(states: object, refused: Callable) -> None:
    _, optimizers = start(TrainSettings(**SHAPE))
    with refused("--optimizer"):
        restore_optimizers(optimizers, states)


@pytest.mark.parametrize(("then", "now"), [("muon", "adamw"), ("adamw", "muon")])
def test_going_on_with_another_optimizer_is_refused(then: str, now: str, refused: Callable) -> None:
    settings = TrainSettings(**SHAPE, optimizer=then, batch_size=4)
    model, optimizers = start(settings)
    train(model, optimizers, settings, 0, 1)
    with refused("--optimizer"):
        restore_optimizers(
            start(TrainSettings(**SHAPE, optimizer=now))[1],
            [made.state_dict() for made in optimizers],
        )


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
