"""The grader of lab 04: Adam by its closed form, torch's own fp16, curves and models nobody has
seen, a real descent that breaks, and both incidents trained again.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from x1 import drill
from x1.course.grading import exercise, expect


def number(value):
    """The learner's number, or NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def first(values):
    """The first of some values, to show it; None if there is none."""
    return values[0] if values else None


# --- steps_lost


def lost_steps(size, beta1, beta2):
    """After one gradient `size` times the usual: both moments are geometric sums."""
    after = np.arange(1, 9_000)
    momentum = 1 + (1 - beta1) * (size - 1) * beta1**after
    second = 1 + (1 - beta2) * (size**2 - 1) * beta2**after
    return int((momentum / np.sqrt(second) < 0.5).sum())


def drawn_burst(rng):
    return {
        "size": round(float(10 ** rng.uniform(2, 5)), 1),
        "beta1": round(float(rng.choice([0.8, 0.9, 0.95])), 2),
        "beta2": round(float(1 - 10 ** rng.uniform(-2.2, -1.3)), 4),
    }


def asked_steps(steps_lost, case, clip, wanted):
    got = number(steps_lost(case["size"], case["beta1"], case["beta2"], clip))
    return got == wanted, {**case, "clip": clip, "got": f"{got:g}"}


@exercise("steps_lost")
def test_it_follows_from_the_two_moments(steps_lost, rng):
    usual = {"beta1": 0.9, "beta2": round(float(rng.uniform(0.99, 0.994)), 4)}
    for case in (drawn_burst(rng) | usual, drawn_burst(rng), drawn_burst(rng)):
        wanted = lost_steps(**case)
        right, values = asked_steps(steps_lost, case, 0, wanted)
        expect(right, "moments", **values)


@exercise("steps_lost")
def test_a_burst_that_memory_hardly_holds(steps_lost, rng):
    """Around the size at which the update comes below half at all, or only for a few steps."""
    for beta2 in (0.95, 0.99):
        case = {"size": round(float(rng.uniform(1, 25)), 1), "beta1": 0.5, "beta2": beta2}
        right, values = asked_steps(steps_lost, case, 0, lost_steps(**case))
        expect(right, "moments", **values)
    case = {"size": round(float(rng.uniform(15, 40)), 1), "beta1": 0.98, "beta2": 0.995}
    right, values = asked_steps(steps_lost, case, 0, lost_steps(**case))
    expect(right, "moments", **values)


@exercise("steps_lost")
def test_a_slow_momentum_loses_the_very_next_step(steps_lost, rng):
    case = {"size": round(float(rng.uniform(500, 5_000)), 1), "beta1": 0.98, "beta2": 0.95}
    right, values = asked_steps(steps_lost, case, 0, lost_steps(**case))
    expect(right, "moments", **values)


@exercise("steps_lost")
def test_clipped_to_the_usual_length_nothing_is_lost(steps_lost, rng):
    for clip in (1.0, round(float(rng.uniform(0.1, 0.9)), 2)):
        right, values = asked_steps(steps_lost, drawn_burst(rng), clip, 0)
        expect(right, "clipped", **values)


@exercise("steps_lost")
def test_a_loose_clip_lets_its_share_through(steps_lost, rng):
    case = drawn_burst(rng) | {"size": round(float(rng.uniform(2_000, 9_000)), 1)}
    for clip in (round(float(rng.uniform(50, 900)), 1), 1e5):
        wanted = lost_steps(min(case["size"], clip), case["beta1"], case["beta2"])
        right, values = asked_steps(steps_lost, case, clip, wanted)
        expect(right, "loose_clip", **values)


# --- loss_scale


def drawn_gradients(rng, largest):
    """Sizes over many powers of ten, both signs, some zeros; the largest as told, sign included."""
    sizes = 10 ** rng.uniform(-13, 0, int(rng.integers(60, 200)))
    sizes *= abs(largest) / 8 / sizes.max()
    sizes *= rng.choice([-1, 1], len(sizes))
    sizes[rng.integers(0, len(sizes), 9)] = 0
    sizes[int(rng.integers(len(sizes)))] = largest
    return torch.tensor(rng.permutation(sizes), dtype=torch.float32)


