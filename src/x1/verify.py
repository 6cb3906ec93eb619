"""`x1 verify RUN`: what a run's folder claims, held against what can be computed again.

Every check takes the run's files and nothing else. It returns a sentence when the claim holds,
raises `Refuted` when it does not, and `Unanswered` when something is missing to tell. The strongest
one trains a few steps again, drawn at random, from a checkpoint that was kept: whoever invents a
curve would have to invent weights that lead along it.
"""

import math
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from x1 import (
    checkpoint,
    data,
    evaluate,
    flops,
    folder,
    hardware,
    history,
    ledger,
    plan,
    replay,
    stability,
    train,
)
from x1 import config as configuration
from x1.config import RunConfig
from x1.history import Moment
from x1.model import Transformer
from x1.optim import learning_rate
from x1.record import dig, number, unix_time
from x1.text import UserError, say

FORMAT = "x1-verification-1"
VERIFICATION = "verification.json"
THE_JOB = "x1-50m"  # what the curriculum's last line is about
SHARE_OF_TOKENS = 0.9  # of the preset's, which the run must have seen to be that job
WINDOW_STEPS = 20
# In nats per token: what other hardware or another version may change over such a window (three
# times what other instructions changed, see docs/measured/verify.json: Muon's rounds are in bf16
# whatever the run's dtype is), and what scoring in another order of summation may.
WINDOW_NATS = {"fp32": 2e-2, "bf16": 5e-2}
SCORE_NATS = {"fp32": 1e-4, "bf16": 5e-3}
UNSEEN_S = 60.0  # of training that the ledger may not have seen: what a kill cuts off

# What the trainer never writes, a stranger may have: fields missing or of another kind, tensors of
# another shape. It can raise nearly anything.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
LONGEST_FAULT = 120
SAVING_SHARE, SAVING_S = 0.2, 5.0  # of an attempt's time: checkpoints, samples, what is not logged

Verdict = Literal["holds", "refuted", "unanswered"]
Json = dict[str, Any]


class Refuted(UserError):
    """The folder contradicts itself, or what was computed again."""


class Unanswered(UserError):
    """Something is missing that the check needs."""


@dataclass(frozen=True)
class Finding:
    check: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Case:
    """A run as it lies there, and how many steps to live again from which draw."""

    run: Path
    config: RunConfig
    lines: list[Json]
    manifest: Json
    window: int
    random: Random


def verify(run: Path, window: int = WINDOW_STEPS, seed: int | None = None) -> Json:
    """Make every check and write verification.json; returns its content.

    `seed` draws the window; without one it is drawn anew, so that no window can be prepared for.
    Raises UserError if `run` is not a run that has been trained to its end.
    """
    config = folder.open_run(run)
    if not any(e.get("event") == "finish" for e in folder.read_lines(run / folder.EVENTS)):
        raise UserError("verify.unfinished", run=run)
    drawn = secrets.randbits(32) if seed is None else seed
    manifest = folder.read_json(run / folder.MANIFEST)
    lines = history.training_lines(run)
    case = Case(run, config, lines, manifest, window, Random(drawn))
    torch.set_num_threads(config.train.threads)
    findings = [examine(name, check, case) for name, check in CHECKS.items()]
    result = {
        "format": FORMAT,
        "time": folder.now(),
        "seed": drawn,
        "window_steps": window,
        "plan_sha256": folder.plan_digest(run),
        "level": level(case, findings),
        "findings": [vars(finding) for finding in findings],
    }
    folder.write_json(run / VERIFICATION, result)
    return result


def examine(name: str, check: Callable[[Case], str], case: Case) -> Finding:
    try:
        return Finding(name, "holds", check(case))
    except Unanswered as gap:
        return Finding(name, "unanswered", str(gap))
    except UserError as fault:  # the package's own refusals: a broken ledger, other data
        return Finding(name, "refuted", str(fault))
    except MALFORMED as fault:
        if isinstance(fault, RuntimeError) and hardware.is_out_of_memory(fault):
            return Finding(name, "unanswered", say("verify.no_memory"))
        what = f"{type(fault).__name__}: {fault}"[:LONGEST_FAULT]
        return Finding(name, "refuted", say("verify.malformed", fault=what))


