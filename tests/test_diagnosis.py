"""What the diagnosis names, what it leaves alone, and that nothing in a run's files breaks it."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from x1 import config, diagnosis, folder, optim, report
from x1.config import PRESETS
from x1.diagnosis import diagnose
from x1.text import LANGUAGES

LINES = [{"step": step, "loss": 3.0 - 0.01 * step} for step in range(100)]
SPIKE = {"event": "spike", "step": 5, "grad_norm": 87.0, "benign": True}
OVERFITTING = {
    "event": "overfitting", "step": 80, "val_loss": 2.5, "best_val_loss": 2.25,
    "loss": 1.5, "loss_then": 2.0,
}  # fmt: skip

FAULTS = {
    "no-qk-norm": (("model.qk_norm=false", "optim.lr=0.03"), ["0.03", "qk_norm = false", "2.105"]),
    "no-warm-up": (("optim.warmup_steps=0", "optim.beta2=0.99"), ["0.003", "100"]),
    "bf16-weights": (("optim.weight_dtype=bf16",), ["0.002"]),
    "no-clipping": (("optim.clip=0",), ["87"]),
    "overfitting": ((), ["2.500", "2.250", "1.500", "2.000"]),
}


def events_of(name):
    return {"no-clipping": [SPIKE], "overfitting": [OVERFITTING]}.get(name, [])


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_figures_and_only_it(name):
    settings, figures = FAULTS[name]
    (found,) = diagnose(config.build(settings=settings), LINES, events_of(name))
    assert found.name == name
    for figure in figures:
        assert figure in found.reason("en") and figure in found.reason("es")


@pytest.mark.parametrize("name", FAULTS)
def test_the_experiment_is_a_run_without_the_fault(name):
    settings, _ = FAULTS[name]
    (found,) = diagnose(config.build(settings=settings), LINES, events_of(name))
    for setting in found.settings:
        assert f"--set {setting}" in found.experiment("en")
        assert f"--set {setting}" in found.experiment("es")
    cured = config.build(settings=(*settings, *found.settings))
    assert config.differences(config.build(settings=settings), cured)
    if name != "overfitting":  # which is an event: another run has its own
        assert not diagnose(cured, LINES, events_of(name))


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_is_named_in_a_preset(preset):
    assert diagnose(config.build(preset), LINES, []) == []


def test_all_faults_at_once_are_all_named():
    settings = [setting for chosen, _ in FAULTS.values() for setting in chosen]
    found = diagnose(config.build(settings=tuple(settings)), LINES, [SPIKE, OVERFITTING])
    assert {c.name for c in found} == set(FAULTS)
    assert len({c.title(lang) for c in found for lang in LANGUAGES}) == 2 * len(FAULTS)


@pytest.mark.parametrize(
    "settings",
    [
        ("model.qk_norm=false", "optim.lr=0.003"),  # a learning rate that needs no norm
        ("optim.warmup_steps=0", "optim.lr=0.0001"),
        ("optim.clip=0",),  # and nothing happened
    ],
)
def test_a_setting_that_does_no_harm_is_not_named(settings):
    assert diagnose(config.build(settings=settings), LINES, []) == []


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
NAMES = ("event", "loss", "step", "grad_norm", "val_loss", "best_val_loss", "loss_then")
DAMAGED = st.lists(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=7), max_size=6)


@given(DAMAGED, DAMAGED)
def test_no_line_breaks_it(lines, events):
    settings = tuple(setting for chosen, _ in FAULTS.values() for setting in chosen)
    odd = [event | {"event": kind} for event in events for kind in ("overfitting", "spike")]
    for candidate in diagnose(config.build(settings=settings), lines, odd):
        for lang in LANGUAGES:
            assert candidate.reason(lang) and candidate.experiment(lang)


def test_the_share_lost_to_rounding_is_that_of_a_simulated_schedule():
    """A weight of 1/sqrt(d), moved by the scheduled rate: how often bf16 does not change at all."""
    chosen = config.build(settings=("optim.weight_dtype=bf16", "optim.lr=0.0004"))
    steps, width = chosen.train.steps, chosen.model.d_model
    draw = random.Random(0)
    lost = 0
    for step in range(steps):
        rate = optim.learning_rate(chosen.optim, step, steps)
        weight = torch.tensor(draw.gauss(0, 1) / math.sqrt(width)).bfloat16()
        lost += int((weight.float() - rate).bfloat16() == weight)
    (found,) = diagnose(chosen, LINES, [])
    assert found.evidence["lost"] == pytest.approx(lost / steps, abs=0.15)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_bf16_weights_are_rounded_after_every_update_and_fp32_ones_are_not(name):
    for dtype in ("fp32", "bf16"):
        chosen = config.build(settings=(f"optim.name={name}", f"optim.weight_dtype={dtype}"))
        torch.manual_seed(0)
        model = torch.nn.ModuleDict({"a_proj": torch.nn.Linear(8, 6)})
        optimizers = optim.build_optimizers(model, chosen.optim)
        for _ in range(2):
            model["a_proj"](torch.randn(4, 8)).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
            rounded = [torch.equal(p, p.bfloat16().float()) for p in model.parameters()]
            assert rounded == [dtype == "bf16"] * 2


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_report_shows_the_candidates_and_says_nothing_when_there_are_none(make_run, lang):
    suspect = make_run("suspect", "optim.weight_dtype=bf16")
    folder.append_line(suspect / folder.METRICS, {"step": 0, "attempt": 1, "loss": 5.5})
    page = report.write_report(suspect, lang).read_text("utf-8")
    (found,) = diagnose(folder.open_run(suspect), [{"loss": 5.5}], [])
    assert 'id="diagnosis"' in page and "--set optim.weight_dtype=fp32" in page
    assert found.title(lang) in page
    healthy = report.write_report(make_run("healthy"), lang).read_text("utf-8")
    assert 'id="diagnosis"' not in healthy


def test_a_run_without_a_line_is_diagnosed_by_its_settings():
    (found,) = diagnosis.diagnose(config.build(settings=("optim.weight_dtype=bf16",)), [], [])
    assert "?" in found.reason()
