"""The training loop: `python -m x1.train RUN`, alone or under torchrun.

Step s is the state after s optimizer updates. Its line in metrics.jsonl is the loss of that state
on the batch it is about to learn from, so the line of step 0 is the untrained model.

Everything that decides the future is a function of the configuration, the data and what is on the
disk: kill this process anywhere, start it again, and the result is the same, byte for byte.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from x1 import checkpoint, data, evaluate, folder, hardware, ledger, stability, track
from x1.config import RunConfig
from x1.model import Transformer, initial_values, initialise
from x1.optim import build_optimizers, learning_rate
from x1.ranks import (
    Ranks,
    average,
    from_first,
    gathered,
    hold_gradients,
    joined,
    reshard,
    spread_over,
)
from x1.stability import Detector
from x1.text import UserError, say

EXIT_CODES = {"done": 0, "gave-up": 3, "stopped": 130}


def ignore(line: dict[str, Any]) -> None:
    """What a run that is not tracked does with a line."""


@dataclass(frozen=True)
class Job:
    """What stays the same from the first step to the last.

    `model` has the parameters, `network` is what is called to train: the same object, or the
    model wrapped for several ranks. `micro_batch` counts sequences per forward pass and rank.
    `track` is told each line of metrics.jsonl.
    """

    run: Path
    config: RunConfig
    dataset: data.Data
    ranks: Ranks
    model: Transformer
    network: nn.Module
    optimizers: list[torch.optim.Optimizer]
    micro_batch: int
    track: Callable[[dict[str, Any]], None] = ignore


@dataclass
class Position:
    """Where the run stands. `skipped` maps a batch's data_index to why it is never trained on."""

    step: int
    attempt: int
    skipped: dict[int, str]
    detector: Detector

    @property
    def data_index(self) -> int:
        """The batch of this step: the step-th one that is not skipped."""
        index = self.step
        for other in sorted(self.skipped):
            index += other <= index
        return index


def train(run: Path) -> int:
    """Train `run` from wherever it stands to its last step; returns the exit code."""
    config = folder.open_run(run)
    dataset = data.open_data(data.path_of(config))
    with ExitStack() as stack:
        ranks = stack.enter_context(joined(config.train))
        if ranks.first:
            stack.enter_context(folder.locked(run))
        hardware.prepare(config.train)
        share_batch(config, ranks)
        model, network, optimizers = assemble(config, ranks)
        micro_batch = hardware.micro_batch(run, config, ranks)
        tracker = stack.enter_context(track.opened(run, config)) if ranks.first else ignore
        job = Job(run, config, dataset, ranks, model, network, optimizers, micro_batch, tracker)
        if ranks.first:
            if not (run / folder.MANIFEST).exists():
                data.verify(data.path_of(config))
            elif hardware.trained_on(run) != dataset.fingerprint:
                raise UserError("train.other_data", path=data.path_of(config), run=run)
            hardware.write_manifest(job)
            start_attempt(run)
        stop = StopSignal()
        outcome = "rollback"
        while outcome == "rollback":
            outcome = loop(job, restore(job), stop)
        return EXIT_CODES[outcome]


def assemble(
    config: RunConfig, ranks: Ranks
) -> tuple[Transformer, nn.Module, list[torch.optim.Optimizer]]:
    """The untrained model, the module to call for training it, and its optimizers."""
    dtype = torch.bfloat16 if config.train.dtype == "bf16" else torch.float32
    model = Transformer(config.model, dtype, config.train.recompute).to(ranks.device)
    initialise(model, config.train.seed)
    network = spread_over(ranks, model, config.train.parallel)
    if config.train.compile:
        network.compile(dynamic=False)  # one batch size: a graph for any would be slower
    return model, network, build_optimizers(model, config.optim)


