"""The ladder before the run: small models on the run's own data, and the final prediction of it.

A plan that counts a ladder has it climbed first, in the run's folder and out of the run's ledger:

    ladder/ladder.toml    the ladder that predicts this run, on the run's data and machine
    ladder/runs/NAME/     its fitted rungs, as `x1 ladder` trains them
    ladder/points.json    their losses
    prediction.json       the run's final loss, with an interval; its SHA-256 goes into the ledger,
                          the events and the state of every checkpoint that follows

It is a fit, not a sweep: nothing of the run's configuration changes by it. All of it comes before
the run's first step, and none of it is done twice: after a kill it goes on where it was.

The law is that of `ladder_law`. The run is larger than any rung and trains on more tokens, so the
interval counts two rehearsals of that leap: how far the law of the smaller rungs is from the
largest one, and the law of fewer tokens from the most.
"""

import hashlib
import math
import signal
import sys
from contextlib import suppress
from pathlib import Path
from statistics import stdev
from types import FrameType
from typing import Any

from x1 import data, flops, folder, ladder, ladder_law, plan, predict, scaling, supervise
from x1.config import RunConfig
from x1.ladder import Ladder, Run
from x1.ladder_climb import train_group
from x1.ladder_page import bar_of, tokens_so_far
from x1.markup import amount
from x1.predict import Prediction, both
from x1.text import UserError, say

FORMAT = "x1-own-prediction-1"
NO_LAW = "no-ladder"  # the event that says a ladder was climbed and no law came of it
MACHINE = ("dtype", "device", "threads", "compile", "recompute", "deterministic")

Json = dict[str, Any]


def planned(run: Path) -> bool:
    """Whether this run's plan counts a ladder that has yet to be climbed, and still may be.

    Raises UserError for a damaged plan.json.
    """
    if not (run / folder.PLAN).exists() or (run / folder.PREDICTION).exists():
        return False
    if (run / folder.METRICS).exists() or folder.events(run, NO_LAW):
        return False  # a prediction is made before, or it is not one
    lines = plan.read_plan(run).get("lines", [])
    return any(line["item"] == "ladder" and line["hours"]["value"] for line in lines)


def begin(run: Path) -> None:
    """Write ladder/ladder.toml, unless it is there. From then on the ledger counts the ladder.

    Raises UserError if no named ladder predicts this run, or the one there is another.
    """
    definition = definition_of(folder.open_run(run))
    if definition is None:
        raise UserError("first_ladder.none", run=run)
    path = run / folder.LADDER / ladder.DEFINITION
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        folder.write_atomically(path, ladder.to_toml(definition))
    elif path.read_text("utf-8") != ladder.to_toml(definition):
        raise UserError("ladder.other", path=path.parent)


def definition_of(config: RunConfig) -> Ladder | None:
    """The named ladder that predicts this run, on its data and its machine; None without one."""
    found = predict.ladder_of(config)
    if found is None:
        return None
    tokens = data.settings_of(config)["data.train_tokens"]
    machine = {name: getattr(config.train, name) for name in MACHINE}
    sections = {
        **found.run,
        "data": {**config.data.model_dump(mode="json"), "train_tokens": tokens},
        "train": {**found.run.get("train", {}), **machine},
    }
    definition = found.model_copy(update={"run": sections})
    ladder.check(definition)
    return definition


def ladder_first(run: Path, i_will_watch: bool = False) -> int:
    """Climb the run's ladder under the run's supervisor, if there is one to climb.

    0: go on to the run. Anything else is the exit code to leave with. Raises like `supervise`.
    """
    if not planned(run):
        if (run / folder.PREDICTION).exists():
            record_prediction(run)  # a kill may have come between the file and its event
        return 0
    begin(run)
    supervise.tell("first_ladder.begins", run=run)
    command = [sys.executable, "-m", "x1.first_ladder", str(run)]
    return supervise.supervise(run, command, i_will_watch)


def climb(run: Path) -> int:
    """Everything that is left to do, in this process and its children; 0 when it is done.

    A ladder of which no law comes is no reason to stop the run: that is put on record, and the
    plan's prediction stays. Raises UserError when a rung cannot be trained.
    """
    place = run / folder.LADDER
    definition = ladder.read(place / ladder.DEFINITION)
    groups = ladder.groups(definition)
    everyone = [each for runs in groups for each in runs]
    try:
        with folder.locked(run), bar_of(place, everyone, quiet=False) as show:
            for runs in groups:
                if code := train_group(place, runs, show, own_session=False):
                    return code
        record = ladder_law.measure(place, definition, f"x1 train --out {run}")
        write_prediction(run, definition, record)
    except UserError as fault:
        diverged = [each for each in everyone if left_out(place, each)]
        if not diverged and not fault.key.startswith("scaling."):
            raise
        folder.record_event(run, NO_LAW, reason=str(fault))
        print(say("first_ladder.no_law", why=fault), file=sys.stderr)
    return 0


