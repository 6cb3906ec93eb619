"""Tiny Shakespeare, whole and by ingredient: python benchmarks/shakespeare.py TEXT [NAME...]

Trains the shakespeare-bytes preset on exactly 1,536,000 tokens, and, on a quarter of them, the
same recipe with one ingredient changed at a time. Scores the full held-out part in consecutive
windows of 64 and writes docs/measured/shakespeare.json. Without names, every recipe; what is
trained already is not trained again.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from provenance import provenance

from x1 import config, data, evaluate, flops, folder

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "runs" / "shakespeare-benchmark"
QUARTER = ("train.steps=750", "sample.milestones=[]")
OTHER_SEEDS = {n: (f"train.seed={n}", f"data.seed={n}") for n in (1, 2)}
RECIPES = {
    "recipe": (),
    **{f"recipe, seed {n}": seed for n, seed in OTHER_SEEDS.items()},
    "quarter": QUARTER,
    **{f"quarter, seed {n}": (*QUARTER, *seed) for n, seed in OTHER_SEEDS.items()},
    "quarter, AdamW for all": (*QUARTER, "optim.name=adamw"),
    "quarter, no QK-norm": (*QUARTER, "model.qk_norm=false"),
    "quarter, rope_theta 10000": (*QUARTER, "model.rope_theta=10000.0"),
    "quarter, batch 16": ("train.steps=375", "train.batch_sequences=16", "sample.milestones=[]"),
    "quarter, beta2 0.95": (*QUARTER, "optim.beta2=0.95"),
    "quarter, embedding_std 0.02": (*QUARTER, "model.embedding_std=0.02"),
    "quarter, AdamW for all, twice the rate": (*QUARTER, "optim.name=adamw", "optim.lr=0.01"),
    "quarter, constant rate": (*QUARTER, "optim.schedule=constant"),
    "quarter, no weight decay": (*QUARTER, "optim.weight_decay=0.0"),
}


def measure(text: str, name: str) -> dict[str, Any]:
    """Train and score one recipe in the current folder."""
    source = {"source": "text", "files": [text]}
    chosen = config.build("shakespeare-bytes", settings=RECIPES[name], data=source)
    data.prepare(chosen, quiet=True)
    run = Path(name.replace(" ", "-").replace(",", ""))
    folder.claim(run, chosen)
    if not folder.events(run, "finish"):
        subprocess.run([sys.executable, "-m", "x1.train", str(run)], check=True)
    scores = evaluate.evaluate(run)
    return {
        "name": name,
        "set": list(RECIPES[name]),
        "loss_nats_per_token": scores["held_out"]["loss_nats_per_token"],
        "held_out_tokens": scores["held_out"]["tokens"],
        "training_tokens": chosen.tokens,
        "parameters": flops.parameters(chosen.model),
        "git_commit": folder.read_json(run / folder.MANIFEST)["git_commit"],
    }


def main() -> None:
    text = Path(sys.argv[1]).resolve()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    os.chdir(SCRATCH)
    shutil.copyfile(text, text.name)
    results = [measure(text.name, name) for name in sys.argv[2:] or RECIPES]
    record = {
        "format": "x1-measured-1",
        "what": "held-out loss on tiny Shakespeare as bytes, nats per character",
        "what_es": "pérdida de validación en tiny Shakespeare como bytes, nats por carácter",
        **provenance(config.build("shakespeare-bytes").train.threads),
        "runs": results,
    }
    folder.write_json(ROOT / "docs/measured/shakespeare.json", record)


if __name__ == "__main__":
    main()
