"""The ladder before a run: climbed, stopped, killed for real; one ledger; a sealed prediction."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from html import escape
from pathlib import Path

import numpy as np
import pytest

from x1 import (
    config,
    data,
    evaluate,
    export,
    first_ladder,
    flops,
    folder,
    ladder,
    ladder_law,
    ledger,
    plan,
    record,
    report,
    scaling,
    supervise,
    watch,
)
from x1.text import LANGUAGES, UserError, say

X1 = Path(sys.executable).with_name("x1")
SMALL = ladder.named("small")
SETTINGS = {
    "model": {
        "vocab_size": 512,
        "context": 128,
        "n_layers": 2,
        "n_heads": 2,
        "d_model": 48,
        "d_ff": 144,
    },
    "optim": {"lr": 0.01, "warmup_steps": 5},
    "data": {"source": "verbs", "corpus_setting": "rehearsal", "held_out_documents": 40},
    "train": {"steps": 120, "batch_sequences": 4, "threads": 1},
    "checkpoint": {"every_steps": 40},
    "evaluate": {"every_steps": 60, "tokens": 2048},
}


def planned_run(place, **sections):
    chosen = config.build(None, None, (), **{**SETTINGS, **sections})
    made = plan.make_plan(chosen, today=date.today(), tokens_per_s=20_000.0)
    plan.write_plan(place, made)
    return place


def start(home):
    environment = os.environ | {"X1_LANG": "en", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [X1, "train", "--out", "r"], cwd=home, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition(), process.stdout.read() if process.poll() is not None else "too slow"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A planned run: stopped in its first rung, its supervisor killed in the second, then ended."""
    home = tmp_path_factory.mktemp("home")
    run = planned_run(home / "r")
    rungs = run / "ladder/runs"

    process = start(home)
    wait_for(lambda: folder.read_lines(rungs / "d8-s0-trunk" / folder.METRICS), process)
    assert watch.snapshot(run, time.time())["ladder"]["at"].startswith("d8-s")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=90)[0]
    assert process.returncode == supervise.INTERRUPTED, said
    assert [record.holder(path) for path in (run, *rungs.iterdir())] == [None] * (
        1 + len(list(rungs.iterdir()))  # nobody is left at it
    )
    assert not (rungs / "d12-s0-trunk").exists()

    process = start(home)
    wait_for(lambda: folder.read_lines(rungs / "d12-s0-trunk" / folder.METRICS), process)
    seen = watch.snapshot(run, time.time())["ladder"]
    assert 0 < seen["share"] < 1 and seen["at"].startswith("d12-s0-")
    process.kill()
    process.wait()
    assert not (run / folder.PREDICTION).exists() and not (run / folder.METRICS).exists()

    process = start(home)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    assert "Sealed in r/prediction.json" in said
    return run


