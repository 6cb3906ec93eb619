"""`x1 replay RUN --step N`: that very step again, from the nearest checkpoint, seen from inside.

A replay lives in a folder of its own: the run's configuration, its events up to the end of the
attempt that is replayed, and a link to the one checkpoint it begins at. In it the loop's own
functions find what they found then: which batches are left out, which planted faults are still to
strike. So they do again what they did, and the run itself is only ever read.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor

from x1 import data, folder, hardware, layer_stats, stability, train
from x1.history import Moment, scratch, way_to
from x1.optim import learning_rate
from x1.ranks import Ranks, device_of
from x1.stability import Injection
from x1.text import UserError
from x1.train import Job, Position

FORMAT = "x1-replay-1"
WORST_TOKENS = 10
CONTEXT_TOKENS = 24  # of text before a token that is shown
SHARES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)  # of the tokens whose loss is at most the quantile
OF_NO_EFFECT = ("hardware.hostname",)  # fields of the manifest that no number depends on

Json = dict[str, Any]


def replay(what: Moment) -> Json:
    """Live the step again and return everything about it, as plain JSON values but for NaN.

    Raises UserError if the data is not what the run was trained on, or a logged batch is not the
    one that the events lead to.
    """
    with scratch(what.run, what.attempt, what.from_step) as here:
        job = assembled(here, what)
        at = train.restore(job)
        planned = stability.planned(here, what.config)
        logged = way_to(what)
        differs_from = None
        with progress(what) as advance:
            while at.step < what.step:
                faults = stability.active(planned, at.data_index)
                loss, norm = relive(job, at, faults)
                line = logged.get(at.step)
                if differs_from is None and line and (line["loss"], line["grad_norm"]) != (
                    loss, norm,
                ):  # fmt: skip
                    differs_from = at.step
                at.step += 1
                advance()
            batches = [inside(job, what, index, planned) for index in indices_met(what)]
            advance()
        return {
            "format": FORMAT,
            "run": str(what.run),
            "step": what.step,
            "attempt": what.attempt.number,
            "other_attempts": list(what.others),
            "from_step": what.from_step,
            "steps": what.steps,
            "predicted_minutes": what.steps * what.seconds_per_step / 60,
            "batches": batches,
            "differs_from_step": differs_from,
            "manifest_differs": manifest_differences(job),
        }


def assembled(here: Path, what: Moment) -> Job:
    """The run's job as `train` would assemble it on one process of this machine."""
    config = what.config
    dataset = open_data(what)
    hardware.prepare(config.train)
    ranks = Ranks(0, 1, device_of(config.train))
    model, network, optimizers = train.assemble(config, ranks)
    micro_batch = min(hardware.micro_batch(here, config, ranks), config.train.batch_sequences)
    return Job(here, config, dataset, ranks, model, network, optimizers, micro_batch)


def open_data(what: Moment) -> data.Data:
    """The run's data. Raises UserError if it is not what the run was trained on."""
    dataset = data.open_data(data.path_of(what.config))
    manifest = what.run / folder.MANIFEST
    if manifest.exists():
        recorded = folder.read_json(manifest).get("data", {}).get("fingerprint")
        if recorded not in (None, dataset.fingerprint):
            raise UserError("replay.other_data", path=data.path_of(what.config), run=what.run)
    return dataset


def gradients(job: Job, ids: Tensor, faults: set[str]) -> Tensor:
    """The batch's loss, its gradients being in the model, with what was planted in them."""
    config = job.config
    loss = train.forward_backward(
        job.network, ids, job.micro_batch, config.optim.z_loss, config.train.compile
    )
    stability.tamper_gradient(faults, job.model)
    return loss


def clipped(job: Job, loss: Tensor, faults: set[str]) -> tuple[float, float]:
    """(loss, gradient norm) as they are logged; the gradients are clipped."""
    clip = stability.tamper_clip(faults, job.config.optim.clip)
    norm = train.clip_gradients(job.model, clip)
    return train.agree(job, loss, norm, False, False)[:2]


def learn(job: Job, step: int, faults: set[str]) -> None:
    lr = learning_rate(job.config.optim, step, job.config.train.steps)
    train.update(job.optimizers, stability.tamper_lr(faults, lr))


def relive(job: Job, at: Position, faults: set[str]) -> tuple[float, float]:
    """One step that was trained, trained again; returns its loss and gradient norm."""
    ids = stability.tamper_batch(faults, train.batch(job, at.data_index))
    loss, norm = clipped(job, gradients(job, ids, faults), faults)
    learn(job, at.step, faults)
    return loss, norm


def indices_met(what: Moment) -> list[int]:
    """The batches that the step met in this attempt, in order: those it left out, then its own."""
    left_out = [
        event["data_index"]
        for event in what.attempt.own_events
        if event["event"] == "skip" and event["step"] == what.step
    ]
    return [*left_out, what.attempt.index_of(what.step)]


def inside(job: Job, what: Moment, index: int, planned: list[Injection]) -> Json:
    """Everything about one batch at the step, which is learnt in the end if it was then."""
    faults = stability.active(planned, index)
    ids = stability.tamper_batch(faults, train.batch(job, index))
    logged = logged_about(what, index)
    blocks, token_losses = layer_stats.forward_stats(job.model, ids)
    loss_tensor = gradients(job, ids, faults)
    norms = layer_stats.gradient_norms(job.model)
    loss, norm = clipped(job, loss_tensor, faults)
    ratios: dict[str, float] = {}
    if logged.get("outcome") == "trained":
        ratios = layer_stats.update_ratios(job.model, lambda: learn(job, what.step, faults))
    else:
        train.discard_gradients(job.optimizers)
    for number, block in enumerate(blocks):
        block["gradient_norm"] = layer_stats.total_norm(norms, f"layers.{number}.")
    return {
        "data_index": index,
        "outcome": logged.get("outcome", "unknown"),
        "planted": sorted(faults),
        "lr": learning_rate(job.config.optim, what.step, job.config.train.steps),
        "loss": loss,
        "grad_norm": norm,
        "logged": {name: logged.get(name) for name in ("loss", "grad_norm")},
        "bit_exact": same(logged, loss, norm),
        "layers": blocks,
        "gradient_norms": norms,
        "update_to_weight": ratios,
        **tokens(job.dataset, ids, token_losses),
    }


