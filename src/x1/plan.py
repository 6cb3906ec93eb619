"""The plan: what a run should cost and reach, written down before it starts.

`make_plan` puts predictions, money and the cost sentence together. It always computes, however dear
the answer: only launching refuses. The plan is plan.json beside config.toml; its SHA-256 goes into
the ledger's first line and every checkpoint, so that nobody can predict afterwards.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from x1 import flops, folder, money, predict
from x1.config import RunConfig, to_toml, validate
from x1.predict import Json, Prediction, Words, both, exactly, unknown
from x1.text import LANGUAGES, UserError
from x1.throughput import TwoTerms

FORMAT = "x1-plan-1"

# Assumptions, each printed as such in the basis of what rests on it.
SETUP_HOURS = (0.5, 0.25, 1.0)  # rented: boot, install, download the prepared shards
START_HOURS = (15 / 3600, 5 / 3600, 60 / 3600)  # one's own: the process starts, data is opened
STORAGE_DAYS = 30


@dataclass(frozen=True)
class Plan:
    """A configuration and what is predicted of it; `record` is the content of plan.json."""

    config: RunConfig
    record: Json

    @property
    def launchable(self) -> bool:
        return bool(self.record["launchable"])


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


def _lines(
    config: RunConfig,
    machine: money.Hardware,
    price: money.Price | None,
    run: Prediction,
    ladder: Prediction,
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
            basis = both("basis.electricity", watts=f"{watts:g}", tariff=money.rate(tariff))
            return hours, hours.scaled(money.electricity_usd(1.0, watts, tariff), basis)
        value, low, high = (money.ceil_hours(h) for h in (hours.value, hours.low, hours.high))
        hours = Prediction(value, low, high, hours.basis)
        if price is None:
            return hours, unknown("missing.price", hardware=machine.name)
        rate, day = money.rate(price.usd_per_hour), price.day.isoformat()
        basis = both("basis.rental", price=rate, date=day)
        return hours, hours.scaled(money.rental_usd(1.0, price.usd_per_hour), basis)

    set_up = Prediction(*SETUP_HOURS, both("basis.set_up"))
    if machine.own:
        set_up = Prediction(*START_HOURS, both("basis.start"))
    nothing = exactly(0.0, both("basis.off_the_clock"))
    storage = exactly(0.0, both("basis.own_disk"))
    if not machine.own:
        # Token ids are two bytes up to a vocabulary of 65,536.
        data_bytes = config.tokens * (2 if config.model.vocab_size <= 65_536 else 4)
        gigabytes = (data_bytes + kept_bytes) / flops.GIGA
        rate = prices.storage_usd_per_gb_month
        cost = money.storage_usd(gigabytes, STORAGE_DAYS, rate)
        basis = both(
            "basis.storage",
            gb=f"{gigabytes:.1f}", days=STORAGE_DAYS, rate=money.rate(rate),
            source=prices.storage_source,
        )  # fmt: skip
        storage = Prediction(cost, 0.5 * cost, 2 * cost, basis)
    return [
        line("set_up", *billed(set_up), clock=True),
        line("data", predict.data_hours(config, measured), nothing, clock=False),
        line("ladder", *billed(ladder), clock=True),
        line("run", *billed(run), clock=True),
        line("storage", exactly(0.0, storage.basis), storage, clock=False),
    ]


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
    two_terms: TwoTerms | None = None,
    calibrate: Callable[[RunConfig], float | None] | None = None,
    prices: money.Prices | None = None,
    measured: Json | None = None,
) -> Plan:
    """Everything there is to predict about a run before it starts.

    `hardware`, `price` (USD/h, dated `today`) and `tokens` override the config and are part of the
    plan's own. `two_terms` are the speed of a GPU that was measured. `calibrate` measures tokens/s
    of a config on the machine at hand, or gives up with None; it is called only for own-cpu, and
    only if nothing was typed.

    Raises UserError for unknown hardware, an MFU outside (0, 1], a rate above the hardware's peak,
    and anything that is not above zero.
    """
    prices = prices or money.shipped_prices()
    measured = predict.shipped_measurements() if measured is None else measured
    config = planned_config(config, today, hardware, price, tokens)
    machine = money.hardware(config.money.hardware)
    offer = None if machine.own else money.configured_price(config, prices)
    model = config.model
    per_token = flops.token_flops(model)

    rate = predict.predict_throughput(config, machine, mfu, tokens_per_s, calibrate, two_terms)
    training = predict.hours_at(config.tokens, rate, both("basis.training_hours"))
    # Scoring a token is a forward pass: a third of training on it.
    scored = predict.evaluation_tokens(config) * per_token.forward / per_token.total
    run = predict.hours_at(config.tokens + scored, rate, both("basis.run_hours"))
    micro_batch, memory = predict.predict_memory(config, machine)
    checkpoints = predict.predict_checkpoints(config, training)
    kept = checkpoints["checkpoints_kept"].value or 0.0
    kept_bytes = kept * predict.checkpoint_bytes(config)
    ladder = predict.predict_ladder(config, machine, rate)
    lines = _lines(config, machine, offer, run, ladder, kept_bytes, prices, measured)
    clock = [entry for entry in lines if entry["on_the_clock"]]
    hours = _sum(clock, "hours", both("basis.clock"))
    dollars = _sum(lines, "usd", both("basis.dollars"))
    nats, bits = predict.predict_loss(config, measured)
    sentence = _sentence(config, machine, offer, hours, lines, today)

    watts = config.money.watts or machine.watts
    watts_basis = (
        "typed_watts" if config.money.watts else "rated_watts" if machine.gpu else "assumed_watts"
    )
    energy = hours.scaled(watts / 1000, both(f"basis.{watts_basis}", watts=f"{watts:g}"))
    utilisation = Prediction(None, None, None, both("missing.peak"))
    if machine.gpu:
        peak = machine.gpu.peak_flops_per_s(config.train.dtype)
        utilisation = rate.scaled(
            per_token.total / peak,
            both("basis.mfu", peak=predict.peak_text(machine.gpu, config.train.dtype)),
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
        found.append({"reason": reason, **both(f"reason.{reason}", **values)})

    if rate.value is None:
        add("no_rate")
    if not machine.own and price is None:
        add("no_price", hardware=machine.name)
    if price and price.age_days(today) < 0:
        add("future_price", date=price.day.isoformat(), today=today.isoformat())
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
