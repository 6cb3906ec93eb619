"""The plan: what a run should cost and reach, written down before it starts.

`make_plan` predicts; every prediction is a value, an interval and the basis for both, or no value
and the reason why. It always computes, however dear the answer: only launching refuses. The plan is
plan.json beside config.toml; its SHA-256 goes into the ledger's first line and every checkpoint, so
that nobody can predict afterwards.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from x1 import flops, folder, money, scaling
from x1.config import RunConfig, to_toml, validate
from x1.text import LANGUAGES, UserError, language, say

FORMAT = "x1-plan-1"
MEASURED_FORMAT = "x1-measured-1"

# Assumptions of the planner, each printed as such in the basis of what rests on it.
MFU_GUESS = (0.35, 0.24, 0.45)  # value, low, high, for a GPU nobody has measured this model on
TYPED_SPREAD = 0.10  # one GPU from another of its kind, one hour from the next
CALIBRATION_SPREAD = 0.20  # a few steps, on a machine with other work
SETUP_HOURS = (0.5, 0.25, 1.0)  # rented: boot, install, download the prepared shards
START_HOURS = (15 / 3600, 5 / 3600, 60 / 3600)  # one's own: the process starts, data is opened
STORAGE_DAYS = 30

Json = dict[str, Any]
Words = dict[str, str]


@dataclass(frozen=True)
class Prediction:
    """A value, an interval around it, and where both come from, in each language.

    Without a value, `basis` says what is missing.
    """

    value: float | None
    low: float | None
    high: float | None
    basis: Words

    def scaled(self, factor: float, basis: Words | None = None) -> "Prediction":
        """Every number times `factor`."""
        if self.value is None or self.low is None or self.high is None:
            return Prediction(None, None, None, basis or self.basis)
        return Prediction(
            self.value * factor, self.low * factor, self.high * factor, basis or self.basis
        )

    def to_json(self) -> Json:
        return {"value": self.value, "low": self.low, "high": self.high, "basis": self.basis}


@dataclass(frozen=True)
class Plan:
    """A configuration and what is predicted of it; `record` is the content of plan.json."""

    config: RunConfig
    record: Json

    @property
    def launchable(self) -> bool:
        return bool(self.record["launchable"])


def _both(key: str, **values: Any) -> Words:
    return {code: say(f"plan.{key}", code, **values) for code in LANGUAGES}


def _exactly(value: float, basis: Words) -> Prediction:
    return Prediction(value, value, value, basis)


def _unknown(key: str, **values: Any) -> Prediction:
    return Prediction(None, None, None, _both(key, **values))


def planned_config(
    config: RunConfig,
    today: date,
    hardware: str | None = None,
    price: float | None = None,
    tokens: int | None = None,
) -> RunConfig:
    """`config` with what the planner was told: machine, price (dated today), training tokens.

    Tokens become the number of whole steps that covers them. Raises UserError for an unknown
    machine, a price that is not above zero, or no tokens.
    """
    raw = config.model_dump()
    if hardware is not None:
        name = money.hardware(hardware).name
        if name != config.money.hardware:  # a price belongs to the machine it was typed for
            raw["money"].update(hardware=name, price_usd_per_hour=None, price_date="")
    if price is not None:
        if money.hardware(raw["money"]["hardware"]).own:
            raise UserError("plan.price_of_own", hardware=raw["money"]["hardware"])
        money.positive("--price-usd-per-hour", price)
        raw["money"].update(price_usd_per_hour=price, price_date=today.isoformat())
    if tokens is not None:
        money.positive("--tokens", tokens)
        raw["train"]["steps"] = math.ceil(tokens / config.batch_tokens)
        if config.data.train_tokens:
            raw["data"]["train_tokens"] = raw["train"]["steps"] * config.batch_tokens
    return validate(raw)


def predict_throughput(
    config: RunConfig,
    machine: money.Hardware,
    mfu: float | None = None,
    tokens_per_s: float | None = None,
    calibrate: Callable[[RunConfig], float] | None = None,
) -> Prediction:
    """Training tokens per second, from the best knowledge there is.

    In order: a typed rate, a typed MFU, a short measurement on this machine, a guessed MFU for a
    GPU in the table. Raises UserError for an MFU outside (0, 1] or a rate that implies one.
    """
    card, dtype = machine.gpu, config.train.dtype
    per_token = flops.token_flops(config.model).total
    if mfu is not None and not 0 < mfu <= 1:
        raise UserError("plan.mfu_range", mfu=mfu)
    if tokens_per_s is not None:
        money.positive("--tokens-per-s", tokens_per_s)
        if card:
            implied = flops.mfu(tokens_per_s, per_token, card.peak_flops_per_s(dtype))
            if implied > 1:
                raise UserError(
                    "plan.rate_over_peak",
                    tokens_per_s=f"{tokens_per_s:,.0f}", mfu=f"{implied:.2f}", gpu=card.label,
                )  # fmt: skip
        return _spread(tokens_per_s, TYPED_SPREAD, "basis.typed_rate")
    if mfu is not None:
        if card is None:
            raise UserError("plan.mfu_needs_gpu", hardware=machine.name)
        rate = mfu * card.peak_flops_per_s(dtype) / per_token
        return _spread(
            rate, TYPED_SPREAD, "basis.typed_mfu", mfu=f"{mfu:.2f}", peak=_peak(card, dtype)
        )
    if machine.own and calibrate is not None:
        return _spread(calibrate(config), CALIBRATION_SPREAD, "basis.calibrated")
    if card:
        value, low, high = (m * card.peak_flops_per_s(dtype) / per_token for m in MFU_GUESS)
        basis = _both(
            "basis.guessed_mfu",
            mfu=MFU_GUESS[0], low=MFU_GUESS[1], high=MFU_GUESS[2], peak=_peak(card, dtype),
        )  # fmt: skip
        return Prediction(value, low, high, basis)
    return _unknown("missing.rate", hardware=machine.name)


def _spread(value: float, fraction: float, key: str, **values: Any) -> Prediction:
    basis = _both(key, percent=f"{100 * fraction:.0f}", **values)
    return Prediction(value, value * (1 - fraction), value * (1 + fraction), basis)


def _peak(card: flops.Gpu, dtype: str) -> str:
    return f"{card.peak_flops_per_s(dtype) / flops.TERA:g} TFLOP/s ({card.label}, {dtype})"


def evaluation_tokens(config: RunConfig) -> int:
    """Held-out tokens scored over the whole run: at step 0, every so many steps, and at the end."""
    times = 1 + math.ceil(config.train.steps / config.evaluate.every_steps)
    return times * config.evaluate.tokens


def _hours(tokens: float, rate: Prediction, basis: Words) -> Prediction:
    if rate.value is None or rate.low is None or rate.high is None:
        return Prediction(None, None, None, rate.basis)
    value, low, high = (money.run_hours(tokens, r) for r in (rate.value, rate.high, rate.low))
    return Prediction(value, low, high, basis)


@cache
def shipped_measurements() -> Json:
    """What was measured with this code (`measured.json`), each entry with its `provenance`.

    `losses`: `recipe`, and `loss_nats_per_token` and `bits_per_byte` with one number per seed.
    `tokenizers`: `source`, `dataset`, `tokenizer`, `vocab_size`, `tokens_per_s`, `bytes_per_token`.
    """
    record: Json = json.loads(files("x1").joinpath("measured.json").read_text("utf-8"))
    if record.get("format") != MEASURED_FORMAT:
        raise ValueError(f"measured.json: expected format {MEASURED_FORMAT}")
    return record


def recipe(config: RunConfig) -> str:
    """SHA-256 of what a final loss depends on, seeds aside: shape, optimizer, data, amount, dtype.

    A measured loss predicts the runs of its own recipe and no other.
    """
    decisive = {
        "model": config.model.model_dump(),
        "optim": config.optim.model_dump(),
        "data": config.data.model_dump(
            include={"source", "corpus_setting", "tokenizer", "dataset", "subset"}
        ),
        "train": config.train.model_dump(include={"steps", "batch_sequences", "dtype"}),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


# 97.5% points of Student's t for 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def prediction_interval(samples: list[float]) -> tuple[float, float, float]:
    """Mean, and the 95% interval in which one more run of the same recipe should fall.

    mean ± t·s·sqrt(1 + 1/n), for n ≥ 2 runs that differ in their seeds.
    """
    n, centre = len(samples), mean(samples)
    t = _STUDENT[min(n - 1, len(_STUDENT)) - 1]
    half = t * stdev(samples) * math.sqrt(1 + 1 / n)
    return centre, centre - half, centre + half


def predict_loss(config: RunConfig, measured: Json) -> tuple[Prediction, Prediction]:
    """Final held-out loss in nats/token, and in bits/byte.

    The generated corpus: from runs of the same recipe, measured. A dataset of web text under BPE:
    from published laws, with their spread and their error on text they were not fitted on. Anything
    else: no prediction, and why.
    """
    if config.data.source == "verbs":
        return _measured_loss(config, measured)
    if config.data.source == "text" or config.data.tokenizer == "bytes":
        missing = _unknown("missing.law_for_text")
        return missing, missing
    nats = _law_loss(config)
    return nats, _bits_per_byte(nats, config, measured)


def _measured_loss(config: RunConfig, measured: Json) -> tuple[Prediction, Prediction]:
    entry = next((e for e in measured["losses"] if e["recipe"] == recipe(config)), None)
    if entry is None or len(entry["loss_nats_per_token"]) < 2:
        missing = _unknown("missing.measured_loss")
        return missing, missing
    basis = _both("basis.measured_loss", n=len(entry["loss_nats_per_token"]))
    return (
        Prediction(*prediction_interval(entry["loss_nats_per_token"]), basis),
        Prediction(*prediction_interval(entry["bits_per_byte"]), basis),
    )


def _law_loss(config: RunConfig) -> Prediction:
    N = flops.parameters(config.model)
    losses = [law.predict(N, config.tokens) for law in scaling.PUBLISHED]
    error = scaling.transfer_error()
    basis = _both(
        "basis.laws",
        hoffmann=f"{losses[0]:.2f}", besiroglu=f"{losses[1]:.2f}", error=f"{error:.2f}",
    )  # fmt: skip
    return Prediction(mean(losses), min(losses) - error, max(losses) + error, basis)


def _bits_per_byte(nats: Prediction, config: RunConfig, measured: Json) -> Prediction:
    entry = _tokenizer_entry(config, measured)
    if entry is None:
        return _unknown("missing.bytes_per_token")
    bytes_per_token = float(entry["bytes_per_token"])
    basis = _both("basis.bits_per_byte", bytes=f"{bytes_per_token:.3f}")
    return nats.scaled(1 / (math.log(2) * bytes_per_token), basis)


def _tokenizer_entry(config: RunConfig, measured: Json) -> Json | None:
    wanted = (
        config.data.source,
        config.data.dataset,
        config.data.tokenizer,
        config.model.vocab_size,
    )
    for entry in measured["tokenizers"]:
        if (entry["source"], entry["dataset"], entry["tokenizer"], entry["vocab_size"]) == wanted:
            return dict(entry)
    return None


def predict_memory(config: RunConfig, machine: money.Hardware) -> tuple[Prediction, Prediction]:
    """The micro-batch that fits (sequences; 0 when none does) and the bytes it takes."""
    configured = config.train.micro_batch
    if configured != "auto":
        fits = min(configured, config.train.batch_sequences)
        basis = _both("basis.configured_micro_batch")
    elif machine.gpu:
        fits = flops.fitting_micro_batch(config, machine.gpu.memory_gb)
        basis = _both("basis.fitting_micro_batch", gb=f"{machine.gpu.memory_gb:g}")
    else:
        fits, basis = flops.cpu_micro_batch(config), _both("basis.cpu_micro_batch")
    estimate = flops.memory(config, max(fits, 1), on_cpu=machine.gpu is None).total
    return _exactly(fits, basis), _exactly(estimate, _both("basis.memory"))


def checkpoint_bytes(config: RunConfig) -> int:
    """Size of one checkpoint: fp32 weights and the optimizer's moments."""
    estimate = flops.memory(config, micro_batch=1)
    return estimate.weights + estimate.optimizer