def in_half(gradients, scale):
    return (gradients.double() * scale).to(torch.float16)


def pair_of(answer):
    """(scale, share) as numbers, or NaN and NaN."""
    if isinstance(answer, tuple | list) and len(answer) == 2:
        return number(answer[0]), number(answer[1])
    return math.nan, math.nan


def judged_scale(loss_scale, gradients):
    """Says whether the scale is too small, too large or no power of two; and the share lost."""
    scale, lost = pair_of(loss_scale(gradients.clone()))
    largest = f"{float(gradients.abs().max()):.6g}"
    values = {"largest": largest, "scale": f"{scale:g}"}
    power = scale > 0 and math.isfinite(scale) and math.log2(scale).is_integer()
    expect(power, "scale_power", **values)
    expect(in_half(gradients, scale).isfinite().all(), "scale_overflows", **values)
    expect(not in_half(gradients, 2 * scale).isfinite().all(), "scale_small", **values)
    there = gradients != 0
    wanted = float((in_half(gradients[there], scale) == 0).double().mean())
    return abs(lost - wanted) < 1e-6, {**values, "lost": f"{lost:.4g}"}


@exercise("loss_scale")
def test_the_largest_power_of_two_that_fits(loss_scale, rng):
    for low, high, sign in ((-6, -1, -1), (-3, 0, 1), (-9, -6, -1)):
        gradients = drawn_gradients(rng, sign * 10 ** float(rng.uniform(low, high)))
        right, values = judged_scale(loss_scale, gradients)
        expect(right, "scale_lost", **values)


@exercise("loss_scale")
def test_gradients_beyond_fp16_are_scaled_down(loss_scale, rng):
    gradients = drawn_gradients(rng, 10 ** float(rng.uniform(5.2, 8)))
    right, values = judged_scale(loss_scale, gradients)
    expect(right, "scale_lost", **values)


@exercise("loss_scale")
def test_where_rounding_decides(loss_scale, rng):
    """fp16 rounds what lies below 65,520 down to 65,504, its largest number."""
    for top in (65_504.0, 65_512.0, 65_519.0, 65_520.0, 65_536.0):
        gradients = drawn_gradients(rng, top / 2 ** int(rng.integers(5, 20)))
        right, values = judged_scale(loss_scale, gradients)
        expect(right, "scale_lost", **values)


@exercise("loss_scale")
def test_zeros_are_not_lost(loss_scale, rng):
    gradients = torch.cat((drawn_gradients(rng, 0.01), torch.zeros(100)))
    right, values = judged_scale(loss_scale, gradients)
    expect(right, "scale_zeros", **values)


# --- alarms: curves that nobody has seen


def drawn_curve(rng, steps=150):
    """(losses, gradient norms, noise): a healthy run, with a steep start and rough noise."""
    at = np.arange(steps)
    start, end = rng.uniform(5, 9), rng.uniform(2, 3.5)
    noise = float(rng.uniform(0.01, 0.03))
    fall = rng.uniform(0.6, 0.85) * np.exp(-at / rng.uniform(4, 12))
    slow = (1 + at) ** -float(rng.uniform(0.3, 0.7))
    rough = np.clip(rng.standard_t(4, steps), -6, 6)
    losses = end + (start - end) * (fall + (1 - fall[0]) * slow) + noise * rough
    norms = rng.uniform(0.3, 2) * np.exp(0.2 * rng.standard_normal(steps)) + 3 * np.exp(-at / 6)
    norms[rng.integers(5, steps, 2)] *= 5
    return losses.tolist(), norms.tolist(), noise


def verdicts(alarms, losses, norms):
    """What the learner's detector says of a curve: one bool a step."""
    raised = alarms(list(losses), list(norms))
    form = isinstance(raised, list) and len(raised) == len(losses)
    form = form and all(isinstance(one, bool | np.bool_) for one in raised)
    expect(form, "alarms_form", steps=len(losses))
    return [bool(one) for one in raised]


