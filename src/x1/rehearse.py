"""`x1 rehearse`: the whole capstone in miniature, on the CPU at hand, on the generated corpus.

Plan, cost sentence, training, a spike that is detected and rolled back, a real SIGKILL, the spike
replayed, a bit-exact resume, evaluation, artefact, report, post-mortem. It proves each thing it
claims, and names the file the proof is in; a claim that fails is printed as failed, and the exit
code says so.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from x1 import config as configuration
from x1 import (
    data,
    evaluate,
    export,
    folder,
    history,
    plan,
    plan_page,
    postmortem,
    replay,
    replay_page,
    report,
)
from x1.config import RunConfig
from x1.supervise import supervise
from x1.text import language, say

KILL_FRACTION = 0.55  # of the run; the kill comes some steps after a checkpoint
FAILED = 1

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Claim:
    """One thing the rehearsal shows: whether it held, in which words, proved by which file."""

    holds: bool
    text: str
    proof: Path


def rehearse(run: Path) -> int:
    """Run the rehearsal in folder `run`; 0 if every claim held, 1 if one did not."""
    began = time.monotonic()
    config = configuration.build("rehearsal")
    folder.check_claim(run, config)
    stage("plan", run=run)
    prepared = data.prepare(config)
    plan_page.run_plan_command(config, today=date.today(), out=run, calibrate=plan_page.measure)

    stage("train")
    kill_at = kill_step(config)
    killer = threading.Thread(target=kill_trainer_at, args=(run, kill_at), daemon=True)
    killer.start()
    code = supervise(run)
    killed = code == 128 + signal.SIGKILL
    replayed = None
    if killed:
        stage("replay", step=kill_at)
        replayed = replay_spike(run)
        stage("resume")
        code = supervise(run)
    if code != 0:
        return code

    stage("evaluate")
    scores = evaluate.evaluate(run)
    console.print(evaluate.describe(scores))
    artefact = export.export(run)
    page = report.write_report(run, language())

    claims = [
        spike_claim(run),
        replay_claim(run, replayed),
        postmortem_claim(run, replayed),
        resume_claim(run, killed),
        *learnt_claims(run, scores),
        prediction_claim(run, scores),
        artefact_claim(run, artefact),
    ]
    show(claims)
    console.print(
        say("rehearse.done", minutes=(time.monotonic() - began) / 60, page=page, data=prepared)
    )
    console.print(how_to_go_on())
    return 0 if all(claim.holds for claim in claims) else FAILED


def stage(key: str, **values: Any) -> None:
    console.rule(say(f"rehearse.stage_{key}", **values), align="left")


def kill_step(config: RunConfig) -> int:
    """A step well after a checkpoint, so that there are steps to live through twice."""
    every = config.checkpoint.every_steps
    return int(KILL_FRACTION * config.train.steps) // every * every + 3 * every // 5


def kill_trainer_at(run: Path, step: int) -> None:
    """SIGKILL the training process once it has logged `step`."""
    while True:
        time.sleep(0.02)
        lines = folder.read_lines(run / folder.METRICS)
        if lines and lines[-1]["step"] >= step:
            os.kill(folder.events(run, "start")[-1]["pid"], signal.SIGKILL)
            return


def spike_claim(run: Path) -> Claim:
    """The injected spike was noticed within 3 steps, judged harmful, and undone."""
    injected = folder.events(run, "inject")
    spikes = [e for e in folder.events(run, "spike") if not e["benign"]]
    rollbacks = folder.events(run, "rollback")
    proof = run / folder.EVENTS
    if not (injected and spikes and rollbacks):
        return Claim(False, say("rehearse.no_spike"), proof)
    delay = spikes[0]["step"] - injected[0]["step"]
    text = say(
        "rehearse.spike",
        kind=injected[0]["kinds"][0],
        step=injected[0]["step"],
        delay=delay,
        to_step=rollbacks[0]["to_step"],
        batches=len(rollbacks[0]["skipped"]),
    )
    return Claim(0 <= delay <= 3, text, proof)


def harmful_spike(run: Path) -> dict[str, Any]:
    """The first spike that was judged harmful; an empty record if there is none."""
    return next((e for e in folder.events(run, "spike") if not e["benign"]), {})


def replay_spike(run: Path) -> Path | None:
    """Replay the step at which the spike was noticed; returns the file with what it showed."""
    spike = harmful_spike(run)
    if not spike:
        return None
    moment = history.find(run, spike["step"], folder.events(run, "start")[0]["attempt"])
    console.print(replay_page.cost(moment, batch_only=False))
    result = replay.replay(moment)
    path = run / f"replay-{moment.step}.json"
    folder.write_json(path, replay_page.finite(result))
    return path


def replay_claim(run: Path, replayed: Path | None) -> Claim:
    """The step of the spike, lived again from a checkpoint, gave what was logged, bit for bit."""
    if replayed is None:
        return Claim(False, say("rehearse.not_replayed"), run / folder.EVENTS)
    result = folder.read_json(replayed)
    batch = result["batches"][-1]
    text = say(
        "rehearse.replayed",
        step=result["step"], attempt=result["attempt"], from_step=result["from_step"],
        loss=f"{batch['loss']}", logged=f"{batch['logged']['loss']}",
    )  # fmt: skip
    return Claim(batch["bit_exact"] is True, text, replayed)


def postmortem_claim(run: Path, replayed: Path | None) -> Claim:
    """The spike's post-mortem is drafted: it tells of the fault, the harm and the way back."""
    spike = harmful_spike(run)
    if not spike:
        return Claim(False, say("rehearse.no_postmortem"), run / folder.EVENTS)
    path = postmortem.write_postmortem(run, spike["step"], replayed)
    draft = path.read_text("utf-8")
    told = [
        *(kind for event in folder.events(run, "inject") for kind in event["kinds"]),
        *(say("report.event.rollback"), f"{spike['loss']:.4f}"),
    ]
    candidates = draft.count("\n### ")
    text = say("rehearse.postmortem", step=spike["step"], candidates=candidates)
    return Claim(candidates > 1 and all(word in draft for word in told), text, path)