def loop(job: Job, at: Position, stop: "StopSignal") -> str:
    """Train until "done", "stopped", "rollback" or "gave-up"; says which."""
    config, steps, first = job.config, job.config.train.steps, job.ranks.first
    faults_planned = stability.planned(job.run, config)
    pace = stability.Pace(earlier_seconds(job.run) if first else ())
    saved_at = time.monotonic()
    if at.step == 0:
        milestone(job, at)

    with progress_bar(job, at) as advance:
        while at.step < steps:
            started = time.monotonic()
            index = at.data_index
            faults = stability.active(faults_planned, index)
            ids = stability.tamper_batch(faults, batch(job, index))
            lr = learning_rate(config.optim, at.step, steps)

            loss_tensor = forward_backward(
                job.network, ids, job.micro_batch, config.optim.z_loss, config.train.compile
            )
            stability.tamper_gradient(faults, job.model)
            clip = stability.tamper_clip(faults, config.optim.clip)
            norm_tensor = clip_gradients(job.model, clip)
            save_due = time.monotonic() - saved_at > 60 * config.checkpoint.every_minutes
            flags = stop.asked, save_due
            loss, norm, stopping, save_due = agree(job, loss_tensor, norm_tensor, *flags)

            verdict = judge(job, at, loss, norm, clip)
            if first:
                record(job, at, faults, verdict)
            if verdict.action != "go":  # nothing of this step reaches weights, moments or counters
                discard_gradients(job.optimizers)
                if verdict.action == "skip":
                    skip(job, at, verdict.reason)
                    continue
                return roll_back(job, at, verdict.reason)

            update(job.optimizers, stability.tamper_lr(faults, lr))
            if first:
                log_step(job, at, index, loss, norm, lr, time.monotonic() - started, pace)
            at.step += 1
            advance(at.step, loss)
            milestone(job, at)

            reason = save_reason(config, at.step, save_due, stopping)
            if reason:
                save(job, at, reason)
                saved_at = time.monotonic()
            if stopping and at.step < steps:
                return stopped(job, at, stop)
    return finished(job, at)


def share_batch(config: RunConfig, ranks: Ranks) -> None:
    """Refuse a batch that the ranks cannot share equally."""
    sequences = config.train.batch_sequences
    if sequences % ranks.world:
        nearest = max(1, round(sequences / ranks.world)) * ranks.world
        raise UserError("config.batch_ranks", batch=sequences, world=ranks.world, nearest=nearest)


def batch(job: Job, index: int) -> Tensor:
    """This rank's slice of global batch `index`: ids (B / world, T + 1) on the device."""
    config, ranks = job.config, job.ranks
    ids = torch.from_numpy(
        data.batch(
            job.dataset.train,
            config.data.seed,
            index,
            config.train.batch_sequences,
            config.model.context,
            ranks.rank,
            ranks.world,
        )
    )
    if ranks.device.type == "cuda":
        ids = ids.pin_memory()
    return ids.to(ranks.device, non_blocking=True)


def forward_backward(
    network: nn.Module, ids: Tensor, micro_batch: int, z_loss: float, compiled: bool = False
) -> Tensor:
    """Gradients of the batch's mean loss, one micro-batch at a time; returns that mean, in nats."""
    total = torch.zeros((), device=ids.device)
    parts = ids.split(micro_batch)
    for number, part in enumerate(parts, start=1):
        hold_gradients(network, number < len(parts))
        share = len(part) / len(ids)
        measure = compiled_loss() if compiled else loss_and_penalty
        loss, penalty = measure(network(part[:, :-1]), part[:, 1:], z_loss)
        ((loss + penalty) * share).backward()
        total += loss.detach() * share
    return total


