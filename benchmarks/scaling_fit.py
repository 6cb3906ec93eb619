"""The fit held to published points: python benchmarks/scaling_fit.py CSV [--out FILE]

CSV is yours to bring: the 245 points that Besiroglu et al. (arXiv 2404.10102) read off a figure of
Hoffmann et al., with the columns "Model Size", "Training FLOP" and "loss", from the repository
that the paper names (epoch-research/analyzing-chinchilla, data/svg_extracted_data.csv). As there,
D = C / 6N and the 5 points of highest loss are left out.
"""

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

from x1 import folder, scaling
from x1.scaling import BESIROGLU, Floats, ScalingLaw

OUTLIERS = 5
NAMES = ("E", "A", "B", "alpha", "beta")
# Besiroglu et al., section 3
PUBLISHED_95 = {
    "E": (1.769, 1.871),
    "A": (285, 744),
    "B": (1042, 5810),
    "alpha": (0.317, 0.373),
    "beta": (0.331, 0.415),
}
# Hoffmann et al., table 2, approach 3: 10th and 90th percentiles
PUBLISHED_EXPONENT_80 = 0.454, 0.455
BUDGETS = 1.41e18, 5.76e23  # FLOPs: X1's by 6ND, and the budget Chinchilla was made for


def read(path: Path) -> tuple[Floats, Floats, Floats]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    N, C, loss = (
        np.array([float(row[name]) for row in rows])
        for name in ("Model Size", "Training FLOP", "loss")
    )
    return N, C / (scaling.FLOPS_PER_PARAMETER_TOKEN * N), loss


def five(law: ScalingLaw) -> dict[str, float]:
    return {name: float(f"{getattr(law, name):.6g}") for name in NAMES}


def exponent(law: ScalingLaw) -> float:
    """The power of C with which the compute-optimal N grows."""
    return law.beta / (law.alpha + law.beta)


def tokens_per_parameter(law: ScalingLaw, C: float) -> float:
    N, D = law.optimal(C)
    return D / N


def main() -> None:
    everything = read(Path(sys.argv[1]))
    inside = everything[2] < np.sort(everything[2])[-OUTLIERS]
    runs = everything[0][inside], everything[1][inside], everything[2][inside]

    began = time.perf_counter()
    law = scaling.fit(*runs)
    fit_s = time.perf_counter() - began
    began = time.perf_counter()
    laws = scaling.bootstrap(*runs, law=law)
    bootstrap_s = time.perf_counter() - began

    residuals = scaling.residuals(law, *runs)
    chinchilla = 70e9, 1.4e12
    intervals: dict[str, Any] = {}
    for name in NAMES:
        low, high = scaling.interval([getattr(each, name) for each in laws])
        intervals[name] = {
            "low": float(f"{low:.5g}"),
            "high": float(f"{high:.5g}"),
            "published_low": PUBLISHED_95[name][0],
            "published_high": PUBLISHED_95[name][1],
        }
    record = {
        "format": "x1-measured-1",
        "what": "the scaling-law fit on 240 published points, against their published fit",
        "what_es": "el ajuste de la ley de escala a 240 puntos publicados, frente al publicado",
        **provenance(threads=1),
        "points": len(runs[0]),
        "starts": len(scaling.starts()),
        "fit": five(law),
        "published_fit": five(BESIROGLU),
        "objective": float(f"{scaling.objective(law, *runs):.8g}"),
        "objective_of_the_published_fit": float(f"{scaling.objective(BESIROGLU, *runs):.8g}"),
        "largest_gradient": float(f"{np.abs(scaling.gradient(law, *runs)).max():.2g}"),
        "fit_s": round(fit_s, 2),
        "resamples": len(laws),
        "bootstrap_s": round(bootstrap_s, 2),
        "bootstrap_95": intervals,
        "optimum_for_5.76e23_FLOPs": dict(
            zip(("N", "D"), (float(f"{v:.4g}") for v in law.optimal(5.76e23)), strict=True)
        ),
        "exponent_of_N": {
            "value": round(exponent(law), 4),
            "interval_80": [
                round(v, 4) for v in scaling.interval([exponent(each) for each in laws], 0.8)
            ],
            "published_interval_80": list(PUBLISHED_EXPONENT_80),
        },
        "tokens_per_parameter": [
            {
                "C": C,
                "value": round(tokens_per_parameter(law, C), 2),
                "interval_95": [
                    round(v, 2)
                    for v in scaling.interval([tokens_per_parameter(each, C) for each in laws])
                ],
            }
            for C in BUDGETS
        ],
        "chinchilla_70B_1.4T": {
            "loss_nats": round(law.predict(*chinchilla), 4),
            "curve_95": [
                round(v, 4) for v in scaling.predict_interval(laws, *chinchilla, residuals=[0])
            ],
            "run_95": [round(v, 4) for v in scaling.predict_interval(laws, *chinchilla, residuals)],
        },
        "fit_with_all_245": five(scaling.fit(*everything)),
        "fit_with_delta_0.1": five(scaling.fit(*runs, delta=0.1)),
        "fit_from_one_bad_start": five(scaling.fit(*runs, start=[0, 5, 0, 2, 0.5])),
    }
    if sys.argv[2:3] == ["--out"]:
        folder.write_json(Path(sys.argv[3]), record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