def predict_checkpoints(config: RunConfig, training: Prediction) -> dict[str, Prediction]:
    """How many are written, how many stay, and their bytes."""
    every = config.checkpoint
    by_step = math.ceil(config.train.steps / every.every_steps)
    by_step += sum(step % every.every_steps > 0 for step in every.milestones)
    by_clock = math.ceil((training.value or 0.0) * 60 / every.every_minutes)
    # The clock writes only where the steps come too slowly.
    written = max(by_step, by_clock)
    kept = min(written, every.keep + 1 + len(every.milestones))
    size = _exactly(checkpoint_bytes(config), _both("basis.checkpoint_bytes"))
    basis = _both("basis.checkpoints", steps=every.every_steps, minutes=f"{every.every_minutes:g}")
    return {
        "checkpoints_written": Prediction(written, by_step, by_step + by_clock, basis),
        "checkpoints_kept": _exactly(kept, _both("basis.checkpoints_kept")),
        "checkpoint_bytes": size,
    }


def _lines(
    config: RunConfig,
    machine: money.Hardware,
    price: money.Price | None,
    run: Prediction,
    kept_bytes: float,
    prices: money.Prices,
    measured: Json,
) -> list[Json]:
    """Hours and dollars, line by line. Hours on a rented clock are rounded up to 0.01."""

    def line(item: str, hours: Prediction, dollars: Prediction, clock: bool) -> Json:
        return {
            "item": item,
            "on_the_clock": clock,
            "hours": hours.to_json(),
            "usd": dollars.to_json(),
        }

    def billed(hours: Prediction) -> tuple[Prediction, Prediction]:
        if hours.value is None or hours.low is None or hours.high is None:
            return hours, hours
        if machine.own:
            watts, tariff = config.money.watts or machine.watts, config.money.tariff_usd_per_kwh
            basis = _both("basis.electricity", watts=f"{watts:g}", tariff=money.rate(tariff))
            return hours, hours.scaled(money.electricity_usd(1.0, watts, tariff), basis)
        value, low, high = (money.ceil_hours(h) for h in (hours.value, hours.low, hours.high))
        hours = Prediction(value, low, high, hours.basis)
        if price is None:
            return hours, _unknown("missing.price", hardware=machine.name)
        rate, day = money.rate(price.usd_per_hour), price.day.isoformat()
        basis = _both("basis.rental", price=rate, date=day)
        return hours, hours.scaled(money.rental_usd(1.0, price.usd_per_hour), basis)

    set_up = Prediction(*SETUP_HOURS, _both("basis.set_up"))
    if machine.own:
        set_up = Prediction(*START_HOURS, _both("basis.start"))
    nothing = _exactly(0.0, _both("basis.off_the_clock"))
    storage = _exactly(0.0, _both("basis.own_disk"))
    if not machine.own:
        # Token ids are two bytes up to a vocabulary of 65,536.
        data_bytes = config.tokens * (2 if config.model.vocab_size <= 65_536 else 4)
        gigabytes = (data_bytes + kept_bytes) / flops.GIGA
        rate = prices.storage_usd_per_gb_month
        cost = money.storage_usd(gigabytes, STORAGE_DAYS, rate)
        basis = _both(
            "basis.storage",
            gb=f"{gigabytes:.1f}", days=STORAGE_DAYS, rate=money.rate(rate),
            source=prices.storage_source,
        )  # fmt: skip
        storage = Prediction(cost, 0.5 * cost, 2 * cost, basis)
    return [
        line("set_up", *billed(set_up), clock=True),
        line("data", _data_hours(config, measured), nothing, clock=False),
        line("ladder", _unknown("missing.ladder"), nothing, clock=False),
        line("run", *billed(run), clock=True),
        line("storage", _exactly(0.0, storage.basis), storage, clock=False),
    ]