def first_at(raised, onset):
    """How many steps after `onset` the first alarm comes; infinite if none does."""
    return next((delay for delay, alarm in enumerate(raised[onset:]) if alarm), math.inf)


def onset_of(rng):
    return int(rng.integers(40, 120))


def watched(alarms, curve, onset, within, kind):
    """Graded: at most one alarm before `onset`, and the first one after it in time."""
    raised = verdicts(alarms, *curve)
    false = [step for step, alarm in enumerate(raised[:onset]) if alarm]
    expect(len(false) <= 1, "false_alarms", count=len(false), steps=onset, at=first(false))
    expect(first_at(raised, onset) <= within, "missed", onset=onset, within=within, kind=kind)
    return raised


@exercise("alarms")
def test_healthy_runs_are_left_alone(alarms, rng):
    at = []
    for _ in range(3):
        losses, norms, _noise = drawn_curve(rng)
        raised = verdicts(alarms, losses, norms)
        at += [step for step, alarm in enumerate(raised) if alarm]
    expect(len(at) <= 1, "false_alarms", count=len(at), steps=450, at=first(at))


@exercise("alarms")
def test_a_jump_that_stays(alarms, rng):
    losses, norms, noise = drawn_curve(rng)
    onset, size = onset_of(rng), float(rng.uniform(30, 60)) * noise
    losses[onset:] = [loss + size for loss in losses[onset:]]
    watched(alarms, (losses, norms), onset, 2, "loss")


@exercise("alarms")
def test_a_climb_over_ten_steps(alarms, rng):
    losses, norms, noise = drawn_curve(rng)
    onset, size = onset_of(rng), float(rng.uniform(80, 150)) * noise
    for step in range(onset, len(losses)):
        losses[step] += size * min(1.0, (step - onset + 1) / 10)
    watched(alarms, (losses, norms), onset, 10, "loss")


@exercise("alarms")
def test_the_norm_alone(alarms, rng):
    losses, norms, _ = drawn_curve(rng)
    onset = onset_of(rng)
    norms[onset] = float(np.median(norms)) * 10 ** float(rng.uniform(2.2, 4))
    watched(alarms, (losses, norms), onset, 0, "grad_norm")


@exercise("alarms")
def test_a_second_spike_after_a_larger_one(alarms, rng):
    """The first must not become part of what is usual."""
    losses, norms, noise = drawn_curve(rng)
    early = int(rng.integers(40, 60))
    for step in range(early, early + 12):
        losses[step] += float(rng.uniform(20, 60))
        norms[step] *= 1000
    second = early + 12 + int(rng.integers(2, 4))
    for step in range(second, second + 3):
        losses[step] += 40 * noise
    raised = watched(alarms, (losses, norms), early, 1, "loss")
    between = sum(raised[early + 12 : second])
    expect(between <= 1, "between", count=between, first=early, second=second)
    expect(first_at(raised, second) <= 2, "second_missed", first=early, second=second)


@exercise("alarms")
def test_what_is_not_finite_is_told_at_once(alarms, rng):
    bad = [math.nan, math.inf, -math.inf]
    for channel in (0, 1):
        curve = drawn_curve(rng)
        places = [0, int(rng.integers(1, 16)), int(rng.integers(30, 60)), int(rng.integers(70, 90))]
        curve[channel][places[0]] = math.inf
        curve[channel][places[3]] = bad[int(rng.integers(3))]
        curve[channel][places[1]] = curve[channel][places[2]] = math.nan
        raised = verdicts(alarms, *curve[:2])
        missed = [place for place in places if not raised[place]]
        expect(not missed, "not_finite", step=first(missed))


