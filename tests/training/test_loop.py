"""The loop, its optimizers and its schedule, each against a plain way of doing the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qkv.errors import CheckpointError, TrainingError
from qkv.models import RungConfig, TransformerConfig, build_model
from qkv.text import batch
from qkv.training import StepReport, TrainingConfig, TrainingState, train
from qkv.training.optimizers import Muon, build_optimizers, orthogonalise
from qkv.training.precision import choose_precision, measure_precisions
from qkv.training.run import Data
from qkv.training.schedules import rate_factor

Tiny = Callable[..., TransformerConfig]
STEPS = 12


def settings(**fields: Any) -> TrainingConfig:
    defaults = {"tokens": STEPS * 3 * 11, "batch": 3, "precision": "fp32", "seed": 5}
    return TrainingConfig(**{**defaults, **fields})


def begin(config: TransformerConfig, training: TrainingConfig) -> TrainingState:
    torch.manual_seed(training.seed)
    return TrainingState(build_model(config), training)


def follow(state: TrainingState, data: Data, training: TrainingConfig) -> list[tuple[float, float]]:
    return [(r.loss, r.gradient_norm) for r in train(state, data.train, training)]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("average", [0.0, 0.8])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_at_any_step_equals_uninterrupted(
    data: Data, tiny: Tiny, optimizer: Any, average: float, dropout: float
) -> None:
    config = tiny(dropout=dropout, norm="layer", bias=True)
    training = settings(optimizer=optimizer, average=average, weight_decay=0.1)
    whole = begin(config, training)
    losses = follow(whole, data, training)
    for stop in range(1, STEPS):
        first = begin(config, training)
        for _, report in zip(range(stop), train(first, data.train, training), strict=False):
            assert (report.loss, report.gradient_norm) == losses[report.step - 1]
        saved = {name: tensor.clone() for name, tensor in first.weights().items()}
        held = {name: tensor.clone() for name, tensor in first.tensors().items()}
        torch.rand(3)  # nothing may hang on torch's own random state
        model = build_model(config)
        model.load_state_dict(saved)
        second = TrainingState(model, training, step=stop)
        second.restore(held)
        assert follow(second, data, training) == losses[stop:]
        for name, tensor in whole.weights().items():
            assert torch.equal(second.weights()[name], tensor), name


def test_state_of_another_optimizer_is_refused(data: Data, tiny: Tiny) -> None:
    training = settings(optimizer="muon")
    state = begin(tiny(), training)
    follow(state, data, training)
    other = begin(tiny(), settings())
    with pytest.raises(CheckpointError, match="the state of this model and optimizer"):
        other.restore(state.tensors())


def test_every_step_trains_on_what_batch_gives(data: Data, tiny: Tiny) -> None:
    training = settings(seed=9)
    state = begin(tiny(), training)
    seen: list[torch.Tensor] = []
    state.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    for report in train(state, data.train, training):
        inputs, targets = batch(data.train, report.step - 1, seed=9, batch_size=3, context=11)
        assert np.array_equal(seen[-1].numpy(), inputs)
        assert report.tokens == report.step * 3 * 11
        if report.step == 1:  # an untrained model of this kind guesses: ln V
            assert report.loss == pytest.approx(math.log(data.tokenizer.size), rel=1e-5)
        assert np.array_equal(targets[:, :-1], inputs[:, 1:])
    assert len(seen) == STEPS


def test_adamw_is_torchs(data: Data) -> None:
    config = RungConfig("one-head", vocab=data.tokenizer.size, context=11, width=16)
    training = settings(learning_rate=0.01, weight_decay=0.3, clip=0.0, warmup=0.0, decay=0.5)
    torch.manual_seed(1)
    state = TrainingState(build_model(config), training)
    torch.manual_seed(1)
    model = build_model(config)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.3}, {"params": plain, "weight_decay": 0.0}],
        betas=(training.beta1, training.beta2),
        foreach=False,
    )
    for report in train(state, data.train, training):
        inputs, targets = map(
            torch.from_numpy,
            batch(data.train, report.step - 1, seed=5, batch_size=3, context=11),
        )
        for group in reference.param_groups:
            group["lr"] = 0.01 * min(1.0, (STEPS - report.step + 1) / (STEPS / 2))
        reference.zero_grad()
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        torch.autograd.backward(loss)
        reference.step()
        assert report.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for ours, theirs in zip(state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_clipping_scales_gradients_to_the_norm_and_reports_it_before(
    data: Data, tiny: Tiny
) -> None:
    norms: dict[float, float] = {}
    for clip in (0.0, 1e-3):
        training = settings(clip=clip)
        state = begin(tiny(), training)
        given: list[float] = []
        optimizer = state.optimizers[0]

        def look(*_: Any, state: TrainingState = state, given: list[float] = given) -> None:
            squares = [p.grad.double().square().sum() for p in state.model.parameters()]  # type: ignore[union-attr]
            given.append(float(sum(squares)) ** 0.5)

        optimizer.register_step_pre_hook(look)
        report = next(train(state, data.train, training))
        norms[clip] = report.gradient_norm
        assert given[0] == pytest.approx(clip or report.gradient_norm, rel=1e-3)
    assert norms[0.0] == norms[1e-3]


def test_average_is_a_plain_running_average(data: Data, tiny: Tiny) -> None:
    training = settings(average=0.7)
    state = begin(tiny(), training)
    plain = {name: p.detach().double() for name, p in state.model.named_parameters()}
    for report in train(state, data.train, training):
        keep = min(0.7, report.step / (report.step + 10))
        for name, p in state.model.named_parameters():
            plain[name] = keep * plain[name] + (1 - keep) * p.detach().double()
    for name, tensor in plain.items():
        torch.testing.assert_close(state.weights()[name].double(), tensor, rtol=1e-5, atol=1e-6)
    last = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    with state.averaged() as model:
        for name, p in model.named_parameters():
            assert torch.equal(p, state.weights()[name])
    for name, p in state.model.named_parameters():
        assert torch.equal(p, last[name])


@pytest.mark.parametrize(
    ("warmup", "decay", "final"), [(0.1, 0.5, 0.0), (0.0, 0.0, 0.0), (0.3, 1.0, 0.1), (1, 0, 0)]
)
def test_schedule_is_the_plain_formula(warmup: float, decay: float, final: float) -> None:
    config = TrainingConfig(warmup=warmup, decay=decay, final_rate=final)
    for steps in (1, 7, 100):
        for step in range(steps):
            up = min(1.0, (step + 1) / (warmup * steps)) if warmup else 1.0
            left = min(1.0, (steps - step) / (decay * steps)) if decay else 1.0
            expected = min(up, final + (1 - final) * left)
            assert rate_factor(step, steps, config) == pytest.approx(expected)
            assert 0 < rate_factor(step, steps, config) <= 1


def test_orthogonalise_keeps_directions_and_evens_out_their_sizes() -> None:
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((24, 40), (40, 24), (17, 17)):
        matrices = torch.randn(3, rows, columns, generator=generator)
        ours = orthogonalise(matrices)
        sizes = torch.linalg.svdvals(ours)
        assert sizes.max() < 1.3
        assert sizes[:, : min(rows, columns) * 3 // 4].min() > 0.5
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        exact = u @ vh
        cosine = F.cosine_similarity(ours.flatten(1), exact.flatten(1))
        assert cosine.min() > 0.97
        # In the basis of the singular vectors nothing but sizes has changed.
        inside = u.mT @ ours @ vh.mT
        rest = inside - torch.diag_embed(torch.diagonal(inside, dim1=1, dim2=2))
        assert rest.abs().max() < 1e-3


def test_matrices_of_all_shapes_get_the_updates_they_would_get_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = [(24, 8), (8, 24), (8, 8), (8, 8), (5, 7)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [
        10.0**i * torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)
    ]
    together = [torch.nn.Parameter(start.clone()) for start in starts]
    alone = [torch.nn.Parameter(start.clone()) for start in starts]
    joint, single = Muon(together, lr=0.1), [Muon([matrix], lr=0.1) for matrix in alone]
    for _ in range(2):
        for matrices in (together, alone):
            for matrix, gradient in zip(matrices, gradients, strict=True):
                matrix.grad = gradient.clone()
        joint.step()
        for optimizer in single:
            optimizer.step()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_one_muon_step_goes_down_and_is_even_in_size() -> None:
    torch.manual_seed(3)
    x, wanted = torch.randn(50, 12), torch.randn(50, 8)
    weight = torch.nn.Parameter(torch.randn(8, 12))
    before = weight.detach().clone()
    optimizer = Muon([weight], lr=0.05)

    def loss() -> torch.Tensor:
        return F.mse_loss(x @ weight.T, wanted)

    start = loss()
    torch.autograd.backward(start)
    optimizer.step()
    assert loss() < start
    moved = torch.linalg.svdvals(before - weight.detach())
    assert 0.05 * 0.5 < moved.min() <= moved.max() < 0.05 * 1.3


def test_muon_takes_the_blocks_matrices_alone(tiny: Tiny) -> None:
    model = build_model(tiny(bias=True, norm="layer", positions="learned"))
    adamw, muon = build_optimizers(model, settings(optimizer="muon"))
    names = {p: name for name, p in model.named_parameters()}
    of_muon = {names[p] for group in muon.param_groups for p in group["params"]}
    of_adamw = {names[p] for group in adamw.param_groups for p in group["params"]}
    assert of_muon == {n for n, p in model.named_parameters() if "blocks." in n and p.ndim == 2}
    assert of_muon | of_adamw == set(names.values())
    assert not of_muon & of_adamw


def test_loss_that_is_no_number_stops_before_the_weights_are_touched(
    data: Data, tiny: Tiny
) -> None:
    training = settings()
    state = begin(tiny(), training)
    reports: list[StepReport] = []
    good: dict[str, torch.Tensor] = {}

    def run() -> None:
        for report in train(state, data.train, training):
            reports.append(report)
            good.update({name: p.detach().clone() for name, p in state.model.named_parameters()})
            if report.step == 3:
                state.model.register_forward_hook(lambda *given: given[-1] * math.nan)

    with pytest.raises(TrainingError, match="at step 4"):
        run()
    assert state.step == len(reports) == 3
    for name, p in state.model.named_parameters():
        assert torch.equal(p, good[name])


def test_bf16_trains_as_fp32_does(data: Data, tiny: Tiny) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        training = settings(precision=precision, tokens=60 * 33, optimizer="muon")
        losses[precision] = follow(begin(tiny(), training), data, training)[-1][0]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]


def test_auto_precision_is_what_was_measured_to_be_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for fp32, bf16, int8, plain, fused in (
        (100.0, 131.0, 90.0, "bf16", "bf16"),
        (100.0, 129.0, 190.0, "fp32", "fp32"),
        (100.0, 20.0, 151.0, "fp32", "int8"),
        (100.0, 150.0, 220.0, "bf16", "bf16"),
    ):
        speeds = {"fp32": fp32, "bf16": bf16, "int8": int8}
        monkeypatch.setattr(
            "qkv.training.precision.measure_precisions",
            lambda speeds=speeds, *, int8: {
                name: speed for name, speed in speeds.items() if int8 or name != "int8"
            },
        )
        assert choose_precision() == plain
        assert choose_precision(fused=True) == fused
    assert choose_precision("meta") == "fp32"


def test_measured_precisions_are_speeds() -> None:
    speeds = measure_precisions(64, 64)
    assert set(speeds) == {"fp32", "bf16", "int8"}
    assert all(speed > 0 for speed in speeds.values())
