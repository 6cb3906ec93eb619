"""Does the detector notice what does harm, and only that? python benchmarks/spikes.py --out FILE

Drives the package's own loop with a tiny transformer on the generated corpus: seeds without any
fault, the same seeds with each trigger planted, some with nothing done about it, and faults of the
configuration beside their cures. Finished runs are kept in runs/spikes/, so it may be interrupted.
"""

import argparse
import contextlib
import hashlib
import inspect
import io
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from provenance import provenance
from rich.progress import Progress

from x1 import config, data, diagnosis, folder, stability, train

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "runs" / "spikes"
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon + AdamW"}
HARMFUL = ("nan-gradient", "gradient-x1e4", "lr-x100")
FIRST_SEED = 100  # the detector's constants were chosen by looking at seeds below 10
STEPS, LONG_STEPS = 120, 1100
TARGET_NATS, TARGET_DELAY, TARGET_ALARMS = 0.02, 3, 0.1
Case = dict[str, Any]
Result = dict[str, Any]

SETTINGS: dict[str, Any] = {
    "model": {
        "vocab_size": 257,
        "n_layers": 1,
        "n_heads": 2,
        "d_model": 32,
        "d_ff": 96,
        "context": 32,
    },
    "optim": {"lr": 6e-3, "warmup_steps": 20},
    "data": {
        "source": "verbs",
        "tokenizer": "bytes",
        "name": "spikes",
        "train_tokens": 2_000_000,
        "held_out_documents": 100,
    },
    "train": {"steps": STEPS, "batch_sequences": 8, "threads": 1},
    "checkpoint": {"every_steps": 10, "every_minutes": 1e6},
    "evaluate": {"every_steps": LONG_STEPS, "tokens": 8192},
    "sample": {"milestones": ()},
}


@dataclass(frozen=True)
class Fault:
    """A fault of the configuration, named as the diagnosis should; `cure` is the run beside it."""

    name: str
    optimizer: str
    settings: tuple[str, ...]
    cure: tuple[str, ...]


# In one layer of width 32 QK-norm is no help.
WIDER = ("model.n_layers=2", "model.d_model=64", "model.d_ff=192")
LR, HIGH_LR, LOW_LR = "optim.lr=0.03", "optim.lr=0.1", "optim.lr=0.001"
NO_NORM, NO_WARM_UP = "model.qk_norm=false", "optim.warmup_steps=0"
LONG_MEMORY, ROUNDED = "optim.beta2=0.999", "optim.weight_dtype=bf16"
FAULTS = [
    Fault("no-qk-norm", "adamw", (*WIDER, LR, NO_NORM), (*WIDER, LR)),
    Fault("no-qk-norm", "muon", (*WIDER, HIGH_LR, NO_NORM), (*WIDER, HIGH_LR)),
    Fault("no-warm-up", "adamw", (LONG_MEMORY, NO_WARM_UP), (LONG_MEMORY,)),
    Fault("no-warm-up", "muon", (LONG_MEMORY, NO_WARM_UP), (LONG_MEMORY,)),
    Fault("bf16-weights", "adamw", (LOW_LR, ROUNDED), (LOW_LR,)),
    Fault("bf16-weights", "muon", (LOW_LR, ROUNDED), (LOW_LR,)),
]  # fmt: skip