@exercise("alarms")
def test_nan_does_not_blind_it(alarms, rng):
    """A guard that leaves a batch out may meet NaN again at the next one."""
    losses, norms, noise = drawn_curve(rng)
    step = int(rng.integers(45, 60))
    onset = step + int(rng.integers(15, 17))
    for place in range(step, step + 14):
        losses[place], norms[place] = math.nan, math.nan
    losses[onset:] = [loss + 40 * noise for loss in losses[onset:]]
    raised = verdicts(alarms, losses, norms)
    false = sum(raised[:step]) + sum(raised[step + 14 : onset])
    expect(false <= 1, "after_nan_false", step=step, count=false)
    expect(first_at(raised, onset) <= 2, "after_nan", step=step, onset=onset)


@exercise("alarms")
def test_the_future_changes_nothing(alarms, rng):
    losses, norms, noise = drawn_curve(rng)
    onset = onset_of(rng)
    losses[onset:] = [loss + 40 * noise for loss in losses[onset:]]
    burst = onset - 12
    norms[burst] *= 500
    raised = verdicts(alarms, losses, norms)
    for end in (1, burst + 1, onset, onset + 1, int(rng.integers(20, 149))):
        cut = verdicts(alarms, losses[:end], norms[:end])
        wrong = next((s for s in range(end) if cut[s] != raised[s]), None)
        expect(wrong is None, "looks_ahead", step=wrong, end=end, steps=len(losses))


# --- recover


def nth_kept(skipped, count):
    """The first `count` batches that are not skipped."""
    listed, index, banned = [], 0, set(skipped)
    while len(listed) < count:
        if index not in banned:
            listed.append(index)
        index += 1
    return listed


def pair_form(answer):
    """The learner's pair as (int, list), or a failed expectation."""
    form = isinstance(answer, tuple | list) and len(answer) == 2
    form = form and isinstance(answer[0], int) and isinstance(answer[1], list | tuple)
    expect(form, "recover_form", got=repr(answer)[:80])
    return int(answer[0]), list(answer[1])


def drawn_state(rng, skips):
    """Checkpoints, skipped batches, alarm and window of a run in the middle of its life."""
    every = int(rng.integers(4, 15))
    alarm_step = int(rng.integers(60, 140))
    checkpoints = [s for s in range(0, alarm_step + 1, every) if s == 0 or rng.random() < 0.8]
    skipped = []
    for _ in range(skips):
        start = int(rng.integers(0, alarm_step))
        skipped += list(range(start, start + int(rng.integers(1, 6))))
    return {
        "checkpoints": rng.permutation(checkpoints).tolist(),
        "skipped": rng.permutation(sorted(set(skipped))).astype(int).tolist(),
        "alarm_step": alarm_step,
        "window": int(rng.integers(8, 30)),
    }


def recovered(recover, state):
    before = json.dumps(state)
    answer = pair_form(recover(*[v.copy() if isinstance(v, list) else v for v in state.values()]))
    return answer, {**json.loads(before), "back": answer[0]}


@exercise("recover")
def test_back_to_the_newest_good_checkpoint(recover, rng):
    for skips in (0, 2):
        for exact in (False, True):
            state = drawn_state(rng, skips)
            if exact:  # one whose window is just complete, and one that lacks a single step
                edge = state["alarm_step"] - state["window"]
                state["checkpoints"] = [edge, edge + 1, *state["checkpoints"]]
            good = [s for s in state["checkpoints"] if state["alarm_step"] - s >= state["window"]]
            (back, _), values = recovered(recover, state)
            expect(back in state["checkpoints"], "no_checkpoint", **values)
            expect(back in good, "not_good", **values)
            expect(back == max(good), "not_newest", **values)


@exercise("recover")
def test_without_a_good_one_it_starts_over(recover, rng):
    state = drawn_state(rng, 0)
    state["alarm_step"] = int(rng.integers(6, 20))
    state["window"] = state["alarm_step"] + int(rng.integers(1, 9))
    state["checkpoints"] = [s for s in range(0, state["alarm_step"], 3) if s]
    (back, skipped), values = recovered(recover, state)
    expect(back == 0, "start_over", **values)
    expect(skipped == list(range(state["alarm_step"] + 1)), "start_skips", **values)


