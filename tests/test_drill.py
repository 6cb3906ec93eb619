"""The run of seconds that lab 04 makes explode: its data, its floor, going back, what it logs."""

import math

import numpy as np
import pytest
import torch

from x1 import drill
from x1.model import rotary
from x1.text import UserError

SHORT = {"train.steps": 12, "optim.warmup_steps": 4}


def losses(settings=None, seed=0):
    return [
        line.loss for line in drill.curve(drill.configured({**SHORT, **(settings or {})}, seed))
    ]


def test_a_batch_is_a_function_of_seed_and_index_and_follows_the_chain() -> None:
    config = drill.configured({"train.batch_sequences": 200})
    ids = drill.batch(config, 3)
    assert ids.shape == (200, 17)
    assert torch.equal(ids, drill.batch(config, 3))
    assert not torch.equal(ids, drill.batch(config, 4))
    assert not torch.equal(ids, drill.batch(drill.configured(seed=1), 3)[:200])
    pairs = torch.cat([drill.batch(config, i).unfold(1, 2, 1).reshape(-1, 2) for i in range(40)])
    last, following = pairs.numpy().T
    chances = drill.chain(0)
    state = int(np.bincount(last).argmax())
    met = np.bincount(following[last == state], minlength=64) / (last == state).sum()
    assert np.abs(met - chances[state]).max() < 0.03


def test_the_floor_is_the_expected_loss_of_the_chain_itself() -> None:
    chances = drill.chain(0)
    values, vectors = np.linalg.eig(chances.T)
    stay = np.real(vectors[:, np.argmax(values.real)])
    exact = -(stay / stay.sum()) @ (chances * np.log(chances)).sum(axis=1)
    assert drill.floor_nats(0) == pytest.approx(exact, rel=1e-9)
    config = drill.configured({"train.batch_sequences": 400, "model.context": 64})
    last, following = drill.batch(config, 0).unfold(1, 2, 1)[:, 20:].reshape(-1, 2).numpy().T
    assert -np.log(chances[last, following]).mean() == pytest.approx(drill.floor_nats(0), abs=0.03)


def test_an_untrained_model_knows_nothing_and_a_trained_one_something() -> None:
    found = losses({"train.steps": 40})
    assert found[0] == pytest.approx(math.log(64), abs=0.1)
    assert drill.end_loss(found) < found[0] - 0.3


def test_going_back_gives_the_same_steps_again() -> None:
    bench = drill.Bench(drill.configured(SHORT))
    for step in range(4):
        bench.step(step, step)
    saved = bench.save()
    first = [bench.step(step, step) for step in range(4, 8)]
    bench.restore(saved)
    assert [bench.step(step, step) for step in range(4, 8)] == first
    bench.restore(saved)
    assert bench.step(4, 9) != first[0]


def test_a_fault_strikes_at_its_batch_and_clipping_meets_it() -> None:
    plain = drill.curve(drill.configured(SHORT))
    planted = {**SHORT, "stability.inject": ("gradient-x1e4@5",)}
    clipped = drill.curve(drill.configured(planted))
    assert clipped[:5] == plain[:5]
    assert clipped[5].grad_norm > 5_000 * plain[5].grad_norm
    assert clipped[-1].loss == pytest.approx(plain[-1].loss, abs=0.1)
    alone = drill.curve(drill.configured({**planted, "optim.clip": 0.0}))
    assert alone[-1].loss > plain[-1].loss + 0.2


def test_the_largest_attention_logit_is_that_of_queries_and_keys() -> None:
    config = drill.configured({"model.qk_norm": False})
    bench = drill.Bench(config)
    ids = drill.batch(config, 0)
    attention = bench.model.layers[0].self_attn
    x = bench.model.layers[0].input_layernorm(bench.model.embed_tokens(ids[:, :-1]))
    cos, sin = bench.model.cos, bench.model.sin

    def heads(y: torch.Tensor) -> torch.Tensor:
        return rotary(y.view(8, 16, 4, 16).transpose(1, 2), cos, sin)

    products = heads(attention.q_proj(x)) @ heads(attention.k_proj(x)).mT / 4
    assert bench.step(0, 0).attention_logit == pytest.approx(products.max().item(), rel=1e-5)


def test_excess_is_the_largest_mean_above_the_healthy_run() -> None:
    healthy = [3.0] * 30
    assert drill.excess(healthy, healthy) == 0
    assert drill.excess([*[3.0] * 15, *[4.0] * 15], healthy) == pytest.approx(1)
    assert drill.excess([*[3.0] * 15, 4.0, *[3.0] * 14], healthy) == pytest.approx(1 / 8)
    assert drill.excess([*[3.0] * 29, math.nan], healthy) == math.inf


def test_the_point_triggers_harm_as_the_lab_says() -> None:
    broken = losses({"stability.inject": ("lr-x100@3",)})
    assert drill.end_loss(broken) > drill.end_loss(losses()) + 0.2


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError):
        drill.configured({"optim.clipp": 1.0})
