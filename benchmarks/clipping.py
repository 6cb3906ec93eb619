"""Which explosion does clipping save you from? python benchmarks/clipping.py --out FILE

Seven ways to break a run, each with one remedy at a time: a transformer small enough to train
hundreds of times, on the generated corpus, in a loop of its own, because the package's never
applies a gradient that is not finite and never clips the one it plants. A fault's cost is the
held-out loss with it minus that without it, the same seed and the same remedy in both. And how
long AdamW remembers one gradient, 10,000 times too large, for three values of beta2.

Finished runs are kept in runs/clipping/, so it may be interrupted.
"""

import argparse
import copy
import hashlib
import json
import math
import os
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from provenance import provenance
from rich.progress import Progress
from torch import Tensor

from x1 import config, data, evaluate, folder, stability, train
from x1.injections import Injection
from x1.layer_stats import forward_stats
from x1.model import Transformer, initialise
from x1.optim import build_optimizers, learning_rate

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "runs" / "clipping"
SEEDS, STRUCK_AT = range(100, 103), 80
EVERY_STEPS = 10  # between two states to which a run can return
Case = dict[str, Any]
Result = dict[str, Any]

# AdamW as torch ships it (beta2 = 0.999), and none of the remedies.
SETTINGS: dict[str, Any] = {
    "model": {
        "vocab_size": 257,
        "n_layers": 2,
        "n_heads": 2,
        "d_model": 64,
        "d_ff": 192,
        "context": 32,
        "qk_norm": False,
    },
    "optim": {"name": "adamw", "lr": 6e-3, "beta2": 0.999, "warmup_steps": 20, "clip": 0.0},
    "data": {
        "source": "verbs",
        "tokenizer": "bytes",
        "name": "clipping",
        "train_tokens": 2_000_000,
        "held_out_documents": 100,
    },
    "train": {"steps": 160, "batch_sequences": 8, "threads": 1},
    "checkpoint": {"every_steps": EVERY_STEPS},
    "evaluate": {"tokens": 8192},
    "stability": {"policy": "off"},
}

# What is broken: a fault planted at one batch, or a setting of the whole run.
HOT = "attention-x64"  # every query and key projection times 8
POINTS = ("gradient-x1e4", "nan-gradient", "lr-x100", HOT, "constant-batch")
FAULTS: dict[str, tuple[str, ...]] = {
    "gradient-x1e4": (),
    "nan-gradient": (),
    "lr-x100": (),
    HOT: (),
    "constant-batch": (),
    "no-warm-up": ("optim.warmup_steps=0",),
    "high-lr": ("optim.lr=0.06",),
}
# A setting of the remedy overrides that of the fault: a warm-up is one.
REMEDIES: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "clip 1": ("optim.clip=1",),
    "QK-norm": ("model.qk_norm=true",),
    "z-loss": ("optim.z_loss=1e-4",),
    "warm-up": ("optim.warmup_steps=40",),
    "undo": ("stability.policy=rollback",),
}
MEMORIES = {0.95: 480}  # and the steps of such a run
LONG_SEEDS, SMOOTH = range(100, 103), 21


def cases() -> list[Case]:
    """Every run there is to make; `fault` is "" for the run beside it."""
    grid = [
        {"part": "grid", "fault": fault, "remedy": remedy, "seed": seed}
        for seed in SEEDS
        for fault in ("", *FAULTS)
        for remedy in REMEDIES
    ]
    memory = [
        {"part": "memory", "fault": fault, "beta2": beta2, "seed": seed}
        for seed in LONG_SEEDS
        for beta2 in MEMORIES
        for fault in ("", "gradient-x1e4")
    ]
    return grid + memory


def chosen(case: Case) -> config.RunConfig:
    """The configuration of one run."""
    settings = [f"train.seed={case['seed']}", f"data.seed={case['seed']}"]
    if case["part"] == "memory":
        settings += [f"optim.beta2={case['beta2']}", "optim.schedule=constant"]
        settings += [f"train.steps={MEMORIES[case['beta2']]}"]
    else:
        settings += [*FAULTS.get(case["fault"], ()), *REMEDIES[case["remedy"]]]
    return config.build(settings=tuple(settings), **SETTINGS)