def resume_claim(run: Path, killed: bool) -> Claim:
    """The steps that were lived through twice, before and after the kill, agree to the last bit."""
    starts = folder.events(run, "start")
    proof = run / folder.METRICS
    if not killed or len(starts) < 2:
        return Claim(False, say("rehearse.not_killed"), proof)
    second = starts[-1]["attempt"]
    lived: dict[int, list[str]] = {}
    for line in folder.read_lines(proof):
        if line["attempt"] in (second - 1, second):
            plain = {k: v for k, v in line.items() if k not in ("attempt", "clock")}
            lived.setdefault(line["step"], []).append(str(plain))
    twice = [lines for lines in lived.values() if len(lines) > 1 and "val_loss" not in lines[0]]
    same = sum(len(set(lines)) == 1 for lines in twice)
    text = say("rehearse.resumed", step=starts[-1]["step"], same=same, twice=len(twice))
    return Claim(same == len(twice) > 0, text, proof)


def learnt_claims(run: Path, scores: dict[str, Any]) -> list[Claim]:
    """The three conditions under which the rehearsal's model has learnt its corpus.

    The floor is taken as -log p of the very documents that are scored: its mean is the entropy,
    and it moves with their luck as the loss does.
    """
    proof = run / folder.EVALUATION
    loss, unigram = scores["held_out"]["loss_nats_per_token"], scores["unigram_nats_per_token"]
    floor = scores["floor"]["these_documents_nats_per_token"]
    english = scores["floor"]["english"]
    excess = loss - floor
    gap = english["loss_nats_per_token"] - english["these_documents_nats_per_token"]
    of_unigram = excess / (unigram - floor)
    return [
        Claim(
            excess <= 0.10 * floor,
            say("rehearse.floor", loss=loss, floor=floor, percent=100 * excess / floor),
            proof,
        ),
        Claim(
            of_unigram <= 0.05,
            say("rehearse.unigram", unigram=unigram, percent=100 * of_unigram),
            proof,
        ),
        Claim(gap <= 0.15, say("rehearse.english", gap=gap), proof),
    ]


def prediction_claim(run: Path, scores: dict[str, Any]) -> Claim:
    """The loss that was written down before the run, against the one met after it."""
    predicted = plan.read_plan(run)["predictions"]["loss_nats_per_token"]
    loss = scores["held_out"]["loss_nats_per_token"]
    proof = run / folder.PLAN
    if predicted["value"] is None:
        return Claim(False, say("rehearse.no_prediction"), proof)
    low, high = predicted["low"], predicted["high"]
    text = say("rehearse.prediction", value=predicted["value"], low=low, high=high, loss=loss)
    return Claim(low <= loss <= high, text, proof)


def artefact_claim(run: Path, artefact: Path) -> Claim:
    """The exported weights are the checkpoint's, read back from the file."""
    from safetensors.torch import load_file

    model, _, _ = evaluate.load(run)
    shipped = load_file(artefact / "model.safetensors")
    same = all(shipped[f"model.{name}"].equal(p) for name, p in model.named_parameters())
    size_mb = (artefact / "model.safetensors").stat().st_size / 1e6
    return Claim(same, say("rehearse.artefact", size_mb=size_mb), artefact)


def show(claims: list[Claim]) -> None:
    table = Table(box=None, pad_edge=False, title=say("rehearse.claims"), title_justify="left")
    for heading in ("", say("rehearse.claim"), say("rehearse.proof")):
        table.add_column(heading, overflow="fold")
    for claim in claims:
        mark = "[green]✓[/green]" if claim.holds else "[red]✗[/red]"
        table.add_row(mark, claim.text, claim.proof.name)
    console.print(table)


def how_to_go_on() -> str:
    """What to type next: the first lab where there is one, a run on real text elsewhere."""
    key = "rehearse.next_lab" if any(Path("labs").glob("00-*")) else "rehearse.next_train"
    return say(key)
