"""The rehearsal, whole, as a user starts it: every claim it makes is checked by it, and here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from x1 import checkpoint, config, folder, rehearse


@pytest.mark.timeout(900)
def test_the_whole_rehearsal_in_spanish(tmp_path):
    environment = {**os.environ, "X1_LANG": "es", "COLUMNS": "250"}
    command = [str(Path(sys.executable).with_name("x1")), "rehearse", "--out", "runs/ensayo"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout and done.stdout.count("✓") == 9
    assert "coinciden hasta el último bit" in done.stdout

    run = tmp_path / "runs/ensayo"
    assert [e["event"] for e in folder.events(run, "start", "rollback", "finish")] == [
        "start", "rollback", "start", "finish",
    ]  # fmt: skip
    starts = folder.events(run, "start")
    assert starts[0]["pid"] != starts[1]["pid"] and starts[1]["step"] > 0
    steps = [line["step"] for line in folder.curve(run) if "loss" in line]
    assert steps == list(range(folder.open_run(run).train.steps))
    for name in (folder.PLAN, folder.LEDGER, folder.EVALUATION, folder.MODEL, folder.SAMPLES):
        assert (run / name).exists()
    assert 'lang="es"' in (run / folder.REPORT).read_text("utf-8")
    (spike,) = [e for e in folder.events(run, "spike") if not e["benign"]]
    replayed = folder.read_json(run / f"replay-{spike['step']}.json", "x1-replay-1")
    assert replayed["attempt"] == 1 and replayed["batches"][-1]["loss"] == spike["loss"]
    draft = (run / f"postmortem-{spike['step']}.md").read_text("utf-8")
    assert "lr-x100" in draft and "**retroceso.**" in draft and draft.endswith("el día:\n")
    newest, damaged = checkpoint.newest(run)
    assert newest.step == len(steps) and not damaged
    assert newest.state["plan_sha256"] == folder.plan_digest(run)


def scores(loss, english):
    return {
        "held_out": {"loss_nats_per_token": loss},
        "unigram_nats_per_token": 4.0,
        "floor": {
            "these_documents_nats_per_token": 1.0,
            "english": {
                "loss_nats_per_token": english,
                "these_documents_nats_per_token": 0.2,
            },
        },
    }


@pytest.mark.parametrize(
    ("loss", "english", "held"),
    [
        (1.09, 0.3, [True, True, True]),
        (1.11, 0.3, [False, True, True]),
        (1.16, 0.3, [False, False, True]),
        (1.05, 0.36, [True, True, False]),
    ],
)
def test_what_has_not_been_learnt_is_not_claimed(tmp_path, loss, english, held):
    claims = rehearse.learnt_claims(tmp_path, scores(loss, english))
    assert [claim.holds for claim in claims] == held


def test_a_resume_that_differs_in_one_bit_is_not_claimed(tmp_path):
    for attempt in (1, 2):
        folder.record_event(tmp_path, "start", attempt=attempt, step=0)
    for attempt, losses in ((1, (0.1, 0.2)), (2, (0.1, 0.2))):
        for step, loss in enumerate(losses):
            line = {"step": step, "attempt": attempt, "loss": loss}
            folder.append_line(tmp_path / folder.METRICS, line)
    assert rehearse.resume_claim(tmp_path, killed=True).holds
    assert not rehearse.resume_claim(tmp_path, killed=False).holds
    for attempt, loss in ((1, 0.3), (2, 0.3 + 2**-54)):
        line = {"step": 2, "attempt": attempt, "loss": loss}
        folder.append_line(tmp_path / folder.METRICS, line)
    assert 0.3 + 2**-54 != 0.3
    assert not rehearse.resume_claim(tmp_path, killed=True).holds


def test_a_spike_that_was_not_undone_is_not_claimed(tmp_path):
    folder.record_event(tmp_path, "inject", step=5, data_index=5, kinds=["lr-x100"])
    assert not rehearse.spike_claim(tmp_path).holds
    folder.record_event(tmp_path, "spike", step=6, data_index=6, benign=False)
    assert not rehearse.spike_claim(tmp_path).holds
    folder.record_event(tmp_path, "rollback", to_step=0, skipped=[5, 6])
    assert rehearse.spike_claim(tmp_path).holds


def replayed(run, exact):
    batch = {"loss": 9.5, "logged": {"loss": 9.5}, "bit_exact": exact}
    path = run / "replay-6.json"
    whole = {"step": 6, "attempt": 1, "from_step": 4, "batches": [batch]}
    folder.write_json(path, whole)
    return path


@pytest.mark.parametrize("exact", [True, False, None])
def test_a_replay_that_differs_is_not_claimed(tmp_path, exact):
    claim = rehearse.replay_claim(tmp_path, replayed(tmp_path, exact))
    assert claim.holds is (exact is True) and claim.proof.name == "replay-6.json"
    assert not rehearse.replay_claim(tmp_path, None).holds


def test_a_post_mortem_is_claimed_only_if_it_tells_of_the_fault_and_the_way_back(tmp_path):
    run = tmp_path / "run"
    folder.claim(run, config.build("rehearsal"))
    assert not rehearse.postmortem_claim(run, None).holds
    folder.record_event(run, "start", attempt=1, step=0)
    for step in range(6):
        line = {"step": step, "attempt": 1, "data_index": step, "loss": 2.0, "grad_norm": 1.0}
        clock = {"time": folder.now(), "seconds": 1.0}
        folder.append_line(run / folder.METRICS, {**line, "clock": clock})
    folder.record_event(run, "inject", step=5, data_index=5, kinds=["lr-x100"])
    spike = {"channel": "loss", "loss": 9.5, "grad_norm": 3.0, "benign": False}
    folder.record_event(run, "spike", step=6, data_index=6, **spike)
    claim = rehearse.postmortem_claim(run, None)
    assert claim.proof.name == "postmortem-6.md" and not claim.holds  # nothing was undone
    claim.proof.unlink()
    back = {"from_step": 6, "to_step": 0, "attempt": 2, "skipped": [5, 6], "fired": []}
    folder.record_event(run, "rollback", **back, reason="spike")
    assert rehearse.postmortem_claim(run, None).holds
