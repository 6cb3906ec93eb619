"""The detector: quiet on noise around a falling loss, awake for a spike, and sure of its reason."""

import json
import math
import random
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from x1 import checkpoint, folder, stability, train
from x1.config import StabilityConfig
from x1.stability import Detector, Pace, judge
from x1.text import UserError

RULES = StabilityConfig(window=50)
CLIP = 1.0


def falling(step, draw, noise=0.05):
    """A loss curve like a real one: fast, then slow, with noise from batch to batch."""
    return 2 + 5 * math.exp(-step / 40) + 3 / (step + 10) + draw.gauss(0, noise)


def feed(detector, losses, norms=None, probe=lambda: math.nan, skipped=None):
    """The verdicts on a series of losses, batch after batch."""
    norms = norms or [1.0] * len(losses)
    return [
        judge(detector, RULES, index, loss, norm, CLIP, skipped or {}, probe)
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
    (losses if channel == "loss" else norms)[-1] *= 50
    for probe_rise, action, benign in ((2.0, "rollback", False), (0.0, "go", True)):
        detector = Detector()
        feed(detector, losses[:-1], norms[:-1])
        memory = detector.state()
        probed = detector.quiet_loss + probe_rise
        verdict = judge(detector, RULES, 199, losses[-1], norms[-1], CLIP, {}, lambda p=probed: p)
        assert (verdict.action, verdict.event["benign"]) == (action, benign)
        assert verdict.event["channel"] == channel
        assert detector.state() == memory, "a spike must not become its own trend"


def test_a_non_finite_step_is_skipped_and_five_in_a_row_mean_the_weights():
    skipped = {}
    actions = []
    for index in range(5):
        verdict = judge(Detector(), RULES, index, math.nan, 1.0, CLIP, skipped, lambda: 0.0)
        actions.append(verdict.action)
        skipped[index] = verdict.reason
    assert actions == ["skip"] * 4 + ["rollback"]


@pytest.mark.parametrize("policy", ["rollback", "skip", "off"])
@pytest.mark.parametrize("loss, norm", [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)])
def test_no_policy_applies_a_non_finite_step(policy, loss, norm):
    rules = StabilityConfig(policy=policy)
    assert judge(Detector(), rules, 7, loss, norm, CLIP, {}, lambda: 0.0).action != "go"


def test_policies_decide_what_a_harmful_spike_leads_to():
    for policy, action in (("rollback", "rollback"), ("skip", "skip"), ("off", "go")):
        detector = Detector()
        draw = random.Random(2)
        feed(detector, [falling(step, draw) for step in range(100)])
        rules = StabilityConfig(window=50, policy=policy)
        assert judge(detector, rules, 100, 50.0, 1.0, CLIP, {}, lambda: 50.0).action == action


@pytest.mark.parametrize("times", [2, 4, 12])
def test_a_gradient_norm_that_healthy_runs_show_too_is_quiet(times):
    detector = trained_detector()
    verdict = judge(detector, RULES, 100, 2.1, times * 1.0, CLIP, {}, lambda: math.nan)
    assert verdict == stability.Verdict("go")


def trained_detector():
    """A detector that has seen a hundred quiet steps, with gradient norms close to 1."""
    draw = random.Random(4)
    detector = Detector()
    losses = [falling(step, draw) for step in range(100)]
    feed(detector, losses, [1 + 0.01 * draw.random() for _ in losses])
    return detector


@pytest.mark.parametrize("policy", ["rollback", "skip"])
def test_a_burst_that_nothing_clips_is_skipped_before_it_does_harm(policy):
    rules = StabilityConfig(window=50, policy=policy)

    def decide(clip, skipped=None):
        detector = trained_detector()
        unharmed = detector.quiet_loss
        return judge(detector, rules, 100, 2.1, 1e4, clip, skipped or {}, lambda: unharmed)

    verdict = decide(clip=0.0)
    assert (verdict.action, verdict.reason) == ("skip", "gradient")
    assert verdict.event["channel"] == "grad_norm" and verdict.event["benign"] is False
    clipped = decide(clip=CLIP)
    assert clipped.action == "go" and clipped.event["benign"] is True
    assert decide(clip=0.0, skipped=dict.fromkeys(range(96, 100), "gradient")).action == "rollback"


def test_the_gradient_fault_reaches_the_optimizer_unclipped():
    def norms(faults):
        model = nn.Linear(3, 2)
        torch.manual_seed(0)
        model(torch.randn(4, 3)).square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).clone()
        stability.tamper_gradient(faults, model)
        seen = train.clip_gradients(model, stability.tamper_clip(faults, CLIP))
        left = torch.cat([p.grad.flatten() for p in model.parameters()])
        return [float(x.norm()) for x in (gradient, left)] + [float(seen)]

    torch.manual_seed(1)
    gradient, left, seen = norms({"gradient-x1e4"})
    assert left == pytest.approx(1e4 * gradient, rel=1e-5) == pytest.approx(seen, rel=1e-5)
    torch.manual_seed(1)
    gradient, left, seen = norms({"lr-x100"})
    assert left == pytest.approx(CLIP, rel=1e-4) and seen == pytest.approx(gradient, rel=1e-5)


def test_the_memory_survives_json():
    draw = random.Random(3)
    for detector in (Detector(), Detector()):
        assert Detector.from_state(json.loads(json.dumps(detector.state()))).losses == []
        feed(detector, [falling(step, draw) for step in range(70)])
        detector.overfits(3.0)
        again = Detector.from_state(json.loads(json.dumps(detector.state())))
        assert again == detector and len(again.losses) == RULES.window and again.best


