"""`x1 ladder`: measure small models, predict the next one, and only then train it.

A ladder is a folder. What is in it appears in this order, and never the other way round:

    ladder.toml       its definition
    runs/NAME/        one run folder per trunk, branch and seed
    points.json       the fitted rungs' losses, each at its parameters N and training tokens D
    prediction.json   the held-back rung's loss and its interval, sealed with points.json's SHA-256
    started.json      when the held-back rung began, and under which prediction
    result.json       the prediction against the measurement, with the two naive guesses
    ladder.svg        all of it drawn

One run gives several points (Hägele et al., 2405.18392, section 4): a trunk at a constant learning
rate, and from it a branch for each D that cools down over its last part. Until it leaves the trunk
a branch is the same computation, so it starts from the trunk's checkpoint.

torch is never loaded here: the training process is a child, `python -m x1.rung`.
"""

import json
import math
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from x1 import config as configuration
from x1 import data, flops, folder, scaling, supervise
from x1.config import RunConfig
from x1.scaling import ScalingLaw
from x1.text import UserError, say

FORMAT = "x1-ladder-1"
POINTS_FORMAT = "x1-ladder-points-1"
PREDICTION_FORMAT = "x1-ladder-prediction-1"
STARTED_FORMAT = "x1-ladder-started-1"
RESULT_FORMAT = "x1-ladder-result-1"
DEFINITION, RUNS, LOG, PLOT = "ladder.toml", "runs", "train.log", "ladder.svg"
POINTS, PREDICTION = "points.json", "prediction.json"
STARTED, RESULT = "started.json", "result.json"

LEAP = 4.0  # times the compute of any fitted rung: what the held-back one needs at least
LEVEL = 0.9  # of the interval written before
STUDENT = {2: 6.314, 3: 2.920, 4: 2.353, 5: 2.132}  # two-sided 90%, by the number of values
RESAMPLES = 200
TARGET_NATS = 0.02  # a good prediction's miss, at most, and
TARGET_SHARE = 1 / 3  # at most this part of what either naive guess misses by
HELD_OUT_TEXT_BYTES = 600_000  # of real text: about 200,000 tokens, scored for every point
CALIBRATION_S = 60.0  # a rung that does not show its speed within this is not timed
TICK_S = 0.3
STOPPING_S = 60.0

console = Console(highlight=False, markup=False, soft_wrap=True)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rung(_Section):
    """One shape and its peak learning rate. `max_tokens` leaves out larger token counts."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")
    n_layers: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    d_model: int = Field(ge=2)
    d_ff: int = Field(ge=1)
    lr: float = Field(gt=0)
    max_tokens: int = Field(0, ge=0)


class Ladder(_Section):
    """A ladder's definition: `rungs` are fitted, each at all `tokens`; `held_back` is predicted.

    `seeds` runs of `seed_rung` and `held_back_seeds` of the held-back one differ in the model's
    initial values alone, not in data or its order. `run` holds the sections of a RunConfig that
    all runs share.
    """

    name: str
    tokens: tuple[int, ...] = Field(min_length=3)
    cooldown_fraction: float = Field(0.2, gt=0, lt=1)
    held_back_tokens: int = Field(ge=1)
    held_back_seeds: int = Field(3, ge=1, le=5)
    seed_rung: str
    seeds: int = Field(3, ge=2, le=5)
    held_back: Rung
    rungs: tuple[Rung, ...] = Field(min_length=4)
    run: dict[str, dict[str, Any]]

    def counts(self, rung: Rung) -> list[int]:
        """The token counts of a fitted rung, fewest first."""
        return sorted(t for t in self.tokens if not rung.max_tokens or t <= rung.max_tokens)


@dataclass(frozen=True)
class Run:
    """One training run of a ladder: `tokens` D of a rung from one seed; `trunk` names its trunk.

    A trunk itself has no `trunk` and is no point of the law (`point` is False).
    """

    name: str
    rung: Rung
    seed: int
    tokens: int
    config: RunConfig
    trunk: str = ""
    leaves_at: int = 0
    point: bool = True


# ---- Definitions


def names() -> list[str]:
    """The ladders known by name."""
    return list(_definitions())


def _definitions() -> dict[str, Any]:
    return tomllib.loads(files("x1").joinpath("ladders.toml").read_text("utf-8"))


def named(name: str) -> Ladder:
    """A ladder by its name. Raises UserError with the nearest one."""
    known = _definitions()
    if name not in known:
        nearest = configuration.nearest(name, list(known))
        raise UserError("ladder.unknown", name=name, nearest=nearest)
    return validate(known[name], name)


def read(path: Path) -> Ladder:
    """A ladder from a TOML file. Raises UserError naming the file and what is wrong in it."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError("config.no_file", path=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise UserError("config.not_toml", path=path, fault=fault) from None
    if raw.pop("format", FORMAT) != FORMAT:
        raise UserError("config.format", path=path, expected=FORMAT)
    return validate(raw, str(path))