@exercise("recover")
def test_what_was_trained_on_since_is_skipped(recover, rng):
    for skips in (0, 1, 3):
        state = drawn_state(rng, skips)
        (back, skipped), values = recovered(recover, state)
        used = nth_kept(state["skipped"], state["alarm_step"] + 1)[back:]
        forgotten = sorted(set(used) - set(skipped))
        expect(not forgotten, "comes_again", **values, index=first(forgotten))
        lost = sorted(set(state["skipped"]) - set(skipped))
        expect(not lost, "skip_forgotten", **values, index=first(lost))
        extra = sorted(set(skipped) - set(used) - set(state["skipped"]))
        expect(not extra, "skips_too_much", **values, index=first(extra))
        expect(list(skipped) == sorted(set(skipped)), "not_sorted", **values)


@exercise("recover")
def test_data_index_is_step_plus_skipped(recover, rng):
    """Twice in a row: what the first roll-back skipped lies before the second one's batches."""
    state = drawn_state(rng, 0)
    for _ in range(2):
        (back, skipped), values = recovered(recover, state)
        following = nth_kept(skipped, back + 1)[back]
        expect(following == back + len(skipped), "index", **values, index=following)
        state |= {
            "checkpoints": [s for s in state["checkpoints"] if s <= back],
            "skipped": skipped,
            "alarm_step": back + state["window"] + int(rng.integers(1, 20)),
        }


class Descent:
    """Real training: a table of bigrams by gradient descent with momentum, broken by some batches.

    Whoever trains on a broken batch gets its gradient 10,000 times too large, every time.
    """

    def __init__(self, rng, broken):
        self.size = 8
        chances = rng.dirichlet(np.full(self.size, 0.4), self.size)
        last = rng.integers(0, self.size, (150, 48))
        draws = rng.random((150, 48, 1))
        following = (chances.cumsum(axis=1)[:, :-1][last] < draws).sum(axis=-1)
        self.pairs = list(zip(last, following, strict=True))
        self.broken = broken
        self.table = np.zeros((self.size, self.size))
        self.momentum = np.zeros_like(self.table)

    def step(self, index):
        """The loss of batch `index` before the update on it."""
        last, following = self.pairs[index % len(self.pairs)]
        logits = self.table[last] - self.table[last].max(axis=1, keepdims=True)
        log_chances = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows = np.arange(len(last))
        loss = -log_chances[rows, following].mean()
        gradient = np.zeros_like(self.table)
        errors = np.exp(log_chances)
        errors[rows, following] -= 1
        np.add.at(gradient, last, errors / len(last))
        self.momentum = 0.8 * self.momentum + gradient * (1e4 if index in self.broken else 1)
        self.table = self.table - 0.5 * self.momentum
        return float(loss)

    def state(self):
        return self.table, self.momentum

    def restore(self, state):
        self.table, self.momentum = state


def trained(run, steps, recover=None, window=8):
    """(losses, batches, skipped, roll-backs) of a run; guarded if `recover` is given."""
    step, skipped, rollbacks, losses, batches, saved = 0, [], 0, [], [], {}
    while step < steps and rollbacks < 5:
        if step % 4 == 0:
            saved[step] = run.state()
        index = nth_kept(skipped, step + 1)[step]
        losses[step:], batches = [run.step(index)], [*batches, (index, tuple(skipped))]
        if recover is None or losses[step] < 4:
            step += 1
            continue
        step, skipped = pair_form(recover(list(saved), list(skipped), step, window))
        expect(step in saved, "no_checkpoint_here", back=step)
        saved = {s: state for s, state in saved.items() if s <= step}
        run.restore(saved[step])
        rollbacks += 1
    return losses, batches, skipped, rollbacks


