"""The measurements behind the corpus settings: python benchmarks/corpus_settings.py [POINT...].

Trains small models through the package's own loop, scores them on whole held-out documents and
prints a JSON record for each: the loss above the exact -log p of those very documents, which has
no sampling noise of the floor in it. Without names every point is run, one after another.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from x1 import config, data, evaluate, folder, train
from x1.model import Transformer, count_parameters

# name: setting, width, layers, heads, sequences of 128 tokens in a batch, steps, learning rate
POINTS: dict[str, tuple[str, int, int, int, int, int, float]] = {
    "rehearsal-0.6M": ("rehearsal", 128, 4, 4, 32, 150, 6e-3),
    "rehearsal-0.8M": ("rehearsal", 128, 4, 4, 32, 200, 6e-3),
    "scaling-d16-0.5M": ("scaling", 16, 2, 1, 16, 256, 1.6e-2),
    "scaling-d32-0.5M": ("scaling", 32, 2, 2, 16, 256, 1.2e-2),
    "scaling-d64-0.5M": ("scaling", 64, 3, 2, 16, 256, 8e-3),
    "scaling-d16-1M": ("scaling", 16, 2, 1, 16, 512, 1.6e-2),
    "scaling-d32-1M": ("scaling", 32, 2, 2, 16, 512, 1.2e-2),
    "scaling-d64-1M": ("scaling", 64, 3, 2, 16, 512, 8e-3),
}


def measure(name: str) -> dict[str, Any]:
    """Train and score one point in the current folder."""
    setting, width, layers, heads, sequences, steps, rate = POINTS[name]
    chosen = config.build(
        "rehearsal",
        model={"d_model": width, "n_layers": layers, "n_heads": heads, "d_ff": 3 * width},
        optim={"lr": rate, "warmup_steps": 30},
        data={"corpus_setting": setting, "held_out_documents": 1000},
        train={"steps": steps, "batch_sequences": sequences, "threads": 2},
        checkpoint={"every_steps": steps},
        evaluate={"every_steps": steps},
        sample={"milestones": ()},
    )
    run = Path("runs") / name
    data.prepare(chosen, quiet=True)
    folder.claim(run, chosen)
    started = time.monotonic()
    train.train(run)
    seconds = time.monotonic() - started
    result = evaluate.evaluate(run)
    if result["step"] != steps:
        raise SystemExit(f"{name} stopped at step {result['step']} of {steps}: not a measurement")
    loss, floor = result["held_out"]["loss_nats_per_token"], result["floor"]
    exact, english = floor["these_documents_nats_per_token"], floor["english"]
    return {
        "point": name,
        "parameters": count_parameters(Transformer(chosen.model)),
        "tokens": chosen.tokens,
        "seconds": round(seconds, 1),
        "loss_nats_per_token": round(loss, 4),
        "floor_nats_per_token": round(exact, 4),
        "excess_over_floor": round(loss / exact - 1, 4),
        "excess_over_unigram_gap": round(
            (loss - exact) / (result["unigram_nats_per_token"] - exact), 4
        ),
        "english_excess_nats_per_token": round(
            english["loss_nats_per_token"] - english["these_documents_nats_per_token"], 4
        ),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for name in sys.argv[1:] or POINTS:
            print(json.dumps(measure(name)), flush=True)
