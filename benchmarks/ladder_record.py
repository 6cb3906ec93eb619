"""A finished ladder as one committed result: python benchmarks/ladder_record.py LADDER --out FILE

LADDER is the folder that `x1 ladder` made. Nothing is computed here but differences and rounded
numbers for the page: points, prediction and result are copied as they stand, with the checksums
by which the prediction was sealed before the held-back rung was trained.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from x1 import folder, ladder, ladder_law

GUESSES = {
    "law": ("the law", "la ley"),
    "same_as_largest": (
        "same as the largest fitted rung, at equal tokens",
        "igual que el mayor peldaño ajustado, con los mismos tokens",
    ),
    "log_log_line_in_N": ("a straight log–log line in N", "una recta log–log en N"),
}


def record(place: Path, command: str) -> dict[str, Any]:
    """What goes into docs/measured: the ladder's files and the tables of the page."""
    definition = ladder.read(place / ladder.DEFINITION)
    points = folder.read_json(place / ladder.POINTS, ladder.POINTS_FORMAT)
    prediction = folder.read_json(place / ladder.PREDICTION, ladder.PREDICTION_FORMAT)
    result = folder.read_json(place / ladder.RESULT, ladder.RESULT_FORMAT)
    made, last = result["provenance"], definition.held_back.name
    text = definition.run["data"]["source"] != "verbs"
    return {
        "format": "x1-measured-1",
        "what": f"a ladder on {'real text' if text else 'the generated corpus'}: loss of small"
        f" models, and {last} predicted, then trained",
        "what_es": f"una escalera sobre {'texto real' if text else 'el corpus generado'}: la"
        f" pérdida de modelos pequeños, y {last} predicho y después entrenado",
        "command": f"{made['command']} && {command}",
        "git_commit": made["git_commit"],
        "date": made["date"],
        "hardware": made["hardware"],
        "versions": made["versions"],
        "prediction_sealed_at": result["predicted_at"],
        "held_back_started_at": result["started_at"],
        "rungs": rungs(points),
        "guesses": guesses(result),
        "summary": [summary(points, prediction, result)],
        "points": points,
        "prediction": prediction,
        "result": result,
    }  # fmt: skip


def rungs(points: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a fitted size: its parameters and its loss at each token count."""
    rows: dict[int, dict[str, Any]] = {}
    for point in ladder_law.fitted(points["points"]):
        row = rows.setdefault(
            point["N"],
            {"rung": point["rung"], "N": f"{point['N']:,}",
             "N_non_embedding": f"{point['N_non_embedding']:,}"},
        )  # fmt: skip
        row[f"tokens_{sum(key.startswith('tokens_') for key in row)}"] = (
            f"{point['loss_nats_per_token']:.4f}"
        )
    return list(rows.values())


def guesses(result: dict[str, Any]) -> list[dict[str, str]]:
    """One row a guess: its value and by how much it missed."""
    made = {"law": result, **result["naive"]}
    return [
        {"guess": GUESSES[name][0], "guess_es": GUESSES[name][1],
         "predicted": f"{guess['predicted_nats_per_token']:.4f}",
         "miss": f"{guess['miss_nats_per_token']:+.4f}"}
        for name, guess in made.items()
    ]  # fmt: skip


def summary(
    points: dict[str, Any], prediction: dict[str, Any], result: dict[str, Any]
) -> dict[str, str]:
    """The page's numbers, rounded."""
    target, interval, law = result["target"], result["interval"], prediction["law"]
    said = {
        "rung": target["rung"],
        "N": f"{target['N']:,}",
        "D": f"{target['D']:,}",
        "leap": f"{prediction['compute_over_largest_fitted']:.1f}",
        "predicted": f"{result['predicted_nats_per_token']:.4f}",
        "low": f"{interval['low']:.4f}",
        "high": f"{interval['high']:.4f}",
        "measured": f"{result['measured_nats_per_token']:.4f}",
        "miss": f"{result['miss_nats_per_token']:+.4f}",
        "seed_deviation": f"{result['seed_deviation_nats_per_token']:.4f}",
        "seeds": str(len(result["held_back"])),
        "held_out_tokens": f"{points['held_out']['tokens']:,}",
    }
    for name in ("E", "A", "B", "alpha", "beta"):
        low, high = law["intervals"][name]
        said |= {
            name: f"{law[name]:.3g}",
            f"{name}_low": f"{low:.3g}",
            f"{name}_high": f"{high:.3g}",
        }
    if result["E"]["floor"] is not None:
        said["floor"] = f"{result['E']['floor']:.4f}"
    return said


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ladder", type=Path, metavar="LADDER")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    command = f"python benchmarks/ladder_record.py {chosen.ladder} --out {chosen.out}"
    text = json.dumps(record(chosen.ladder, command), ensure_ascii=False, indent=1)
    chosen.out.write_text(text + "\n", "utf-8")
