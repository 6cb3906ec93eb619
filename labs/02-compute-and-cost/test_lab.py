"""The grader of lab 02: torch's counter, published numbers, unseen reports and offers."""

import itertools
import math

import pytest
import torch
import torch._dynamo  # torch loads it at the first counter or optimizer, once in every fork
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from x1 import config, flops, money
from x1.config import ModelConfig
from x1.course.grading import exercise, expect
from x1.model import Transformer
from x1.text import UserError


def number(value):
    """The learner's number, or NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def near(got, wanted, rel=1e-6):
    return math.isclose(number(got), wanted, rel_tol=rel)


def draw(rng, low, high):
    """A number spread evenly over its orders of magnitude."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


# --- flops_per_token


def drawn_model(rng):
    heads = int(rng.integers(1, 5))
    return ModelConfig(
        vocab_size=int(rng.integers(20, 400)),
        n_layers=int(rng.integers(1, 3)),
        n_heads=heads,
        d_model=heads * 8 * int(rng.integers(1, 5)),
        d_ff=int(rng.integers(8, 300)),
        context=int(rng.integers(4, 90)),
        tied=bool(rng.integers(2)),
        qk_norm=bool(rng.integers(2)),
    )


def shape(model):
    names = ("vocab_size", "n_layers", "d_model", "d_ff", "context", "tied")
    return ", ".join(f"{name}={getattr(model, name)}" for name in names)


@exercise("flops_per_token")
def test_full_attention_is_what_torch_counts(flops_per_token, rng):
    model = drawn_model(rng)
    with torch.device("meta"):
        network = Transformer(model)
        ids = torch.zeros(1, model.context, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(ids).flatten(0, 1), ids.flatten()).backward()
    counted = counter.get_total_flops() / model.context
    got = flops_per_token(model, causal=False)
    expect(near(got, counted), "flops_torch", shape=shape(model), got=number(got))


@exercise("flops_per_token")
def test_causal_attention_sees_itself_and_what_came_before(flops_per_token, rng):
    for _ in range(5):
        model = drawn_model(rng)
        seen = sum(position + 1 for position in range(model.context))
        unseen = model.context**2 - seen
        saved = 3 * model.n_layers * 4 * model.d_model * unseen / model.context
        full, causal = (number(flops_per_token(model, causal=which)) for which in (False, True))
        expect(near(full - causal, saved), "flops_causal", shape=shape(model), got=full - causal)


@exercise("flops_per_token")
def test_only_what_is_multiplied_costs(flops_per_token, rng):
    model = drawn_model(rng)
    first, second = (
        number(flops_per_token(model.model_copy(update={"tied": tied}), causal=True))
        for tied in (True, False)
    )
    expect(near(first, second), "flops_tied", shape=shape(model))
    wider = model.model_copy(update={"vocab_size": 2 * model.vocab_size})
    more = number(flops_per_token(wider, causal=True)) - number(flops_per_token(model, causal=True))
    head = 6 * model.d_model * model.vocab_size
    expect(near(more, head), "flops_head", shape=shape(model), got=more)


@exercise("flops_per_token")
def test_the_run_itself(flops_per_token):
    model = config.build("x1-50m").model
    got = flops_per_token(model, causal=True)
    expect(near(got, flops.token_flops(model).total), "flops_x1", got=number(got))


# --- counted_flops


def matrices(rng, count):
    sizes = [int(rng.integers(2, 40)) for _ in range(count + 1)]
    return [torch.randn(m, n, requires_grad=True) for m, n in itertools.pairwise(sizes)]


def drawn_heads(rng):
    batch, heads, context = (
        int(rng.integers(low, high)) for low, high in ((1, 4), (1, 4), (8, 70))
    )
    return torch.randn(batch, heads, context, 16)


