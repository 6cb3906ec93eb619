"""What makes a small run explode, and what clipping does about it.

python benchmarks/explosions.py --out docs/measured/explosions.json
                                --record labs/04-loss-spikes/recorded.json

Every trigger of `x1.drill` with and without clipping, over several seeds, each beside the run on
the same batches without it. Then the two runs of lab 04's post-mortem, which --record writes down,
and every change of their settings that the lab allows. About 8 minutes on one core.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from provenance import provenance
from rich.progress import track

from x1 import drill, folder
from x1.drill import Settings

CLIPS = {"on": 1.0, "off": 0.0}
GONE_NATS = 0.25  # of `drill.excess`: below it a spike counts as gone
SEED = 0  # of the runs that are recorded
INCIDENTS: dict[str, dict[str, Settings]] = {
    "a": {
        "settings": {**drill.LONG_MEMORY, "optim.clip": 0.0},
        "planted": {"stability.inject": (f"gradient-x1e4@{drill.ONSET}",)},
        "healthy": {"stability.inject": ()},
    },
    "b": {
        "settings": {**drill.HIGH_LR, "optim.clip": 0.0, "model.qk_norm": False},
        "planted": {},
        "healthy": {"model.qk_norm": True},
    },
}
CHANGES: list[Settings] = [
    {"optim.clip": 1.0},
    {"optim.clip": 0.1},
    {"optim.beta2": 0.9},
    {"optim.beta2": 0.95},
    {"optim.beta2": 0.999},
    {"optim.warmup_steps": 0},
    {"optim.warmup_steps": 20},
    {"optim.warmup_steps": 60},
    {"optim.warmup_steps": 120},
    {"optim.z_loss": 1e-4},
    {"optim.z_loss": 1e-2},
    {"model.qk_norm": True},
    {"model.qk_norm": False},
]


def losses(settings: Settings, seed: int) -> list[float]:
    return [line.loss for line in drill.curve(drill.configured(settings, seed))]


def rounded(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most; where there is no number, a dash."""
    finite = all(value < 1e6 for value in values)
    found = (median(values), min(values), max(values))
    return dict(
        zip(
            ("median", "low", "high"),
            (round(v, 2) + 0.0 if finite else "–" for v in found),
            strict=True,
        )
    )


def trigger_row(name: str, clipping: str, seeds: range) -> dict[str, Any]:
    """One trigger with clipping on or off, against the same run without the trigger."""
    trigger, clip = drill.TRIGGERS[name], {"optim.clip": CLIPS[clipping]}
    peaks, gaps, norms = [], [], []
    for seed in seeds:
        lines = drill.curve(drill.configured({**trigger.settings, **clip}, seed))
        broken = [line.loss for line in lines]
        healthy = losses({**trigger.without, **clip}, seed)
        peaks.append(drill.excess(broken, healthy))
        gaps.append(drill.end_loss(broken) - drill.end_loss(healthy))
        norms.append(max(line.grad_norm for line in lines))
    row = {"trigger": name, "clipping": clipping, "runs": len(seeds)}
    row |= {f"excess_{key}": value for key, value in rounded(peaks).items()}
    row |= {f"gap_{key}": value for key, value in rounded(gaps).items()}
    return row | {"largest_norm": round(median(norms), 1)}


def incident_rows(name: str, seeds: range) -> list[dict[str, Any]]:
    """Each change of one incident's settings: over how many seeds the spike is gone with it."""
    incident = INCIDENTS[name]
    run = {**incident["settings"], **incident["planted"]}
    healthy = {seed: losses({**run, **incident["healthy"]}, seed) for seed in seeds}
    asked = drill.configured(run).model_dump()
    rows = []
    for change in [{}, *CHANGES]:
        if any(asked[key.split(".")[0]][key.split(".")[1]] == v for key, v in change.items()):
            continue  # as it is
        found = [drill.excess(losses({**run, **change}, seed), healthy[seed]) for seed in seeds]
        rows.append(
            {
                "incident": name,
                "change": " ".join(f"{key}={value}".lower() for key, value in change.items()),
                "runs": len(seeds),
                "gone": sum(value < GONE_NATS for value in found),
                **{f"excess_{key}": value for key, value in rounded(found).items()},
            }
        )
    return rows


def recorded(name: str) -> dict[str, Any]:
    """What lab 04 is given of an incident: settings, what was logged, a healthy run's losses."""
    incident = INCIDENTS[name]
    run = {**incident["settings"], **incident["planted"]}
    lines = drill.curve(drill.configured(run, SEED))
    return {
        "settings": incident["settings"],
        "planted": {key: list(value) for key, value in incident["planted"].items()},
        "seed": SEED,
        "loss": [round(line.loss, 4) for line in lines],
        "grad_norm": [round(line.grad_norm, 4) for line in lines],
        "attention_logit": [round(line.attention_logit, 2) for line in lines],
        "healthy": [round(v, 4) for v in losses({**run, **incident["healthy"]}, SEED)],
    }


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path)
    options.add_argument("--record", type=Path)
    options.add_argument("--seeds", type=int, default=5)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.record:
        record = {
            "format": "x1-incidents-1",
            **provenance(threads=1),
            "gone_nats": GONE_NATS,
            "incidents": {name: recorded(name) for name in INCIDENTS},
        }
        folder.write_json(chosen.record, record)
    if chosen.out:
        seeds = range(chosen.seeds)
        pairs = [(name, clipping) for name in drill.TRIGGERS for clipping in CLIPS]
        record = {
            "format": "x1-measured-1",
            "what": "Ways to make a small run explode, with and without clipping, and the two "
            "runs of lab 04's post-mortem under every change of settings it allows.",
            "what_es": "Maneras de hacer explotar una ejecución pequeña, con y sin recorte, y "
            "las dos ejecuciones del post-mortem del laboratorio 04 con cada cambio permitido.",
            **provenance(threads=1),
            "floor_nats": round(drill.floor_nats(SEED), 3),
            "gone_nats": GONE_NATS,
            "triggers": [trigger_row(*pair, seeds) for pair in track(pairs, "")],
            "incidents": [
                row for name in track(list(INCIDENTS), "") for row in incident_rows(name, seeds)
            ],
        }
        folder.write_json(chosen.out, record)


if __name__ == "__main__":
    main()
