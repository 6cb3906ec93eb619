"""Training tokens/s on this machine: python benchmarks/throughput.py [--out FILE]

The rehearsal and Shakespeare presets, eager and compiled, fp32 and bf16, each the median over a
few optimizer steps. The settings take turns, three rounds of them, so that a machine that slows
down slows them all; read the ratios, not the absolute numbers.
"""

import json
import sys
from pathlib import Path
from statistics import median

from provenance import provenance

from x1 import config, folder
from x1.calibrate import tokens_per_s

ROUNDS = 3
PRESETS = ("rehearsal", "shakespeare-bytes")
SETTINGS = {
    "fp32": (),
    "bf16": ("train.dtype=bf16",),
    "fp32 compiled": ("train.compile=true",),
    "bf16 compiled": ("train.dtype=bf16", "train.compile=true"),
}


def main() -> None:
    rates: dict[str, dict[str, list[float]]] = {p: {s: [] for s in SETTINGS} for p in PRESETS}
    for _ in range(ROUNDS):
        for preset in PRESETS:
            for name, settings in SETTINGS.items():
                chosen = config.build(preset, settings=settings)
                rates[preset][name].append(tokens_per_s(chosen))
    record = {
        "format": "x1-measured-1",
        "what": "training tokens/s on a CPU, medians of interleaved rounds",
        "what_es": "tokens/s de entrenamiento en una CPU, medianas de rondas intercaladas",
        **provenance(config.build(PRESETS[0]).train.threads),
        "tokens_per_s": {
            preset: {name: round(median(values)) for name, values in row.items()}
            for preset, row in rates.items()
        },
        "rounds": rates,
    }
    if len(sys.argv) == 3 and sys.argv[1] == "--out":
        folder.write_json(Path(sys.argv[2]), record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