@exercise("counted_flops")
def test_products_are_counted(counted_flops, rng):
    a, b = matrices(rng, 2)
    m, k, n = len(a), len(b), b.shape[1]
    forward = number(counted_flops(lambda: a @ b))
    expect(forward == 2 * m * k * n, "counted_forward", m=m, k=k, n=n, got=forward)
    both = number(counted_flops(lambda: (a @ b).sum().backward()))
    expect(both == 6 * m * k * n, "counted_backward", m=m, k=k, n=n, got=both)


@exercise("counted_flops")
def test_attention_on_a_cpu_is_not_free(counted_flops, rng):
    q = drawn_heads(rng)
    B, H, T, D = q.shape
    got = number(counted_flops(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True)))
    expect(got == 4 * B * H * T * T * D, "counted_attention", B=B, H=H, T=T, D=D, got=got)


@exercise("counted_flops")
def test_the_step_runs_once_and_the_counter_ends(counted_flops, rng):
    a, b = matrices(rng, 2)
    calls = []
    first = number(counted_flops(lambda: calls.append(a @ b)))
    expect(len(calls) == 1, "counted_once", calls=len(calls))
    a @ b
    again = number(counted_flops(lambda: calls.append(a @ b)))
    expect(first == again, "counted_fresh", first=first, again=again)
    expect(counted_flops(lambda: None) == 0, "counted_nothing")


# --- mfu


def drawn_speed(rng):
    forward = draw(rng, 1e7, 1e12)
    head = forward * rng.uniform(0.02, 0.5)
    gpus = int(rng.integers(2, 64))
    peak = draw(rng, 7e13, 1e15)
    rate = rng.uniform(0.05, 0.6) * gpus * peak / (3 * forward)
    return rate, forward, head, peak, gpus


def pair(returned):
    try:
        first, second = returned
    except (TypeError, ValueError):
        expect(False, "mfu_pair", returned=repr(returned)[:60])
    return number(first), number(second)


@exercise("mfu")
def test_published_runs(mfu):
    # PaLM 540B (2204.02311, appendix B): 6,144 TPU v4 of 275 TFLOP/s, 238.3K tokens/s.
    n, layers, heads, width, context = 540.35e9, 118, 48, 256, 2048
    per_token = 6 * n + 12 * layers * heads * width * context
    got, _ = pair(mfu(238_300, per_token / 3, 0, 275e12, 6144, False))
    expect(abs(got - 0.462) < 0.001, "mfu_palm", got=got)
    # GPUburnout-1B, phase 3, by 6N with N = 1B: 28,300 tokens/s on one A100.
    got, _ = pair(mfu(28_300, 2e9, 0, 312e12, 1, False))
    expect(abs(got - 0.544) < 0.001, "mfu_burnout", got=got)


@exercise("mfu")
def test_drawn_runs(mfu, rng):
    for recompute in (False, True):
        rate, forward, head, peak, gpus = drawn_speed(rng)
        count = flops.TokenFlops("full", 0, forward - head, 0, head)
        wanted = flops.mfu(rate, count.total, gpus * peak)
        executed = flops.hfu(rate, count, gpus * peak, recompute)
        said, done = pair(mfu(rate, forward, head, peak, gpus, recompute))
        values = {"gpus": gpus, "recompute": recompute, "share": f"{rate:.4g}"}
        expect(near(said, wanted), "mfu_wrong", got=said, **values)
        expect(near(done, executed), "hfu_wrong", got=done, **values)


@exercise("mfu")
def test_recompute_moves_only_the_hfu(mfu, rng):
    rate, forward, head, peak, gpus = 1.0, 4.0, 1.0, float(rng.integers(20, 90)), 2
    plain, twice = (pair(mfu(rate, forward, head, peak, gpus, r)) for r in (False, True))
    expect(near(plain[0], twice[0]), "mfu_recompute", before=plain[0], after=twice[0])
    expect(near(plain[0], plain[1]), "hfu_plain", mfu=plain[0], hfu=plain[1])
    expect(twice[1] > plain[1], "hfu_more", before=plain[1], after=twice[1])


# --- memory_bytes


