"""Does a FLOP cost the same in every shape? python benchmarks/mfu.py [--out FILE]

Forward and backward pass of one sequence of 1,024 tokens on one core, for the five shapes of the
run's ladder, of which the last is the run's own, in fp32 and bf16. Each speed is held against the
fastest square matmul of that dtype on the same core (`flops.measured_matmul_ceiling`), so that the
share is an MFU with a measured peak.

One thread, and a pass is timed in CPU seconds: on a busy machine the wall clock would count the
others' work too. The settings take turns, the ceiling is taken in every round. Medians.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from provenance import provenance

from x1 import flops, folder, hardware, ladder, train
from x1.config import RunConfig
from x1.ranks import Ranks

ROUNDS = 3
THREADS = 1
DTYPES = ("fp32", "bf16")


def shapes() -> dict[str, RunConfig]:
    """The ladder's rungs and the run's own shape, smallest first; one sequence at a time."""
    rungs = ladder.named("x1")
    return {
        f"{rung.name} {dtype}": ladder.config_of(rungs, rung, 1, 0).model_copy(
            update={"train": cpu_settings(dtype)}
        )
        for dtype in DTYPES
        for rung in (*rungs.rungs, rungs.held_back)
    }


def cpu_settings(dtype: str) -> Any:
    config = ladder.config_of(ladder.named("x1"), ladder.named("x1").rungs[0], 1, 0)
    changes = {"dtype": dtype, "device": "cpu", "threads": THREADS, "compile": False}
    return config.train.model_copy(update=changes)


def seconds(config: RunConfig, network: torch.nn.Module) -> float:
    """CPU seconds of a forward and backward pass over one sequence of random tokens."""
    ids = torch.randint(config.model.vocab_size, (1, config.model.context + 1))
    started = time.process_time()
    train.forward_backward(network, ids, 1, config.optim.z_loss)
    return time.process_time() - started


def main() -> None:
    settings = shapes()
    hardware.prepare(cpu_settings("fp32"))
    networks = {
        name: train.assemble(config, Ranks(0, 1, torch.device("cpu")))[1]
        for name, config in settings.items()
    }
    for name, config in settings.items():
        took = seconds(config, networks[name])  # the first pass pays for set-up
        print(f"{name}: {took:.1f} s", file=sys.stderr, flush=True)
    passes: dict[str, list[float]] = {name: [] for name in settings}
    ceilings: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for _ in range(ROUNDS):
        for dtype in DTYPES:
            ceilings[dtype].append(flops.measured_matmul_ceiling(dtype, THREADS).flops_per_s)
        for name, config in settings.items():
            passes[name].append(seconds(config, networks[name]))
    peaks = {dtype: median(values) for dtype, values in ceilings.items()}
    rows = []
    for name, config in settings.items():
        shape, dtype = name.split()
        per_token = flops.token_flops(config.model)
        rate = config.model.context / median(passes[name])
        rows.append(
            {
                "shape": shape,
                "dtype": dtype,
                "parameters": flops.parameters(config.model),
                "flops_per_token": per_token.total,
                "head_share": round(per_token.head / per_token.forward, 3),
                "tokens_per_s": round(rate, 1),
                "mfu": round(flops.mfu(rate, per_token.total, peaks[dtype]), 3),
            }
        )
    record = {
        "format": "x1-measured-1",
        "what": "tokens/s and MFU of a forward and backward pass on one CPU core, by model shape",
        "what_es": "tokens/s y MFU, hacia delante y hacia atrás, en un núcleo de CPU, por forma",
        **provenance(THREADS),
        "ceiling_flops_per_s": {dtype: round(peak) for dtype, peak in peaks.items()},
        "rows": rows,
        "seconds": passes,
        "ceilings": ceilings,
    }
    if len(sys.argv) == 3 and sys.argv[1] == "--out":
        folder.write_json(Path(sys.argv[2]), record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