@exercise("recover")
def test_a_real_run_gets_back_on_its_curve(recover, rng):
    seed, steps = int(rng.integers(1 << 30)), 70
    start = int(rng.integers(25, 40))
    broken = set(range(start, start + 3))
    losses, batches, skipped, rollbacks = trained(
        Descent(np.random.default_rng(seed), broken), steps, recover
    )
    expect(rollbacks < 5, "spike_returns", first=start, rollbacks=rollbacks)
    again = [index for index, banned in batches if index in banned]
    expect(not again, "seen_again", index=first(again))
    expect(batches[-1][0] == steps - 1 + len(skipped), "end_index", index=batches[-1][0])
    healthy = trained(Descent(np.random.default_rng(seed), set()), steps)[0]
    gap = float(np.mean(losses[-10:]) - np.mean(healthy[-10:]))
    expect(gap < 0.3, "off_curve", first=start, gap=round(gap, 2))


# --- hunt: small models with one weak spot


class Norm(nn.Module):
    """Root-mean-square norm. "zero norm" has no epsilon; "late eps" has it outside the root."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def forward(self, x):
        squares = x.pow(2).mean(-1, keepdim=True)
        if self.fault == "zero norm":
            return x / squares.sqrt()
        if self.fault == "late eps":
            return x / (squares.sqrt() + 1e-6)
        return x / (squares + 1e-6).sqrt()


class Mixer(nn.Module):
    """Causal attention of one head, written out. "half" multiplies queries and keys in fp16."""

    def __init__(self, width, fault):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.q_norm = Norm(fault)
        self.fault = fault

    def forward(self, x):
        q, k = self.query(x), self.key(x)
        if self.fault == "half":
            scores = torch.bmm((q * 300).half(), (k * 300).half().mT).float() / 300**2
        else:
            scores = torch.bmm(self.q_norm(q), k.mT)
        length = x.shape[1]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (scores * x.shape[-1] ** -0.5).masked_fill(future, -math.inf)
        return torch.bmm(torch.softmax(scores, dim=-1), x)


class Gate(nn.Module):
    """A softplus by hand, which overflows; or a logarithm hidden by a `where`."""

    def __init__(self, width, fault):
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.fault = fault

    def forward(self, x):
        h = self.up(x)
        if self.fault == "overflow":
            return self.down((1 + (150 * h).exp()).log() / 150)
        if self.fault == "where":
            hidden = h.square().log()
            return self.down(torch.where(h == 0, torch.zeros_like(h), hidden))
        return self.down((1 + h.exp()).log())


class Block(nn.Module):
    def __init__(self, width, fault):
        super().__init__()
        self.norm = Norm("zero norm" if fault in ("zero token", "spared") else "")
        self.mixer, self.gate = Mixer(width, fault), Gate(width, fault)

    def forward(self, x):
        x = x + self.mixer(self.norm(x))
        return x + self.gate(self.norm(x))


class Criterion(nn.Module):
    """Mean negative log-likelihood of the targets that count; by hand, so that it can break."""

    def forward(self, logits, targets):
        chances = torch.softmax(logits, dim=-1)
        own = chances.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        counts = (targets >= 0).float()
        nll = -own.log()
        return (nll * counts).sum() / counts.sum()


class Network(nn.Module):
    """Blocks under a drawn name, one of them with the fault; `model(ids, targets)` is the loss."""

    def __init__(self, rng, fault, place):
        super().__init__()
        width, self.blocks_name = 8, str(rng.choice(["blocks", "layers", "h", "stages"]))
        self.embedding = nn.Embedding(12, width)
        blocks = [Block(width, fault if i == place else "") for i in range(2)]
        setattr(self, self.blocks_name, nn.ModuleList(blocks))
        self.head = nn.Linear(width, 12)
        self.criterion = Criterion()
        self.sharp = 1e4 if fault == "log of zero" else 1.0

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for block in getattr(self, self.blocks_name):
            x = block(x)
        return self.criterion(self.head(x) * self.sharp, targets)


FAULTS = {  # layer inside its block, or outside of all of them; and operation
    "zero token": ("norm", "div"),
    "zero norm": ("mixer.q_norm", "div"),
    "half": ("mixer", "bmm"),
    "overflow": ("gate", "exp"),
    "log of zero": (None, "log"),
    "no targets": (None, "div"),
    "late eps": ("mixer.q_norm", "sqrt"),
    "where": ("gate", "log"),
}
OVERFLOWS = ("half", "overflow")
VANISHING = ("zero norm", "log of zero")
SAME = {"matmul": "bmm", "mm": "bmm", "truediv": "div", "rtruediv": "div", "maskedfill": "mask"}


def operation(said):
    """An operation's name without what its spellings differ in."""
    plain = str(said).lower().partition("backward")[0].replace("_", "")
    plain = plain.removeprefix("aten::").removeprefix("aten.").partition(".")[0]
    return SAME.get(plain, plain)