def _data_hours(config: RunConfig, measured: Json) -> Prediction:
    entry = _tokenizer_entry(config, measured)
    if entry is None:
        return _unknown("missing.tokenizer_speed")
    speed = float(entry["tokens_per_s"])
    hours = money.run_hours(config.data.train_tokens or config.tokens, speed)
    return Prediction(
        hours, 0.5 * hours, 2 * hours, _both("basis.tokenizer", speed=f"{speed:,.0f}")
    )


def _sum(lines: list[Json], field: str, basis: Words) -> Prediction:
    """The sum over lines; unknown as soon as one is."""
    for entry in lines:
        if entry[field]["value"] is None:
            return Prediction(None, None, None, entry[field]["basis"])
    value, low, high = (
        sum(entry[field][part] for entry in lines) for part in ("value", "low", "high")
    )
    return Prediction(value, low, high, basis)


def _sentence(
    config: RunConfig,
    machine: money.Hardware,
    price: money.Price | None,
    hours: Prediction,
    lines: list[Json],
    today: date,
) -> money.CostSentence | None:
    if hours.value is None:
        return None
    budget = config.money.lab_budget_usd
    if machine.own:
        watts = config.money.watts or machine.watts
        return money.own_sentence(
            machine.label, hours.value, watts, config.money.tariff_usd_per_kwh, budget
        )
    if price is None:
        return None
    other = next(entry["usd"]["value"] for entry in lines if entry["item"] == "storage")
    stale_days = price.age_days(today) if price.is_stale(today) else 0
    return money.rented_sentence(
        machine.label, hours.value, price.usd_per_hour, budget, other, stale_days=stale_days
    )