def run_case(case: Case) -> Result:
    """Train one run, and say what became of it.

    `update_rms` is the size of each update over the learning rate, for runs of the memory part.
    """
    rules = chosen(case)
    dataset = data.open_data(data.path_of(rules))
    planted = [Injection(case["fault"], STRUCK_AT)] if case["fault"] in POINTS else []
    model = Transformer(rules.model)
    initialise(model, rules.train.seed)
    optimizers = build_optimizers(model, rules.optim)
    at = train.Position(0, 1, {}, stability.Detector())
    states: dict[int, Any] = {}
    lines: dict[int, dict[str, Any]] = {}
    rollbacks = 0

    def batch(index: int) -> Tensor:
        sizes = rules.train.batch_sequences, rules.model.context
        return torch.from_numpy(data.batch(dataset.train, rules.data.seed, index, *sizes))

    def probe_loss() -> float:
        ids = batch(at.detector.quiet_index)
        with torch.no_grad():
            return float(train.loss_and_penalty(model(ids[:, :-1]), ids[:, 1:], 0.0)[0])

    while at.step < rules.train.steps:
        if planted == [Injection(HOT, at.data_index)]:
            magnify_attention(model)
        if at.step % EVERY_STEPS == 0 and rules.stability.policy != "off":
            parts = [model.state_dict(), *(optimizer.state_dict() for optimizer in optimizers)]
            states[at.step] = copy.deepcopy([*parts, at.detector.state()])
        index = at.data_index
        faults = stability.active([i for i in planted if i.kind != HOT], index)
        ids = stability.tamper_batch(faults, batch(index))
        loss = float(train.forward_backward(model, ids, len(ids), rules.optim.z_loss))
        stability.tamper_gradient(faults, model)
        norm = float(train.clip_gradients(model, rules.optim.clip))
        if rules.stability.policy != "off":
            verdict = stability.judge(
                at.detector,
                rules.stability,
                index,
                loss,
                norm,
                rules.optim.clip,
                at.skipped,
                probe_loss,
            )
            if verdict.action != "go":
                train.discard_gradients(optimizers)
            if verdict.action == "skip":
                at.skipped[index] = verdict.reason
                continue
            if verdict.action == "rollback":
                rollbacks += 1
                first_bad = max(0, at.detector.quiet_index)
                at.skipped |= dict.fromkeys(range(first_bad, index + 1), "rollback")
                at.step = train.good_step(rules, at.step)
                weights, *moments, detector = copy.deepcopy(states[at.step])
                model.load_state_dict(weights)
                for optimizer, state in zip(optimizers, moments, strict=True):
                    optimizer.load_state_dict(state)
                at.detector = stability.Detector.from_state(detector)
                planted = []  # a fault strikes once, as in life
                continue
        lr = learning_rate(rules.optim, at.step, rules.train.steps)
        matrix = model.get_parameter("layers.0.mlp.up_proj.weight")
        before = matrix.detach().clone()
        train.update(optimizers, stability.tamper_lr(faults, lr))
        moved = float((matrix.detach() - before).square().mean().sqrt())
        lines[at.step] = {"loss": loss, "grad_norm": norm, "update_rms": moved / lr}
        at.step += 1

    with torch.no_grad():
        held_out = evaluate.held_out_loss(model, dataset, rules, torch.device("cpu"))
        blocks, _ = forward_stats(model, batch(STRUCK_AT)[:2])
    series = "update_rms" if case["part"] == "memory" else "loss"
    return {
        "case": case,
        "held_out_nats": finite(held_out.nats_per_token),
        "attention_logit_max": finite(max(block["attention_logit_max"] for block in blocks)),
        "grad_norm_before": median(
            line["grad_norm"] for s, line in lines.items() if STRUCK_AT - 20 <= s < STRUCK_AT
        ),
        "rollbacks": rollbacks,
        "skipped": len(at.skipped),
        series: [finite(lines[step][series]) for step in sorted(lines)],
    }


@torch.no_grad()
def magnify_attention(model: Transformer) -> None:
    """Attention logits times 64, at once: what some large runs arrive at in thousands of steps."""
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            parameter.mul_(8)


def finite(value: float) -> float | None:
    """A number as JSON can hold it: None if it is not finite."""
    return round(value, 4) if math.isfinite(value) else None


def digest() -> str:
    """Of everything that decides the runs: what was made under other settings is not used."""
    deciding = json.dumps([SETTINGS, FAULTS, REMEDIES, MEMORIES, STRUCK_AT])
    return hashlib.sha256(deciding.encode()).hexdigest()[:12]


def finished(results: Path) -> dict[str, Result]:
    return {json.dumps(r["case"]): r for r in folder.read_lines(results)}