def left_out(place: Path, run: Run) -> bool:
    """Whether a rung's run left out batches: then it is no point of a law, and never will be."""
    return bool(folder.events(ladder.folder_of(place, run), "skip", "rollback"))


def write_prediction(run: Path, definition: Ladder, record: Json) -> None:
    """Write prediction.json, durable on return, unless it is there, and its event."""
    if not (run / folder.PREDICTION).exists():
        config, place = folder.open_run(run), run / folder.LADDER
        unique = data.read_index(data.path_of(config))["train"]["tokens"]
        content = predict_run(config, definition, record, unique)
        seals = {
            "points_sha256": data.sha256_of(place / ladder.POINTS),
            "definition_sha256": data.sha256_of(place / ladder.DEFINITION),
            "plan_sha256": folder.plan_digest(run),
            "config_sha256": hashlib.sha256((run / folder.CONFIG).read_bytes()).hexdigest(),
        }
        before = plan.read_plan(run)["predictions"]["loss_nats_per_token"]
        stamped = {"format": FORMAT, "time": folder.now(), **seals, **content, "borrowed": before}
        folder.write_json(run / folder.PREDICTION, stamped)
    record_prediction(run)


def record_prediction(run: Path) -> None:
    """The event that carries prediction.json's checksum, once; and the sentence."""
    digest = folder.prediction_digest(run)
    if any(event.get("sha256") == digest for event in folder.events(run, "prediction")):
        return
    content = folder.read_json(run / folder.PREDICTION, FORMAT)
    loss = content["predictions"]["loss_nats_per_token"]
    said = {name: round(loss[name], 4) for name in ("value", "low", "high")}
    folder.record_event(run, "prediction", path=folder.PREDICTION, sha256=digest, **said)
    print(say("first_ladder.sealed", path=run / folder.PREDICTION, **said), flush=True)


def predict_run(config: RunConfig, definition: Ladder, record: Json, unique: int) -> Json:
    """What the points of `record` (points.json) predict of the run: a function of them alone.

    Tokens count as what they are worth when only `unique` of them are different. The interval adds
    in quadrature what the bootstrap and the residuals leave open, the seed, and the form of the
    law, as `ladder_law.predict` does, and the leap in tokens besides. Raises UserError if the
    points follow no law.
    """
    points = [
        {**point, "D": scaling.effective_tokens(unique, point["D"])}
        for point in ladder_law.fitted(record["points"])
    ]
    counted = flops.parameter_groups(config.model)
    N, D = counted.total, scaling.effective_tokens(unique, config.tokens)
    law = scaling.fit(*ladder_law.columns(points))
    laws = scaling.bootstrap(
        *ladder_law.columns(points), resamples=ladder_law.RESAMPLES, seed=0, law=law
    )
    value = law.predict(N, D)
    scatter = scaling.residuals(law, *ladder_law.columns(points))
    low, high = scaling.predict_interval(laws, N, D, scatter, ladder_law.LEVEL)

    of_seeds = seed_losses(definition, record["points"])
    seed = ladder_law.STUDENT[len(of_seeds)] * stdev(of_seeds)
    best = min(points, key=lambda point: point["loss_nats_per_token"])
    doubt = value - best["loss_nats_per_token"]  # what a law adds to the plainest guess
    sizes, tokens = without_largest(points, "N", N), without_largest(points, "D", D)
    other = ladder_law.law_of(points, "N_non_embedding")
    other_value = other.predict(counted.non_embedding, D) if other else None
    form = [
        doubt
        if leap["miss_nats_per_token"] is None
        else leap["weight"] * leap["miss_nats_per_token"]
        for leap in (sizes, tokens)
    ]
    form.append(doubt if other_value is None else other_value - value)

    def half(statistical: float) -> float:
        return math.hypot(max(statistical, 0.0), seed, *form)

    loss = Prediction(value, value - half(value - low), value + half(high - value),
                      basis(config, definition, points))  # fmt: skip
    held_out = record["held_out"]
    per_bit = held_out["tokens"] / held_out["bytes"] / math.log(2)
    bits = loss.scaled(per_bit)
    return {
        "ladder": definition.name,
        "target": {"N": counted.total, "N_non_embedding": counted.non_embedding,
                   "D": config.tokens, "D_effective": D, "unique_tokens": unique},
        "predictions": {"loss_nats_per_token": loss.to_json(), "bits_per_byte": bits.to_json()},
        "level": ladder_law.LEVEL,
        "parts_nats_per_token": {
            "bootstrap_and_residual": [low - value, high - value],
            "seed": seed,
            "form_in_N": form[0],
            "form_in_D": form[1],
            "other_N": form[2],
        },
        "without_largest_N": sizes,
        "without_most_D": tokens,
        "law": {
            **{name: getattr(law, name) for name in ("E", "A", "B", "alpha", "beta")},
            "N": "all parameters",
            "residual_rms": ladder_law.rms_residual(law, points),
            "intervals": {
                name: list(scaling.interval([getattr(each, name) for each in laws],
                                            ladder_law.LEVEL))
                for name in ("E", "A", "B", "alpha", "beta")
            },
        },
        "points": len(points),
    }  # fmt: skip


