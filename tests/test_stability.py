"""The detector: quiet on noise around a falling loss, awake for a spike, and sure of its reason."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x1 import stability
from x1.config import StabilityConfig
from x1.stability import Detector, judge
from x1.text import UserError

RULES = StabilityConfig(window=50)


def falling(step, draw, noise=0.05):
    """A loss curve like a real one: fast, then slow, with noise from batch to batch."""
    return 2 + 5 * math.exp(-step / 40) + 3 / (step + 10) + draw.gauss(0, noise)


def feed(detector, losses, norms=None, probe=lambda: math.nan, skipped=None):
    """The verdicts on a series of losses, batch after batch."""
    norms = norms or [1.0] * len(losses)
    return [
        judge(detector, RULES, index, loss, norm, skipped or {}, probe)
        for index, (loss, norm) in enumerate(zip(losses, norms, strict=True))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_falling_noisy_loss_is_quiet(seed):
    draw = random.Random(seed)
    verdicts = feed(Detector(), [falling(step, draw) for step in range(1000)])
    assert {v.action for v in verdicts} == {"go"} and not any(v.event for v in verdicts)


@pytest.mark.parametrize("channel", ["loss", "grad_norm"])
def test_a_spike_is_harmful_if_the_quiet_batch_got_worse_and_benign_if_not(channel):
    draw = random.Random(1)
    losses = [falling(step, draw) for step in range(200)]
    norms = [1 + 0.1 * draw.random() for _ in losses]
    (losses if channel == "loss" else norms)[-1] *= 10
    for probe_rise, action, benign in ((2.0, "rollback", False), (0.0, "go", True)):
        detector = Detector()
        feed(detector, losses[:-1], norms[:-1])
        memory = detector.state()
        probed = detector.quiet_loss + probe_rise
        verdict = judge(detector, RULES, 199, losses[-1], norms[-1], {}, lambda p=probed: p)
        assert (verdict.action, verdict.event["benign"]) == (action, benign)
        assert verdict.event["channel"] == channel
        assert detector.state() == memory, "a spike must not become its own trend"


def test_a_non_finite_step_is_skipped_and_five_in_a_row_mean_the_weights():
    skipped = {}
    actions = []
    for index in range(5):
        verdict = judge(Detector(), RULES, index, math.nan, 1.0, skipped, lambda: 0.0)
        actions.append(verdict.action)
        skipped[index] = verdict.reason
    assert actions == ["skip"] * 4 + ["rollback"]


@pytest.mark.parametrize("policy", ["rollback", "skip", "off"])
@pytest.mark.parametrize("loss, norm", [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)])
def test_no_policy_applies_a_non_finite_step(policy, loss, norm):
    rules = StabilityConfig(policy=policy)
    assert judge(Detector(), rules, 7, loss, norm, {}, lambda: 0.0).action != "go"


def test_policies_decide_what_a_harmful_spike_leads_to():
    for policy, action in (("rollback", "rollback"), ("skip", "skip"), ("off", "go")):
        detector = Detector()
        draw = random.Random(2)
        feed(detector, [falling(step, draw) for step in range(100)])
        rules = StabilityConfig(window=50, policy=policy)
        assert judge(detector, rules, 100, 50.0, 1.0, {}, lambda: 50.0).action == action


def test_the_memory_survives_json():
    import json

    draw = random.Random(3)
    for detector in (Detector(), Detector()):
        assert Detector.from_state(json.loads(json.dumps(detector.state()))).losses == []
        feed(detector, [falling(step, draw) for step in range(70)])
        again = Detector.from_state(json.loads(json.dumps(detector.state())))
        assert again == detector and len(again.losses) == RULES.window


@given(st.floats(0.01, 10), st.floats(-0.01, 0.01), st.integers(0, 99))
def test_the_spread_is_the_noise_whatever_the_trend(noise, slope, seed):
    draw = random.Random(seed)
    history = [100 + slope * noise * step + draw.gauss(0, noise) for step in range(400)]
    assert stability.spread(history) == pytest.approx(noise, rel=0.35, abs=0.12)


def test_a_fault_lasts_as_long_as_its_kind_says():
    planted = stability.parse_injections(["lr-x100@5", "nan-gradient@6"], last_index=9)
    assert [sorted(stability.active(planted, i)) for i in range(4, 9)] == [
        [], ["lr-x100"], ["lr-x100", "nan-gradient"], ["lr-x100"], [],
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["lr-x10@3", "lr-x100", "lr-x100@", "lr-x100@10", "lr-x100@-1"])
def test_an_impossible_injection_is_named(text):
    with pytest.raises(UserError, match=text):
        stability.parse_injections([text], last_index=9)
