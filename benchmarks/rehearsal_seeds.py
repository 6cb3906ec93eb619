"""The rehearsal's final loss over seeds: python benchmarks/rehearsal_seeds.py [SEEDS]

Trains the rehearsal preset (planted fault and roll-back included) with seeds 1, 2, ... for model,
order and corpus alike, scores each on its own held-out documents, and writes
docs/measured/rehearsal.json and the entry of src/x1/measured.json from which `x1 plan` predicts.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from provenance import provenance

from x1 import config, data, evaluate, folder, predict

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "runs" / "rehearsal-seeds"  # what is there already is not trained again


def measure(seed: int) -> dict[str, Any]:
    """Train and score one seed in the current folder."""
    chosen = config.build("rehearsal", data={"seed": seed}, train={"seed": seed})
    data.prepare(chosen, quiet=True)
    run = Path(f"seed-{seed}")
    folder.claim(run, chosen)
    if not folder.events(run, "finish"):
        subprocess.run([sys.executable, "-m", "x1.train", str(run)], check=True)
    scores = evaluate.evaluate(run)
    return {
        "seed": seed,
        "loss_nats_per_token": scores["held_out"]["loss_nats_per_token"],
        "bits_per_byte": scores["held_out"]["bits_per_byte"],
        "unigram_nats_per_token": scores["unigram_nats_per_token"],
        "floor": scores["floor"],
        "rollbacks": len(folder.events(run, "rollback")),
        "git_commit": folder.read_json(run / folder.MANIFEST)["git_commit"],
    }


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    chosen = config.build("rehearsal")
    source = provenance(chosen.train.threads)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    os.chdir(SCRATCH)
    runs = [measure(seed) for seed in range(1, seeds + 1)]
    os.chdir(ROOT)
    record = {
        "format": "x1-measured-1",
        "what": "final held-out loss of the rehearsal preset, one run per seed",
        "what_es": "pérdida final de validación del preset rehearsal, una ejecución por semilla",
        **source,
        "runs": runs,
    }
    folder.write_json(ROOT / "docs/measured/rehearsal.json", record)
    entry = {
        "recipe": predict.recipe(chosen),
        "loss_nats_per_token": [run["loss_nats_per_token"] for run in runs],
        "bits_per_byte": [run["bits_per_byte"] for run in runs],
        "provenance": {key: source[key] for key in ("command", "hardware", "versions")},
    }
    shipped = predict.shipped_measurements()
    ours = source["command"].split()[1]
    others = [e for e in shipped["losses"] if ours not in e["provenance"]["command"]]
    folder.write_json(ROOT / "src/x1/measured.json", {**shipped, "losses": [*others, entry]})


if __name__ == "__main__":
    main()