def loss_and_penalty(logits: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of `logits` (B, T, V), and the z-loss (2204.02311, section 5)."""
    logits = logits.float().flatten(0, 1)  # (B T, V), softmax in fp32
    loss = F.cross_entropy(logits, targets.flatten())
    return loss, z_loss * logits.logsumexp(-1).square().mean() if z_loss else torch.zeros_like(loss)


@cache
def compiled_loss() -> Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    """`loss_and_penalty`, compiled: eager, it reads and writes the logits a dozen times, and they
    are the largest tensor there is.
    """
    return torch.compile(loss_and_penalty, dynamic=False)


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale all gradients down to a global norm of at most `limit`; returns the norm before."""
    return gathered(nn.utils.clip_grad_norm_(model.parameters(), limit or math.inf))


def agree(
    job: Job, loss: Tensor, norm: Tensor, stop_asked: bool, save_due: bool
) -> tuple[float, float, bool, bool]:
    """What all ranks go by: mean loss, gradient norm, does any want to stop, or to save?"""
    flags = torch.tensor([stop_asked, save_due], dtype=loss.dtype, device=loss.device)
    values = torch.cat([torch.stack([loss, norm.to(loss)]), flags])
    mean_loss, mean_norm, stopping, due = average(values, job.ranks)
    return mean_loss, mean_norm, stopping > 0, due > 0


def judge(job: Job, at: Position, loss: float, norm: float, clip: float) -> stability.Verdict:
    """What to do with a step of this loss and gradient norm (see `stability.judge`)."""

    def probe_loss() -> float:
        ids = batch(job, at.detector.quiet_index)
        total = torch.zeros(1, device=ids.device)
        with torch.no_grad(), uncompiled(job.config):
            for part in ids.split(job.micro_batch):
                loss, _ = loss_and_penalty(job.network(part[:, :-1]), part[:, 1:], 0.0)
                total += loss * len(part) / len(ids)
        reshard(job.network)
        return average(total, job.ranks)[0]

    return stability.judge(
        at.detector, job.config.stability, at.data_index, loss, norm, clip, at.skipped, probe_loss
    )


def record(job: Job, at: Position, faults: set[str], verdict: stability.Verdict) -> None:
    """Put on record what was planted at this step and what was noticed."""
    where = {"step": at.step, "data_index": at.data_index}
    if faults:
        folder.record_event(job.run, "inject", **where, kinds=sorted(faults))
    if verdict.event:
        folder.record_event(job.run, "spike", **where, **verdict.event)


def update(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """One step of every optimizer at learning rate `lr`; the gradients are gone afterwards."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    discard_gradients(optimizers)


def discard_gradients(optimizers: list[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()


def log_step(
    job: Job,
    at: Position,
    index: int,
    loss: float,
    norm: float,
    lr: float,
    seconds: float,
    pace: stability.Pace,
) -> None:
    """One line of metrics.jsonl; what depends on time stands under `clock`, apart from the rest."""
    tokens = job.config.batch_tokens
    line = {
        "step": at.step,
        "attempt": at.attempt,
        "data_index": index,
        "loss": loss,
        "grad_norm": norm,
        "lr": lr,
        "tokens": (at.step + 1) * tokens,
        "clock": {
            "time": folder.now(),
            "seconds": round(seconds, 6),
            "tokens_per_s": round(tokens / seconds, 1),
        },
    }
    folder.append_line(job.run / folder.METRICS, line)
    job.track(line)
    slowed = pace.slowed(seconds)
    if slowed:
        recent, usual = (round(tokens / value, 1) for value in slowed)
        clock = {"tokens_per_s": recent, "usual_tokens_per_s": usual}
        folder.record_event(job.run, "slow", step=at.step, attempt=at.attempt, clock=clock)


def earlier_seconds(run: Path) -> list[float]:
    """Seconds of the run's steps so far, in the order they were made."""
    lines = folder.read_lines(run / folder.METRICS)
    return [line["clock"]["seconds"] for line in lines if "loss" in line]


def uncompiled(config: RunConfig) -> AbstractContextManager[Any]:
    """Forward passes inside run operator by operator, also in a compiled run: compiling a graph
    without gradients takes longer than it saves (docs/ideas.md).
    """
    if not config.train.compile:
        return nullcontext()  # naming a stance loads the compiler
    return torch.compiler.set_stance("force_eager")


def milestone(job: Job, at: Position) -> None:
    """The held-out loss and the samples that are due at this step."""
    config = job.config
    if at.step % config.evaluate.every_steps == 0 or at.step == config.train.steps:
        started = time.monotonic()
        with uncompiled(config):
            score = evaluate.held_out_loss(job.network, job.dataset, config, job.ranks.device)
        line = {
            "step": at.step,
            "attempt": at.attempt,
            "val_loss": score.nats_per_token,
            "val_tokens": score.tokens,
            "clock": {"time": folder.now(), "seconds": round(time.monotonic() - started, 6)},
        }
        overfits = at.detector.overfits(score.nats_per_token)
        if job.ranks.first:
            folder.append_line(job.run / folder.METRICS, line)
            job.track(line)
            if overfits:
                record_overfitting(job, at, score.nats_per_token)
    if at.step in config.sample.milestones:
        with uncompiled(config):
            texts = evaluate.samples(job.network, job.dataset, config, job.ranks.device, at.step)
        for text in texts:
            if job.ranks.first:
                line = {"step": at.step, "attempt": at.attempt, **text}
                folder.append_line(job.run / folder.SAMPLES, line)
    reshard(job.network)


def record_overfitting(job: Job, at: Position, val_loss: float) -> None:
    """Put on record that validation and training loss have parted; nothing is decided by it."""
    best_val, loss_then = at.detector.best or (math.nan, math.nan)
    folder.record_event(
        job.run,
        "overfitting",
        step=at.step,
        attempt=at.attempt,
        val_loss=val_loss,
        best_val_loss=best_val,
        loss=at.detector.level,
        loss_then=loss_then,
    )


def save_reason(config: RunConfig, step: int, clock_due: bool, stopping: bool) -> str | None:
    """Why a checkpoint is due at this step, or None."""
    if step % config.checkpoint.every_steps == 0 or step == config.train.steps:
        return "regular"
    if step in config.checkpoint.milestones:
        return "milestone"
    return "stop" if stopping else "clock" if clock_due else None


def save(job: Job, at: Position, reason: str) -> None:
    """A checkpoint of this position; older ones that are no longer needed go."""
    weights = checkpoint.model_tensors(job.model)  # collective: every rank takes part
    moments = checkpoint.optimizer_tensors(job.model, job.optimizers)
    if not job.ranks.first:
        return
    folder.sync(job.run / folder.METRICS)  # the lines up to here are as durable as the state
    state = {
        "attempt": at.attempt,
        "data_index": at.data_index,
        "skipped": {str(index): why for index, why in sorted(at.skipped.items())},
        "detector": at.detector.state(),
        "plan_sha256": folder.plan_digest(job.run),
        "prediction_sha256": folder.prediction_digest(job.run),
        "ledger_checksum": ledger.last_checksum(job.run),  # a witness: see supervise
    }
    path = checkpoint.write(job.run, at.step, weights, moments, state)
    folder.record_event(
        job.run, "checkpoint", step=at.step, attempt=at.attempt, path=path.name, reason=reason
    )
    rules = job.config.checkpoint
    # The newest good checkpoint, and those after it that have yet to prove themselves.
    of_use = range(good_step(job.config, at.step), at.step, rules.every_steps)
    checkpoint.prune(job.run, rules.keep, {*rules.milestones, *of_use})


def good_step(config: RunConfig, step: int) -> int:
    """The newest step whose regular checkpoint has been followed by a quiet window.

    Only regular checkpoints count: one made by the clock would let timing decide where a
    roll-back lands, and a replayed run could not land there again.
    """
    every = config.checkpoint.every_steps
    return max(0, step - config.stability.window) // every * every


def start_attempt(run: Path) -> None:
    """Clear what a kill left behind and put the next attempt on record."""
    checkpoint.clear_unfinished(run)
    step = 0
    found, refused = checkpoint.newest(run, valid_after(run))
    kinds = report_refused(run, refused)
    if found:
        step = found.step
        print(say("train.resumed", step=step))
    elif "foreign" in kinds:  # a changed config.toml would cost the whole run so far
        raise UserError("train.all_foreign", path=run / folder.CHECKPOINTS)
    elif kinds:
        print(say("train.none_sound"), file=sys.stderr)
    attempt = folder.attempt(run) + 1
    folder.record_event(run, "start", attempt=attempt, step=step, pid=os.getpid())


def report_refused(run: Path, refused: list[Path]) -> list[str]:
    """Name the checkpoints that are not used, on record and on stderr; returns why, for each."""
    kinds: list[str] = []
    for path in refused:
        kinds.append(checkpoint.fault(path))
        folder.record_event(run, "damaged", path=path.name, kind=kinds[-1])
        print(checkpoint.refusal(path), file=sys.stderr)
    return kinds


def valid_after(run: Path) -> Callable[[checkpoint.Checkpoint], bool]:
    """A test for checkpoints: not one from a stretch that a roll-back has undone."""
    undone = [(e["attempt"], e["to_step"]) for e in folder.events(run, "rollback")]
    return lambda c: all(c.state["attempt"] >= a or c.step <= to_step for a, to_step in undone)


def restore(job: Job) -> Position:
    """Put the model and its optimizers where the run stands, and say where that is.

    The newest valid checkpoint, or the seed's initial state; skipped batches are on record in
    events.jsonl from the moment they are, so none is ever trained on again.
    """
    found = checkpoint.newest(job.run, valid_after(job.run))[0] if job.ranks.first else None
    skips = {e["data_index"]: e["reason"] for e in folder.events(job.run, "skip")}
    for event in folder.events(job.run, "rollback"):
        skips |= dict.fromkeys(event["skipped"], "rollback")
    state = from_first(
        {
            "step": found.step if found else 0,
            "attempt": folder.attempt(job.run),
            "skipped": sorted(skips.items()),
            "detector": found.state["detector"] if found else Detector().state(),
        },
        job.ranks,
    )
    if state["step"]:
        checkpoint.restore(job.run, state["step"], job.model, job.optimizers)
    else:
        checkpoint.forget(job.optimizers)
        checkpoint.set_weights(job.model, initial_values(job.model, job.config.train.seed))
        torch.manual_seed(job.config.train.seed)  # as given by torch, it is another in each process
    return Position(
        state["step"],
        state["attempt"],
        {int(index): reason for index, reason in state["skipped"]},
        Detector.from_state(state["detector"]),
    )


def skip(job: Job, at: Position, reason: str) -> None:
    """Never train on this step's batch; on the disk before training goes on."""
    index = at.data_index
    if job.ranks.first:
        folder.record_event(job.run, "skip", step=at.step, data_index=index, reason=reason)
    at.skipped[index] = reason


def roll_back(job: Job, at: Position, reason: str) -> str:
    """Undo the run to its last good checkpoint, the offending batches skipped from now on.

    Returns "rollback", or "gave-up" when the configuration allows no more of them.
    """
    done = len(folder.events(job.run, "rollback"))
    rules = job.config.stability
    if rules.policy != "rollback" or done >= rules.max_rollbacks:
        save(job, at, "stop")
        if job.ranks.first:
            folder.record_event(job.run, "stop", step=at.step, reason=reason)
            print(say("train.gave_up", step=at.step, rollbacks=done), file=sys.stderr)
        return "gave-up"
    if job.ranks.first:
        target = good_step(job.config, at.step)
        sound, refused = checkpoint.newest(
            job.run, lambda c: valid_after(job.run)(c) and c.step <= target
        )
        report_refused(job.run, refused)
        to_step = sound.step if sound else 0
        # The last quiet batch is among them: its loss was measured before its update did harm.
        first_bad = max(0, at.detector.quiet_index)
        skipped = [i for i in range(first_bad, at.data_index + 1) if i not in at.skipped]
        folder.record_event(
            job.run,
            "rollback",
            from_step=at.step,
            to_step=to_step,
            attempt=folder.attempt(job.run) + 1,
            skipped=skipped,
            fired=stability.fired(job.config, at.data_index),
            reason=reason,
        )
        print(say("train.rolled_back", from_step=at.step, to_step=to_step, batches=len(skipped)))
    from_first(None, job.ranks)  # the others read the event only once it is there
    return "rollback"


def stopped(job: Job, at: Position, stop: "StopSignal") -> str:
    if job.ranks.first:
        folder.record_event(job.run, "stop", step=at.step, reason=stop.name)
        print(say("train.stopped", step=at.step, run=job.run))
    return "stopped"


def finished(job: Job, at: Position) -> str:
    if job.ranks.first and not folder.events(job.run, "finish"):
        folder.record_event(job.run, "finish", step=at.step)
    return "done"


class StopSignal:
    """Ctrl-C and SIGTERM, remembered: training ends after this step, with a checkpoint.

    So it does when the parent process is gone: nobody would be counting the dollars.
    """

    def __init__(self) -> None:
        self.name = ""
        self.parent = os.getppid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: Any) -> None:
        self.name = signal.Signals(number).name.lower()

    @property
    def asked(self) -> bool:
        if os.getppid() != self.parent:
            self.name = self.name or "orphaned"
        return bool(self.name)


@contextmanager
def progress_bar(job: Job, at: Position) -> Iterator[Callable[[int, float], None]]:
    """A bar on rank 0; yields the function that moves it to (steps done, latest loss)."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not job.ranks.first) as bar:
        task = bar.add_task("", total=job.config.train.steps, completed=at.step, loss="", speed="")
        began, from_step = time.monotonic(), at.step

        def advance(step: int, loss: float) -> None:
            rate = (step - from_step) * job.config.batch_tokens / (time.monotonic() - began)
            bar.update(
                task,
                completed=step,
                loss=say("train.loss", loss=loss),
                speed=say("train.speed", rate=rate),
            )

        yield advance


def main() -> int:
    """`python -m x1.train RUN`: one sentence and exit code 2 for what the user can mend."""
    try:
        return train(Path(sys.argv[1]))
    except UserError as fault:
        print(fault, file=sys.stderr)
    except RuntimeError as fault:
        if not hardware.is_out_of_memory(fault):
            raise
        print(hardware.out_of_memory(Path(sys.argv[1])), file=sys.stderr)
    except OSError as fault:
        print(folder.disk_fault(fault), file=sys.stderr)
    return 2


def leave(code: int) -> NoReturn:
    """End the process; one of several ranks at once, its files and streams being on their way.

    The teardown of C++ libraries that would follow can abort a rank that has finished its work
    (gloo with FSDP: 1 exit in 60), and torchrun would report the whole run as failed.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