def level(case: Case, findings: list[Finding]) -> str:
    """ "done", "rehearsed", "incomplete" or "refuted": what the folder may be shown as."""
    verdicts = {finding.verdict for finding in findings}
    if "refuted" in verdicts:
        return "refuted"
    if "unanswered" in verdicts:
        return "incomplete"
    return "done" if is_the_job(case.config, case.manifest) else "rehearsed"


def is_the_job(config: RunConfig, manifest: Json) -> bool:
    """Whether this is the 50M run on a GPU, rather than a rehearsal of it."""
    job = configuration.build(THE_JOB)
    tokens = config.train.steps * config.batch_tokens
    return (
        config.model == job.model
        and tokens >= SHARE_OF_TOKENS * job.train.steps * job.batch_tokens
        and dig(manifest, "hardware", "device") == "cuda"
    )


def check_seal(case: Case) -> str:
    """The plan came first and is the same everywhere: configuration, ledger, checkpoints, model."""
    run, digest = case.run, folder.plan_digest(case.run)
    if digest is None:
        raise Unanswered("verify.no_plan")
    if plan.read_plan(run).get("config_sha256") != data.sha256_of(run / folder.CONFIG):
        raise Refuted("verify.other_config")
    entries = ledger.read_entries(run)
    if ledger.read_ledger(run).plan_sha256 != digest:
        raise Refuted("verify.other_plan", where=folder.LEDGER)
    first = min(unix_time(line["clock"].get("time")) for line in case.lines)
    if unix_time(entries[0]["time"]) > first:
        raise Refuted("verify.planned_later")
    prediction = folder.prediction_digest(run)
    kept = checkpoint.steps(run)
    for step in kept:
        path = checkpoint.path_of(run, step)
        found = checkpoint.read(path)
        if found is None:
            raise checkpoint.refusal(path)
        if found.state.get("plan_sha256") != digest:
            raise Refuted("verify.other_plan", where=path.name)
        if found.state.get("prediction_sha256") != prediction:
            raise Refuted("verify.other_prediction", where=path.name)
    sealed = shipped_metadata(run)
    if sealed.get("x1_plan_sha256") != digest:
        raise Refuted("verify.other_plan", where=folder.MODEL)
    if sealed.get("x1_prediction_sha256") != prediction:
        raise Refuted("verify.other_prediction", where=folder.MODEL)
    return say("verify.seal", digest=digest[:16], checkpoints=len(kept))


def check_ledger(case: Case) -> str:
    """Its chain and sums hold, it is closed, under the ceiling, and paid for all the training."""
    book, entries = ledger.read_ledger(case.run), ledger.read_entries(case.run)
    spent = float(book.spent_usd)
    if not book.closed:
        raise Unanswered("verify.ledger_open")
    if spent > book.ceiling_usd:
        raise Refuted("verify.over_ceiling", spent=spent, ceiling=book.ceiling_usd)
    paid_s = sum(number(entry.get("seconds", 0.0)) for entry in entries)
    trained_s = sum(number(line["clock"].get("seconds")) for line in case.lines)
    if not trained_s <= paid_s + UNSEEN_S:
        raise Refuted("verify.unpaid", paid=paid_s / 3600, trained=trained_s / 3600)
    return say("verify.ledger", entries=len(entries), spent=spent, ceiling=book.ceiling_usd)


def check_curve(case: Case) -> str:
    """Every step is there, with the batch, the learning rate and the tokens it must have had."""
    config = case.config
    curve = {line["step"]: line for line in folder.curve(case.run) if "loss" in line}
    known = history.attempts(case.run, config, case.lines)
    last = known[-1]
    for step in range(config.train.steps):
        line = curve.get(step)
        if line is None:
            raise Refuted("verify.no_step", step=step)
        expected = {
            "data_index": last.index_of(step),
            "lr": learning_rate(config.optim, step, config.train.steps),
            "tokens": (step + 1) * config.batch_tokens,
        }
        for field, value in expected.items():
            if line.get(field) != value:
                raise Refuted("verify.line", step=step, field=field, is_=line.get(field), be=value)
        if not (math.isfinite(number(line["loss"])) and math.isfinite(number(line["grad_norm"]))):
            raise Refuted("verify.not_finite", step=step)
    return say("verify.curve", steps=config.train.steps, attempts=len(known))


