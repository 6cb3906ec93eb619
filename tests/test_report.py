import json
import math
import re
import time
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from x1 import chart, config, folder, ledger, markup, record, report, report_tables
from x1.text import UserError

START_S = 1_900_000_000
STEP_S = 0.25
FLOOR = 1.214


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(START_S + seconds, UTC).isoformat(timespec="seconds")


def make_run(run: Path, steps: int = 500, eventful: bool = True, **changes: Any) -> Path:
    """A run's folder as the trainer, the evaluator and the ledger leave it behind.

    With `eventful`, at three fifths a spike is rolled back over a tenth, and at four fifths the
    process is killed.
    """
    settings = tuple(f"{name}={value}" for name, value in changes.items())
    made = config.build("rehearsal", None, (f"train.steps={steps}", *settings))
    folder.claim(run, made)
    generator = np.random.default_rng(0)
    uniform, batch = math.log(made.model.vocab_size), made.batch_tokens
    metrics: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    now = 2.0

    def happened(event: str, **fields: Any) -> None:
        events.append({"event": event, "time": iso(now), **fields})

    def stretch(first: int, last: int, attempt: int, shift: float = 0.0) -> None:
        nonlocal now
        for step in range(first, last):
            trend = FLOOR + 0.12 + (uniform - FLOOR) * (1 + step / 12) ** -1.1
            clock = {"time": iso(now), "seconds": STEP_S, "tokens_per_s": batch / STEP_S}
            clock["tokens_per_s"] *= 1 + 0.04 * generator.standard_normal()
            if step % made.evaluate.every_steps == 0:
                point = {"step": step, "attempt": attempt, "val_loss": trend + 0.01, "val_tokens": 99}
                metrics.append({**point, "clock": {"time": iso(now), "seconds": 0.5}})
            noise = 0.05 * generator.standard_normal() * min(1, (step + 1) / 20)
            line = {
                "step": step,
                "attempt": attempt,
                "data_index": step + shift,
                "loss": trend + noise,
                "grad_norm": 0.4 * math.exp(0.3 * generator.standard_normal()) + 4 / (step + 1),
                "lr": 6e-3 * min(1, (step + 1) / 50) * (1 - step / steps),
                "tokens": (step + 1) * batch,
                "clock": clock,
            }
            metrics.append(line)
            now += STEP_S
            if (step + 1) % made.checkpoint.every_steps == 0:
                path = f"step-{step + 1:08d}"
                happened("checkpoint", step=step + 1, attempt=attempt, path=path, reason="regular")

    happened("start", attempt=1, step=0, pid=101)
    if eventful:
        spike, back, killed = 3 * steps // 5, steps // 2, 4 * steps // 5
        stretch(0, spike, 1)
        for step in (1, 2):
            metrics.append({**metrics[-1], "step": spike - 1 + step, "loss": 7.5 + step})
        happened("inject", kinds=["lr-x100"], data_index=spike, step=spike)
        happened("spike", step=spike + 2, data_index=spike + 2, channel="loss", loss=9.5, benign=False)
        skipped = [spike, spike + 1, spike + 2]
        happened("rollback", from_step=spike + 2, to_step=back, attempt=2, skipped=skipped, reason="spike")
        stretch(back, killed, 2, shift=3)
        now += 3.0
        happened("start", attempt=3, step=killed - steps // 50, pid=202)
        stretch(killed - steps // 50, steps, 3, shift=3)
    else:
        stretch(0, steps, 1)
    final = {"step": steps, "attempt": 3 if eventful else 1, "val_loss": 1.352, "val_tokens": 99}
    metrics.append({**final, "clock": {"time": iso(now), "seconds": 0.5}})
    happened("finish", step=steps)

    write_lines(run / folder.METRICS, metrics)
    write_lines(run / folder.EVENTS, events)
    write_lines(run / folder.SAMPLES, [
        {"step": step, "attempt": 1, "prompt": "yo hablo", "text": text}
        for step, text in ((0, " zr&e<kk"), (100, " = I spoke"), (steps, " con el dapo = I speak with the dapo."))
    ])  # fmt: skip
    folder.write_json(run / folder.MANIFEST, {
        "format": "x1-manifest-1",
        "git_commit": "0123456789abcdef0123456789abcdef01234567+changes",
        "versions": {"x1": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
        "hardware": {"device": "cpu", "cpu": "A Processor @ 2.6 GHz", "threads": 2},
        "micro_batch": 32,
        "data": {"name": "verbs", "fingerprint": "ab" * 32},
        "parameters": 983_552,
        "flops_per_token": 6_094_848,
        "peak_flops": {"value": 247e9, "name": "measured matmul ceiling, fp32", "measured": True},
        "seeds": {"model": 0, "data": 0},
    })  # fmt: skip
    folder.write_json(run / folder.EVALUATION, {
        "format": "x1-evaluation-1",
        "step": steps,
        "held_out": {
            "loss_nats_per_token": 1.3325, "tokens": 41_234, "bytes": 170_000,
            "bits_per_byte": 0.4663, "mode": "documents",
        },
        "unigram_nats_per_token": 5.4321,
        "floor": {
            "nats_per_token": FLOOR, "these_documents_nats_per_token": 1.2101,
            "loss_nats_per_token": 1.3325,
            "english": {"nats_per_token": 0.105, "these_documents_nats_per_token": 0.104,
                        "loss_nats_per_token": 0.191},
        },
    })  # fmt: skip
    both = {"en": "Five runs of this recipe.", "es": "Cinco ejecuciones de esta receta."}
    folder.write_json(run / folder.PLAN, {
        "format": "x1-plan-1", "date": "2030-03-17",
        "predictions": {
            "tokens_per_s": {"value": 16000, "low": 12800, "high": 19200, "basis": both},
            "loss_nats_per_token": {"value": 1.30, "low": 1.28, "high": 1.32, "basis": both},
            "dollars": {"value": 0.0005, "low": 0.0004, "high": 0.0006, "basis": both},
            "kwh": {"value": 0.002, "low": 0.001, "high": 0.003, "basis": both},
            "bits_per_byte": {"value": None, "low": None, "high": None, "basis": both},
        },
    })  # fmt: skip
    write_ledger(run, now)
    return run


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def write_ledger(run: Path, seconds: float, price: float = 0.013) -> None:
    """A meter that ran from two seconds before the first step to four after the last."""

    def at(moment: float) -> ledger.Instant:
        return ledger.Instant(int(1000 * (START_S + moment)), int(1000 * (moment + 60)), "boot")

    paid = ledger.Price(price, "electricity", "2030-03-17")
    book = ledger.start(run, at(0), paid, 50.0, 35.0, folder.plan_digest(run))
    for moment in np.linspace(0, seconds + 4, 20)[1:]:
        book = ledger.charge(run, book, at(float(moment)))
    ledger.close(run, book, at(seconds + 4), "done")