def patient(rng, fault):
    """(model, ids, targets, layer, op) of a network with this fault in a drawn block."""
    by_token = fault in ("zero token", "spared")
    place = 0 if by_token else int(rng.integers(2))
    torch.manual_seed(int(rng.integers(1 << 30)))
    model = Network(rng, fault, place)
    ids = torch.from_numpy(rng.integers(1, 12, (2, 6)))
    targets = torch.from_numpy(rng.integers(0, 12, (2, 6)))
    block = getattr(model, model.blocks_name)[place]
    if by_token:  # a token that was never trained on
        nn.init.zeros_(model.embedding.weight[0].data)
    if fault == "zero token":
        ids[0, int(rng.integers(6))] = 0
    if fault in ("zero norm", "late eps"):  # a query that died: all its weights are 0
        nn.init.zeros_(block.mixer.query.weight)
        nn.init.zeros_(block.mixer.query.bias)
    if fault in ("half", "overflow"):  # large enough to leave no doubt
        for linear in (block.mixer.query, block.mixer.key, block.gate.up):
            nn.init.normal_(linear.weight, std=3.0)
    if fault == "no targets":
        targets = torch.full_like(targets, -1)
    if fault == "where":  # a unit that died
        block.gate.up.weight.data[0], block.gate.up.bias.data[0] = 0.0, 0.0
    layer, op = FAULTS.get(fault, (None, ""))
    layer = f"{model.blocks_name}.{place}.{layer}" if layer else "criterion"
    return model, ids, targets, layer, op


def asked_hunt(hunt, rng, fault):
    model, ids, targets, layer, op = patient(rng, fault)
    answer = hunt(model, ids, targets)
    form = isinstance(answer, tuple | list) and len(answer) == 2
    expect(answer is None or form, "hunt_form", got=repr(answer)[:60])
    said = (str(answer[0]), operation(answer[1])) if answer is not None else None
    return model, said, (layer, op)


@exercise("hunt")
def test_forward_to_its_layer_and_operation(hunt, rng):
    drawn = [str(rng.choice(kinds)) for kinds in (OVERFLOWS, VANISHING)]
    for fault in ("zero token", *drawn, "no targets"):
        model, said, (layer, op) = asked_hunt(hunt, rng, fault)
        names = [name for name, _ in model.named_modules()]
        expect(said is not None, "hunt_nothing")
        expect(said[0] in names, "hunt_no_layer", layer=said[0])
        expect(said[0] == layer, "hunt_layer", layer=said[0], op=said[1])
        expect(said[1] == op, "hunt_op", layer=said[0], op=said[1])


@exercise("hunt")
def test_backward_to_its_layer_and_operation(hunt, rng):
    for fault in ("late eps", "where"):
        _, said, (layer, op) = asked_hunt(hunt, rng, fault)
        expect(said is not None, "hunt_backward_nothing")
        expect(said[0] == layer, "hunt_backward_layer", layer=said[0], op=said[1])
        expect(said[1] == op, "hunt_backward_op", layer=said[0], op=said[1])


@exercise("hunt")
def test_a_healthy_model_is_left_in_peace(hunt, rng):
    _, said, _ = asked_hunt(hunt, rng, "spared")
    expect(said is None, "hunt_healthy", layer=said and said[0], op=said and said[1])


