"""What another machine changes when it trains a run's steps again: python benchmarks/verify.py

`x1 verify` wants the same bits on the same machine, and lets another differ by a tolerance. This
measures what it may be. A rehearsal is trained here, in fp32 and in bf16; then the steps after
each kept checkpoint are trained again by processes that use other instructions (torch's
ATEN_CPU_CAPABILITY: AVX2, or no vectors at all) and another number of threads, as another processor
would.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from provenance import provenance

from x1 import checkpoint, config, data, folder, history, train, verify

STEPS, EVERY, WINDOW = 120, 30, 20
SETTINGS = (
    f"train.steps={STEPS}",
    f"checkpoint.every_steps={EVERY}",
    f"checkpoint.keep={STEPS // EVERY}",
    "train.threads=1",
    "train.batch_sequences=8",
    "stability.inject=[]",
    "sample.milestones=[]",
)
MACHINES = {
    "the same": ("", 1),
    "AVX2": ("avx2", 1),
    "no vectors": ("default", 1),
    "two threads": ("", 2),
}
WORDS_ES = {
    "the same": "la misma",
    "AVX2": "AVX2",
    "no vectors": "sin vectores",
    "two threads": "dos hilos",
}


def make(dtype: str) -> Path:
    run = Path(f"run-{dtype}")
    chosen = config.build("rehearsal", settings=(*SETTINGS, f"train.dtype={dtype}"))
    data.prepare(chosen, quiet=True)
    folder.claim(run, chosen)
    train.train(run)
    return run


def lived_again(run: Path, threads: int) -> list[dict[str, Any]]:
    """For each kept checkpoint, and the start: the largest difference within the window, in nats,
    and that of its last step.
    """
    rows = []
    for begin in (0, *(step for step in checkpoint.steps(run) if step < STEPS)):
        moment = history.find(run, begin + WINDOW - 1)
        train_here = moment.config.train.model_copy(update={"threads": threads})
        settings = moment.config.model_copy(update={"train": train_here})
        losses = verify.live_again(replace(moment, config=settings)).losses
        logged = history.way_to(moment)
        gaps = [abs(loss - logged[step]["loss"]) for step, loss in losses.items()]
        rows.append({"from_step": begin, "worst_nats": max(gaps), "last_nats": gaps[-1]})
    return rows


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--out", type=Path)
    asked.add_argument("--again", nargs=2, metavar=("RUN", "THREADS"), help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.again:
        print(json.dumps(lived_again(Path(options.again[0]), int(options.again[1]))))
        return
    out = options.out.resolve() if options.out else None
    record: dict[str, Any] = {
        "format": "x1-measured-1",
        "what": "what another machine changes when it trains a run's steps again",
        "what_es": "lo que otra máquina cambia al entrenar otra vez los pasos de una ejecución",
        **provenance(1),
        "window_steps": WINDOW,
        "rows": [],
    }
    script = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for dtype in ("fp32", "bf16"):
            run = make(dtype)
            for machine, (capability, threads) in MACHINES.items():
                wanted = {"ATEN_CPU_CAPABILITY": capability} if capability else {}
                done = subprocess.run(
                    [sys.executable, str(script), "--again", str(run), str(threads)],
                    env=os.environ | wanted, check=True, capture_output=True, text=True,
                )  # fmt: skip
                found = json.loads(done.stdout)
                record["rows"].append({
                    "dtype": dtype,
                    "machine": machine,
                    "machine_es": WORDS_ES[machine],
                    "worst_nats": f"{max(row['worst_nats'] for row in found):.2g}",
                    "windows": found,
                })  # fmt: skip
                print(dtype, machine, record["rows"][-1]["worst_nats"], file=sys.stderr)
    if out:
        folder.write_json(out, record)


if __name__ == "__main__":
    main()