def validate(raw: dict[str, Any], where: str) -> Ladder:
    """A sound ladder from plain data. Raises UserError with the first thing that is not."""
    try:
        ladder = Ladder.model_validate(raw)
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("missing", "extra_forbidden"):
            key = "ladder.missing" if first["type"] == "missing" else "ladder.no_field"
            raise UserError(key, where=where, field=place) from None
        raise UserError("ladder.field", where=where, field=place, value=first["input"]) from None
    check(ladder)
    return ladder


def check(ladder: Ladder) -> None:
    """Raise UserError unless a law can be fitted on the rungs and tested on the held-back one."""
    everyone = [*ladder.rungs, ladder.held_back]
    if len({rung.name for rung in everyone}) < len(everyone):
        raise UserError("ladder.same_name")
    if ladder.seed_rung not in {rung.name for rung in ladder.rungs}:
        known = ", ".join(rung.name for rung in ladder.rungs)
        raise UserError("ladder.seed_rung", name=ladder.seed_rung, known=known)
    step_tokens = config_of(ladder, ladder.held_back, 1, 0).batch_tokens
    for tokens in (*ladder.tokens, ladder.held_back_tokens):
        if tokens % step_tokens:
            nearest = max(1, round(tokens / step_tokens)) * step_tokens
            raise UserError("ladder.tokens", tokens=tokens, batch=step_tokens, nearest=nearest)
    least = leaves_at(ladder, min(ladder.tokens) // step_tokens)
    warmup = config_of(ladder, ladder.held_back, 1, 0).optim.warmup_steps
    if least <= warmup:
        raise UserError("ladder.warmup", tokens=min(ladder.tokens), steps=least, warmup=warmup)
    if sum(ladder.held_back_tokens in ladder.counts(rung) for rung in ladder.rungs) < 2:
        raise UserError("ladder.held_back_tokens", tokens=ladder.held_back_tokens)
    leap, largest = compute_leap(ladder)
    if leap < LEAP:
        raise UserError("ladder.leap", leap=leap, largest=largest.name, needed=LEAP)


def rung_flops(ladder: Ladder, rung: Rung, tokens: int) -> float:
    """Exact training FLOPs, causal attention, of one run of `tokens` tokens."""
    return tokens * float(flops.token_flops(config_of(ladder, rung, 1, 0).model).total)


def compute_leap(ladder: Ladder) -> tuple[float, Rung]:
    """Compute of the held-back rung over that of the costliest fitted one, and which that is."""
    costs = [(rung_flops(ladder, rung, ladder.counts(rung)[-1]), rung) for rung in ladder.rungs]
    most, largest = max(costs, key=lambda pair: pair[0])
    return rung_flops(ladder, ladder.held_back, ladder.held_back_tokens) / most, largest


def with_text(ladder: Ladder, paths: list[Path]) -> Ladder:
    """The same ladder on real text: its last part, at most 10%, is held out."""
    size = sum(path.stat().st_size for path in paths if path.is_file())
    fraction = min(0.1, HELD_OUT_TEXT_BYTES / max(size, 1))
    source = {
        "source": "text",
        "files": [str(path) for path in paths],
        "held_out_fraction": round(fraction, 6) or 1e-6,
    }
    return ladder.model_copy(update={"run": {**ladder.run, "data": source}})


def to_toml(ladder: Ladder) -> str:
    """The definition as TOML, every field written out."""
    plain = ladder.model_dump()
    rungs, held_back, run = plain.pop("rungs"), plain.pop("held_back"), plain.pop("run")
    lines = [f'format = "{FORMAT}"', *_fields(plain), "", "[held_back]", *_fields(held_back)]
    for rung in rungs:
        lines += ["", "[[rungs]]", *_fields(rung)]
    for section, fields in run.items():
        lines += ["", f"[run.{section}]", *_fields(fields)]
    return "\n".join(lines) + "\n"


def _fields(fields: dict[str, Any]) -> list[str]:
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]