class Made(TorchDispatchMode):
    """Every tensor made inside, kept alive so that no two share a piece of memory."""

    def __init__(self):
        super().__init__()
        self.tensors = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.tensors += [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        return out

    def total_bytes(self):
        storages = [tensor.untyped_storage() for tensor in self.tensors]
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def state_bytes(muon, adamw):
    """What torch holds after a step: parameters, gradients, moments (not the step counters)."""
    moved = [
        (torch.optim.Muon([muon], lr=0.0), [muon]),
        (torch.optim.AdamW([adamw], lr=0.0), [adamw]),
    ]
    total = 0
    for optimizer, parameters in moved:
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
            optimizer.step()
            held = [parameter, parameter.grad, *optimizer.state[parameter].values()]
            total += sum(
                t.untyped_storage().nbytes()
                for t in held
                if isinstance(t, torch.Tensor) and t.numel() == parameter.numel()
            )
    return total


@exercise("memory_bytes")
def test_the_state_is_what_torch_holds(memory_bytes, rng):
    m, n, rest = (int(rng.integers(2, 40)) for _ in range(3))
    muon = torch.nn.Parameter(torch.randn(m, n))
    adamw = torch.nn.Parameter(torch.randn(rest, 3))
    wanted = state_bytes(muon, adamw)
    got = number(memory_bytes(m * n, 3 * rest, 0, 1000))
    expect(got == wanted, "memory_state", muon=m * n, adamw=3 * rest, got=got)


@exercise("memory_bytes")
def test_the_loss_is_what_torch_needs(memory_bytes, rng):
    tokens, vocab = int(rng.integers(50, 200)), int(rng.integers(300, 2000))
    ids = torch.randint(vocab, (tokens,))
    with Made() as made:  # all of it is alive together when the last gradient is there
        logits = torch.randn(tokens, vocab).requires_grad_()
        torch.autograd.grad(F.cross_entropy(logits, ids), logits)
    got = number(memory_bytes(0, 0, tokens, vocab))
    expect(near(got, made.total_bytes(), 0.01), "memory_loss", tokens=tokens, vocab=vocab, got=got)


@exercise("memory_bytes")
def test_the_parts_add_up(memory_bytes, rng):
    muon, adamw, tokens, vocab = (int(rng.integers(1, 10**6)) for _ in range(4))
    whole = number(memory_bytes(muon, adamw, tokens, vocab))
    parts = number(memory_bytes(muon, adamw, 0, vocab)) + number(memory_bytes(0, 0, tokens, vocab))
    expect(whole == parts, "memory_sum", whole=whole, parts=parts)


# --- run_cost


def three(returned):
    try:
        hours, kwh, usd = returned
    except (TypeError, ValueError):
        expect(False, "cost_three", returned=repr(returned)[:60])
    return number(hours), number(kwh), number(usd)


@exercise("run_cost")
def test_published_bills(run_cost):
    # GPUburnout-1B, phase 3: 50,000 steps of 131,072 tokens in 63 h, $94, so $1.492/h.
    hours, _, usd = three(run_cost(50_000 * 131_072, 28_300, 1, 400, 94 / 63, 0.2))
    expect(abs(hours - 64.3) < 0.1 and abs(usd - 96) < 0.2, "cost_burnout", hours=hours, usd=usd)
    # TMLM-Sonnet: 480 h on one's own card at 800 W are 384 kWh.
    hours, kwh, usd = three(run_cost(480 * 3600 * 1000, 1000, 1, 800, None, 0.25))
    expect(near(hours, 480) and near(kwh, 384) and near(usd, 96), "cost_sonnet", kwh=kwh, usd=usd)


@exercise("run_cost")
def test_drawn_bills(run_cost, rng):
    for own in (False, True):
        tokens, rate = draw(rng, 1e8, 1e11), draw(rng, 1e4, 1e6)
        gpus, watts = int(rng.integers(2, 9)), float(rng.integers(70, 900))
        price = None if own else round(float(rng.uniform(0.2, 5)), 2)
        tariff = round(float(rng.uniform(0.05, 0.5)), 2)
        hours, kwh, usd = three(run_cost(tokens, rate, gpus, watts, price, tariff))
        wanted = money.run_hours(tokens, rate)
        values = {"gpus": gpus, "watts": watts, "price": price, "tariff": tariff}
        expect(near(hours, wanted), "cost_hours", got=hours, tokens=tokens, rate=rate, **values)
        energy = money.energy_kwh(wanted, gpus * watts)
        expect(near(kwh, energy), "cost_kwh", got=kwh, hours=wanted, **values)
        bill = energy * tariff if own else money.rental_usd(wanted, price, gpus)
        expect(near(usd, bill), "cost_usd", got=usd, hours=wanted, **values)


# --- cost_per_loss_point


def listed(returned, length):
    fits = isinstance(returned, list | tuple) and len(returned) == length
    expect(fits, "point_list", length=length, returned=repr(returned)[:60])
    return returned


def drawn_phases(rng, falls):
    loss = first = float(rng.uniform(5, 11))
    phases = []
    for fall in falls:
        loss += (-1 if fall else 1) * float(rng.uniform(0.05, 0.9))
        phases.append((round(float(rng.uniform(1, 100)), 2), loss))
    return first, phases


@exercise("cost_per_loss_point")
def test_the_published_phases(cost_per_loss_point):
    phases = [(22, 2.907), (94, 2.573), (44, 2.494)]
    got = listed(cost_per_loss_point(6.41, phases), 3)
    for place, (price, wanted) in enumerate(zip(got, (6.28, 281.4, 557.0), strict=True), 1):
        expect(near(price, wanted, 1e-3), "point_burnout", phase=place, got=number(price))


@exercise("cost_per_loss_point")
def test_each_phase_pays_for_its_own_fall(cost_per_loss_point, rng):
    first, phases = drawn_phases(rng, [True] * int(rng.integers(2, 6)))
    got = listed(cost_per_loss_point(first, phases), len(phases))
    before = first
    for price, (usd, after) in zip(got, phases, strict=True):
        wanted = money.usd_per_loss_point(usd, before, after)
        expect(near(price, wanted), "point_wrong", first=first, phases=phases, got=number(price))
        before = after


@exercise("cost_per_loss_point")
def test_a_phase_without_a_gain_has_no_price(cost_per_loss_point, rng):
    first, phases = drawn_phases(rng, [True, False, True])
    got = listed(cost_per_loss_point(first, phases), 3)
    expect(got[1] is None, "point_none", phases=phases, got=repr(got[1]))
    wanted = phases[2][0] / (phases[1][1] - phases[2][1])
    expect(near(got[2], wanted), "point_after", phases=phases, got=number(got[2]))
    flat = listed(cost_per_loss_point(first, [(10, first), (10, first - 1)]), 2)
    expect(flat[0] is None, "point_none", phases=[(10, first)], got=repr(flat[0]))


# --- audit

CLAIMS = ("tokens", "tokens_per_s", "hours", "dollars", "kwh", "mfu", "usd_per_loss_point")
INPUTS = {
    "tokens": ("steps", "tokens_per_step"),
    "tokens_per_s": ("mfu", "peak_flops_per_s", "flops_per_token"),
    "hours": ("tokens", "tokens_per_s"),
    "dollars": ("hours", "price_usd_per_hour"),
    "kwh": ("hours", "watts"),
    "mfu": ("tokens_per_s", "flops_per_token", "peak_flops_per_s"),
    "usd_per_loss_point": ("dollars", "loss_before_nats", "loss_after_nats"),
}


def by_rule(claim, values):
    a, b, *c = values
    match claim:
        case "tokens" | "dollars":
            return a * b
        case "hours":
            return a / b / 3600
        case "kwh":
            return a * b / 1000
        case "usd_per_loss_point":
            return a / (b - c[0])
        case _:
            return a * b / c[0]


def implied(report, claim):
    """Forward from all that is stated but the claim, until nothing new is known."""
    known = {name: value for name, value in report.items() if name != claim}
    while claim not in known:
        new = {
            name: by_rule(name, [known[need] for need in needs])
            for name, needs in INPUTS.items()
            if name not in known and all(need in known for need in needs)
        }
        if not new:
            return None
        known |= new
    return known[claim]


def verdict(report, claim):
    value = implied(report, claim)
    if value is None:
        return "cannot_be_computed"
    follows = abs(report[claim] - value) <= 0.05 * value
    return "follows" if follows else "does_not_follow"


def told(report):
    """A report or a claim's value as text short enough for a sentence."""
    return ", ".join(f"{name}={value:.6g}" for name, value in report.items())


def truth(rng):
    """A report in which everything is stated and everything follows, rounded as reports are."""
    steps, batch = int(rng.integers(500, 90_000)), 1024 * int(rng.integers(16, 512))
    cost, peak = draw(rng, 1e8, 1e10), draw(rng, 7e13, 1e15)
    share = float(rng.uniform(0.1, 0.6))
    rate, before = share * peak / cost, float(rng.uniform(4, 11))
    after = before - float(rng.uniform(0.5, 2))
    hours = steps * batch / rate / 3600
    price, watts = float(rng.uniform(0.2, 5)), float(rng.integers(70, 800))
    report = {
        "steps": steps, "tokens_per_step": batch, "tokens": steps * batch,
        "flops_per_token": cost, "peak_flops_per_s": peak, "mfu": share, "tokens_per_s": rate,
        "hours": hours, "price_usd_per_hour": price, "dollars": hours * price,
        "watts": watts, "kwh": hours * watts / 1000,
        "loss_before_nats": before, "loss_after_nats": after,
        "usd_per_loss_point": hours * price / (before - after),
    }  # fmt: skip
    return {name: float(f"{value:.5g}") for name, value in report.items()}


def without(report, rng, most):
    gone = rng.choice(sorted(report), int(rng.integers(0, most)), replace=False)
    return {name: value for name, value in report.items() if name not in gone}


def held(audit, report):
    got = audit(dict(report))
    expect(isinstance(got, dict), "audit_dict", returned=repr(got)[:60])
    stated = {claim for claim in CLAIMS if claim in report}
    expect(set(got) == stated, "audit_claims", report=told(report), got=", ".join(map(str, got)))
    for claim in sorted(stated):
        wanted = verdict(report, claim)
        values = {"claim": claim, "report": told(report), "got": repr(got[claim])}
        values["stated"] = f"{report[claim]:.6g}"
        expect(got[claim] == wanted or wanted != "follows", "audit_honest", **values)
        expect(got[claim] == wanted or wanted != "does_not_follow", "audit_missed", **values)
        expect(got[claim] == wanted, "audit_uncomputable", **values)


@exercise("audit")
def test_honest_reports(audit, rng):
    for _ in range(20):
        held(audit, truth(rng))
        held(audit, without(truth(rng), rng, 9))


@exercise("audit")
def test_reports_with_a_false_claim(audit, rng):
    for _ in range(40):
        report = without(truth(rng), rng, 8)
        stated = [claim for claim in CLAIMS if claim in report]
        if stated:
            claim = str(rng.choice(stated))
            report[claim] *= draw(rng, 1.15, 8) ** (1 if rng.integers(2) else -1)
        held(audit, report)


@exercise("audit")
def test_the_limit_is_five_percent_of_what_is_implied(audit, rng):
    for _ in range(4):
        report = truth(rng)
        for claim in ("tokens", "hours", "kwh"):
            for off in (-0.0501, -0.0499, 0.0499, 0.0501):
                held(audit, report | {claim: implied(report, claim) * (1 + off)})


@exercise("audit")
def test_no_claim_vouches_for_itself(audit, rng):
    """Speed and MFU derive from each other, and from nothing else."""
    report = truth(rng)
    for claim, other in (("mfu", "tokens_per_s"), ("tokens_per_s", "mfu")):
        alone = {name: value for name, value in report.items() if name != other}
        got = audit(dict(alone))
        said = got.get(claim) if isinstance(got, dict) else got
        expect(said == "cannot_be_computed", "audit_circle", claim=claim, other=other, got=said)


@exercise("audit")
def test_the_published_reports(audit):
    x1 = config.build("x1-50m")
    brief = {
        "tokens": 5e9, "mfu": 0.40, "peak_flops_per_s": 312e12,
        "flops_per_token": flops.token_flops(x1.model).total,
        "hours": 24, "price_usd_per_hour": 1.10, "dollars": 26.40,
    }  # fmt: skip
    held(audit, brief)
    stated = {"tokens_per_step": 131_072, "price_usd_per_hour": 116 / 78}
    phases = (
        {"steps": 200, "tokens_per_s": 23_500, "dollars": 4},
        {"steps": 9_800, "tokens_per_s": 24_066, "hours": 15, "dollars": 22,
         "loss_before_nats": 6.41, "loss_after_nats": 2.907, "usd_per_loss_point": 6.27},
        {"steps": 30_000, "tokens_per_s": 28_300, "dollars": 44,
         "loss_before_nats": 2.573, "loss_after_nats": 2.494, "usd_per_loss_point": 550},
    )  # fmt: skip
    for phase in phases:
        held(audit, stated | phase)


# --- choose


def hours_and_usd(offer, job):
    """What an offer needs and costs; None for one that never ends or has no price."""
    lost = 0.0
    if offer["kind"] == "spot":
        lost = offer["interruptions_per_hour"] * offer["hours_lost"]
    if lost >= 1 or (offer["kind"] != "own" and offer["usd_per_hour"] <= 0):
        return None
    hours = offer["setup_hours"] + money.run_hours(job["tokens"], offer["tokens_per_s"]) / (
        1 - lost
    )
    if offer["kind"] == "own":
        return hours, money.electricity_usd(hours, offer["watts"], job["tariff_usd_per_kwh"])
    return hours, money.rental_usd(hours, offer["usd_per_hour"])


def admitted(offers, job):
    """{name: dollars} of the offers that can do the job."""
    bills = {}
    for offer in offers:
        found = hours_and_usd(offer, job)
        if found is None or offer["memory_gb"] < job["memory_gb"]:
            continue
        if found[0] <= job["deadline_hours"] and found[1] <= job["budget_usd"]:
            bills[offer["name"]] = found[1]
    return bills


NAMES = ("birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan")


def drawn_offer(rng, name):
    kind = str(rng.choice(["on-demand", "spot", "spot", "own"]))
    fast = draw(rng, 2e4, 1e6)
    offer = {
        "name": name, "kind": kind, "tokens_per_s": fast,
        "memory_gb": int(rng.choice([24, 40, 80])),
        "setup_hours": round(float(rng.uniform(0, 1)), 2),
    }  # fmt: skip
    fair = fast / 2e5 * float(rng.uniform(0.6, 1.6))  # dearer machines are faster
    if kind == "own":
        offer["watts"] = int(rng.integers(150, 900))
    elif kind == "spot":
        offer["usd_per_hour"] = 0.0 if rng.random() < 0.12 else round(0.45 * fair + 0.01, 4)
        offer["interruptions_per_hour"] = round(float(rng.uniform(0.1, 2.5)), 2)
        offer["hours_lost"] = round(float(rng.uniform(0.05, 0.6)), 2)
    else:
        offer["usd_per_hour"] = round(fair + 0.01, 4)
    return offer


def drawn_choice(rng):
    """Offers and a job whose limits lie among the offers' own, with no two bills alike."""
    while True:
        names = rng.permutation(NAMES)[: int(rng.integers(3, 8))]
        offers = [drawn_offer(rng, str(name)) for name in names]
        job = {
            "tokens": draw(rng, 5e8, 2e10), "memory_gb": int(rng.choice([16, 32, 48])),
            "tariff_usd_per_kwh": round(float(rng.uniform(0.05, 0.45)), 2),
        }  # fmt: skip
        found = [pair for offer in offers if (pair := hours_and_usd(offer, job))]
        if not found:
            continue
        for place, limit in enumerate(("deadline_hours", "budget_usd")):
            job[limit] = draw(rng, 0.9, 6) * float(rng.choice([pair[place] for pair in found]))
        bills = sorted(admitted(offers, job).values())
        close = [a / b > 0.995 for a, b in itertools.pairwise(bills)]
        edges = [
            abs(pair[place] / job[limit] - 1) < 1e-3
            for pair in found
            for place, limit in enumerate(("deadline_hours", "budget_usd"))
        ]
        if not any(close) and not any(edges):
            return offers, job


def held_choice(choose, offers, job):
    got = choose([dict(offer) for offer in offers], dict(job))
    bills = admitted(offers, job)
    case = {"job": job, "offers": offers, "got": got}
    if got is None:
        expect(not bills, "choose_none", **case)
        return
    offer = next((offer for offer in offers if offer["name"] == got), None)
    expect(offer is not None, "choose_name", **case)
    case["offers"] = offer
    found = hours_and_usd(offer, job)
    expect(found is not None, "choose_no_offer", **case)
    expect(offer["memory_gb"] >= job["memory_gb"], "choose_memory", **case)
    expect(found[0] <= job["deadline_hours"], "choose_deadline", **case)
    expect(found[1] <= job["budget_usd"], "choose_budget", **case)
    expect(bills[got] <= min(bills.values()), "choose_dearer", **case)


@exercise("choose")
def test_two_hundred_unseen_sets(choose, rng):
    for _ in range(200):
        held_choice(choose, *drawn_choice(rng))


@exercise("choose")
def test_limits_may_be_met_exactly(choose):
    offer = {
        "name": "oak", "kind": "on-demand", "tokens_per_s": 1000, "memory_gb": 80,
        "setup_hours": 0.5, "usd_per_hour": 2.0,
    }  # fmt: skip
    job = {
        "tokens": 3_600_000, "memory_gb": 80, "deadline_hours": 1.5, "budget_usd": 3.0,
        "tariff_usd_per_kwh": 0.2,
    }  # fmt: skip
    held_choice(choose, [offer], job)
    for limit, less in (("memory_gb", 81), ("deadline_hours", 1.4999), ("budget_usd", 2.9999)):
        held_choice(choose, [offer], job | {limit: less})
    own = offer | {"kind": "own", "watts": 1000}
    for budget in (0.375, 0.3749):  # 1.5 h at 1 kW and $0.25
        held_choice(choose, [own], job | {"budget_usd": budget, "tariff_usd_per_kwh": 0.25})


@exercise("choose")
def test_a_machine_that_only_catches_up_never_ends(choose):
    spot = {
        "name": "fir", "kind": "spot", "tokens_per_s": 1000, "memory_gb": 80, "setup_hours": 0.5,
        "usd_per_hour": 0.01, "interruptions_per_hour": 2, "hours_lost": 0.5,
    }  # fmt: skip
    job = {
        "tokens": 3_600_000, "memory_gb": 40, "deadline_hours": 1e9, "budget_usd": 1e9,
        "tariff_usd_per_kwh": 0.2,
    }  # fmt: skip
    held_choice(choose, [spot], job)
    held_choice(choose, [spot | {"hours_lost": 0.75}], job)
    free = spot | {"usd_per_hour": 0.0, "hours_lost": 0.25}
    held_choice(choose, [free], job)


@exercise("choose")
def test_the_set_up_is_not_stretched(choose):
    spot = {
        "name": "yew", "kind": "spot", "tokens_per_s": 1000, "memory_gb": 80, "setup_hours": 1.0,
        "usd_per_hour": 1.0, "interruptions_per_hour": 1, "hours_lost": 0.5,
    }  # fmt: skip
    job = {
        "tokens": 3_600_000, "memory_gb": 40, "deadline_hours": 3.5, "budget_usd": 3.5,
        "tariff_usd_per_kwh": 0.2,
    }  # fmt: skip
    held_choice(choose, [spot], job)
    held_choice(choose, [spot], job | {"deadline_hours": 2.9})


@exercise("choose")
def test_the_order_of_the_offers_does_not_matter(choose, rng):
    for _ in range(20):
        offers, job = drawn_choice(rng)
        held_choice(choose, offers[::-1], job)
        held_choice(choose, offers, job)


# --- cost_sentence

HARDWARE = ("A100-80GB", "H100-SXM", "RTX-4090", "L4", "H200")


def read(sentence):
    """The sentence's numbers, by the parser that launching uses."""
    expect(isinstance(sentence, str), "sentence_text", got=repr(sentence)[:60])
    try:
        return money.parse_cost_sentence(sentence)
    except UserError as fault:
        part = fault.values.get("part", fault.values.get("text", "–"))
    expect(False, "sentence_lacks", part=part, sentence=sentence)


def drawn_bill(rng, over):
    price = round(draw(rng, 0.2, 9), int(rng.choice([2, 4])))
    hours, storage = draw(rng, 0.3, 80), round(float(rng.uniform(0.05, 4)), 2)
    cost = hours * price + storage
    budget = round(cost * float(rng.uniform(0.3, 0.9) if over else rng.uniform(1.1, 4)), 2)
    return str(rng.choice(HARDWARE)), hours, price, storage, budget


def held_sentence(cost_sentence, hardware, hours, price, storage, budget):
    sentence = cost_sentence(hardware, hours, price, storage, budget)
    said = read(sentence)
    case = {"sentence": sentence, "hours": hours, "price": price, "storage": storage}
    same = not said.own and said.hardware == hardware and said.count == 1
    expect(same, "sentence_machine", hardware=hardware, **case)
    expect(near(said.price_usd_per_hour, price), "sentence_price", **case)
    expect(near(said.other_usd, storage), "sentence_storage", **case)
    expect(near(said.budget_usd, budget), "sentence_budget", budget=budget, **case)
    expect(said.hours >= hours - 1e-8, "sentence_hours_down", **case)
    expect(said.hours < hours + 0.01 - 1e-9, "sentence_hours_up", **case)
    faults = said.faults()
    expect("cost" not in faults, "sentence_cost", **case)
    expect("buffer" not in faults, "sentence_buffer", budget=budget, **case)
    return said


@exercise("cost_sentence")
@pytest.mark.parametrize("over", [False, True])
def test_the_numbers_follow_from_each_other(cost_sentence, rng, over):
    for _ in range(25):
        held_sentence(cost_sentence, *drawn_bill(rng, over))


@exercise("cost_sentence")
@pytest.mark.parametrize("left", [-0.37, 0.37])
def test_a_few_cents_decide(cost_sentence, rng, left):
    hardware, _, _, storage, _ = drawn_bill(rng, over=False)
    hours, price = float(rng.integers(1, 40)), float(rng.integers(1, 9))
    budget = round(hours * price + storage + left, 2)
    held_sentence(cost_sentence, hardware, hours, price, storage, budget)


@exercise("cost_sentence")
def test_hours_that_are_whole_hundredths_stay(cost_sentence, rng):
    for hours in (1.1, 4.09, 7.02, 0.29, 2.3, float(rng.integers(30, 6000)) / 100):
        held_sentence(cost_sentence, "A100-80GB", hours, 1.39, 1.12, 200)


@exercise("cost_sentence")
def test_the_sentence_of_the_run(cost_sentence):
    said = held_sentence(cost_sentence, "A100-80GB", 7.0123, 1.39, 1.12, 35)
    expect(near(said.cost_usd, 10.88), "sentence_x1", got=said.cost_usd)
