"""A ladder: its definition, and the runs it is made of.

`x1 ladder` measures small models, predicts the next one, and only then trains it.

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

Trained by `ladder_climb`, fitted by `ladder_law`, shown by `ladder_page`; torch is never loaded in
any of them: the training process is a child, `python -m x1.rung`.
"""

import json
import math
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from x1 import config as configuration
from x1 import flops, folder
from x1.config import RunConfig
from x1.text import UserError

FORMAT = "x1-ladder-1"
POINTS_FORMAT = "x1-ladder-points-1"
PREDICTION_FORMAT = "x1-ladder-prediction-1"
STARTED_FORMAT = "x1-ladder-started-1"
RESULT_FORMAT = "x1-ladder-result-1"
DEFINITION, RUNS, LOG, PLOT = "ladder.toml", "runs", "train.log", "ladder.svg"
POINTS, PREDICTION = "points.json", "prediction.json"
STARTED, RESULT = "started.json", "result.json"

LEAP = 4.0  # times the compute of any fitted rung: what the held-back one needs at least
HELD_OUT_TEXT_BYTES = 600_000  # of real text: about 200,000 tokens, scored for every point


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


def own_tokens(run: Run) -> int:
    """The tokens a run trains on itself: a branch only those after it has left the trunk."""
    return run.tokens - run.leaves_at * run.config.batch_tokens


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