def check_mfu(case: Case) -> str:
    """tokens/s are tokens over seconds, and the MFU is theirs, with a peak from the table."""
    config, manifest = case.config, case.manifest
    rates = []
    for line in case.lines:
        seconds, rate = (number(line["clock"].get(name)) for name in ("seconds", "tokens_per_s"))
        implied = config.batch_tokens / seconds if seconds > 0 else math.nan
        if not math.isclose(rate, implied, rel_tol=0.01):
            raise Refuted("verify.rate", step=line["step"], rate=rate, implied=implied)
        rates.append(rate)
    elapsed_s, logged_s = times(case)
    if logged_s < elapsed_s * (1 - SAVING_SHARE) - SAVING_S:
        raise Unanswered("verify.lost_time", elapsed=elapsed_s / 3600, logged=logged_s / 3600)
    per_token = flops.token_flops(config.model, "causal").total
    if number(manifest.get("flops_per_token")) != per_token:
        raise Refuted("verify.flops", is_=manifest.get("flops_per_token"), be=per_token)
    peak = number(dig(manifest, "peak_flops", "value"))
    known = flops.identify(dig(manifest, "hardware", "gpu") or "")
    if known and peak != known.peak_flops_per_s(config.train.dtype):
        raise Refuted("verify.peak", is_=peak, be=known.peak_flops_per_s(config.train.dtype))
    ranks = int(number(dig(manifest, "hardware", "ranks") or 1))
    mfu = median(rates) * per_token / (peak * ranks)
    if not 0 < mfu <= 1:
        raise Refuted("verify.mfu_impossible", mfu=mfu)
    return say("verify.mfu", mfu=mfu, rate=median(rates))


def times(case: Case) -> tuple[float, float]:
    """(seconds by the clock between the first and the last line of each attempt, seconds that the
    lines in between say they took), over all attempts.
    """
    spans: dict[int, list[tuple[float, float]]] = {}
    for line in folder.read_lines(case.run / folder.METRICS):
        clock = line["clock"]
        spans.setdefault(line["attempt"], []).append(
            (unix_time(clock.get("time")), number(clock.get("seconds")))
        )
    elapsed = sum(lines[-1][0] - lines[0][0] for lines in spans.values())
    return elapsed, sum(seconds for lines in spans.values() for _, seconds in lines[1:])


def check_weights(case: Case) -> str:
    """What is in model/ are the weights of the last checkpoint."""
    at = case.config.train.steps
    found = checkpoint.read(checkpoint.path_of(case.run, at))
    if found is None:
        raise Unanswered("verify.no_last_checkpoint", step=at)
    ours, shipped = load_file(found.path / checkpoint.MODEL), shipped_weights(case.run)
    different = [
        name
        for name in ours.keys() | shipped.keys()
        if name not in ours or name not in shipped or not ours[name].equal(shipped[name])
    ]
    if different:
        raise Refuted("verify.other_weights", name=min(different), count=len(different))
    return say("verify.weights", tensors=len(ours), step=at)


def check_held_out(case: Case) -> str:
    """The shipped weights have the loss that evaluation.json and the curve's last line say."""
    config, run = case.config, case.run
    dataset = prepared_data(case)
    data.verify(data.path_of(config))
    evaluation = folder.read_json(run / folder.EVALUATION, evaluate.FORMAT)
    dtype = torch.bfloat16 if config.train.dtype == "bf16" else torch.float32
    model = Transformer(config.model, dtype)
    with torch.no_grad():
        checkpoint.set_weights(model, shipped_weights(run).items())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    tolerance = SCORE_NATS[config.train.dtype]
    last = [line for line in folder.curve(run) if "val_loss" in line][-1]
    claims = (
        (folder.EVALUATION, len(dataset.held_out), dig(evaluation, "held_out",
         "loss_nats_per_token")),
        (folder.METRICS, config.evaluate.tokens, last["val_loss"]),
    )  # fmt: skip
    for file, tokens, claimed in claims:
        score = evaluate.held_out_loss(model, dataset, config, device, tokens).nats_per_token
        if not abs(score - number(claimed)) <= tolerance:
            raise Refuted("verify.other_loss", file=file, claimed=claimed, score=score)
    loss = number(claims[0][2])
    return say("verify.held_out", loss=loss, tokens=len(dataset.held_out), tolerance=tolerance)