def make_plan(
    config: RunConfig,
    *,
    today: date,
    hardware: str | None = None,
    price: float | None = None,
    tokens: int | None = None,
    mfu: float | None = None,
    tokens_per_s: float | None = None,
    calibrate: Callable[[RunConfig], float] | None = None,
    prices: money.Prices | None = None,
    measured: Json | None = None,
) -> Plan:
    """Everything there is to predict about a run before it starts.

    `hardware`, `price` (USD/h, dated `today`) and `tokens` override the config and are part of the
    plan's own. `calibrate` measures tokens/s of a config; pass it when the machine at hand is the
    one planned for: it is called only for one's own machine, and only if nothing was typed.

    Raises UserError for unknown hardware, an MFU outside (0, 1], a rate above the hardware's peak,
    and anything that is not above zero.
    """
    prices = prices or money.shipped_prices()
    measured = shipped_measurements() if measured is None else measured
    config = planned_config(config, today, hardware, price, tokens)
    machine = money.hardware(config.money.hardware)
    offer = None if machine.own else money.configured_price(config, prices)
    model = config.model
    per_token = flops.token_flops(model)

    rate = predict_throughput(config, machine, mfu, tokens_per_s, calibrate)
    training = _hours(config.tokens, rate, _both("basis.training_hours"))
    # Scoring a token is a forward pass: a third of training on it.
    scored = evaluation_tokens(config) * per_token.forward / per_token.total
    run = _hours(config.tokens + scored, rate, _both("basis.run_hours"))
    micro_batch, memory = predict_memory(config, machine)
    checkpoints = predict_checkpoints(config, training)
    kept = checkpoints["checkpoints_kept"].value or 0.0
    kept_bytes = kept * checkpoint_bytes(config)
    lines = _lines(config, machine, offer, run, kept_bytes, prices, measured)
    clock = [entry for entry in lines if entry["on_the_clock"]]
    hours = _sum(clock, "hours", _both("basis.clock"))
    dollars = _sum(lines, "usd", _both("basis.dollars"))
    nats, bits = predict_loss(config, measured)
    sentence = _sentence(config, machine, offer, hours, lines, today)

    watts = config.money.watts or machine.watts
    watts_basis = (
        "typed_watts" if config.money.watts else "rated_watts" if machine.gpu else "assumed_watts"
    )
    energy = hours.scaled(watts / 1000, _both(f"basis.{watts_basis}", watts=f"{watts:g}"))
    utilisation = Prediction(None, None, None, _both("missing.peak"))
    if machine.gpu:
        peak = machine.gpu.peak_flops_per_s(config.train.dtype)
        utilisation = rate.scaled(
            per_token.total / peak, _both("basis.mfu", peak=_peak(machine.gpu, config.train.dtype))
        )

    # The sentence's cost is the plan: the ledger, the guard and the reader hold the same number.
    plan_usd = sentence.cost_usd if sentence else None
    amounts = {
        "plan_usd": plan_usd,
        "lab_budget_usd": config.money.lab_budget_usd,
        "reserve_usd": None,
        "alert_line_usd": None,
        "ceiling_usd": config.money.ceiling_usd,
    }
    if plan_usd is not None and dollars.high is not None:
        amounts["alert_line_usd"] = money.round_usd(money.alert_line_usd(plan_usd))
        reserve = money.reserve_usd(plan_usd, dollars.high, config.money.ceiling_usd)
        amounts["reserve_usd"] = money.round_usd(reserve)

    predictions = {
        "tokens_per_s": rate,
        "mfu": utilisation,
        "training_hours": training,
        "hours": hours,
        "dollars": dollars,
        "kwh": energy,
        "memory_bytes": memory,
        "micro_batch": micro_batch,
        **checkpoints,
        "loss_nats_per_token": nats,
        "bits_per_byte": bits,
    }
    reasons = _reasons(config, machine, offer, rate, micro_batch, plan_usd, today)
    record: Json = {
        "format": FORMAT,
        "date": today.isoformat(),
        "preset": config.preset,
        "config_sha256": hashlib.sha256(to_toml(config).encode()).hexdigest(),
        "hardware": {
            "name": machine.name,
            "label": machine.label,
            "count": 1,
            "own": machine.own,
            "watts": watts,
            "peak_source": machine.gpu.source if machine.gpu else None,
        },
        "price": _price_json(offer, today),
        "model": {
            "parameters": flops.parameters(model),
            "non_embedding_parameters": flops.parameter_groups(model).non_embedding,
            "flops_per_token": {
                convention: flops.token_flops(model, convention).total
                for convention in ("causal", "full")
            },
            "six_n_flops_per_token": flops.six_n_flops(flops.parameters(model)),
        },
        "tokens": config.tokens,
        "tokens_per_parameter": config.tokens / flops.parameters(model),
        "steps": config.train.steps,
        "batch_tokens": config.batch_tokens,
        "flops": config.tokens * per_token.total,
        "predictions": {name: prediction.to_json() for name, prediction in predictions.items()},
        "lines": lines,
        "money": amounts,
        "sentence": {
            code: money.write_cost_sentence(sentence, code) if sentence else None
            for code in LANGUAGES
        },
        "stale": bool(offer and offer.is_stale(today)),
        "launchable": not reasons,
        "reasons": reasons,
    }
    return Plan(config, record)


