"""Verify: an honest run holds, and every way to pass by editing files is found."""

import json
import random
import shutil
from contextlib import suppress
from datetime import UTC, date, datetime

import pytest
from safetensors.torch import load_file, save_file

from x1 import checkpoint, evaluate, export, folder, plan_page, saved, supervise, verify
from x1 import config as configuration
from x1.record import unix_time
from x1.text import UserError

STEPS = 60


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder for the one run that is made, so that each test need only copy it."""
    return tmp_path_factory.mktemp("kept") / "here"


@pytest.fixture
def finished(make_run, here, kept):
    """A run that was planned, trained under the supervisor with a spike in it, and exported."""
    run = here / "run"
    if not kept.exists():
        make_run("run", f"train.steps={STEPS}", 'stability.inject=["lr-x100@25"]')
        config = folder.open_run(run)
        plan_page.run_plan_command(config, today=date.today(), out=run, calibrate=lambda _: 1e5)
        assert supervise.supervise(run) == 0
        evaluate.evaluate(run)
        export.export(run)
        shutil.copytree(here, kept)
    shutil.copytree(kept, here, dirs_exist_ok=True)
    return run


def verdicts(result):
    return {finding["check"]: finding["verdict"] for finding in result["findings"]}


def edit_lines(run, name, change):
    """Rewrite a file of JSON lines, each through `change`."""
    lines = folder.read_lines(run / name)
    (run / name).write_text("".join(json.dumps(change(line)) + "\n" for line in lines))


def only(result, check, verdict="refuted"):
    """This check has this verdict and every other holds; its sentence."""
    assert verdicts(result) == dict.fromkeys(verify.CHECKS, "holds") | {check: verdict}
    return next(f["text"] for f in result["findings"] if f["check"] == check)


def test_an_honest_run_holds_at_any_window(finished):
    for seed in range(4):
        result = verify.verify(finished, window=8, seed=seed)
        assert verdicts(result) == dict.fromkeys(verify.CHECKS, "holds"), result
        assert result["level"] == "rehearsed"
    assert folder.read_json(finished / verify.VERIFICATION)["seed"] == 3
    drawn = {verify.verify(finished, window=1)["seed"] for _ in range(3)}
    assert len(drawn) == 3  # nobody can prepare for the window


def test_a_curve_made_better_is_found_wherever_the_window_lies(finished):
    def better(line):
        return line | {"loss": line["loss"] * 0.999} if "loss" in line else line

    edit_lines(finished, folder.METRICS, better)
    for seed in range(4):
        result = verify.verify(finished, window=4, seed=seed)
        assert "differ by up to" in only(result, "window") and result["level"] == "refuted"


def test_a_better_last_loss_is_found(finished):
    def better(line):
        last = line.get("val_loss") and line["step"] == STEPS
        return line | {"val_loss": line["val_loss"] - 0.01} if last else line

    edit_lines(finished, folder.METRICS, better)
    assert folder.METRICS in only(verify.verify(finished, 2, 0), "held_out")


def test_a_better_evaluation_is_found(finished):
    path = finished / folder.EVALUATION
    evaluation = folder.read_json(path)
    evaluation["held_out"]["loss_nats_per_token"] -= 0.01
    folder.write_json(path, evaluation)
    assert folder.EVALUATION in only(verify.verify(finished, 2, 0), "held_out")


def test_a_prediction_written_afterwards_is_found(finished):
    path = finished / folder.PLAN
    plan = folder.read_json(path)
    plan["predictions"]["loss_nats_per_token"]["value"] = 2.0
    folder.write_json(path, plan)
    assert verdicts(verify.verify(finished, 2, 0))["seal"] == "refuted"


def test_another_configuration_is_found(finished):
    path = finished / folder.CONFIG
    path.write_text(path.read_text().replace("seed = 0", "seed = 1", 1))
    assert folder.open_run(finished)
    assert verdicts(verify.verify(finished, 2, 0))["seal"] == "refuted"


def test_a_checkpoint_with_another_plans_seal_is_found(finished):
    """Its own checksum made anew, as a careful forger would."""
    path = checkpoint.path_of(finished, STEPS) / checkpoint.STATE
    state = folder.read_json(path) | {"plan_sha256": "0" * 64}
    del state["checksum"]
    folder.write_json(path, state | {"checksum": saved.digest(state)})
    assert f"step-{STEPS:08d}" in only(verify.verify(finished, 2, 0), "seal")


def test_cheaper_dollars_are_found(finished):
    def cheaper(line):
        return line | {"usd": "0.000000001"} if line["entry"] == "charge" else line

    edit_lines(finished, folder.LEDGER, cheaper)
    assert {"ledger", "seal"} <= {
        check for check, verdict in verdicts(verify.verify(finished, 2, 0)).items()
        if verdict == "refuted"
    }  # fmt: skip


def test_time_the_ledger_never_saw_is_found(finished):
    batch = folder.open_run(finished).batch_tokens

    def slower(line):
        seconds = line["clock"]["seconds"] + 100
        return line | {
            "clock": line["clock"] | {"seconds": seconds, "tokens_per_s": batch / seconds}
        }

    edit_lines(finished, folder.METRICS, slower)
    assert "h, and the steps" in only(verify.verify(finished, 2, 0), "ledger")


def test_a_rate_that_is_not_its_own_is_found(finished):
    def faster(line):
        if "loss" not in line:
            return line
        return line | {"clock": line["clock"] | {"tokens_per_s": 2 * line["clock"]["tokens_per_s"]}}

    edit_lines(finished, folder.METRICS, faster)
    assert "tokens/s" in only(verify.verify(finished, 2, 0), "mfu")


def test_a_speed_made_better_throughout_leaves_time_that_nothing_accounts_for(finished):
    """Each line made slower first, by the clock and in seconds, so that a minute is at stake."""
    config = folder.open_run(finished)
    moved = 0

    def paced(seconds):
        def change(line):
            nonlocal moved
            moved += 1
            late = datetime.fromtimestamp(unix_time(line["clock"]["time"]) + moved, UTC)
            clock = {"time": late.isoformat(timespec="seconds"), "seconds": seconds}
            if "loss" in line:
                clock["tokens_per_s"] = config.batch_tokens / seconds
            return line | {"clock": clock}

        return change

    edit_lines(finished, folder.METRICS, paced(1.0))
    honest = verdicts(verify.verify(finished, 1, 0))
    assert honest["mfu"] == "holds"
    moved = 0
    edit_lines(finished, folder.METRICS, paced(0.25))
    assert verdicts(verify.verify(finished, 1, 0))["mfu"] == "unanswered"


def test_flops_that_the_model_does_not_have_are_found(finished):
    path = finished / folder.MANIFEST
    manifest = folder.read_json(path)
    folder.write_json(path, manifest | {"flops_per_token": manifest["flops_per_token"] * 2})
    assert "FLOPs per token" in only(verify.verify(finished, 2, 0), "mfu")


def test_another_models_weights_are_found(finished):
    path = finished / folder.MODEL / "model.safetensors"
    sealed = verify.shipped_metadata(finished)
    weights = {name: tensor + 1e-3 for name, tensor in load_file(path).items()}
    save_file(weights, path, sealed)
    found = verdicts(verify.verify(finished, 2, 0))
    assert found["weights"] == "refuted" and found["held_out"] == "refuted"


def test_tensors_of_another_shape_are_found_and_too_little_memory_refutes_nothing(
    finished, monkeypatch
):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as small:
        small.setattr(verify.replay, "relive", full)
        only(verify.verify(finished, 2, 0), "window", "unanswered")
    path = finished / folder.MODEL / "model.safetensors"
    weights = {name: tensor[..., :1].clone() for name, tensor in load_file(path).items()}
    save_file(weights, path, verify.shipped_metadata(finished))
    found = verdicts(verify.verify(finished, 2, 0))
    assert found["weights"] == "refuted" and found["held_out"] == "refuted"


def test_a_step_left_out_and_a_batch_that_was_not_its_turn_are_found(finished):
    edit_lines(finished, folder.METRICS, lambda line: line | {"step": 10_000 + line["step"]}
               if line["step"] == 50 and "loss" in line else line)  # fmt: skip
    assert "50" in only(verify.verify(finished, 1, 0), "curve")


def test_a_batch_that_was_not_its_turn_is_found(finished):
    def other(line):
        moved = line["step"] == 55 and "loss" in line
        return line | {"data_index": line["data_index"] + 1} if moved else line

    edit_lines(finished, folder.METRICS, other)
    assert "data_index" in only(verify.verify(finished, 1, 0), "curve")


@pytest.mark.parametrize("what", ["data", "model", "window"])
def test_what_is_not_there_leaves_a_question_and_refutes_nothing(finished, here, what):
    if what == "data":
        shutil.rmtree(here / "data")
    if what == "model":
        shutil.rmtree(finished / folder.MODEL)
    result = verify.verify(finished, 0 if what == "window" else 2, 0)
    assert result["level"] == "incomplete" and "refuted" not in verdicts(result).values()
    assert "unanswered" in verdicts(result).values()


def test_other_data_is_found(finished, here):
    """The shards are whole, and are not what the run was trained on."""
    path = finished / folder.MANIFEST
    manifest = folder.read_json(path)
    manifest["data"]["fingerprint"] = "0" * 64
    folder.write_json(path, manifest)
    found = verdicts(verify.verify(finished, 2, 0))
    assert found["held_out"] == found["window"] == "refuted"


def test_a_run_that_goes_on_is_not_judged(make_run, here):
    run = make_run("run", f"train.steps={STEPS}")
    with pytest.raises(UserError, match="has not been trained to its end"):
        verify.verify(run)


def test_on_another_machine_a_little_may_differ_and_no_more(finished, monkeypatch):
    """Other arithmetic, stood in for by another number of threads and a nudge of the weights."""
    path = finished / folder.MANIFEST
    manifest = folder.read_json(path)
    manifest["hardware"]["cpu"] = "Another CPU"
    folder.write_json(path, manifest)
    relive = verify.replay.relive
    nudge = 1e-5

    def elsewhere(job, at, faults):
        loss, norm = relive(job, at, faults)
        return loss + nudge, norm

    monkeypatch.setattr(verify.replay, "relive", elsewhere)
    assert verdicts(verify.verify(finished, 3, 0))["window"] == "holds"
    nudge = 2 * verify.WINDOW_NATS["fp32"]
    assert "other hardware may change" in only(verify.verify(finished, 3, 0), "window")


def test_only_the_50m_run_on_a_gpu_counts_as_done():
    job = configuration.build("x1-50m")
    gpu, cpu = ({"hardware": {"device": device}} for device in ("cuda", "cpu"))
    assert verify.is_the_job(job, gpu)
    assert not verify.is_the_job(job, cpu)
    half = configuration.build("x1-50m", settings=(f"train.steps={job.train.steps // 2}",))
    assert not verify.is_the_job(half, gpu)
    assert not verify.is_the_job(configuration.build("rehearsal"), gpu)


def test_the_command_shows_it_and_says_so_in_its_exit_code(finished, capsys):
    from x1.verify_page import run_verify_command

    assert run_verify_command(finished, 2, 0, as_json=False) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Rehearsed" in shown and folder.plan_digest(finished) in shown
    (finished / folder.EVALUATION).unlink()
    assert run_verify_command(finished, 2, 0, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["level"] == "refuted"


def test_nothing_of_the_run_but_its_verification_is_written(finished):
    def contents():
        return {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}

    before = contents()
    verify.verify(finished, 2, 0)
    after = contents()
    assert after.pop(finished / verify.VERIFICATION) and after == before


JUNK = (None, True, -1, 1e308, "", "x", [], {}, [1, 2], {"a": 1}, "2026-13-45")


@pytest.mark.parametrize("seed", range(10))
def test_junk_in_a_strangers_folder_is_never_a_traceback(finished, seed):
    """Every value of every file, one in twenty replaced by something of another kind."""
    generator = random.Random(seed)

    def spoil(value, depth=0):
        if generator.random() < 0.05 and depth:
            return generator.choice(JUNK)
        if isinstance(value, dict):
            return {name: spoil(part, depth + 1) for name, part in value.items()}
        return [spoil(part, depth + 1) for part in value] if isinstance(value, list) else value

    names = (folder.METRICS, folder.EVENTS, folder.LEDGER, folder.MANIFEST, folder.EVALUATION,
             folder.PLAN)  # fmt: skip
    for name in (names[seed % len(names)], generator.choice(names)):
        if name.endswith(".jsonl"):
            edit_lines(finished, name, spoil)
        else:
            path = finished / name
            path.write_text(json.dumps(spoil(folder.read_json(path))), "utf-8")
    with suppress(UserError):
        assert verify.verify(finished, 2, seed)["level"] in ("refuted", "incomplete", "rehearsed")


def test_a_line_without_its_clock_and_an_event_without_its_name_are_no_traceback(finished):
    edit_lines(
        finished, folder.METRICS, lambda line: {k: v for k, v in line.items() if k != "clock"}
    )
    assert verify.verify(finished, 0, 0)["level"] == "refuted"
    edit_lines(finished, folder.EVENTS, lambda line: {})
    with pytest.raises(UserError):
        verify.verify(finished, 0, 0)