def test_the_memory_of_an_earlier_version_is_read():
    state = Detector().state()
    del state["best"], state["worse"]
    assert Detector.from_state(state) == Detector()


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


# ---- Overfitting


def evaluations(pairs):
    """At which of these (training level, validation loss) the detector says overfitting."""
    detector, told = Detector(), []
    for place, (level, val_loss) in enumerate(pairs):
        detector.losses = [level] * 20
        if detector.overfits(val_loss):
            told.append(place)
        detector = Detector.from_state(json.loads(json.dumps(detector.state())))
    return told


def test_overfitting_is_told_once_at_the_third_evaluation_in_a_row():
    train_loss = [2.0 - 0.05 * i for i in range(20)]
    val_loss = [2.2 - 0.05 * i for i in range(8)] + [1.85 + 0.05 * i for i in range(1, 13)]
    assert evaluations(zip(train_loss, val_loss, strict=True)) == [10]


@pytest.mark.parametrize(
    "train_slope, val_slope",
    [(-0.05, -0.01), (0.05, 0.05), (-0.05, 0.0), (0.0, 0.05)],
    ids=["both fall", "both rise", "validation flat", "training flat"],
)
def test_only_the_parting_of_the_two_is_overfitting(train_slope, val_slope):
    pairs = [(3.0 + train_slope * i, 3.0 + val_slope * i) for i in range(20)]
    assert evaluations(pairs) == []


def test_an_interrupted_rise_and_a_broken_evaluation_are_not_overfitting():
    pairs = [
        (2.0, 2.0),
        (1.8, 2.1),
        (1.7, 2.1),
        (1.6, 2.0),
        (1.5, 2.1),
        (1.4, math.nan),
        (1.3, 2.1),
    ]
    assert evaluations(pairs) == []
    assert not Detector().overfits(2.0), "before any step there is no training loss"


# ---- Pace


def paces(seconds, earlier=()):
    pace = Pace(earlier)
    told = [(place, pace.slowed(s)) for place, s in enumerate(seconds)]
    return [(place, said) for place, said in told if said]


def test_a_minute_of_slow_steps_is_told_once_and_again_after_recovery():
    usual, slow = [1.0] * 150, [1.5] * 100
    ((place, (recent, expected)),) = paces(usual + slow)
    assert 150 < place <= 150 + 60 and expected == 1.0 and recent >= 1.25
    assert len(paces(usual + slow + usual + slow)) == 2


def test_noise_warm_up_and_a_short_hiccup_are_not_slowness():
    draw = random.Random(0)
    noisy = [draw.uniform(0.8, 1.2) for _ in range(400)]
    assert not paces([30.0] * 5 + noisy)
    assert not paces(noisy[:200] + [2.0] * 5 + noisy)
    assert not paces([0.001] * 200 + [0.01] * 500), "less than a minute in all"


def test_a_run_that_goes_on_slower_than_it_began_is_told():
    assert paces([1.5] * 60, earlier=[1.0] * 200)
    assert not paces([1.5] * 400), "without an earlier part, this is its usual pace"


# ---- In the loop


@pytest.fixture
def train_here():
    """Train in this process, and leave its signal handlers as they were."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield train.train
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_model_that_learns_its_text_by_heart_is_on_record(make_run, here, train_here):
    (here / "words.txt").write_text(
        "".join(chr(97 + random.Random(i).randrange(26)) for i in range(900))
    )
    run = make_run(
        "run", "train.steps=120", "optim.schedule=constant", "data.held_out_fraction=0.3"
    )
    assert train_here(run) == 0
    (event,) = folder.events(run, "overfitting")
    points = {line["step"]: line["val_loss"] for line in folder.curve(run) if "val_loss" in line}
    assert event["val_loss"] == points[event["step"]] > event["best_val_loss"]
    assert event["best_val_loss"] == min(v for s, v in points.items() if s <= event["step"])
    assert event["loss"] < event["loss_then"]


def test_a_slow_machine_is_on_record_and_changes_nothing_else(make_run, train_here, monkeypatch):
    runs = []
    for name, slowed in (("even", None), ("slow", (2.0, 1.0))):
        monkeypatch.setattr(Pace, "slowed", lambda pace, seconds, said=slowed: said)
        run = make_run(name, "train.steps=20")
        assert train_here(run) == 0
        runs.append(run)
    even, slow = runs
    tokens = folder.open_run(slow).batch_tokens
    events = folder.events(slow, "slow")
    assert len(events) == 20 and not folder.events(even, "slow")
    assert events[0]["clock"] == {"tokens_per_s": tokens / 2, "usual_tokens_per_s": tokens}
    assert folder.curve(even, keep_clock=False) == folder.curve(slow, keep_clock=False)
    files = [
        [
            (checkpoint.path_of(run, 20) / name).read_bytes()
            for name in ("model.safetensors", "optimizer.safetensors")
        ]
        for run in runs
    ]
    assert files[0] == files[1]


def test_the_gradient_fault_is_skipped_at_its_own_batch_and_costs_one_batch(make_run, train_here):
    run = make_run("run", "train.steps=40", 'stability.inject=["gradient-x1e4@30"]')
    assert train_here(run) == 0
    (skip,) = folder.events(run, "skip")
    assert (skip["data_index"], skip["reason"]) == (30, "gradient")
    assert folder.curve(run)[-1]["step"] == 40 and not folder.events(run, "rollback")