@pytest.fixture
def run(done, tmp_path, monkeypatch):
    """A copy of the finished run, its data beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(done, tmp_path / "r")
    (tmp_path / "data").symlink_to(done.parent / "data")
    return Path("r")


def read(run, name):
    return folder.read_json(run / name)


# ---- Climbed


def test_the_rungs_are_the_named_ladders_on_the_runs_own_data(done):
    definition = ladder.read(done / "ladder" / ladder.DEFINITION)
    assert definition.model_copy(update={"run": {}}) == SMALL.model_copy(update={"run": {}})
    points = read(done / "ladder", ladder.POINTS)["points"]
    assert len(points) == 13 and not list((done / "ladder/runs").glob("d48*"))  # nothing held back
    own = folder.open_run(done)
    fingerprints = {read(done, folder.MANIFEST)["data"]["fingerprint"]}
    for path in (done / "ladder/runs").iterdir():
        rung = folder.open_run(path)
        assert data.path_of(rung) == data.path_of(own)
        fingerprints.add(read(path, folder.MANIFEST)["data"]["fingerprint"])
        assert rung.optim.lr == next(
            r.lr for r in SMALL.rungs if path.name.startswith(f"{r.name}-")
        )
    assert len(fingerprints) == 1


def test_one_ledger_pays_for_it_all(done):
    assert list(done.rglob(folder.LEDGER)) == [done / folder.LEDGER]
    entries = ledger.read_entries(done)
    assert [e["entry"] for e in entries].count("open") == 1
    at_seal = next(k for k, e in enumerate(entries) if e["entry"] == "seal")
    trained_s = sum(point["seconds"] for point in read(done / "ladder", ladder.POINTS)["points"])
    charged_s = sum(e.get("seconds", 0.0) for e in entries[:at_seal])
    assert charged_s > trained_s > 0
    spent = [float(e["cumulative_usd"]) for e in entries[:at_seal] if "cumulative_usd" in e][-1]
    price = entries[0]["price_usd_per_hour"]
    assert spent == pytest.approx(charged_s / 3600 * price, rel=0.01)


def test_the_prediction_is_sealed_before_the_first_step(done):
    digest = folder.prediction_digest(done)
    events = folder.events(done)
    kinds = [event["event"] for event in events]
    assert kinds.index("prediction") < kinds.index("start") and kinds.count("prediction") == 1
    assert events[kinds.index("prediction")]["sha256"] == digest
    book = ledger.read_ledger(done)
    assert book.prediction_sha256 == digest
    sealed_at = next(e["time"] for e in ledger.read_entries(done) if e["entry"] == "seal")
    first = folder.read_lines(done / folder.METRICS)[0]["clock"]["time"]
    assert sealed_at[:19] <= first[:19]
    states = list((done / folder.CHECKPOINTS).glob("step-*/state.json"))
    assert states and {read(s.parent, s.name)["prediction_sha256"] for s in states} == {digest}
    content = read(done, folder.PREDICTION)
    assert content["points_sha256"] == data.sha256_of(done / "ladder" / ladder.POINTS)
    assert content["plan_sha256"] == folder.plan_digest(done) == book.plan_sha256
    plans = plan.read_plan(done)["predictions"]["loss_nats_per_token"]
    assert content["borrowed"] == plans and plans["value"] is None  # this recipe has none


def test_the_prediction_is_refitted_from_the_points_alone(done):
    content = read(done, folder.PREDICTION)
    points = [p for p in read(done / "ladder", ladder.POINTS)["points"] if p["seed"] == 0]
    unique = data.read_index(done.parent / data.path_of(folder.open_run(done)))["train"]["tokens"]
    assert unique == 120 * 512 == folder.open_run(done).tokens  # so nothing is repeated
    law = scaling.fit(*([p[k] for p in points] for k in ("N", "D", "loss_nats_per_token")))
    loss = content["predictions"]["loss_nats_per_token"]
    target = flops.parameters(folder.open_run(done).model)
    assert content["target"]["N"] == target
    assert loss["value"] == pytest.approx(law.predict(target, 120 * 512), abs=1e-9)
    parts = content["parts_nats_per_token"]
    rest = [parts[k] for k in ("seed", "form_in_N", "form_in_D", "other_N")]
    assert all(parts[k] for k in ("seed", "form_in_N", "form_in_D"))
    for edge, statistical in zip(("low", "high"), parts["bootstrap_and_residual"], strict=True):
        whole = math.sqrt(statistical**2 + sum(part**2 for part in rest))
        assert abs(loss[edge] - loss["value"]) == pytest.approx(whole)
    held = read(done / "ladder", ladder.POINTS)["held_out"]
    bits = loss["value"] * held["tokens"] / held["bytes"] / math.log(2)
    assert content["predictions"]["bits_per_byte"]["value"] == pytest.approx(bits)


def test_it_is_not_done_again(done):
    assert not first_ladder.planned(done)
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*")}
    assert first_ladder.ladder_first(done) == 0
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*")} == before


def test_report_watch_and_artefact_use_it(run):
    evaluate.evaluate(run)
    loss = read(run, folder.PREDICTION)["predictions"]["loss_nats_per_token"]
    seen = watch.snapshot(run, time.time())
    assert seen["predicted"]["basis"] == "ladder" and seen["ladder"] is None
    shown = seen["predicted"]["loss_nats_per_token"]
    assert shown == {part: loss[part] for part in ("value", "low", "high")}
    for lang in LANGUAGES:
        page = report.page(record.read(run), lang)
        assert f"{loss['value']:.3f}" in page
        assert escape(say("report.ladder_seal_kept", lang)) in page
    (run / folder.PREDICTION).write_bytes((run / folder.PREDICTION).read_bytes() + b"\n")
    assert escape(say("report.ladder_seal_broken", "en")) in report.page(record.read(run), "en")
    artefact = export.export(run)
    head = (artefact / "model.safetensors").read_bytes()[:2000]
    assert f'"x1_prediction_sha256":"{folder.prediction_digest(run)}"'.encode() in head


# ---- The seal


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_run_does_not_go_on_with_another_prediction(run, how):
    path = run / folder.PREDICTION
    if how == "changed":
        path.write_text(path.read_text().replace('"level": 0.9', '"level": 0.5'))
    else:
        path.unlink()
    before = (run / folder.LEDGER).read_bytes()
    with pytest.raises(UserError) as refused:
        supervise.supervise(run, [sys.executable, "-c", "raise SystemExit(1)"])
    assert refused.value.key == "supervise.other_prediction"
    assert (run / folder.LEDGER).read_bytes() == before


def test_a_prediction_that_comes_after_the_first_step_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = planned_run(tmp_path / "r")
    quiet = [sys.executable, "-c", ""]
    assert supervise.supervise(run, quiet) == 0
    folder.append_line(run / folder.METRICS, {"step": 0, "loss": 6.2, "tokens": 512})
    folder.write_json(run / folder.PREDICTION, {"format": first_ladder.FORMAT})
    with pytest.raises(UserError) as refused:
        supervise.supervise(run, quiet)
    assert refused.value.key == "supervise.late_prediction"
    assert not first_ladder.planned(run)
    (run / folder.PREDICTION).unlink()
    assert not first_ladder.planned(run)  # the run has begun
    assert supervise.supervise(run, quiet) == 0


def test_a_second_seal_is_no_valid_line(run):
    book = ledger.read_ledger(run)
    at = ledger.Instant(book.at.wall_ms + 1000, book.at.boot_ms + 1000, book.at.boot_id)
    with pytest.raises(ValueError, match="sealed"):
        ledger.seal_prediction(run, book, at, "0" * 64)
    assert ledger.read_ledger(run).prediction_sha256 == folder.prediction_digest(run)


# ---- Whether, and which


def test_what_the_plan_counts_is_climbed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = planned_run(tmp_path / "r")
    assert first_ladder.planned(run)
    amounts = plan.read_plan(run)["money"]
    assert (
        supervise.planned_amounts(run, folder.open_run(run))["reserve_usd"]
        <= amounts["reserve_usd"]
    )
    first_ladder.begin(run)
    kept = supervise.planned_amounts(run, folder.open_run(run))
    assert kept == {name: usd for name, usd in amounts.items() if usd is not None}
    first_ladder.begin(run)  # once more changes nothing
    text = (run / "ladder" / ladder.DEFINITION).read_text()
    (run / "ladder" / ladder.DEFINITION).write_text(text.replace("lr = 0.02", "lr = 0.03"))
    with pytest.raises(UserError) as refused:
        first_ladder.begin(run)
    assert refused.value.key == "ladder.other"

    alone = planned_run(tmp_path / "alone", model=SETTINGS["model"] | {"d_ff": 96})
    assert not first_ladder.planned(alone) and first_ladder.ladder_first(alone) == 0
    with pytest.raises(UserError) as refused:
        first_ladder.begin(alone)
    assert refused.value.key == "first_ladder.none"
    unplanned = tmp_path / "unplanned"
    folder.claim(unplanned, folder.open_run(run))
    assert not first_ladder.planned(unplanned)


@pytest.mark.parametrize("settings", [(), ("data.train_tokens=2500000000", "train.dtype=fp32")])
def test_the_x1_ladder_keeps_its_recipe_and_takes_the_runs_data_and_machine(settings):
    chosen = config.build("x1-50m", None, settings)
    definition, named = first_ladder.definition_of(chosen), ladder.named("x1")
    assert definition.rungs == named.rungs and definition.tokens == named.tokens
    for group in ladder.groups(definition):
        for each in group:
            assert data.path_of(each.config) == data.path_of(chosen)
            assert each.config.train.dtype == chosen.train.dtype
            original = ladder.all_runs(named)[each.name].config
            assert each.config.optim == original.optim and each.config.model == original.model


def test_a_rungs_log_is_a_sign_of_life(tmp_path):
    rung = tmp_path / "ladder/runs/d8-s0-trunk"
    rung.mkdir(parents=True)
    progress = supervise.Progress.at_end_of(tmp_path, 0.0)
    progress.read(100.0)
    assert progress.seen_s == 0.0
    folder.append_line(rung / folder.METRICS, {"step": 0, "loss": 6.0, "tokens": 512})
    progress.read(200.0)
    assert progress.seen_s == 200.0 and progress.tokens == 0


# ---- The arithmetic, on losses that are a law exactly


LAW = scaling.ScalingLaw(E=0.9, A=40.0, B=900.0, alpha=0.5, beta=0.6)
RUN = config.build(None, None, (), **SETTINGS)


def points_of(law=LAW, unique=10**9, noise=0.0):
    """points.json of the small ladder as it would be if `law` were the truth."""
    draw, points = np.random.default_rng(0), []
    for each in (each for group in ladder.groups(SMALL) for each in group if each.point):
        size = ladder.sizes(each)
        loss = law.predict(size["N"], scaling.effective_tokens(unique, size["D"]))
        loss += 0.001 * each.seed + noise * draw.standard_normal()
        points.append({**size, "loss_nats_per_token": loss})
    return {"points": points, "held_out": {"tokens": 1000, "bytes": 4000}}


@pytest.mark.parametrize("unique", [10**9, 25_000])
def test_a_true_law_is_found_also_where_tokens_repeat(unique):
    found = first_ladder.predict_run(RUN, SMALL, points_of(unique=unique), unique)
    D = scaling.effective_tokens(unique, RUN.tokens)
    truth = LAW.predict(flops.parameters(RUN.model), D)
    loss = found["predictions"]["loss_nats_per_token"]
    assert loss["value"] == pytest.approx(truth, abs=1e-3)
    assert loss["low"] < truth < loss["high"]
    assert found["without_largest_N"]["miss_nats_per_token"] == pytest.approx(0, abs=2e-3)
    leap = found["without_largest_N"]
    sizes = sorted({p["N"] for p in points_of()["points"]})
    wanted = math.log(flops.parameters(RUN.model) / sizes[-1]) / math.log(sizes[-1] / sizes[-2])
    assert leap["leaps"] == leap["weight"] == pytest.approx(wanted)
    assert "linear" in loss["basis"]["en"] and "linear" in loss["basis"]["es"]


def test_the_interval_grows_with_the_noise_and_covers():
    widths = []
    for noise in (3e-4, 3e-3):
        found = first_ladder.predict_run(RUN, SMALL, points_of(noise=noise), 10**9)
        loss = found["predictions"]["loss_nats_per_token"]
        assert loss["low"] < LAW.predict(flops.parameters(RUN.model), RUN.tokens) < loss["high"]
        widths.append(loss["high"] - loss["low"])
    assert widths[0] < widths[1]


def test_without_a_law_the_run_goes_on_with_the_plans_prediction(run):
    for name in (folder.PREDICTION, folder.METRICS, folder.EVENTS, f"ladder/{ladder.POINTS}"):
        (run / name).unlink()
    shutil.rmtree(run / folder.CHECKPOINTS)
    assert first_ladder.planned(run)
    for path in (run / "ladder/runs").glob(f"*/{folder.EVALUATION}"):  # losses that rise with D
        scores = read(path.parent, path.name)
        scores["held_out"]["loss_nats_per_token"] = 1.0 + math.log(scores["step"])
        folder.write_json(path, scores)
    assert first_ladder.climb(run) == 0
    assert [e["event"] for e in folder.events(run)] == [first_ladder.NO_LAW]
    assert not (run / folder.PREDICTION).exists() and not first_ladder.planned(run)
    assert first_ladder.ladder_first(run) == 0


def test_a_rung_that_left_out_batches_is_no_point_and_stops_nothing(run):
    for name in (folder.PREDICTION, folder.METRICS, folder.EVENTS, f"ladder/{ladder.POINTS}"):
        (run / name).unlink()
    rung = run / "ladder/runs/d8-s0-10240"
    (rung / folder.EVALUATION).unlink()
    folder.record_event(rung, "skip", step=3, data_index=3, reason="not finite")
    assert first_ladder.climb(run) == 0
    assert [e["event"] for e in folder.events(run)] == [first_ladder.NO_LAW]
    assert "d8-s0-10240" in folder.events(run)[0]["reason"]


def test_a_rung_that_cannot_be_trained_stops_with_one_sentence(run, capfd):
    for name in (folder.PREDICTION, f"ladder/{ladder.POINTS}"):
        (run / name).unlink()
    rung = run / "ladder/runs/d8-s0-10240"
    (rung / folder.EVALUATION).unlink()
    shutil.rmtree(rung / folder.CHECKPOINTS)
    (rung / folder.CONFIG).write_text((rung / folder.CONFIG).read_text().replace("0.02", "0.03"))
    with pytest.raises(UserError) as refused:
        first_ladder.climb(run)
    assert refused.value.key == "ladder.failed" and str(refused.value).count("\n") == 0
    assert not folder.events(run, first_ladder.NO_LAW)


def test_the_event_is_written_even_if_a_kill_came_between(run):
    digest = folder.prediction_digest(run)
    kept = [e for e in folder.events(run) if e["event"] != "prediction"]
    (run / folder.EVENTS).write_text("".join(json.dumps(e) + "\n" for e in kept))
    assert first_ladder.ladder_first(run) == 0
    assert [e["sha256"] for e in folder.events(run, "prediction")] == [digest]
    assert read(run, folder.PREDICTION)["level"] == ladder_law.LEVEL