# ---- Runs


def config_of(
    ladder: Ladder, rung: Rung, steps: int, seed: int, keep: tuple[int, ...] = ()
) -> RunConfig:
    """The RunConfig of a run that cools down, or, with checkpoints to `keep`, of a trunk."""
    raw = {section: dict(fields) for section, fields in ladder.run.items()}
    shape = rung.model_dump(exclude={"name", "lr", "max_tokens"})
    schedule = {"schedule": "constant" if keep else "wsd"}
    own: dict[str, dict[str, Any]] = {
        "model": shape,
        "optim": {"lr": rung.lr, "cooldown_fraction": ladder.cooldown_fraction, **schedule},
        "train": {"steps": steps, "seed": seed},
        # A kill costs at most the minutes; nothing else decides when a checkpoint is due.
        "checkpoint": {"every_steps": steps, "every_minutes": 2.0, "keep": 1, "milestones": keep},
        "evaluate": {"every_steps": steps, "tokens": 4096},  # the points are scored by x1.rung
        "sample": {"milestones": ()},
        "stability": {"policy": "off"},  # a run that left out batches would be no point of the law
    }
    for section, fields in own.items():
        raw[section] = {**raw.get(section, {}), **fields}
    chosen = configuration.validate({"preset": f"ladder-{ladder.name}", **raw})
    if chosen.data.source == "verbs" and not chosen.data.train_tokens:
        most = max(*ladder.tokens, ladder.held_back_tokens)  # one corpus for all of them
        shared = chosen.data.model_copy(update={"train_tokens": most})
        chosen = chosen.model_copy(update={"data": shared})
    return chosen


def leaves_at(ladder: Ladder, steps: int) -> int:
    """The step at which a branch of `steps` steps leaves the trunk: its cool-down begins there."""
    return math.floor(steps - ladder.cooldown_fraction * steps)


def groups(ladder: Ladder) -> list[list[Run]]:
    """The fitted rungs' runs, cheapest rung first; each inner list is one child process."""
    return [_rung_runs(ladder, rung) for rung in ladder.rungs]


