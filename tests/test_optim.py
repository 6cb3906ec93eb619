"""Schedules are pure functions with known values; every parameter has exactly one optimizer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from x1 import optim
from x1.config import ModelConfig, OptimConfig
from x1.model import Transformer, initialise
from x1.optim import build_optimizers, learning_rate, orthogonalise

SHAPE = ModelConfig(vocab_size=64, n_layers=2, n_heads=2, d_model=16, d_ff=24, context=8)


def test_linear_goes_straight_to_zero():
    rule = OptimConfig(lr=1.0, schedule="linear", warmup_steps=10)
    assert learning_rate(rule, 0, 110) == pytest.approx(0.1)
    assert learning_rate(rule, 9, 110) == pytest.approx(1.0)
    assert learning_rate(rule, 60, 110) == pytest.approx(0.5)
    assert learning_rate(rule, 109, 110) == pytest.approx(0.01)


def test_wsd_is_flat_and_then_one_minus_root():
    rule = OptimConfig(lr=2.0, schedule="wsd", warmup_steps=0, cooldown_fraction=0.2)
    assert learning_rate(rule, 0, 100) == learning_rate(rule, 80, 100) == 2.0
    assert learning_rate(rule, 85, 100) == pytest.approx(2.0 * (1 - (5 / 20) ** 0.5))
    assert 0 < learning_rate(rule, 99, 100) < 0.1


@given(
    st.sampled_from(["linear", "wsd", "constant"]),
    st.integers(0, 50),
    st.integers(1, 200),
    st.floats(0, 1),
)
def test_the_rate_is_never_negative_nor_above_its_peak(schedule, warmup, steps, cooldown):
    rule = OptimConfig(lr=1.0, schedule=schedule, warmup_steps=warmup, cooldown_fraction=cooldown)
    for step in range(steps):
        assert 0 <= learning_rate(rule, step, steps) <= 1.0


@pytest.mark.parametrize("name", ["muon", "adamw"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_one_optimizer_and_only_matrices_decay(name, tied):
    model = Transformer(SHAPE.model_copy(update={"tied": tied}))
    optimizers = build_optimizers(model, OptimConfig(name=name, weight_decay=0.3))
    decay = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert id(parameter) not in decay
                decay[id(parameter)] = group["weight_decay"]
    for parameter_name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.3 if "_proj" in parameter_name else 0.0)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_few_steps_learn(name):
    model = Transformer(SHAPE)
    initialise(model, 0)
    optimizers = build_optimizers(model, OptimConfig(name=name, lr=0.01))
    ids = torch.randint(64, (4, 9), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(40):
        logits = model(ids[:, :-1]).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_muon_moves_as_torchs_own_in_its_rounds(monkeypatch):
    """Wide, tall and square matrices, ten steps, the same momentum: equal up to bf16's rounding."""
    monkeypatch.setattr(optim, "ROUNDS", ((3.4445, -4.7750, 2.0315),) * 5)
    shapes = [(24, 24), (24, 40), (40, 24), (24, 24), (40, 24)]
    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=draw) for shape in shapes]
    moved = {}
    for kind in (torch.optim.Muon, optim.Muon):
        parameters = [torch.nn.Parameter(value.clone()) for value in start]
        rule = kind(parameters, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        draw.manual_seed(1)
        for _ in range(10):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=draw)
            rule.step()
        moved[kind] = parameters
        assert {tuple(state) for state in rule.state.values()} == {("momentum_buffer",)}
    for ours, theirs, first in zip(moved[optim.Muon], moved[torch.optim.Muon], start, strict=True):
        error = (ours - theirs).norm() / (theirs - first).norm()
        assert error < 0.015


def test_orthogonalise_keeps_the_singular_vectors_and_levels_the_values():
    left, _ = torch.linalg.qr(torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    right, _ = torch.linalg.qr(torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(1)))
    values = torch.logspace(-2, 0.5, 16)  # of a norm of 5.3: the least is 0.002 of it
    levelled = orthogonalise(left * values @ right.mT).float()
    inside = left.mT @ levelled @ right  # diagonal when the singular vectors are the same
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    large = values / values.norm() > 0.0101
    assert diagonal[:, large].min() > 0.7 and diagonal.max() < 1.3
    assert (inside - torch.diag_embed(diagonal)).abs().max() < 0.06
    exact = torch.tensor([_through_rounds(float(v / values.norm())) for v in values])
    assert (diagonal - exact).abs().max() < 0.15  # of values up to 1.9, after three rounds in bf16


def _through_rounds(value):
    value /= 1.01
    for a, b, c in optim.ROUNDS:
        value = a * value + b * value**3 + c * value**5
    return value


def test_muon_holds_the_directions_of_one_shape_at_a_time():
    """So the most it takes for its own is decided by the largest group, not by the whole model."""

    def most_bytes(shapes):
        parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        rule = optim.Muon(parameters, lr=0.05, adjust_lr_fn="match_rms_adamw")
        rule.step()  # from now on the momenta are there
        with torch.profiler.profile(profile_memory=True) as profiler:
            rule.step()
        held = most = 0
        for event in profiler.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        return most

    one_shape, as_many_more = [(64, 64)] * 8, [(64, 65)] * 8
    assert most_bytes(one_shape + as_many_more) < 1.2 * most_bytes(as_many_more)
    assert most_bytes(one_shape * 2) > 1.8 * most_bytes(one_shape)