def check_window(case: Case) -> str:
    """A window of steps, trained again from a checkpoint, gives the losses on record."""
    if not case.window:
        raise Unanswered("verify.no_window")
    prepared_data(case)
    moment = drawn_window(case)
    again = live_again(moment)
    logged = history.way_to(moment)
    first, last = min(again.losses), max(again.losses)
    worst = 0.0
    for step, loss in again.losses.items():
        line = logged.get(step)
        if line is None:
            raise Refuted("verify.no_step", step=step)
        worst = max(worst, abs(loss - number(line["loss"])))
    tolerance = WINDOW_NATS[case.config.train.dtype]
    found: Json = {"first": first, "last": last, "worst": worst, "tolerance": tolerance}
    if worst == 0:
        return say("verify.window_exact", **found)
    on_cpu = dig(case.manifest, "hardware", "device") == "cpu"
    if again.same_machine and (on_cpu or case.config.train.deterministic):
        raise Refuted("verify.not_exact", **found)
    if not worst <= tolerance:
        raise Refuted("verify.too_far", **found)
    return say("verify.window", **found)


def drawn_window(case: Case) -> Moment:
    """Up to `window` steps after a kept checkpoint, or after the seed's weights: one is drawn."""
    steps = case.config.train.steps
    begins = [0, *(step for step in checkpoint.steps(case.run) if step < steps)]
    begin = case.random.choice(begins)
    return history.find(case.run, min(begin + case.window, steps) - 1)


@dataclass(frozen=True)
class Again:
    """Losses by step, trained again, and whether everything that decides them was as it was."""

    losses: dict[int, float]
    same_machine: bool


def live_again(moment: Moment) -> Again:
    """The steps from the moment's checkpoint up to its own, trained again.

    In a folder aside (see `replay`): the run itself is only read.
    """
    losses: dict[int, float] = {}
    with history.scratch(moment.run, moment.attempt, moment.from_step) as here:
        job = replay.assembled(here, moment)
        at = train.restore(job)
        planned = stability.planned(here, moment.config)
        with progress(say("verify.living", first=at.step, last=moment.step), moment.steps) as tick:
            while at.step <= moment.step:
                faults = stability.active(planned, at.data_index)
                losses[at.step], _ = replay.relive(job, at, faults)
                at.step += 1
                tick()
        return Again(losses, not replay.manifest_differences(job))


def prepared_data(case: Case) -> data.Data:
    """The run's data. Raises Unanswered if it is not here, UserError if it is other data."""
    path = data.path_of(case.config)
    if not path.exists():
        raise Unanswered("verify.no_data", path=path, run=case.run)
    dataset = data.open_data(path)
    if dataset.fingerprint != dig(case.manifest, "data", "fingerprint"):
        raise UserError("replay.other_data", path=path, run=case.run)
    return dataset


def shipped_weights(run: Path) -> dict[str, torch.Tensor]:
    """The artefact's tensors under the trainer's names. Raises Unanswered if there is none."""
    path = run / folder.MODEL / "model.safetensors"
    if not path.is_file():
        raise Unanswered("verify.not_exported", run=run)
    try:
        return {name.removeprefix("model."): value for name, value in load_file(path).items()}
    except SafetensorError:
        raise UserError("folder.damaged", path=path) from None


def shipped_metadata(run: Path) -> dict[str, str]:
    """What the artefact says of its origin. Raises Unanswered if there is none."""
    path = run / folder.MODEL / "model.safetensors"
    if not path.is_file():
        raise Unanswered("verify.not_exported", run=run)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError:
        raise UserError("folder.damaged", path=path) from None


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=Console(stderr=True, force_jupyter=False), transient=True
    ) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)


CHECKS: dict[str, Callable[[Case], str]] = {
    "seal": check_seal,
    "ledger": check_ledger,
    "curve": check_curve,
    "mfu": check_mfu,
    "weights": check_weights,
    "held_out": check_held_out,
    "window": check_window,
}