@exercise("hunt")
def test_no_hook_is_left_behind(hunt, rng):
    model, _, _ = asked_hunt(hunt, rng, str(rng.choice(["half", "late eps", ""])))
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    left = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
    expect(left == 0, "hunt_hooks", count=left)


# --- post_mortem: both incidents, trained again

RECORD = json.loads((Path(__file__).parent / "recorded.json").read_text("utf-8"))
CAUSES = {"a": "gradient-burst", "b": "attention-logits"}
MAY_CHANGE = {
    "optim.warmup_steps": int,
    "optim.beta2": float,
    "optim.clip": float,
    "optim.z_loss": float,
    "model.qk_norm": bool,
}


@functools.cache
def trained_again(name, change):
    """Largest excess over the healthy run, in nats, of an incident with a change of its settings.

    `change` is the items of the change; None if the settings are refused.
    """
    incident = RECORD["incidents"][name]
    settings = {**incident["settings"], **incident["planted"], **dict(change)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lines = drill.curve(drill.configured(settings, incident["seed"]))
    torch.set_num_threads(threads)
    return drill.excess([line.loss for line in lines], incident["healthy"])


def recorded_value(name, key):
    section, field = key.split(".")
    settings = RECORD["incidents"][name]["settings"]
    return drill.configured(settings).model_dump()[section][field]


def in_range(name, key, value):
    """Whether a value is one that the setting can have in this lab."""
    kind = MAY_CHANGE[key]
    if kind is bool:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    most = {"optim.beta2": 0.9999, "optim.warmup_steps": recorded_value(name, "train.steps")}
    return 0 <= value <= most.get(key, 1e6) and (kind is float or isinstance(value, int))


def submitted(post_mortem, name):
    """The learner's answer about an incident, its form checked, each change a single setting."""
    answer = post_mortem(name)
    form = isinstance(answer, dict) and {"cause", "fix", "control"} <= set(answer)
    expect(form, "post_form", incident=name)
    for part in ("fix", "control"):
        change = answer[part]
        one = isinstance(change, dict) and len(change) == 1
        expect(one, "post_one", incident=name, part=part, got=repr(change)[:80])
        ((key, value),) = change.items()
        expect(key in MAY_CHANGE, "post_field", incident=name, part=part, setting=key)
        expect(in_range(name, key, value), "post_value", incident=name, part=part, setting=key,
               value=repr(value)[:40])  # fmt: skip
        same = recorded_value(name, key) == value
        expect(not same, "post_same", incident=name, part=part, setting=key, value=value)
    return answer


def excess_with(answer, name, part):
    return trained_again(name, tuple(answer[part].items()))


@exercise("post_mortem")
def test_each_change_is_one_other_setting(post_mortem):
    for name in CAUSES:
        answer = submitted(post_mortem, name)
        differ = set(answer["fix"]) != set(answer["control"])
        expect(differ, "post_twice", incident=name)


@exercise("post_mortem")
def test_with_the_fix_the_spike_is_gone(post_mortem):
    for name in CAUSES:
        answer = submitted(post_mortem, name)
        found = excess_with(answer, name, "fix")
        gone = found < RECORD["gone_nats"]
        expect(gone, "post_fix", incident=name, change=repr(answer["fix"]), nats=round(found, 2))


@exercise("post_mortem")
def test_with_the_control_the_spike_is_still_there(post_mortem):
    for name in CAUSES:
        answer = submitted(post_mortem, name)
        found = excess_with(answer, name, "control")
        there = found >= RECORD["gone_nats"]
        expect(there, "post_control", incident=name, change=repr(answer["control"]),
               nats=round(found, 2))  # fmt: skip


@exercise("post_mortem")
def test_the_cause_is_what_the_experiment_left_standing(post_mortem):
    for name, cause in CAUSES.items():
        answer = submitted(post_mortem, name)
        expect(answer["cause"] == cause, "post_cause", incident=name, cause=repr(answer["cause"]))
