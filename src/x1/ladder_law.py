"""What a ladder has measured, the law of it, and the prediction against what was met.

points.json, prediction.json and result.json, in this order and each sealed with the one before.
"""

import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from x1 import data, folder, scaling
from x1.ladder import (
    DEFINITION,
    POINTS,
    POINTS_FORMAT,
    PREDICTION,
    PREDICTION_FORMAT,
    RESULT,
    RESULT_FORMAT,
    STARTED,
    STARTED_FORMAT,
    Ladder,
    Run,
    compute_leap,
    folder_of,
    groups,
    held_back_runs,
    sizes,
)
from x1.scaling import ScalingLaw
from x1.text import UserError

LEVEL = 0.9  # of the interval written before
STUDENT = {2: 6.314, 3: 2.920, 4: 2.353, 5: 2.132}  # two-sided 90%, by the number of values
RESAMPLES = 200
TARGET_NATS = 0.02  # a good prediction's miss, at most, and
TARGET_SHARE = 1 / 3  # at most this part of what either naive guess misses by


def measured(place: Path, run: Run) -> dict[str, Any]:
    """A finished run's point: its sizes, its held-out loss, the seconds it trained itself."""
    path = folder_of(place, run)
    scores = folder.read_json(path / folder.EVALUATION)["held_out"]
    lines = [line for line in folder.curve(path) if "loss" in line]
    return {
        **sizes(run),
        "loss_nats_per_token": scores["loss_nats_per_token"],
        "held_out_tokens": scores["tokens"],
        "seconds": round(sum(line["clock"]["seconds"] for line in lines), 3),
        "run": run.name,
        "trunk": run.trunk or None,
        "learning_rate": run.rung.lr,
    }


def provenance(place: Path, run: Run, command: str) -> dict[str, Any]:
    """Command, time, and what the run's manifest says of code, versions, hardware and data."""
    manifest = folder.read_json(folder_of(place, run) / folder.MANIFEST)
    machine = {k: v for k, v in manifest["hardware"].items() if k != "hostname"}
    return {
        "command": command,
        "date": folder.now(),
        "git_commit": manifest["git_commit"],
        "hardware": machine,
        "versions": manifest["versions"],
        "data_fingerprint": manifest["data"]["fingerprint"],
    }


def measure(place: Path, ladder: Ladder, command: str) -> dict[str, Any]:
    """Write points.json from the fitted rungs' finished runs, once; returns its content."""
    if (place / POINTS).exists():
        return folder.read_json(place / POINTS, POINTS_FORMAT)
    runs = [run for group in groups(ladder) for run in group if run.point]
    scores = folder.read_json(folder_of(place, runs[-1]) / folder.EVALUATION)
    floor = scores["floor"] or {}
    record = {
        "format": POINTS_FORMAT,
        "ladder": ladder.name,
        "definition_sha256": data.sha256_of(place / DEFINITION),
        "provenance": provenance(place, runs[-1], command),
        "source": runs[-1].config.data.model_dump(),
        "held_out": {k: scores["held_out"][k] for k in ("tokens", "bytes", "mode")},
        "unigram_nats_per_token": scores["unigram_nats_per_token"],
        "floor_nats_per_token": floor.get("these_documents_nats_per_token"),
        "entropy_nats_per_token": floor.get("nats_per_token"),
        "points": [measured(place, run) for run in runs],
    }
    folder.write_json(place / POINTS, record)
    return record