def _price_json(price: money.Price | None, today: date) -> Json | None:
    if price is None:
        return None
    return {
        "usd_per_hour": price.usd_per_hour,
        "date": price.day.isoformat(),
        "age_days": price.age_days(today),
        "provider": price.provider,
        "kind": price.kind,
        "source": price.source,
    }


def _reasons(
    config: RunConfig,
    machine: money.Hardware,
    price: money.Price | None,
    rate: Prediction,
    micro_batch: Prediction,
    plan_usd: float | None,
    today: date,
) -> list[Json]:
    """Why this plan may not be launched, each `{"reason": id, "en": ..., "es": ...}`."""
    found: list[Json] = []

    def add(reason: str, **values: Any) -> None:
        found.append({"reason": reason, **_both(f"reason.{reason}", **values)})

    if rate.value is None:
        add("no_rate")
    if not machine.own and price is None:
        add("no_price", hardware=machine.name)
    if price and price.is_stale(today):
        add("stale_price", days=price.age_days(today), limit=money.STALE_AFTER_DAYS)
    if micro_batch.value == 0:
        add("no_memory", hardware=machine.label)
    if plan_usd is not None and plan_usd > config.money.ceiling_usd:
        add("over_ceiling", plan=money.usd(plan_usd), ceiling=money.usd(config.money.ceiling_usd))
    elif plan_usd is not None and plan_usd > config.money.lab_budget_usd:
        add("over_budget", plan=money.usd(plan_usd), budget=money.usd(config.money.lab_budget_usd))
    return found


