"""The grader of lab 00: closed forms, a real network, hand-made gradients, unseen trainers."""

import math
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from x1 import config, money
from x1.course.grading import exercise, expect
from x1.model import Transformer, initialise
from x1.text import UserError


def number(value):
    """The learner's number, or NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def is_list_of(values, length):
    return isinstance(values, list) and len(values) == length


# --- first_loss


def closed_form(vocab_size, d_model, std, tied, repeats):
    own = std * d_model
    noise = math.log(vocab_size) + std**2 * d_model / 2
    return float(np.logaddexp(noise, own)) - repeats * own if tied else noise


def asked(first_loss, within, wanted=None, **case):
    """Whether the answer is near `wanted` (else: the closed form), and what was asked."""
    got = number(first_loss(*case.values()))
    right = closed_form(**case) if wanted is None else wanted
    return abs(got - right) <= within, {**case, "got": round(got, 3)}


def drawn(rng, tied, low, high, repeats=0.0):
    """Numbers of a network whose logits have a standard deviation between `low` and `high`."""
    d_model = 2 * int(rng.integers(100, 600))
    return {
        "vocab_size": int(rng.integers(1_000, 60_000)),
        "d_model": d_model,
        "std": round(float(rng.uniform(low, high)) / math.sqrt(d_model), 4),
        "tied": tied,
        "repeats": repeats,
    }


@exercise("first_loss")
def test_no_spread_leaves_the_vocabulary_alone(first_loss, rng):
    for tied in (True, False):
        case = drawn(rng, tied, 0, 0) | {"std": 1e-7}
        right, values = asked(first_loss, 0.003, math.log(case["vocab_size"]), **case)
        expect(right, "tiny_std", **values)


@exercise("first_loss")
def test_a_real_network_starts_there(first_loss, rng):
    for tied in (True, False):
        vocab_size, d_model = int(rng.integers(300, 600)), 2 * int(rng.integers(32, 64))
        std = round(float(rng.uniform(0.35, 0.6)) / math.sqrt(d_model), 4)
        shape = config.ModelConfig(
            vocab_size=vocab_size, d_model=d_model, n_layers=1, n_heads=1, d_ff=8,
            context=128, embedding_std=std, tied=tied,
        )  # fmt: skip
        model = Transformer(shape)
        initialise(model, int(rng.integers(1 << 30)))
        ids = torch.from_numpy(rng.integers(0, vocab_size, (5, 129)))
        if rng.integers(2):
            ids = ids[:, :65].repeat_interleave(2, dim=1)[:, 1:]  # (5, 129): pairs
        repeats = round(float((ids[:, 1:] == ids[:, :-1]).float().mean()), 3)
        with torch.no_grad():
            measured = float(F.cross_entropy(model(ids[:, :-1]).mT, ids[:, 1:]))
        right, values = asked(
            first_loss, 0.15, measured,
            vocab_size=vocab_size, d_model=d_model, std=std, tied=tied, repeats=repeats,
        )  # fmt: skip
        expect(right, "real_network", **values)


@exercise("first_loss")
def test_it_follows_from_the_four_numbers(first_loss, rng):
    for tied in (True, False, True, False):
        right, values = asked(first_loss, 0.02, **drawn(rng, tied, 0.8, 2.0))
        expect(right, "closed_form", **values)


@exercise("first_loss")
def test_the_two_beliefs_meet(first_loss, rng):
    """Where the token's own logit weighs about as much as the whole vocabulary."""
    for _ in range(3):
        case = drawn(rng, True, 0, 0)
        case["std"] = math.log(case["vocab_size"]) / case["d_model"] * float(rng.uniform(0.9, 1.1))
        right, values = asked(first_loss, 0.01, **case)
        expect(right, "closed_form", **values)


@exercise("first_loss")
def test_repeated_tokens_count(first_loss, rng):
    for tied in (True, False):
        repeats = round(float(rng.uniform(0.2, 1.0)), 2)
        right, values = asked(first_loss, 0.02, **drawn(rng, tied, 0.3, 0.9, repeats))
        expect(right, "repeats", **values)