def grid_rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    """What each fault costs under each remedy, in nats; None where no loss is left."""
    rows = []
    for fault in FAULTS:
        for remedy in REMEDIES:
            cases = [
                {"part": "grid", "fault": fault, "remedy": remedy, "seed": seed} for seed in SEEDS
            ]
            broken = [results[json.dumps(case)] for case in cases]
            sound = [results[json.dumps(case | {"fault": ""})]["held_out_nats"] for case in cases]
            lost = any(run["held_out_nats"] is None for run in broken)
            costs = (
                []
                if lost
                else [
                    round(run["held_out_nats"] - s, 4) for run, s in zip(broken, sound, strict=True)
                ]
            )
            rows.append(
                {
                    "fault": fault,
                    "remedy": remedy,
                    "cost_nats": round(median(costs), 3) if costs else None,
                    "least_nats": min(costs, default=None),
                    "most_nats": max(costs, default=None),
                    "sound_nats": round(median(sound), 3),
                    "attention_logit_max": None
                    if lost
                    else round(median(run["attention_logit_max"] for run in broken), 1),
                    "rollbacks": sum(run["rollbacks"] for run in broken),
                    "skipped": sum(run["skipped"] for run in broken),
                }
            )
    return rows


def usual_grad_norm(results: dict[str, Result]) -> float:
    """Before clipping to 1, in the runs without a fault, over the steps before STRUCK_AT."""
    case = {"part": "grid", "fault": "", "remedy": "clip 1"}
    norms = [results[json.dumps(case | {"seed": seed})]["grad_norm_before"] for seed in SEEDS]
    return round(median(norms), 2)


def curves(results: dict[str, Result]) -> list[dict[str, Any]]:
    """The training loss, a mean over the seeds, of the runs that the figure shows."""
    shown = [("", "nothing")] + [(f, r) for f in FAULTS for r in ("nothing", "clip 1")]
    rows = []
    for fault, remedy in shown:
        runs = [
            results[json.dumps({"part": "grid", "fault": fault, "remedy": remedy, "seed": seed})]
            for seed in SEEDS
        ]
        steps = zip(*(run["loss"] for run in runs), strict=True)
        losses = [None if None in step else round(mean(step), 3) for step in steps]
        rows.append({"fault": fault, "remedy": remedy, "loss_nats": losses})
    return rows


def memory_rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    """The size of an update after the one gradient, over that of the same seed without it.

    A median over the seeds, and over SMOOTH steps; `half_again` is how many steps after the
    gradient it is half of what it should be again.
    """
    rows = []
    for beta2 in MEMORIES:
        shares = []
        for seed in LONG_SEEDS:
            case = {"part": "memory", "fault": "gradient-x1e4", "beta2": beta2, "seed": seed}
            broken, sound = (results[json.dumps(c)] for c in (case, case | {"fault": ""}))
            pairs = zip(broken["update_rms"], sound["update_rms"], strict=True)
            shares.append([one / other for one, other in pairs][STRUCK_AT:])
        middle = [median(step) for step in zip(*shares, strict=True)]
        smooth = [median(middle[k : k + SMOOTH]) for k in range(len(middle) - SMOOTH)]
        lowest = smooth.index(min(smooth))
        half = next((k for k in range(lowest, len(smooth)) if smooth[k] >= 0.5), None)
        rows.append(
            {
                "beta2": beta2,
                "seeds": len(shares),
                "at_once": round(middle[0], 3),
                "smallest": round(smooth[lowest], 5),
                "half_again": None if half is None else half + SMOOTH // 2,
                "share_every_20": [round(share, 5) for share in smooth[::20]],
            }
        )
    return rows


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path)
    asked = options.parse_args()
    out = asked.out.resolve() if asked.out else None
    SCRATCH.mkdir(parents=True, exist_ok=True)
    os.chdir(SCRATCH)
    torch.set_num_threads(1)
    data.prepare(config.build(**SETTINGS), quiet=True)
    results_file = SCRATCH / f"results-{digest()}.jsonl"
    wanted = cases()
    done = finished(results_file)
    with Progress() as bar:
        for case in bar.track(wanted):
            if json.dumps(case) not in done:
                folder.append_line(results_file, run_case(case))
    results = finished(results_file)
    record = {
        "format": "x1-measured-1",
        "what": "which of seven faults clipping and four other remedies save a small run from",
        "what_es": "de cuáles de siete fallos salvan el recorte y otros cuatro remedios",
        **provenance(threads=1),
        "settings": [
            f"{section}.{field}={value}".lower()
            for section, fields in SETTINGS.items()
            for field, value in fields.items()
        ],
        "faults": {name: list(settings) for name, settings in FAULTS.items()},
        "remedies": {name: list(settings) for name, settings in REMEDIES.items()},
        "seeds": list(SEEDS),
        "struck_at": STRUCK_AT,
        "usual_grad_norm": usual_grad_norm(results),
        "grid": grid_rows(results),
        "curves": curves(results),
        "memory": memory_rows(results),
    }
    if out:
        folder.write_json(out, record)


if __name__ == "__main__":
    main()