def logged_about(what: Moment, index: int) -> Json:
    """What is on record about this batch at this step: `outcome`, and loss and grad_norm if known.

    Raises UserError if the step's line names another batch than the events lead to.
    """
    number, step, judged = what.attempt.number, what.step, Json()
    ended = [e for e in folder.events(what.run, "rollback") if e["attempt"] == number + 1]
    for event in [*what.attempt.own_events, *ended]:
        kind, reason = event["event"], event.get("reason")
        here = (event.get("step"), event.get("data_index")) == (step, index)
        if kind == "spike" and here:
            judged = {"loss": event["loss"], "grad_norm": event["grad_norm"]}
        elif kind == "skip" and here:
            return {**judged, "outcome": "skipped", "reason": reason}
        elif kind == "rollback" and event["from_step"] == step and event in ended:
            return {**judged, "outcome": "rolled-back", "reason": reason}
        elif kind == "stop" and event.get("step") == step and reason in ("spike", "non-finite"):
            return {**judged, "outcome": "gave-up", "reason": reason}
    for line in reversed(what.lines):
        if (line["attempt"], line["step"]) == (number, step):
            if line["data_index"] != index:
                logged = line["data_index"]
                raise UserError("replay.other_batch", step=step, logged=logged, found=index)
            return {**line, "outcome": "trained"}
    return judged


def same(logged: Json, loss: float, norm: float) -> bool | None:
    """Whether loss and gradient norm are the logged ones, to the last bit; None if none are.

    A step left out as non-finite has no figures on record: it agrees if it is so again.
    """
    if "loss" in logged:
        return (logged["loss"], logged["grad_norm"]) == (loss, norm)
    if logged.get("reason") == "non-finite":
        return not (math.isfinite(loss) and math.isfinite(norm))
    return None


def tokens(dataset: data.Data, ids: Tensor, losses: Tensor) -> Json:
    """The batch's sequences as text with their loss, and the tokens that cost most.

    `ids` is (B, T + 1), `losses` (B, T) in nats, each that of the token after its input.
    """
    rows, text = ids.tolist(), dataset.tokenizer.decode
    width = losses.shape[1]
    ranked = losses.nan_to_num(math.inf).flatten().topk(min(WORST_TOKENS, losses.numel())).indices
    worst = []
    for place in ranked.tolist():
        row, target = place // width, place % width + 1
        worst.append({
            "sequence": row,
            "position": target,
            "before": text(rows[row][max(0, target - CONTEXT_TOKENS) : target]),
            "token": text(rows[row][target : target + 1]),
            "loss": float(losses[row, target - 1]),
        })  # fmt: skip
    ordered = losses.flatten().double().sort().values.tolist()
    return {
        "token_loss_quantiles": {
            f"{share:g}": ordered[round(share * (len(ordered) - 1))] for share in SHARES
        },
        "worst_tokens": worst,
        "sequences": [
            {"loss": float(loss), "text": text(row)}
            for row, loss in zip(rows, losses.mean(1), strict=True)
        ],
    }


def manifest_differences(job: Job) -> dict[str, list[Any]]:
    """{"hardware.cpu": [as recorded, here]} for each field of the manifest that is not the same."""
    path = job.run / folder.MANIFEST
    recorded = flat(folder.read_json(path) if path.exists() else {})
    here = flat({
        "git_commit": hardware.git_commit(),
        "versions": hardware.versions(),
        "hardware": hardware.describe(job.ranks, job.config.train.threads),
        "micro_batch": job.micro_batch,
    })  # fmt: skip
    return {
        name: [recorded.get(name), value]
        for name, value in here.items()
        if recorded.get(name) != value and name not in OF_NO_EFFECT
    }


def flat(tree: Json) -> Json:
    """{"a.b": 1} for {"a": {"b": 1}}, one level deep."""
    leaves: Json = {}
    for name, value in tree.items():
        parts = value.items() if isinstance(value, dict) else ()
        leaves |= {f"{name}.{part}": leaf for part, leaf in parts} if parts else {name: value}
    return leaves


def batch_text(what: Moment) -> Json:
    """The step's batches as text alone: no step is trained for that."""
    dataset = open_data(what)
    config = what.config
    with scratch(what.run, what.attempt) as here:
        planned = stability.planned(here, config)
    batches = []
    for index in indices_met(what):
        faults = stability.active(planned, index)
        whole = data.batch(
            dataset.train, config.data.seed, index,
            config.train.batch_sequences, config.model.context,
        )  # fmt: skip
        ids = stability.tamper_batch(faults, torch.from_numpy(whole))
        batches.append({
            "data_index": index,
            "outcome": logged_about(what, index).get("outcome", "unknown"),
            "planted": sorted(faults),
            "sequences": [{"text": dataset.tokenizer.decode(row)} for row in ids.tolist()],
        })  # fmt: skip
    return {
        "format": FORMAT,
        "run": str(what.run),
        "step": what.step,
        "attempt": what.attempt.number,
        "other_attempts": list(what.others),
        "batches": batches,
    }


@contextmanager
def progress(what: Moment) -> Iterator[Any]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=what.steps)
        yield lambda: bar.advance(task)