@exercise("first_loss")
def test_wide_models_do_not_overflow(first_loss, rng):
    case = drawn(rng, True, 0, 0) | {"d_model": 2 * int(rng.integers(6_000, 9_000))}
    case["std"] = round(float(rng.uniform(0.07, 0.12)), 3)
    right, values = asked(first_loss, 0.05, **case)
    expect(right, "wide", **values)


# --- overfit and mended: the gradient of a table of bigrams, by hand


class Bigrams(nn.Module):
    """Logits of the next token looked up by the last one; counts the rows it is shown."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table, dtype=torch.float32))
        self.most_rows = 0

    def forward(self, ids):
        self.most_rows = max(self.most_rows, len(ids))
        return self.table[ids]


def descended(table, ids, steps, lr):
    """Losses before each of `steps` of plain gradient descent on the mean loss, in float64."""
    table, losses = table.astype(np.float64).copy(), []
    last, following = ids[:, :-1].reshape(-1), ids[:, 1:].reshape(-1)
    for _ in range(steps):
        logits = table[last]
        logits = logits - logits.max(axis=1, keepdims=True)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses.append(float(-np.log(chances[np.arange(len(last)), following]).mean()))
        chances[np.arange(len(last)), following] -= 1.0
        gradient = np.zeros_like(table)
        np.add.at(gradient, last, chances / len(last))
        table -= lr * gradient
    return losses


def drawn_problem(rng, rows):
    vocab_size = int(rng.integers(5, 12))
    table = rng.normal(0, 0.5, (vocab_size, vocab_size)).astype(np.float32)
    ids = rng.integers(0, vocab_size, (rows, int(rng.integers(8, 20))))
    steps, lr = int(rng.integers(4, 9)), float(rng.uniform(3, 8))
    return table, ids, steps, lr, descended(table, ids, steps, lr)


def compared(losses, wanted):
    """The first step whose loss is not `wanted`, as (step, loss); None if there is none."""
    for step, (got, right) in enumerate(zip(losses, wanted, strict=True)):
        if not abs(number(got) - right) < 1e-3:
            return step, round(number(got), 4)
    return None


class Descent:
    """Plain gradient descent. torch.optim would be seconds of imports for these few lines."""

    def __init__(self, model, lr):
        self.parameters, self.lr = list(model.parameters()), lr

    def zero_grad(self, set_to_none=True):
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self):
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter -= self.lr * parameter.grad


@exercise("overfit")
def test_each_step_is_one_step_down_the_gradient(overfit, rng):
    table, ids, steps, lr, wanted = drawn_problem(rng, rows=6)
    model = Bigrams(table)
    optimizer = Descent(model, lr)
    losses = overfit(model, optimizer, torch.from_numpy(ids), steps)
    expect(is_list_of(losses, steps), "list_of_losses", steps=steps)
    step, got = compared(losses, wanted) or (None, None)
    expect(step is None, "descent", step=step, got=got)


@exercise("overfit")
def test_a_gradient_left_over_from_before_is_not_used(overfit, rng):
    table, ids, steps, lr, wanted = drawn_problem(rng, rows=6)
    model = Bigrams(table)
    model.table.grad = torch.ones_like(model.table)
    model.table.grad[:, 0] = -3.0
    optimizer = Descent(model, lr)
    losses = overfit(model, optimizer, torch.from_numpy(ids), steps)
    expect(is_list_of(losses, steps), "list_of_losses", steps=steps)
    step, got = compared(losses, wanted) or (None, None)
    expect(step is None, "left_over", step=step, got=got)


@exercise("mended")
def test_pieces_of_equal_size_give_the_whole_batchs_losses(mended, rng):
    table, ids, steps, lr, wanted = drawn_problem(rng, rows=8)
    micro_batch = int(rng.choice([1, 2, 4]))
    model = Bigrams(table)
    optimizer = Descent(model, lr)
    losses = mended(model, optimizer, torch.from_numpy(ids), steps, micro_batch)
    expect(is_list_of(losses, steps), "list_of_losses", steps=steps)
    step, got = compared(losses, wanted) or (None, None)
    expect(step is None, "micro", rows=8, micro_batch=micro_batch, step=step, got=got)


@exercise("mended")
def test_a_shorter_last_piece_does_not_weigh_more(mended, rng):
    table, ids, steps, lr, wanted = drawn_problem(rng, rows=7)
    micro_batch = int(rng.choice([2, 3, 4, 5, 6]))
    model = Bigrams(table)
    optimizer = Descent(model, lr)
    losses = mended(model, optimizer, torch.from_numpy(ids), steps, micro_batch)
    expect(is_list_of(losses, steps), "list_of_losses", steps=steps)
    step, got = compared(losses, wanted) or (None, None)
    expect(step is None, "micro", rows=7, micro_batch=micro_batch, step=step, got=got)


@exercise("mended")
def test_the_model_sees_pieces_of_that_size(mended, rng):
    for micro_batch in rng.permutation([2, 3, 5]).tolist():
        table, ids, steps, lr, _ = drawn_problem(rng, rows=9)
        model = Bigrams(table)
        mended(model, Descent(model, lr), torch.from_numpy(ids), steps, micro_batch)
        right = model.most_rows == micro_batch
        expect(right, "piece_size", rows=model.most_rows, micro_batch=micro_batch)


@exercise("mended")
def test_it_starts_where_the_untrained_model_is(mended, rng):
    table, ids, _, lr, wanted = drawn_problem(rng, rows=8)
    model = Bigrams(table)
    losses = mended(model, Descent(model, lr), torch.from_numpy(ids), 2, 3)
    expect(is_list_of(losses, 2), "list_of_losses", steps=2)
    first = number(losses[0])
    expect(abs(first - wanted[0]) < 1e-3, "start", got=round(first, 3))


# --- is_sound: trainers nobody has seen, with the loss each of them logs at step 0


class Trainer:
    """An untrained network and what its log says of a batch; `fault` is hidden in a closure."""

    def __init__(self, rng, fault, tied, vocab_size, d_model, spread):
        self.vocab_size, self.d_model, self.tied = vocab_size, d_model, tied
        self.std = spread / math.sqrt(d_model)
        self.first_loss = logged(rng, fault, tied, vocab_size, d_model, self.std)


def logged(rng, fault, tied, vocab_size, d_model, std):
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 30)))
    factor = float(rng.uniform(2.5, 4.0))
    pieces = int(rng.integers(2, 9))
    left_out = float(rng.uniform(0.15, 0.5))
    real_std = std * factor if fault == "loud" else std
    embedding = torch.randn(vocab_size, d_model, generator=generator) * real_std
    if tied == (fault == "other head"):
        head = torch.randn(vocab_size, d_model, generator=generator) * real_std
    else:
        head = embedding
    if fault == "wide head":
        rows = int((0.6 if tied else 0.4) * vocab_size)
        more = torch.randn(rows, d_model, generator=generator) * real_std
        head = torch.cat((head, more))

    def first_loss(ids):
        ids = torch.as_tensor(ids)
        inputs, targets = ids[:, :-1], ids[:, 1:]
        if fault == "own token":
            targets = inputs
        if fault == "one too far":
            inputs, targets = ids[:, :-2], ids[:, 2:]
        hidden = embedding[inputs]
        if fault != "no norm":
            hidden = F.rms_norm(hidden, (d_model,))
        loss = float(F.cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten()))
        changes = {
            "bits": loss / math.log(2),
            "sum": loss * pieces,
            "padding": loss * (1 - left_out),
            "mean twice": loss / pieces,
        }
        return changes.get(fault, loss)

    return first_loss


FAULTS = {  # which trainers a fault can be seen in: tied ones, untied ones
    "own token": (True,),
    "one too far": (True,),
    "bits": (True, False),
    "sum": (True, False),
    "mean twice": (True, False),
    "padding": (True, False),
    "loud": (True, False),
    "no norm": (True,),
    "other head": (True, False),
    "wide head": (True, False),
}


def drawn_trainer(rng, fault, tied):
    vocab_size, d_model = int(rng.integers(250, 450)), 2 * int(rng.integers(24, 50))
    low = 0.45 if fault else 0.1
    return Trainer(rng, fault, tied, vocab_size, d_model, float(rng.uniform(low, 0.55)))


def judged(is_sound, trainer, wanted, rng):
    """Whether the verdict is `wanted`, and what the message says of the trainer if it is not."""
    verdict = is_sound(trainer)
    expect(isinstance(verdict, bool | np.bool_), "true_or_false", got=repr(verdict)[:60])
    if bool(verdict) is wanted:
        return True, {}
    ids = torch.from_numpy(rng.integers(0, trainer.vocab_size, (16, 65)))
    return False, {
        "vocab_size": trainer.vocab_size,
        "d_model": trainer.d_model,
        "std": round(trainer.std, 4),
        "tied": trainer.tied,
        "loss": round(trainer.first_loss(ids), 2),
    }


@exercise("is_sound")
def test_sound_trainers_are_called_sound(is_sound, rng):
    for tied in (True, False, True):
        right, values = judged(is_sound, drawn_trainer(rng, "", tied), True, rng)
        expect(right, "sound_refused", **values)


@exercise("is_sound")
def test_loud_but_true_to_its_numbers_is_sound(is_sound, rng):
    """Far above ln V, as its own numbers say it must be."""
    for tied, spread in ((True, 0.75), (False, 1.4)):
        vocab_size, d_model = int(rng.integers(350, 450)), 2 * int(rng.integers(45, 50))
        trainer = Trainer(rng, "", tied, vocab_size, d_model, spread)
        right, values = judged(is_sound, trainer, True, rng)
        expect(right, "sound_refused", **values)


@exercise("is_sound")
def test_faulty_trainers_are_noticed(is_sound, rng):
    for fault, where in FAULTS.items():
        seen = where if fault == "wide head" else [bool(rng.choice(where))]
        for tied in seen if fault != "one too far" else ():
            trainer = drawn_trainer(rng, fault, tied)
            right, values = judged(is_sound, trainer, False, rng)
            expect(right, "fault_passed", **values)


@exercise("is_sound")
def test_a_fault_that_random_tokens_do_not_show(is_sound, rng):
    for _ in range(2):
        right, values = judged(is_sound, drawn_trainer(rng, "one too far", True), False, rng)
        expect(right, "fault_hidden", **values)


# --- hours_for


def simulated(rng, warmup_steps, periods):
    """Step times: a slow start, then a pattern with a pause that comes back."""
    start = [float(rng.uniform(5, 20)) for _ in range(warmup_steps)]
    length = int(rng.integers(4, 9))
    pattern = [float(rng.uniform(0.5, 1.5))] * (length - 1) + [float(rng.uniform(6, 12))]
    return length, start + pattern * periods


def hours_asked(hours_for, wanted_s, **case):
    got = number(hours_for(*case.values()))
    case["seconds"] = [round(second, 2) for second in case["seconds"]]
    return abs(got - wanted_s / 3600) < 1e-6 * wanted_s / 3600, {**case, "got": f"{got:.6g}"}


@exercise("hours_for")
def test_the_whole_run_takes_what_was_extrapolated(hours_for, rng):
    for warmup_steps in rng.permutation([1, 2, 4]).tolist():
        length, whole = simulated(rng, warmup_steps, int(rng.integers(200, 2_000)))
        seen = whole[: warmup_steps + int(rng.integers(2, 4)) * length]
        batch_tokens = int(rng.integers(1_000, 200_000))
        tokens = batch_tokens * len(whole)
        right, values = hours_asked(
            hours_for, sum(whole),
            seconds=seen, batch_tokens=batch_tokens, tokens=tokens, warmup_steps=warmup_steps,
        )  # fmt: skip
        expect(right, "whole_run", **values)


@exercise("hours_for")
def test_a_step_that_has_begun_is_a_step(hours_for, rng):
    batch_tokens, count = int(rng.integers(1_000, 9_000)), int(rng.integers(10, 99))
    each = float(rng.uniform(0.5, 2.0))
    tokens = batch_tokens * count - int(rng.integers(1, batch_tokens))
    right, values = hours_asked(
        hours_for, each * count,
        seconds=[each] * 6, batch_tokens=batch_tokens, tokens=tokens, warmup_steps=2,
    )  # fmt: skip
    expect(right, "begun", **values)


# --- cost_sentence


def read(text):
    expect(isinstance(text, str), "no_text")
    try:
        return money.parse_cost_sentence(text)
    except UserError as fault:
        expect(False, "unreadable", text=text, fault=fault)
        raise


def sentence_asked(cost_sentence, hours, watts, tariff, budget):
    values = {"hours": hours, "watts": watts, "tariff": tariff, "budget": budget}
    text = cost_sentence(hours, watts, tariff, budget)
    said = read(text)
    values["text"] = text
    expect(said.own, "not_own", **values)
    expect(abs(said.hours - hours) <= 0.006 * hours, "wrong_part", part="hours", **values)
    expect(abs((said.watts or 0) - watts) < 0.5, "wrong_part", part="watts", **values)
    same = abs((said.tariff_usd_per_kwh or 0) - tariff) < 5e-5
    expect(same, "wrong_part", part="tariff", **values)
    expect(abs(said.budget_usd - budget) < 0.005, "wrong_part", part="budget", **values)
    expect(not said.faults(), "does_not_follow", part=", ".join(said.faults()), **values)
    cost = hours * watts / 1000 * tariff
    expect(abs(said.cost_usd - cost) <= 0.012 * cost + 0.006, "wrong_part", part="cost", **values)
    return said, values


@exercise("cost_sentence")
def test_the_sentence_can_be_computed_again(cost_sentence, rng):
    for _ in range(4):
        hours = round(float(np.exp(rng.uniform(math.log(2), math.log(2_000)))), 2)
        watts = int(rng.integers(30, 900))
        tariff = round(float(rng.uniform(0.08, 0.45)), 2)
        said, values = sentence_asked(cost_sentence, hours, watts, tariff, 1_000.0)
        expect(said.acceptable, "verdict", **values)


@exercise("cost_sentence")
def test_too_dear_is_said_to_be(cost_sentence, rng):
    hours, watts = float(rng.integers(2_000, 4_000)), int(rng.integers(200, 900))
    tariff = round(float(rng.uniform(0.2, 0.45)), 2)
    budget = float(rng.integers(5, 40))
    said, values = sentence_asked(cost_sentence, hours, watts, tariff, budget)
    expect(not said.acceptable, "verdict", **values)
    expect(not re.search(r"=\s*-|\$\s*-|-\s*\$", values["text"]), "minus", **values)


@exercise("cost_sentence")
def test_exactly_the_budget_is_acceptable(cost_sentence, rng):
    budget = float(rng.integers(10, 40))
    said, values = sentence_asked(cost_sentence, 10 * budget, 400, 0.25, budget)
    over = re.search(r"\bover\b|se pasa", values["text"])
    expect(said.acceptable and not over, "verdict", **values)


@exercise("cost_sentence")
def test_a_small_amount_is_not_nothing(cost_sentence, rng):
    hours, watts = round(float(rng.uniform(0.02, 0.05)), 4), int(rng.integers(30, 90))
    said, values = sentence_asked(cost_sentence, hours, watts, 0.2, 35.0)
    expect(said.cost_usd > 0, "nothing", **values)