def write_plan(run: Path, plan: Plan) -> None:
    """Make `run` the folder of the plan: config.toml, then plan.json.

    Raises UserError if the folder is another run's, or if this run has already started: a
    prediction is made before, or it is not one.
    """
    if any((run / name).exists() for name in (folder.LEDGER, folder.METRICS, folder.CHECKPOINTS)):
        raise UserError("plan.already_started", path=run)
    folder.claim(run, plan.config)
    digest = hashlib.sha256((run / folder.CONFIG).read_bytes()).hexdigest()
    folder.write_json(run / folder.PLAN, {**plan.record, "config_sha256": digest})


def read_plan(run: Path) -> Json:
    """The run's plan.json. Raises UserError when it is missing, damaged or of another format."""
    return folder.read_json(run / folder.PLAN, FORMAT)


plan_digest = folder.plan_digest


def render(record: Json, lang: str | None = None) -> Group:
    """A plan as tables and sentences for the terminal, in the reader's language or in `lang`."""
    code = lang or language()

    def word(key: str, **values: Any) -> str:
        return say(f"plan.{key}", code, **values)

    model, price, amounts = record["model"], record["price"], record["money"]
    heading = word(
        "heading",
        preset=record["preset"], hardware=record["hardware"]["label"], date=record["date"],
        parameters=_short(model["parameters"], "B"), tokens=_short(record["tokens"], "B"),
        ratio=f"{record['tokens_per_parameter']:.0f}",
        causal=_short(model["flops_per_token"]["causal"]),
        full=_short(model["flops_per_token"]["full"]),
        six_n=_short(model["six_n_flops_per_token"]),
        total=f"{record['flops']:.2e}",
    )  # fmt: skip

    expected = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    for column in ("what", "value", "interval", "basis"):
        number = column in ("value", "interval")
        expected.add_column(
            word(f"column.{column}"), justify="right" if number else "left", no_wrap=number
        )
    for name, prediction in record["predictions"].items():
        low, high = prediction["low"], prediction["high"]
        interval = "" if low == high else f"{_figure(name, low)} – {_figure(name, high)}"
        expected.add_row(
            word(f"row.{name}"),
            _figure(name, prediction["value"]),
            interval,
            prediction["basis"][code],
        )

    costs = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    for column in ("line", "hours", "usd", "basis"):
        number = column in ("hours", "usd")
        costs.add_column(
            word(f"column.{column}"), justify="right" if number else "left", no_wrap=number
        )
    for entry in record["lines"]:
        bases = [entry["hours"]["basis"][code], entry["usd"]["basis"][code]]
        if not entry["usd"]["value"]:
            bases = bases[:1]
        costs.add_row(
            word(f"line.{entry['item']}"),
            _figure("hours", entry["hours"]["value"]),
            _figure("dollars", entry["usd"]["value"]),
            "; ".join(dict.fromkeys(bases)),
        )

    parts: list[Any] = [heading, "", expected, "", costs, ""]
    if price:
        parts.append(
            word(
                "price_line" if price["kind"] != "typed" else "typed_price_line",
                price=money.rate(price["usd_per_hour"]), date=price["date"], days=price["age_days"],
                provider=price["provider"], kind=price["kind"], source=price["source"],
            )
        )  # fmt: skip
    parts.append(
        word(
            "amounts",
            **{
                name.removesuffix("_usd"): _figure("dollars", amount)
                for name, amount in amounts.items()
            },
        )
    )
    if record["sentence"][code]:
        parts += ["", record["sentence"][code]]
    parts.append("")
    if record["launchable"]:
        parts.append(word("launchable"))
    else:
        parts.append(word("not_launchable"))
        parts += [f"  - {reason[code]}" for reason in record["reasons"]]
    return Group(*parts)


