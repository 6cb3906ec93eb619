"""What a run is doing now, from its folder alone: one JSON object, for `x1 watch` and for scripts.

Nothing is written, no lock is taken, and a file that is missing, damaged or half written costs no
more than what it would have said. Amounts follow the guard: what it projects, this shows.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from x1 import deadman, first_ladder, folder, guard, ledger, money, record
from x1.config import RunConfig
from x1.record import Floats, Record, dig, number
from x1.text import UserError

FORMAT = "x1-watch-1"
EVERY_S = 5.0
SHARE = 20  # a look that takes a second is followed by twenty without one
POINTS = 240  # medians of the loss that are handed on
HELD_OUT_POINTS = 60
EVENTS = 20
LAUNCHED, HEARD = "launch.json", "launch-status.json"  # of `x1 launch`
SPENT_ONLY = ("finished",)  # states in which nothing more is projected

Json = dict[str, Any]


def snapshot(run: Path, now_s: float) -> Json:
    """Everything there is to show of a run at Unix time `now_s`; null for what is not known.

    Raises UserError if `run` is not a run.
    """
    here = record.read(run)
    away = elsewhere(run, now_s)
    if away and away["running"]:
        here = replace(here, running=True)
    state, said = record.status(here)
    rate = recent_tokens_per_s(here)
    remaining = max(here.config.tokens - here.steps_done * here.config.batch_tokens, 0)
    seconds_left = remaining / rate if rate and state not in SPENT_ONLY else None
    shown: Json = {
        "format": FORMAT,
        "run": here.name,
        "preset": here.config.preset,
        "time": folder.now(),
        "state": state,
        "reason": said["reason"],
        "step": said["step"],
        "steps": here.config.train.steps,
        "tokens": said["step"] * here.config.batch_tokens,
        "tokens_total": here.config.tokens,
        "seconds_left": seconds_left,
        "ladder": first_ladder.progress(run),
        "line_age_s": age(record.last_time_s(here), now_s),
        "loss_nats_per_token": record.last_loss(here),
        "held_out": held_out(here),
        "predicted": predicted(here),
        "speed": {"tokens_per_s": rate, "mfu": mfu(here, rate)},
        "money": spending(run, here, seconds_left, now_s),
        "checkpoint": checkpoint(here, now_s),
        "supervisor": record.holder(run, "supervise"),
        "away": away,
        "deadman": limit(run, here.config),
        "events": events(here),
        "curve": curve(here),
        "damaged": [fault.file for fault in here.faults if fault.kind == "damaged"],
    }
    return finite(shown)


def recent_tokens_per_s(run: Record) -> float | None:
    """Median over the last 30 minutes on record, as the guard counts; None without a step."""
    rates, times = run.training.values["tokens_per_s"], run.training.time_s
    known = np.isfinite(rates) & np.isfinite(times)
    if not known.any():
        return None
    rates, times = rates[known], times[known]
    found = float(median(rates[times > times[-1] - guard.RATE_WINDOW_S]))
    return found if found > 0 else None


def mfu(run: Record, rate: float | None) -> float:
    """Needed FLOPs per second at this rate, over the recorded peak; NaN where none is known."""
    peak = number(dig(run.manifest, "peak_flops", "value"))
    per_token = number(run.manifest.get("flops_per_token"))
    return rate * per_token / peak if rate and peak > 0 else math.nan


def held_out(run: Record) -> Json:
    loss, _, step = record.held_out(run)
    return {"loss_nats_per_token": loss, "step": step}


def predicted(run: Record) -> Json:
    """The sealed prediction of the run's own ladder, else the plan's, by what is predicted."""
    plan = run.plan.get("predictions")
    own = run.prediction.get("predictions")
    found: Json = {"basis": "ladder" if own else "plan" if plan else None}
    for name in ("loss_nats_per_token", "tokens_per_s", "mfu", "training_hours", "dollars"):
        entry = dig(own, name) or dig(plan, name)
        found[name] = {part: number(dig(entry, part)) for part in ("value", "low", "high")}
    return found


def spending(run: Path, here: Record, seconds_left: float | None, now_s: float) -> Json | None:
    """What the ledger says, and where it leads; None without one that can be read."""
    try:
        book = ledger.read_ledger(run)
    except (UserError, OSError):
        return None
    spent, price = float(book.spent_usd), book.price.usd_per_hour
    projected = None
    if seconds_left is not None:
        projected = spent + money.rental_usd(seconds_left / 3600, price)
    return {
        "spent_usd": spent,
        "projected_usd": projected,
        "left_usd": ledger.left_usd(book),
        "plan_usd": number(dig(here.plan, "money", "plan_usd")),
        "alert_line_usd": book.alert_line_usd,
        "ceiling_usd": book.ceiling_usd,
        "usd_per_hour": price,
        "price_source": book.price.source,
        "charged_age_s": age(book.at.wall_ms / 1000, now_s),
        "closed": book.closed,
    }


def checkpoint(run: Record, now_s: float) -> Json | None:
    """The step and the age of the newest checkpoint on record; None if there is none."""
    saved = [event for event in run.events if event["event"] == "checkpoint"]
    if not saved:
        return None
    moment = record.unix_time(saved[-1].get("time"))
    return {"step": number(saved[-1].get("step")), "age_s": age(moment, now_s)}


def limit(run: Path, config: RunConfig) -> Json:
    """What ends the machine if nobody else can: `kind` is own, provider, timer or none."""
    if money.hardware(config.money.hardware).own:
        return {"kind": "own"}
    if config.money.max_lifetime_hours is not None:
        return {"kind": "provider", "hours": config.money.max_lifetime_hours}
    try:
        state = deadman.read_state(run) or {}
    except (UserError, OSError):
        state = {}
    if not state:
        return {"kind": "none"}
    known = {name: str(state.get(name)) for name in ("status", "until", "host")}
    return {"kind": "timer", **known}


def elsewhere(run: Path, now_s: float) -> Json | None:
    """Of a run that `x1 launch` has handed to another machine: which, and what was last heard."""
    try:
        launched = folder.read_json(run / LAUNCHED) if (run / LAUNCHED).exists() else {}
        heard = folder.read_json(run / HEARD) if (run / HEARD).exists() else {}
    except (UserError, OSError):
        return None
    if not launched.get("handed_over") or launched.get("on") == "local":
        return None
    return {
        "target": str(launched.get("target")),
        "running": heard.get("running") is True,
        "age_s": age(record.unix_time(heard.get("time")), now_s),
    }


def events(run: Record) -> list[Json]:
    """The newest things that happened, oldest first; checkpoints have a line of their own."""
    told = [item for item in record.happenings(run) if item[0] != "checkpoint"]
    return [
        {"kind": kind, "step": step, "time": str(event.get("time", "")), "event": event}
        for kind, event, step in told[-EVENTS:]
    ]


def curve(run: Record) -> Json:
    """[step, loss] of running medians, and of the held-out points; lists of pairs."""
    steps, losses = run.training.curve("loss")
    known = np.isfinite(losses)
    points = medians(steps[known], losses[known])
    at, held = run.held_out.curve("val_loss")
    stride = max(1, -(-len(at) // HELD_OUT_POINTS))
    chosen = np.flatnonzero(np.isfinite(held))[::-1][::stride][::-1]
    return {"loss": points, "held_out": pairs(at[chosen], held[chosen])}


def medians(steps: Floats, losses: Floats) -> list[list[float]]:
    """At most POINTS pairs that stand for equally many steps each."""
    parts = max(1, min(POINTS, len(steps)))
    groups = zip(np.array_split(steps, parts), np.array_split(losses, parts), strict=True)
    kept = [(float(np.median(x)), float(np.median(y))) for x, y in groups if len(x)]
    return [[round(x, 1), round(y, 5)] for x, y in kept]


def pairs(x: Floats, y: Floats) -> list[list[float]]:
    return [[float(a), round(float(b), 5)] for a, b in zip(x, y, strict=True)]


def age(moment_s: float, now_s: float) -> float:
    """Seconds since a moment; never negative, for another machine's clock may be ahead."""
    return max(now_s - moment_s, 0.0) if math.isfinite(moment_s) else math.nan


def finite(value: Any) -> Any:
    """The same, with null for NaN and infinities, which are not JSON."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def looks(run: Path) -> Iterator[Json]:
    """Snapshots, for as long as there is something to wait for; the last one is of the end.

    A long run takes long to read: the pause grows with it, so that watching stays cheap.
    """
    while True:
        began = time.monotonic()
        seen = snapshot(run, time.time())
        yield seen
        if seen["state"] == "finished":
            return
        time.sleep(max(EVERY_S, SHARE * (time.monotonic() - began)))
