"""The ladder: a small one climbed for real, killed on the way; its discipline; its arithmetic."""

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from x1 import (
    checkpoint,
    cli,
    config,
    data,
    evaluate,
    flops,
    folder,
    ladder,
    ladder_climb,
    ladder_law,
    ladder_page,
    rung,
    scaling,
)
from x1.optim import learning_rate
from x1.text import LANGUAGES, UserError, say, set_language

X1 = Path(sys.executable).with_name("x1")
SMALL = ladder.named("small")


def x1_(*arguments, cwd, **more):
    return subprocess.run(
        [X1, *map(str, arguments)], cwd=cwd, env=os.environ | {"X1_LANG": "en"} | more,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """The folder of a ladder that was killed while its second rung trained, and gone on with."""
    home = tmp_path_factory.mktemp("home")
    command = [X1, "ladder", "small", "--out", "r"]
    first = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, text=True)
    metrics = home / "r/runs/d12-s0-trunk" / folder.METRICS
    deadline = time.monotonic() + 120
    while not folder.read_lines(metrics) and time.monotonic() < deadline:
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert not (home / "r" / ladder.POINTS).exists()
    done = x1_("ladder", "--out", "r", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == folder.read_json(home / "r" / ladder.RESULT)
    return home / "r"


@pytest.fixture
def place(climbed, tmp_path, monkeypatch):
    """A copy of the finished ladder, its data beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(climbed, tmp_path / "r")
    (tmp_path / "data").symlink_to(climbed.parent / "data")
    return Path("r")


def load(place, name):
    return folder.read_json(place / name)


# ---- Climbed


def test_every_run_is_there_and_every_point_is_its_evaluation(climbed):
    record = load(climbed, ladder.POINTS)
    counted = [(point["rung"], point["seed"], point["D"]) for point in record["points"]]
    shapes = [r.name for r in SMALL.rungs]
    wanted = [(name, 0, tokens) for name in shapes for tokens in SMALL.tokens]
    assert sorted(counted) == sorted([*wanted, ("d8", 1, 40_960)])
    for point in record["points"]:
        run = climbed / "runs" / point["run"]
        chosen = folder.open_run(run)
        scores = folder.read_json(run / folder.EVALUATION)
        assert scores["step"] * chosen.batch_tokens == point["D"] == chosen.tokens
        assert point["N"] == flops.parameters(chosen.model)
        assert point["N"] - point["N_non_embedding"] == 512 * chosen.model.d_model
        assert point["loss_nats_per_token"] == scores["held_out"]["loss_nats_per_token"]
        assert point["held_out_tokens"] == record["held_out"]["tokens"]
        floor = scores["floor"]["these_documents_nats_per_token"]
        assert record["floor_nats_per_token"] == floor < point["loss_nats_per_token"]
        assert point["seconds"] > 0
    assert record["provenance"]["command"] == "x1 ladder --out r --json"
    assert {"git_commit", "hardware", "versions", "date"} <= set(record["provenance"])


def test_the_law_is_refitted_from_the_points_to_the_same_prediction(climbed):
    points = ladder_law.fitted(load(climbed, ladder.POINTS)["points"])
    prediction, result = load(climbed, ladder.PREDICTION), load(climbed, ladder.RESULT)
    N, D, loss = (np.array(c) for c in ladder_law.columns(points))
    law = scaling.fit(N, D, loss)
    target = prediction["target"]
    model = folder.open_run(climbed / "runs/d48-s0-40960").model
    assert (target["N"], target["D"]) == (flops.parameters(model), 40_960)
    value = law.predict(target["N"], target["D"])
    assert prediction["predicted_nats_per_token"] == pytest.approx(value, abs=1e-9)
    assert prediction["law"]["alpha"] == pytest.approx(law.alpha, rel=1e-6)

    last = D == 40_960
    slope, intercept = np.polyfit(np.log(N[last]), np.log(loss[last]), 1)
    assert result["naive"]["log_log_line_in_N"]["predicted_nats_per_token"] == pytest.approx(
        math.exp(intercept + slope * math.log(target["N"]))
    )
    largest = loss[last][np.argmax(N[last])]
    assert result["naive"]["same_as_largest"]["predicted_nats_per_token"] == largest

    met = [
        folder.read_json(climbed / f"runs/d48-s{seed}-40960" / folder.EVALUATION)["held_out"][
            "loss_nats_per_token"
        ]
        for seed in range(2)
    ]
    assert met[0] != met[1]
    assert result["measured_nats_per_token"] == pytest.approx(np.mean(met))
    assert result["seed_deviation_nats_per_token"] == pytest.approx(np.std(met, ddof=1))
    assert result["miss_nats_per_token"] == pytest.approx(value - np.mean(met))
    assert result["verdicts"]["inside"] == (
        prediction["interval"]["low"] <= np.mean(met) <= prediction["interval"]["high"]
    )


def test_the_interval_holds_more_than_the_bootstrap(climbed):
    prediction = load(climbed, ladder.PREDICTION)
    value, interval = prediction["predicted_nats_per_token"], prediction["interval"]
    parts = interval["parts_nats_per_token"]
    seeds = prediction["seeds"]["losses_nats_per_token"]
    assert parts["seed"] == pytest.approx(6.314 * np.std(seeds, ddof=1))
    assert parts["form"] > 0
    for edge, statistical in zip(("low", "high"), parts["bootstrap_and_residual"], strict=True):
        whole = math.sqrt(statistical**2 + parts["seed"] ** 2 + parts["form"] ** 2)
        assert abs(interval[edge] - value) == pytest.approx(whole)


def test_the_prediction_was_on_the_disk_before_the_held_back_rung_began(climbed):
    started = load(climbed, ladder.STARTED)
    assert started["prediction_sha256"] == data.sha256_of(climbed / ladder.PREDICTION)
    assert load(climbed, ladder.PREDICTION)["time"] <= started["time"]
    for seed in range(2):
        first = folder.events(climbed / f"runs/d48-s{seed}-40960", "start")[0]
        assert started["time"] <= first["time"]
    sealed = load(climbed, ladder.PREDICTION)["points_sha256"]
    assert sealed == data.sha256_of(climbed / ladder.POINTS)


@pytest.mark.parametrize("name", ["d12-s0-10240", "d12-s0-40960"])
def test_a_branch_is_the_run_from_scratch_bit_for_bit(place, name):
    branch, whole = place / "runs" / name, Path("whole")
    chosen = folder.open_run(branch)
    steps, leave = chosen.train.steps, math.floor(0.8 * chosen.train.steps)
    assert folder.events(branch, "start")[0]["step"] == leave
    folder.claim(whole, chosen)
    subprocess.run([sys.executable, "-m", "x1.train", whole], check=True, capture_output=True)
    for file in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        one, other = (checkpoint.path_of(run, steps) / file for run in (branch, whole))
        assert one.read_bytes() == other.read_bytes()
    curves = [folder.curve(run, keep_clock=False) for run in (branch, whole)]
    assert curves[0] == [line for line in curves[1] if line["step"] >= leave]
    assert curves[0][0]["step"] == leave and len(curves[0]) == steps - leave + 1


def test_the_killed_trunk_went_on_and_its_trainer_had_saved(climbed):
    starts = folder.events(climbed / "runs/d12-s0-trunk", "start")
    assert len(starts) == 2 and starts[1]["step"] > 0
    assert folder.events(climbed / "runs/d12-s0-trunk", "stop")[0]["reason"] == "orphaned"


def test_a_finished_ladder_trains_nothing_and_shows_its_result_again(place):
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*.json*")}
    result = load(place, ladder.RESULT)
    for code in LANGUAGES:
        done = x1_("ladder", "--out", "r", cwd=".", X1_LANG=code)
        assert done.returncode == 0, done.stderr
        assert f"{result['measured_nats_per_token']:.4f}" in done.stdout
        assert f"{result['miss_nats_per_token']:+.4f}" in done.stdout
        assert say("ladder.done", code, path="r/result.json", plot="r/ladder.svg") in done.stdout
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*.json*")} == before


def test_the_drawing_holds_the_sizes_and_the_floor(climbed):
    text = (climbed / ladder.PLOT).read_text("utf-8")
    assert text.count("<svg") == 1 and "http://cdn" not in text
    sizes = {point["N"] for point in load(climbed, ladder.POINTS)["points"]}
    assert len(sizes) == 4


# ---- The discipline


def retrain_held_back(place):
    """As `x1 ladder` does it, in this process: what the child refuses is raised."""
    return rung.climb(place, [run.name for run in ladder.held_back_runs(SMALL)])


def forget_held_back(place):
    for run in ladder.held_back_runs(SMALL):
        shutil.rmtree(place / "runs" / run.name)
    (place / ladder.RESULT).unlink()
    (place / ladder.STARTED).unlink()


def test_without_a_prediction_the_held_back_rung_is_not_trained(place):
    forget_held_back(place)
    (place / ladder.PREDICTION).unlink()
    with pytest.raises(UserError) as refused:
        retrain_held_back(place)
    assert refused.value.key == "ladder.no_prediction"
    assert not (place / "runs/d48-s0-40960").exists() and not (place / ladder.STARTED).exists()


def test_a_changed_point_is_refused_before_and_after_the_held_back_rung(place):
    path = place / ladder.POINTS
    path.write_text(path.read_text().replace('"D": 40960', '"D": 40961', 1))
    (place / ladder.RESULT).unlink()
    with pytest.raises(UserError) as refused:
        ladder_law.write_result(place, SMALL, "x1 ladder")
    assert refused.value.key == "ladder.changed"
    done = x1_("ladder", "--out", "r", cwd=".")
    assert (done.returncode, done.stderr) == (2, say("ladder.changed", path="r/points.json") + "\n")
    for run in ladder.held_back_runs(SMALL):
        shutil.rmtree(place / "runs" / run.name)
    with pytest.raises(UserError) as refused:
        retrain_held_back(place)
    assert refused.value.key == "ladder.changed" and refused.value.values["path"] == path
    assert not (place / "runs/d48-s0-40960").exists()


def test_a_prediction_changed_after_the_start_is_refused(place):
    path = place / ladder.PREDICTION
    path.write_text(path.read_text().replace('"level": 0.9', '"level": 0.8'))
    with pytest.raises(UserError) as refused:
        ladder_law.write_result(place, SMALL, "x1 ladder")
    assert refused.value.values["path"] == path


def test_a_prediction_cannot_be_written_after_the_training(place):
    (place / ladder.PREDICTION).unlink()
    with pytest.raises(UserError) as refused:
        ladder_law.write_prediction(place, SMALL)
    assert refused.value.key == "ladder.late" and not (place / ladder.PREDICTION).exists()


def test_the_prediction_rests_on_the_points_alone(place):
    forget_held_back(place)
    before = load(place, ladder.PREDICTION)
    (place / ladder.PREDICTION).unlink()
    shutil.rmtree(place / "runs")
    again = ladder_law.write_prediction(place, SMALL)
    assert again | {"time": ""} == before | {"time": ""}


def test_a_run_that_left_out_a_batch_is_no_point(place):
    run = ladder.all_runs(SMALL)["d8-s0-10240"]
    (place / "runs" / run.name / folder.EVALUATION).unlink()
    folder.record_event(place / "runs" / run.name, "skip", step=3, data_index=3, reason="x")
    with pytest.raises(UserError) as refused:
        rung.climb(place, [run.name])
    assert refused.value.key == "ladder.diverged"


def test_a_failing_child_is_told_in_one_sentence_with_its_log(place):
    (place / "runs/d8-s0-10240" / folder.EVALUATION).unlink()
    (place / ladder.POINTS).unlink()
    (place / ladder.PREDICTION).unlink()
    shutil.rmtree(place / "runs/d8-s0-10240/checkpoints")
    chosen = place / "runs/d8-s0-10240/config.toml"
    chosen.write_text(chosen.read_text().replace("lr = 0.02", "lr = 0.03"))
    done = x1_("ladder", "--out", "r", cwd=".")
    why = say("folder.other_config", path="r/runs/d8-s0-10240", fields="optim.lr")
    assert done.returncode == 2
    assert done.stderr == say("ladder.failed", why=why, log="r/train.log") + "\n"


def test_ctrl_c_stops_the_trainer_and_says_how_to_go_on(place):
    for run in [run for group in ladder.groups(SMALL) for run in group][:5]:
        shutil.rmtree(place / "runs" / run.name)
    for name in (ladder.POINTS, ladder.PREDICTION):
        (place / name).unlink()
    trunk = place / "runs/d8-s0-trunk"
    process = subprocess.Popen(
        [X1, "ladder", "--out", "r"], env=os.environ | {"X1_LANG": "es"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not folder.read_lines(trunk / folder.METRICS) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == say("ladder.stopped", "es", again="x1 ladder --out r") + "\n"
    with folder.locked(trunk):  # nobody is at it any more
        assert checkpoint.newest(trunk)[0] is not None


# ---- Which runs


def test_until_it_leaves_a_branch_has_its_trunks_learning_rate_and_data():
    runs = ladder.all_runs(ladder.named("cpu"))
    branches = [run for run in runs.values() if run.trunk]
    assert len(branches) == 20
    for run in branches:
        trunk = runs[run.trunk]
        steps = run.config.train.steps
        assert run.leaves_at in trunk.config.checkpoint.milestones
        assert run.leaves_at <= trunk.config.train.steps == 2048
        for step in (0, 5, 29, 30, run.leaves_at):
            both = [learning_rate(r.config.optim, step, r.config.train.steps) for r in (run, trunk)]
            assert both[0] == both[1]
        assert learning_rate(run.config.optim, steps - 1, steps) < 0.1 * run.rung.lr
        assert steps * 2048 == run.tokens
        changed = set(config.differences(run.config, trunk.config))
        assert changed <= {"optim.schedule", "train.steps", "checkpoint.every_steps",
                           "checkpoint.milestones", "evaluate.every_steps"}  # fmt: skip


@pytest.mark.parametrize("name", ladder.names())
def test_a_named_ladder_is_sound(name):
    chosen = ladder.named(name)
    assert chosen.name == name
    leap, largest = ladder.compute_leap(chosen)
    assert leap >= 4
    model = ladder.config_of(chosen, largest, 1, 0).model
    cost = flops.token_flops(model).total * ladder.rung_flops(chosen, chosen.held_back, 1)
    assert cost > 0
    paths = {data.path_of(run.config) for run in ladder.all_runs(chosen).values()}
    assert len(paths) == 1  # the same tokens, the same held-out documents, for all


def test_the_names_in_the_help_are_the_ladders_there_are(capsys):
    sys_argv = ["x1", "ladder", "--help"]
    done = subprocess.run([X1, *sys_argv[1:]], capture_output=True, text=True,
                          env=os.environ | {"X1_LANG": "en", "COLUMNS": "200"})  # fmt: skip
    assert all(name in done.stdout for name in ladder.names())


def test_the_x1_ladder_climbs_on_the_data_of_the_x1_run():
    runs = ladder.all_runs(ladder.named("x1"))
    launch = config.build("x1-50m")
    held_back = next(run for run in runs.values() if run.rung.name == "d512")
    assert data.path_of(held_back.config) == data.path_of(launch)
    assert held_back.config.model == launch.model
    assert held_back.config.batch_tokens == launch.batch_tokens
    assert 4.5e7 < flops.parameters(held_back.config.model) < 5e7
    assert {run.tokens for run in runs.values() if run.rung.name == "d384" and run.point} == {
        125_042_688,
        250_085_376,
    }


def test_a_definition_survives_the_file(tmp_path):
    for name in ladder.names():
        (tmp_path / "l.toml").write_text(ladder.to_toml(ladder.named(name)))
        assert ladder.read(tmp_path / "l.toml") == ladder.named(name)


def test_real_text_takes_the_place_of_the_source(tmp_path):
    (tmp_path / "a.txt").write_text("words and words " * 1000)
    (tmp_path / "b.txt").write_bytes(b"x" * 12_000_000)
    for names, share in ((["a.txt"], 0.1), (["a.txt", "b.txt"], 600_000 / 12_016_000)):
        paths = [tmp_path / name for name in names]
        chosen = ladder.with_text(ladder.named("cpu"), paths)
        ladder.check(chosen)
        source = ladder.held_back_runs(chosen)[0].config.data
        assert source.source == "text" and source.files == tuple(map(str, paths))
        assert source.held_out_fraction == pytest.approx(share, rel=1e-3)


def changed(**fields):
    raw = json.loads(SMALL.model_dump_json())
    for name, value in fields.items():
        raw[name] = value
    return raw


RUNGS = [json.loads(r.model_dump_json()) for r in SMALL.rungs]
FAULTS = {
    "missing": {k: v for k, v in changed().items() if k != "seed_rung"},
    "no_field": changed(colour="red"),
    "field": changed(tokens=[10_240, "many", 40_960]),
    "same_name": changed(held_back={**RUNGS[0], "name": "d12"}),
    "seed_rung": changed(seed_rung="d13"),
    "tokens": changed(tokens=[10_240, 20_000, 40_960]),
    "warmup": changed(tokens=[2048, 20_480, 40_960]),
    "held_back_tokens": changed(held_back_tokens=81_920),
    "leap": changed(held_back={**RUNGS[-1], "name": "d21"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unfit_definition_is_one_sentence(fault):
    with pytest.raises(UserError) as refused:
        ladder.validate(FAULTS[fault], "mine.toml")
    assert refused.value.key == f"ladder.{fault}"
    for code in LANGUAGES:
        set_language(code)
        assert str(refused.value).count("\n") == 0
    if fault == "tokens":
        assert refused.value.values == {"tokens": 20_000, "batch": 512, "nearest": 19_968}


REFUSALS = {
    "unknown": (["cpus"], "ladder.unknown", {"name": "cpus", "nearest": "cpu"}),
    "both": (["cpu", "--config", "a"], "ladder.name_and_file", {}),
    "no file": (["--config", "a.toml"], "config.no_file", {"path": "a.toml"}),
    "no text": (["small", "--text", "a.txt"], "data.no_file", {"file": "a.txt"}),
    "other things": (
        ["small", "--out", "notes"],
        "ladder.not_a_ladder",
        {"path": "notes", "file": "ladder.toml"},
    ),
    "another ladder": (["small", "--out", "cpu"], "ladder.other", {"path": "cpu"}),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_leaves_everything_as_it_was(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    Path("notes/mine").write_text("mine")
    Path("cpu").mkdir()
    Path("cpu/ladder.toml").write_text(ladder.to_toml(ladder.named("cpu")))
    before = sorted(map(str, Path().rglob("*")))
    arguments, key, values = REFUSALS[name]
    for code in LANGUAGES:
        monkeypatch.setattr(sys, "argv", ["x1", "ladder", *arguments, "--lang", code])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert (ended.value.code, out, err) == (2, "", say(key, code, **values) + "\n")
        assert sorted(map(str, Path().rglob("*"))) == before


def test_a_dry_run_shows_every_rung_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ladder_page, "tokens_per_s", lambda chosen: 1000.0)
    monkeypatch.setattr(
        ladder_page,
        "console",
        Console(file=io.StringIO(), width=160, highlight=False, markup=False),
    )
    assert ladder_climb.run_ladder_command("small", None, None, None, True, False, None) == 0
    shown = ladder_page.console.file.getvalue()
    for each in [*SMALL.rungs, SMALL.held_back]:
        model = ladder.config_of(SMALL, each, 1, 0).model
        assert each.name in shown and f"{flops.parameters(model):,}" in shown
    # A fitted rung: a trunk of 0.8 x 40,960 and a fifth of each count; the seed rung one run more.
    one = 32_768 + 0.2 * (10_240 + 20_480 + 40_960)
    minutes = (4 * one + 40_960 + 2 * 40_960) / 1000 / 60
    assert f"about {minutes:.0f} minutes" in shown
    assert list(tmp_path.iterdir()) == []


# ---- The arithmetic, on losses that are a law exactly


LAW = scaling.ScalingLaw(E=0.9, A=40.0, B=900.0, alpha=0.5, beta=0.6)


def record(noise=0.0, seed_noise=0.001, floor=0.9):
    """points.json of the small ladder as it would be if LAW were the truth."""
    random = np.random.default_rng(0)
    points = []
    for group in ladder.groups(SMALL):
        for run in (run for run in group if run.point):
            size = ladder.sizes(run)
            loss = LAW.predict(size["N"], size["D"]) + (noise * random.standard_normal())
            loss += seed_noise * run.seed
            points.append({**size, "loss_nats_per_token": loss})
    return {"points": points, "definition_sha256": "", "floor_nats_per_token": floor}


def test_a_true_law_is_found_and_its_prediction_holds():
    prediction = ladder_law.predict(SMALL, record(), "")
    target = prediction["target"]
    truth = LAW.predict(target["N"], target["D"])
    assert prediction["predicted_nats_per_token"] == pytest.approx(truth, abs=1e-4)
    assert prediction["without_largest"]["miss_nats_per_token"] == pytest.approx(0, abs=1e-4)
    assert prediction["law"]["E"] == pytest.approx(0.9, abs=1e-3)
    assert prediction["law"]["alpha"] == pytest.approx(0.5, abs=1e-3)
    assert prediction["interval"]["parts_nats_per_token"]["seed"] == pytest.approx(
        6.314 * 0.001 / math.sqrt(2)
    )


def test_the_interval_covers_a_true_law_under_noise_and_grows_with_it():
    widths = []
    for noise in (1e-3, 1e-2):
        prediction = ladder_law.predict(SMALL, record(noise), "")
        low, high = (prediction["interval"][edge] for edge in ("low", "high"))
        target = prediction["target"]
        assert low < LAW.predict(target["N"], target["D"]) < high
        widths.append(high - low)
    assert widths[0] < widths[1]


@pytest.mark.parametrize(
    ("floor", "verdict"), [(0.85, "agrees"), (0.7, "above"), (1.0, "below"), (None, None)]
)
def test_E_is_held_against_the_floor(floor, verdict):
    law = {"E": 0.86, "intervals": {"E": [0.8, 0.9]}}
    compared = ladder_law.compare_floor({"law": law, "floor_nats_per_token": floor})
    assert compared["verdict"] == verdict and compared["fitted"] == 0.86


def test_scored_on_whole_documents(climbed, monkeypatch):
    monkeypatch.chdir(climbed.parent)
    chosen = folder.open_run(climbed / "runs/d8-s0-10240")
    held_out = data.open_data(data.path_of(chosen))
    assert evaluate.held_out_mode(held_out, chosen.model.context) == "documents"
    assert load(climbed, ladder.POINTS)["held_out"]["tokens"] == len(held_out.held_out)