def _short(number: float, giga: str = "G") -> str:
    """Three significant digits and a letter: "46.9M", FLOPs in "G", tokens in "B"."""
    for unit, letter in ((1e12, "T"), (1e9, giga), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "dollars":
        return money.usd(value)
    if name.endswith("bytes"):
        return f"{value / flops.GIGA:.2f} GB"
    if name in ("tokens_per_s", "micro_batch") or name.startswith("checkpoints"):
        return f"{value:,.0f}"
    if name in ("mfu", "loss_nats_per_token", "bits_per_byte"):
        return f"{value:.3f}"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def run_plan_command(
    config: RunConfig,
    *,
    today: date,
    gpu: str | None = None,
    price_usd_per_hour: str | None = None,
    tokens: str | None = None,
    mfu: str | None = None,
    tokens_per_s: str | None = None,
    as_json: bool = False,
    out: Path | None = None,
    calibrate: Callable[[RunConfig], float] | None = None,
    console: Console | None = None,
) -> Plan:
    """`x1 plan`: compute, write with `out`, print as text or JSON. Numbers as people type them."""
    plan = make_plan(
        config,
        today=today,
        hardware=gpu,
        price=None if price_usd_per_hour is None else money.parse_number(price_usd_per_hour),
        tokens=None if tokens is None else money.parse_count(tokens),
        mfu=None if mfu is None else money.parse_number(mfu),
        tokens_per_s=None if tokens_per_s is None else money.parse_number(tokens_per_s),
        calibrate=calibrate,
    )
    if out is not None:
        write_plan(out, plan)
    console = console or Console()
    if as_json:
        console.file.write(json.dumps(plan.record, indent=1, ensure_ascii=False) + "\n")
        return plan
    console.print(render(plan.record), highlight=False, markup=False)
    if out is not None:
        console.print("", say("plan.written", path=out), sep="\n", highlight=False, markup=False)
    return plan