def seed_losses(definition: Ladder, points: list[Json]) -> list[float]:
    """The losses of the seed rung's runs that differ in nothing but their seed."""
    own = [point for point in points if point["rung"] == definition.seed_rung]
    most = max(point["D"] for point in own)
    return [point["loss_nats_per_token"] for point in own if point["D"] == most]


def without_largest(points: list[Json], axis: str, target: float) -> Json:
    """How far a law fitted without the largest N (or D) is from there, and how many such leaps the
    run is away: a rehearsal of the extrapolation along one axis. No miss where no law comes of it.
    """
    largest = max(point[axis] for point in points)
    rest = [point for point in points if point[axis] < largest]
    law = ladder_law.law_of(rest) if rest else None
    far = "D" if axis == "N" else "N"
    judge = max((p for p in points if p[axis] == largest), key=lambda point: point[far])
    miss = (
        None if law is None else law.predict(judge["N"], judge["D"]) - judge["loss_nats_per_token"]
    )
    leap = math.log(largest / max(point[axis] for point in rest)) if rest else math.nan
    leaps = math.log(target / largest) / leap if rest else math.nan
    return {
        "N": judge["N"],
        "D": judge["D"],
        "miss_nats_per_token": miss,
        "leaps": leaps if rest else None,
        # Between the points nothing is extrapolated; a part of a leap counts as a whole one.
        "weight": 0.0 if leaps <= 0 else max(1.0, leaps) if rest else 1.0,
    }


def basis(config: RunConfig, definition: Ladder, points: list[Json]) -> predict.Words:
    """Where the prediction comes from, in each language."""
    same = config.optim.schedule == "wsd"
    said = both(
        "basis.own_ladder" if same else "basis.own_ladder_schedule",
        points=len(points), rungs=len(definition.rungs), level=f"{100 * ladder_law.LEVEL:.0f}",
        N=amount(max(point["N"] for point in points)),
        D=amount(max(point["D"] for point in points)),
        cooldown=f"{100 * definition.cooldown_fraction:.0f}", schedule=config.optim.schedule,
    )  # fmt: skip
    return said


def progress(run: Path) -> Json | None:
    """How far the ladder is while it is being climbed: tokens, their share of the FLOPs, and where.

    None for a run without one, or whose own training has begun.
    """
    place = run / folder.LADDER
    begun = (run / folder.METRICS).exists() or (run / folder.PREDICTION).exists()
    if begun or not (place / ladder.DEFINITION).exists():
        return None
    with suppress(UserError, OSError):
        runs = [
            each
            for group in ladder.groups(ladder.read(place / ladder.DEFINITION))
            for each in group
        ]
        done = cost = total = 0.0
        at = ""
        for each in runs:
            own, weight = ladder.own_tokens(each), flops.token_flops(each.config.model).total
            finished = ladder.is_done(place, each)
            here = own if finished else tokens_so_far(place, each)
            at = at or ("" if finished else each.name)
            done, cost, total = done + here, cost + here * weight, total + own * weight
        everything = sum(ladder.own_tokens(each) for each in runs)
        return {"tokens": done, "tokens_total": everything, "share": cost / total, "at": at}
    return None


def main() -> int:
    """`python -m x1.first_ladder RUN`, the child of a supervisor: one sentence and exit code 2."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # on the way out the trainer is asked to save and to end

    signal.signal(signal.SIGTERM, end)
    try:
        return climb(Path(sys.argv[1]))
    except KeyboardInterrupt:
        return supervise.INTERRUPTED
    except UserError as fault:
        print(fault, file=sys.stderr)
    except OSError as fault:
        print(folder.disk_fault(fault), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