def _rung_runs(ladder: Ladder, rung: Rung) -> list[Run]:
    """A rung's trunk and branches with seed 0, and the whole runs of its other seeds."""
    batch = config_of(ladder, rung, 1, 0).batch_tokens
    counts = ladder.counts(rung)
    leaves = tuple(leaves_at(ladder, tokens // batch) for tokens in counts)
    trunk = f"{rung.name}-s0-trunk"
    trunk_config = config_of(ladder, rung, leaves[-1], 0, keep=leaves)
    runs = [Run(trunk, rung, 0, leaves[-1] * batch, trunk_config, point=False)]
    for tokens, leave in zip(counts, leaves, strict=True):
        name = f"{rung.name}-s0-{tokens}"
        runs.append(
            Run(name, rung, 0, tokens, config_of(ladder, rung, tokens // batch, 0), trunk, leave)
        )
    if rung.name == ladder.seed_rung:
        runs += _whole_runs(ladder, rung, range(1, ladder.seeds))
    return runs


def held_back_runs(ladder: Ladder) -> list[Run]:
    """The held-back rung's runs, one per seed, each from its first step."""
    return _whole_runs(ladder, ladder.held_back, range(ladder.held_back_seeds))


def _whole_runs(ladder: Ladder, rung: Rung, seeds: range) -> list[Run]:
    batch = config_of(ladder, rung, 1, 0).batch_tokens
    tokens = ladder.held_back_tokens if rung == ladder.held_back else ladder.counts(rung)[-1]
    return [
        Run(f"{rung.name}-s{seed}-{tokens}", rung, seed, tokens,
            config_of(ladder, rung, tokens // batch, seed))
        for seed in seeds
    ]  # fmt: skip


def all_runs(ladder: Ladder) -> dict[str, Run]:
    """Every run of the ladder by its name."""
    runs = [run for group in groups(ladder) for run in group] + held_back_runs(ladder)
    return {run.name: run for run in runs}


def folder_of(place: Path, run: Run) -> Path:
    return place / RUNS / run.name


def is_done(place: Path, run: Run) -> bool:
    """Whether a run has been trained to its end and, if it is a point, scored."""
    path = folder_of(place, run)
    if not run.point:
        return bool(folder.events(path, "finish"))
    scored = path / folder.EVALUATION
    return scored.is_file() and folder.read_json(scored).get("step") == run.config.train.steps


# ---- Training


def train_group(place: Path, runs: list[Run], show: "_Bar") -> int:
    """Train what is left of `runs` in one child process; returns 0, or 130 if it was stopped.

    Raises UserError when the child fails: what it said last, and where all of it is.
    """
    left = [run for run in runs if not is_done(place, run)]
    if not left:
        return 0
    for run in left:
        if folder_of(place, run).exists():
            supervise.wait_for_orphan(folder_of(place, run), supervise.Signals())
    command = [sys.executable, "-m", "x1.rung", str(place), *(run.name for run in left)]
    with (place / LOG).open("ab") as log:
        # A session of its own: a Ctrl-C reaches this process alone, which passes it on below. If
        # this one is killed, the trainer sees that its parent is gone, saves and ends.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(TICK_S)
                show.look()
        except BaseException:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOPPING_S)
            child.kill()
            raise
    if child.returncode in (0, 130):
        return child.returncode
    said = (place / LOG).read_text("utf-8", "replace").strip().splitlines()
    last = said[-1] if said and child.returncode > 0 else f"signal {-child.returncode}"
    raise UserError("ladder.failed", why=last, log=place / LOG)


class _Bar:
    """Progress of all of a ladder's runs, in FLOPs, so that the time left counts their size."""

    def __init__(self, bar: Progress, place: Path, ladder: Ladder) -> None:
        self.bar, self.place = bar, place
        self.runs = list(all_runs(ladder).values())
        self.weights = {r.name: flops.token_flops(r.config.model).total for r in self.runs}
        self.total_tokens = sum(_own_tokens(run) for run in self.runs)
        total = sum(_own_tokens(run) * self.weights[run.name] for run in self.runs)
        self.finished: dict[str, int] = {}
        self.task = bar.add_task("", total=total, tokens="")
        self.look()

    def look(self) -> None:
        """Read how far each run has come."""
        done_tokens, done_flops, at = 0, 0.0, ""
        for run in self.runs:
            if run.name not in self.finished and is_done(self.place, run):
                self.finished[run.name] = _own_tokens(run)
            tokens = self.finished.get(run.name)
            if tokens is None:
                tokens = _tokens_so_far(self.place, run)
                at = at or (run.name if tokens else "")
            done_tokens += tokens
            done_flops += tokens * self.weights[run.name]
        tokens_said = say(
            "ladder.tokens_done", done=f"{done_tokens / 1e6:,.1f}",
            total=f"{self.total_tokens / 1e6:,.1f}",
        )  # fmt: skip
        self.bar.update(self.task, description=at, completed=done_flops, tokens=tokens_said)


def _own_tokens(run: Run) -> int:
    """The tokens a run trains on itself: a branch only those after it has left the trunk."""
    return run.tokens - run.leaves_at * run.config.batch_tokens


def _tokens_so_far(place: Path, run: Run) -> int:
    lines = [r for r in folder.read_lines(folder_of(place, run) / folder.METRICS) if "tokens" in r]
    start = run.leaves_at * run.config.batch_tokens
    return max(0, lines[-1]["tokens"] - start) if lines else 0


@contextmanager
def _bar(place: Path, ladder: Ladder, quiet: bool) -> Iterator[_Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[tokens]}"),
        TimeRemainingColumn(),
    )
    shown = Console(stderr=True)
    with Progress(*columns, console=shown, disable=quiet or not shown.is_terminal) as bar:
        yield _Bar(bar, place, ladder)


# ---- What was measured, what is predicted, what was met


def sizes(run: Run) -> dict[str, Any]:
    """N in both conventions and D of a run, and its training FLOPs."""
    counted = flops.parameter_groups(run.config.model)
    return {
        "rung": run.rung.name,
        "seed": run.seed,
        "N": counted.total,
        "N_non_embedding": counted.non_embedding,
        "D": run.tokens,
        "flops": run.tokens * flops.token_flops(run.config.model).total,
    }


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


# ---- The command


def run_ladder_command(
    name: str | None,
    file: Path | None,
    text: list[Path] | None,
    place: Path | None,
    dry_run: bool,
    as_json: bool,
    new_folder: Any,
) -> int:
    """`x1 ladder`: show a ladder (`dry_run`), or climb it from wherever it stands."""
    if name and file:
        raise UserError("ladder.name_and_file")
    if place is not None and (place / DEFINITION).exists() and not (name or file or text):
        ladder = read(place / DEFINITION)
    else:
        ladder = read(file) if file else named(name or "cpu")
        ladder = with_text(ladder, text) if text else ladder
    if dry_run:
        show_plan(ladder)
        return 0
    place = place or new_folder(f"ladder-{ladder.name}")
    code = climb(place, ladder, as_json)
    if code == 0 and as_json:
        print((place / RESULT).read_text("utf-8"), end="")
    return code


def climb(place: Path, ladder: Ladder, quiet: bool = False) -> int:
    """Everything that is left to do of `ladder` in folder `place`; 0 when it is done."""
    check_claim(place, ladder)
    command = shlex.join(["x1", *sys.argv[1:]])
    prepared = data.prepare(held_back_runs(ladder)[0].config, quiet=quiet)
    if not (place / DEFINITION).exists():
        place.mkdir(parents=True, exist_ok=True)
        folder.write_atomically(place / DEFINITION, to_toml(ladder))
    tell(quiet, "ladder.climbing", place=place)
    warn_of_repeats(ladder, prepared, quiet)
    with folder.locked(place, "ladder"), _bar(place, ladder, quiet) as show:
        try:
            code = climb_on(place, ladder, command, show, quiet)
        except KeyboardInterrupt:
            code = supervise.INTERRUPTED
    if code:
        again = shlex.join(["x1", "ladder", "--out", str(place)])
        print(say("ladder.stopped", again=again), file=sys.stderr)
        return code
    if not (place / PLOT).exists():
        draw(place)
    if not quiet:
        show_result(place)
    return 0


def climb_on(place: Path, ladder: Ladder, command: str, show: "_Bar", quiet: bool) -> int:
    """Fitted rungs, points, prediction, held-back rung, result: each only if it is not there yet.

    Returns 0, or the code of the training process that was stopped.
    """
    if not (place / PREDICTION).exists():
        for runs in groups(ladder):
            if code := train_group(place, runs, show):
                return code
        measure(place, ladder, command)
    prediction = write_prediction(place, ladder)
    tell(
        quiet, "ladder.predicted", path=place / PREDICTION, rung=ladder.held_back.name,
        value=prediction["predicted_nats_per_token"], low=prediction["interval"]["low"],
        high=prediction["interval"]["high"],
    )  # fmt: skip
    if code := train_group(place, held_back_runs(ladder), show):
        return code
    show.look()
    if not (place / RESULT).exists():
        write_result(place, ladder, command)
    return 0


def check_claim(place: Path, ladder: Ladder) -> None:
    """Raise UserError if `place` holds another ladder or something else."""
    if (place / DEFINITION).is_file():
        if (place / DEFINITION).read_text("utf-8") != to_toml(ladder):
            raise UserError("ladder.other", path=place)
    elif place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError("ladder.not_a_ladder", path=place, file=DEFINITION)


def warn_of_repeats(ladder: Ladder, prepared: Path, quiet: bool) -> None:
    """A law of fresh tokens says less about repeated ones (2305.16264): say so where they are."""
    there = data.read_index(prepared)["train"]["tokens"]
    wanted = max(*ladder.tokens, ladder.held_back_tokens)
    if wanted > there:
        tell(quiet, "ladder.repeats", there=f"{there:,}", epochs=wanted / there)


def tell(quiet: bool, key: str, **values: Any) -> None:
    if not quiet:
        console.print(say(key, **values))


def show_plan(ladder: Ladder) -> None:
    """The rungs with N, D, FLOPs, and the time this machine would take, measured on a few steps."""
    table = Table(box=None, pad_edge=False)
    for key in ("rung", "N", "non_embedding", "D", "flops", "minutes"):
        table.add_column(say(f"ladder.column_{key}"), justify="left" if key == "rung" else "right")
    total_flops, total_s, timed = 0.0, 0.0, True
    for rung in (*ladder.rungs, ladder.held_back):
        runs = [run for run in all_runs(ladder).values() if run.rung == rung]
        own = sum(_own_tokens(run) for run in runs)
        rate = tokens_per_s(runs[0].config) if timed else None
        timed = rate is not None
        seconds = own / rate if rate else math.nan
        cost = own * float(flops.token_flops(runs[0].config.model).total)
        size, counts = sizes(runs[0]), sorted({run.tokens for run in runs if run.point})
        table.add_row(
            rung.name,
            f"{size['N']:,}",
            f"{size['N_non_embedding']:,}",
            " ".join(f"{count / 1e6:.3g}M" for count in counts),
            f"{cost:.2e}",
            f"{seconds / 60:.1f}" if rate else "—",
        )
        total_flops, total_s = total_flops + cost, total_s + seconds
    console.print(table)
    leap, largest = compute_leap(ladder)
    console.print(
        say(
            "ladder.plan", runs=len(all_runs(ladder)), flops=f"{total_flops:.2e}",
            minutes=f"{total_s / 60:.0f}" if timed else "—", rung=ladder.held_back.name,
            leap=leap, largest=largest.name, seeds=ladder.held_back_seeds,
        )
    )  # fmt: skip


def tokens_per_s(config: RunConfig) -> float | None:
    """Training tokens/s here, over a few steps; None if they take longer than a minute."""
    try:
        output = subprocess.run(
            [sys.executable, "-m", "x1.calibrate"],
            input=configuration.to_toml(config),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
            timeout=CALIBRATION_S,
        ).stdout
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    return float(output)


def show_result(place: Path) -> None:
    """The table at the end: predicted, measured, missed by how much, beside the naive guesses."""
    result = folder.read_json(place / RESULT, RESULT_FORMAT)
    prediction = folder.read_json(place / PREDICTION, PREDICTION_FORMAT)
    table = Table(box=None, pad_edge=False)
    for key in ("what", "nats", "miss"):
        table.add_column(say(f"ladder.column_{key}"), justify="left" if key == "what" else "right")
    table.add_row(say("ladder.row_measured"), f"{result['measured_nats_per_token']:.4f}", "")
    guesses = {"law": result, **result["naive"]}
    for name, guess in guesses.items():
        value, miss = guess["predicted_nats_per_token"], guess["miss_nats_per_token"]
        table.add_row(say(f"ladder.row_{name}"), f"{value:.4f}", f"{miss:+.4f}")
    console.print(table)
    interval, verdicts, law = result["interval"], result["verdicts"], prediction["law"]
    deviation = result["seed_deviation_nats_per_token"]
    console.print(
        say(
            "ladder.inside" if verdicts["inside"] else "ladder.outside",
            low=interval["low"], high=interval["high"], level=interval["level"],
            spread="—" if deviation is None else f"{deviation:.4f}", time=result["predicted_at"],
        )
    )  # fmt: skip
    words = {met: say("ladder.met" if met else "ladder.not_met") for met in (True, False)}
    console.print(say("ladder.target_nats", verdict=words[verdicts["miss_at_most_0.02"]]))
    third = words[verdicts["miss_at_most_a_third_of_the_naive"]]
    console.print(say("ladder.target_naive", verdict=third))
    exponents = law["intervals"]
    console.print(
        say(
            "ladder.exponents", alpha=law["alpha"], alpha_low=exponents["alpha"][0],
            alpha_high=exponents["alpha"][1], beta=law["beta"], beta_low=exponents["beta"][0],
            beta_high=exponents["beta"][1],
        )
    )  # fmt: skip
    other = prediction["law_non_embedding"]["predicted_nats_per_token"]
    console.print(say("ladder.other_n", other="—" if other is None else f"{other:.4f}"))
    floor = result["E"]
    if floor["verdict"] is None:
        console.print(
            say("ladder.E_alone", E=floor["fitted"], low=floor["low"], high=floor["high"])
        )
    else:
        console.print(
            say(f"ladder.E_{floor['verdict']}", E=floor["fitted"], low=floor["low"],
                high=floor["high"], floor=floor["floor"])
        )  # fmt: skip
    console.print(say("ladder.done", path=place / RESULT, plot=place / PLOT))


def draw(place: Path) -> None:
    """Write ladder.svg."""
    from x1 import ladder_plot  # matplotlib: only here

    folder.write_atomically(
        place / PLOT,
        ladder_plot.draw(
            folder.read_json(place / POINTS, POINTS_FORMAT)["points"],
            folder.read_json(place / PREDICTION, PREDICTION_FORMAT),
            folder.read_json(place / RESULT, RESULT_FORMAT),
        ),
    )