def cases(seeds: int) -> list[Case]:
    """Every run there is to make."""
    listed: list[Case] = []

    def add(
        kind: str, count: int, *settings: str, optimizers: Iterable[str] = tuple(OPTIMIZERS)
    ) -> None:
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            for optimizer in optimizers:
                listed.append(
                    {"kind": kind, "optimizer": optimizer, "seed": seed, "settings": list(settings)}
                )

    few = max(1, seeds // 4)
    fewer = max(1, seeds // 8)
    add("clean", seeds)
    for trigger in stability.INJECTIONS:
        add(trigger, seeds)
    add("clean", few, f"train.steps={LONG_STEPS}", "optim.schedule=wsd")
    for trigger in HARMFUL[1:]:  # NaN is never applied, whatever the policy
        add(trigger, fewer, "stability.policy=off")
    for fault in FAULTS:
        add("fault", fewer, *fault.settings, optimizers=(fault.optimizer,))
        add("cure", fewer, *fault.cure, optimizers=(fault.optimizer,))
    # Some of everything soon, and what takes long last.
    return sorted(listed, key=lambda case: (steps_of(case), case["seed"]))


def steps_of(case: Case) -> int:
    named = [s.partition("=")[2] for s in case["settings"] if s.startswith("train.steps=")]
    return int(named[0]) if named else STEPS


def planted_at(seed: int) -> int:
    """The batch at which a seed's fault begins."""
    return random.Random(seed).randrange(75, 101)


def run_case(case: Case) -> Result:
    """Train one run in this process, and say what became of it."""
    os.chdir(SCRATCH)
    torch.set_num_threads(1)
    seed, kind = case["seed"], case["kind"]
    settings = [
        f"optim.name={case['optimizer']}",
        f"train.seed={seed}",
        f"data.seed={seed}",
        *case["settings"],
    ]
    if kind in stability.INJECTIONS:
        settings.append(f'stability.inject=["{kind}@{planted_at(seed)}"]')
    chosen = config.build(settings=tuple(settings), **SETTINGS)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as aside:
        run = Path(aside) / "run"
        folder.claim(run, chosen)
        manifest = SCRATCH / folder.MANIFEST
        if manifest.exists():  # written by the first run: it measures the machine, for a second
            (run / folder.MANIFEST).write_bytes(manifest.read_bytes())
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            exit_code = train.train(run)
        if exit_code not in (train.EXIT_CODES["done"], train.EXIT_CODES["gave-up"]):
            raise SystemExit(exit_code)
        folder.write_atomically(manifest, (run / folder.MANIFEST).read_bytes())
        lines, events = folder.read_lines(run / folder.METRICS), folder.events(run)
        losses = [line["val_loss"] for line in folder.curve(run) if "val_loss" in line]
        return {
            "case": case,
            "exit_code": exit_code,
            "loss_nats": losses[-1],
            "steps": sum("loss" in line for line in lines),
            "events": [e for e in events if e["event"] not in ("start", "checkpoint", "finish")],
            "lines": [
                {name: line[name] for name in ("step", "attempt", "loss", "grad_norm", "lr")}
                for line in lines
                if "loss" in line and steps_of(case) == STEPS
            ],
        }


def results_file() -> Path:
    """Where finished runs are kept: a file of its own for each detector and each setting."""
    deciding = (stability.Detector, stability.judge, stability.spread, stability.deviation)
    code = "".join(inspect.getsource(each) for each in deciding) + json.dumps(SETTINGS)
    constants = [getattr(stability, name) for name in ("LEVEL_STEPS", "SURGE", "BURST")]
    digest = hashlib.sha256(f"{code}{constants}".encode()).hexdigest()
    return SCRATCH / f"results-{digest[:12]}.jsonl"


def finished(wanted: list[Case]) -> dict[str, Result]:
    """The results on file by case, of the cases wanted."""
    keys = {json.dumps(case) for case in wanted}
    found = {json.dumps(r["case"]): r for r in folder.read_lines(results_file())}
    return {key: result for key, result in found.items() if key in keys}


def run_all(wanted: list[Case], processes: int) -> None:
    """Make every run that is not on file yet."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    os.chdir(SCRATCH)
    data.prepare(config.build(**SETTINGS), quiet=True)
    done = finished(wanted)
    left = [case for case in wanted if json.dumps(case) not in done]
    if left and not (SCRATCH / folder.MANIFEST).exists():
        run_case(left[0])
    with Progress() as bar, multiprocessing.get_context("fork").Pool(processes) as pool:
        task = bar.add_task("", total=len(wanted), completed=len(done))
        for result in pool.imap_unordered(run_case, left):
            folder.append_line(results_file(), result)
            bar.advance(task)


def twinned(results: list[Result]) -> list[Result]:
    """Without the runs whose clean or cured twin is still missing."""

    def is_twinned(result: Result) -> bool:
        case = result["case"]
        kind, optimizer, settings = case["kind"], case["optimizer"], case["settings"]
        if kind == "fault":
            (cure,) = (
                f.cure for f in FAULTS if (f.optimizer, list(f.settings)) == (optimizer, settings)
            )
            twins = of_kind(results, "cure", optimizer, *cure)
        else:
            twins = of_kind(results, "clean", optimizer)
        return kind in ("clean", "cure") or case["seed"] in {t["case"]["seed"] for t in twins}

    return [result for result in results if is_twinned(result)]


def bisect(rises: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises from below 0 to above 0 crosses it."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < 0 else (low, middle)
    return high


def poisson_interval(count: int, exposure: float) -> tuple[float, float]:
    """Exact 95% interval of a rate after `count` events (Garwood 1936)."""

    def at_most(k: int, m: float) -> float:
        return sum(math.exp(i * math.log(m) - m - math.lgamma(i + 1)) for i in range(k + 1))

    top = 10 * (count + 5)
    low = bisect(lambda m: 1 - at_most(count - 1, m) - 0.025, 1e-12, top) if count else 0.0
    return low / exposure, bisect(lambda m: 0.025 - at_most(count, m), 1e-12, top) / exposure


def share_interval(count: int, of: int) -> tuple[float, float]:
    """Exact 95% interval of a probability after `count` of so many (Clopper and Pearson 1934)."""

    def at_least(k: int, p: float) -> float:
        return sum(math.comb(of, i) * p**i * (1 - p) ** (of - i) for i in range(k, of + 1))

    low = bisect(lambda p: at_least(count, p) - 0.025, 0, 1) if count else 0.0
    high = bisect(lambda p: at_least(count + 1, p) - 0.975, 0, 1) if count < of else 1.0
    return low, high


def of_kind(results: Iterable[Result], kind: str, optimizer: str, *settings: str) -> list[Result]:
    """The results of one kind of run, by seed."""
    wanted = {"kind": kind, "optimizer": optimizer, "settings": list(settings)}
    found = [r for r in results if wanted.items() <= r["case"].items()]
    return sorted(found, key=lambda r: int(r["case"]["seed"]))


def happened(result: Result, *kinds: str) -> list[dict[str, Any]]:
    return [event for event in result["events"] if event["event"] in kinds]


def clean_row(results: list[Result], optimizer: str | None) -> dict[str, Any]:
    """False alarms of the runs without a fault: an alarm is any spike on record, benign or not."""
    runs = [
        r
        for r in results
        if r["case"]["kind"] == "clean" and optimizer in (None, r["case"]["optimizer"])
    ]
    # Before there is a trend nothing can be told from it: those steps are not counted.
    watched = sum(r["steps"] - stability.LEVEL_STEPS for r in runs)
    alarms = sum(len(happened(r, "spike", "skip")) for r in runs)
    low, high = poisson_interval(alarms, watched / 1000)
    return {
        "optimizer": OPTIMIZERS[optimizer] if optimizer else ", ".join(OPTIMIZERS.values()),
        "runs": len(runs),
        "steps": watched,
        "alarms": alarms,
        "alarms_per_1000": round(alarms / watched * 1000, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "undone": sum(len(happened(r, "rollback", "skip")) for r in runs),
        "norm_alone": sum(map(norm_alone, runs)),
        "norm_alone_runs": sum(bool(r["lines"]) for r in runs),
        "named": sum(bool(named(r)) for r in runs),
    }


def gaps(runs: list[Result], clean: list[Result]) -> list[float]:
    """Final held-out loss minus that of the same seed without a fault, in nats."""
    losses = {r["case"]["seed"]: r["loss_nats"] for r in clean}
    return [r["loss_nats"] - losses[r["case"]["seed"]] for r in runs]


def norm_alone(result: Result) -> int:
    """Steps at which the gradient norm stands out by its deviation alone, whatever its size."""
    detector, rules, found = stability.Detector(), config.StabilityConfig(), 0
    for line in result["lines"]:
        history = detector.grad_norms
        if len(history) >= stability.LEVEL_STEPS:
            norm = stability.log_norm(line["grad_norm"])
            found += stability.deviation(norm, history) > rules.threshold
        detector.accept(line["step"], line["loss"], line["grad_norm"], rules.window)
    return found


def named(result: Result) -> list[str]:
    """What the diagnosis names in a run, the best supported first."""
    chosen = config.build(settings=tuple(result["case"]["settings"]), **SETTINGS)
    return [c.name for c in diagnosis.diagnose(chosen, result["lines"], result["events"])]


def delay(result: Result) -> int | None:
    """Batches from the first one tampered with to the first that was judged harmful."""
    for event in result["events"]:
        if event["event"] == "skip" or (event["event"] == "spike" and not event["benign"]):
            return int(event["data_index"]) - planted_at(result["case"]["seed"])
    return None


def trigger_row(results: list[Result], trigger: str, optimizer: str) -> dict[str, Any]:
    """What became of one trigger under one optimizer."""
    runs, clean = of_kind(results, trigger, optimizer), of_kind(results, "clean", optimizer)
    alone = of_kind(results, trigger, optimizer, "stability.policy=off")
    delays = [d for d in map(delay, runs) if d is not None and d >= 0]
    in_time = sum(d <= TARGET_DELAY for d in delays)
    low, high = share_interval(in_time, len(runs))
    differences = gaps(runs, clean)
    row = {
        "trigger": trigger,
        "optimizer": OPTIMIZERS[optimizer],
        "runs": len(runs),
        "in_time": in_time,
        "in_time_low": round(low, 3),
        "in_time_high": round(high, 3),
        "longest_delay": max(delays, default=None),
        "rollbacks": sum(len(happened(r, "rollback")) for r in runs),
        "skips": sum(len(happened(r, "skip")) for r in runs),
        "gave_up": sum(r["exit_code"] != 0 for r in runs),
        "mean_gap_nats": round(mean(differences), 4) + 0.0,  # never -0.0
        "largest_gap_nats": round(max(differences), 4) + 0.0,
        "within": sum(gap <= TARGET_NATS for gap in differences),
        "left_alone_nats": round(median(gaps(alone, clean)), 3) if alone else "",
    }
    if trigger not in HARMFUL:
        spikes = [happened(r, "spike") for r in runs]
        logged = sum(bool(found) for found in spikes)
        low, high = share_interval(logged, len(runs))
        row |= {
            "logged": logged,
            "logged_low": round(low, 3),
            "logged_high": round(high, 3),
            "judged_harmful": sum(not e["benign"] for found in spikes for e in found),
        }
    return row


def fault_row(results: list[Result], fault: Fault) -> dict[str, Any]:
    """A fault of the configuration beside its cure, and how often the diagnosis names it."""
    broken = of_kind(results, "fault", fault.optimizer, *fault.settings)
    cured = of_kind(results, "cure", fault.optimizer, *fault.cure)
    return {
        "fault": fault.name,
        "optimizer": OPTIMIZERS[fault.optimizer],
        "settings": " ".join(setting for setting in fault.settings if setting not in WIDER),
        "runs": len(broken),
        "loss_nats": round(median(r["loss_nats"] for r in broken), 3),
        "cured_nats": round(median(r["loss_nats"] for r in cured), 3),
        "worse_in": sum(gap > TARGET_NATS for gap in gaps(broken, cured)),
        "named": sum(fault.name in named(r) for r in broken),
        "named_when_cured": sum(fault.name in named(r) for r in cured),
        "spikes": sum(len(happened(r, "spike")) for r in broken),
    }


def summary(results: list[Result]) -> dict[str, Any]:
    clean = [clean_row(results, optimizer) for optimizer in (*OPTIMIZERS, None)]
    pairs = [(trigger, optimizer) for trigger in stability.INJECTIONS for optimizer in OPTIMIZERS]
    rows = [trigger_row(results, *pair) for pair in pairs]
    return {
        "targets": {
            "alarms_per_1000": TARGET_ALARMS,
            "delay_steps": TARGET_DELAY,
            "gap_nats": TARGET_NATS,
        },
        "clean": clean,
        "harmful": [row for row in rows if row["trigger"] in HARMFUL],
        "benign": [row for row in rows if row["trigger"] not in HARMFUL],
        "configuration": [fault_row(results, fault) for fault in FAULTS],
    }


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path)
    options.add_argument("--seeds", type=int, default=40)
    options.add_argument("--processes", type=int, choices=(1, 2), default=2)
    options.add_argument(
        "--finished", action="store_true", help="run nothing, sum up what is there"
    )
    chosen = options.parse_args()
    out = chosen.out.resolve() if chosen.out else None
    wanted = cases(chosen.seeds)
    if not chosen.finished:
        run_all(wanted, chosen.processes)
    results = list(finished(wanted).values())
    record = {
        "format": "x1-measured-1",
        "what": "loss spikes: false alarms, detection, recovery, and faults of the configuration",
        "what_es": "picos de pérdida: falsas alarmas, detección, recuperación y configuración",
        **provenance(threads=1),
        "runs_finished": len(results),
        "runs_planned": len(wanted),
        **summary(twinned(results)),
    }
    print(json.dumps(record, indent=1), file=sys.stdout)
    if out:
        folder.write_json(out, record)


if __name__ == "__main__":
    main()