def fitted(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points the law is fitted on: seed 0 of every rung at every token count."""
    return [point for point in points if point["seed"] == 0]


def columns(
    points: list[dict[str, Any]], size: str = "N"
) -> tuple[list[float], list[float], list[float]]:
    """(N, D, loss) of `points`, N counted as `size` says ("N" or "N_non_embedding")."""
    names = (size, "D", "loss_nats_per_token")
    n, d, loss = ([float(point[name]) for point in points] for name in names)
    return n, d, loss


def law_of(points: list[dict[str, Any]], size: str = "N") -> ScalingLaw | None:
    """The law of `points`, or None where they determine none."""
    try:
        return scaling.fit(*columns(points, size))
    except UserError:
        return None


def rms_residual(law: ScalingLaw, points: list[dict[str, Any]], size: str = "N") -> float:
    """Root mean square, in nats/token, of loss minus law."""
    triples = zip(*columns(points, size), strict=True)
    return math.sqrt(mean((loss - law.predict(n, d)) ** 2 for n, d, loss in triples))


def without_largest(points: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """How far a law fitted without the largest rung is from that rung: a rehearsal of the leap.

    Judged at the largest rung's token count nearest to `tokens`.
    """
    largest = max(point["N"] for point in points)
    rest = [point for point in points if point["N"] < largest]
    judge = min(
        (point for point in points if point["N"] == largest), key=lambda p: abs(p["D"] - tokens)
    )
    law = law_of(rest)
    guess = law.predict(largest, judge["D"]) if law else None
    return {
        "N": largest,
        "D": judge["D"],
        "leap_in_N": largest / max(point["N"] for point in rest),
        "miss_nats_per_token": None if guess is None else guess - judge["loss_nats_per_token"],
    }


def naive_guesses(points: list[dict[str, Any]], target: dict[str, Any]) -> dict[str, float]:
    """What one would say without a law: the largest fitted rung's own loss at as many tokens, and
    a straight line through log loss against log N at that many tokens.
    """
    equal = [point for point in points if point["D"] == target["D"]]
    largest = max(equal, key=lambda point: point["N"])
    line = scaling.power_law_in_N(*columns(equal)[::2])
    return {
        "same_as_largest": largest["loss_nats_per_token"],
        "log_log_line_in_N": line.predict(target["N"]),
    }


def predict(ladder: Ladder, record: dict[str, Any], points_sha256: str) -> dict[str, Any]:
    """The content of prediction.json, a function of points.json alone.

    The interval adds in quadrature what the bootstrap and the residuals leave open, the seed, and
    the form of the law: the bootstrap alone assumes the form is right, and it is not.
    """
    points = fitted(record["points"])
    target = sizes(held_back_runs(ladder)[0])
    law = scaling.fit(*columns(points))
    laws = scaling.bootstrap(*columns(points), resamples=RESAMPLES, seed=0, law=law)
    value = law.predict(target["N"], target["D"])
    scatter = scaling.residuals(law, *columns(points))
    low, high = scaling.predict_interval(laws, target["N"], target["D"], scatter, LEVEL)

    most = max(p["D"] for p in record["points"] if p["rung"] == ladder.seed_rung)
    of_seeds = [
        p["loss_nats_per_token"]
        for p in record["points"]
        if p["rung"] == ladder.seed_rung and p["D"] == most
    ]
    seed_deviation = stdev(of_seeds)
    seed = STUDENT[len(of_seeds)] * seed_deviation

    naive = naive_guesses(points, target)
    rehearsal = without_largest(points, target["D"])
    largest = max(point["N"] for point in points)
    leaps = math.log(target["N"] / largest) / math.log(rehearsal["leap_in_N"])
    other = law_of(points, "N_non_embedding")
    other_value = other.predict(target["N_non_embedding"], target["D"]) if other else None
    # Where the form cannot be tested, all that a law adds to the plainest guess is in doubt.
    doubt = value - naive["same_as_largest"]
    rehearsed = rehearsal["miss_nats_per_token"]
    form = math.hypot(
        doubt if rehearsed is None else max(1.0, leaps) * rehearsed,
        doubt if other_value is None else other_value - value,
    )

    def half(statistical: float) -> float:
        return math.sqrt(max(statistical, 0.0) ** 2 + seed**2 + form**2)

    return {
        "format": PREDICTION_FORMAT,
        "ladder": ladder.name,
        "time": folder.now(),
        "points_sha256": points_sha256,
        "definition_sha256": record["definition_sha256"],
        "quantity": f"mean held-out loss, nats/token, of {ladder.held_back_seeds} seed(s)",
        "target": {k: v for k, v in target.items() if k != "seed"},
        "compute_over_largest_fitted": compute_leap(ladder)[0],
        "predicted_nats_per_token": value,
        "interval": {
            "level": LEVEL,
            "low": value - half(value - low),
            "high": value + half(high - value),
            "parts_nats_per_token": {
                "bootstrap_and_residual": [low - value, high - value],
                "residual_rms": rms_residual(law, points),
                "seed": seed,
                "form": form,
            },
        },
        "seeds": {"rung": ladder.seed_rung, "D": most, "deviation_nats_per_token": seed_deviation,
                  "losses_nats_per_token": of_seeds},
        "without_largest": {**rehearsal, "leaps": leaps},
        "naive": naive,
        "law": {
            **_constants(law),
            "N": "all parameters",
            "intervals": {
                name: list(scaling.interval([getattr(each, name) for each in laws], LEVEL))
                for name in ("E", "A", "B", "alpha", "beta")
            },
        },
        "law_non_embedding": {
            **(_constants(other) if other else {}),
            "residual_rms": rms_residual(other, points, "N_non_embedding") if other else None,
            "predicted_nats_per_token": other_value,
        },
        "floor_nats_per_token": record["floor_nats_per_token"],
    }  # fmt: skip


def _constants(law: ScalingLaw) -> dict[str, float]:
    return {name: getattr(law, name) for name in ("E", "A", "B", "alpha", "beta")}


def write_prediction(place: Path, ladder: Ladder) -> dict[str, Any]:
    """Write prediction.json, durable on return, unless it is there; returns its content.

    Raises UserError when the held-back rung has been trained already, so that it would not be a
    prediction, or when there is one and points.json is no longer what it was made from.
    """
    if (place / PREDICTION).exists():
        return sealed(place)
    late = [run.name for run in held_back_runs(ladder) if folder_of(place, run).exists()]
    if late:
        raise UserError("ladder.late", run=late[0], path=place / PREDICTION)
    record = folder.read_json(place / POINTS, POINTS_FORMAT)
    prediction = predict(ladder, record, data.sha256_of(place / POINTS))
    folder.write_json(place / PREDICTION, prediction)
    return prediction


def sealed(place: Path) -> dict[str, Any]:
    """prediction.json, as long as nothing it rests on has changed since it was written.

    Raises UserError if it is missing, if points.json is not the one it was made from, or if it is
    not the one under which the held-back rung was started.
    """
    if not (place / PREDICTION).is_file():
        raise UserError("ladder.no_prediction", path=place / PREDICTION)
    prediction = folder.read_json(place / PREDICTION, PREDICTION_FORMAT)
    if not (place / POINTS).is_file() or prediction["points_sha256"] != data.sha256_of(
        place / POINTS
    ):
        raise UserError("ladder.changed", path=place / POINTS)
    if (place / STARTED).exists():
        started = folder.read_json(place / STARTED, STARTED_FORMAT)
        if started["prediction_sha256"] != data.sha256_of(place / PREDICTION):
            raise UserError("ladder.changed", path=place / PREDICTION)
    return prediction


def start_held_back(place: Path) -> None:
    """Put on record, before the held-back rung's first step, which prediction it is held against.

    Raises UserError like `sealed`.
    """
    sealed(place)
    if not (place / STARTED).exists():
        digest = data.sha256_of(place / PREDICTION)
        record = {"format": STARTED_FORMAT, "time": folder.now(), "prediction_sha256": digest}
        folder.write_json(place / STARTED, record)


def write_result(place: Path, ladder: Ladder, command: str) -> dict[str, Any]:
    """Write result.json: the prediction against the held-back rung's runs. Returns its content."""
    prediction = sealed(place)
    record = folder.read_json(place / POINTS, POINTS_FORMAT)
    runs = held_back_runs(ladder)
    met = [measured(place, run) for run in runs]
    losses = [point["loss_nats_per_token"] for point in met]
    loss = mean(losses)
    value, interval = prediction["predicted_nats_per_token"], prediction["interval"]
    miss = value - loss
    naive = {
        name: {"predicted_nats_per_token": guess, "miss_nats_per_token": guess - loss}
        for name, guess in prediction["naive"].items()
    }
    least_naive = min(abs(guess["miss_nats_per_token"]) for guess in naive.values())
    result = {
        "format": RESULT_FORMAT,
        "ladder": ladder.name,
        "prediction_sha256": data.sha256_of(place / PREDICTION),
        "predicted_at": prediction["time"],
        "started_at": folder.read_json(place / STARTED, STARTED_FORMAT)["time"],
        "provenance": provenance(place, runs[-1], command),
        "target": prediction["target"],
        "predicted_nats_per_token": value,
        "interval": {k: interval[k] for k in ("level", "low", "high")},
        "measured_nats_per_token": loss,
        "seed_deviation_nats_per_token": stdev(losses) if len(losses) > 1 else None,
        "miss_nats_per_token": miss,
        "naive": naive,
        "verdicts": {
            "inside": interval["low"] <= loss <= interval["high"],
            "miss_at_most_0.02": abs(miss) <= TARGET_NATS,
            "miss_at_most_a_third_of_the_naive": abs(miss) <= TARGET_SHARE * least_naive,
        },
        "E": compare_floor(prediction),
        "held_back": met,
        "law_with_held_back": _constants(scaling.fit(*columns(fitted(record["points"] + met)))),
    }
    folder.write_json(place / RESULT, result)
    return result


def compare_floor(prediction: dict[str, Any]) -> dict[str, Any]:
    """The fitted E and its bootstrap interval beside the corpus's exact floor, if it has one."""
    law, floor = prediction["law"], prediction["floor_nats_per_token"]
    low, high = law["intervals"]["E"]
    verdict = None
    if floor is not None:
        verdict = "below" if high < floor else "above" if low > floor else "agrees"
    return {"fitted": law["E"], "low": low, "high": high, "floor": floor, "verdict": verdict}
