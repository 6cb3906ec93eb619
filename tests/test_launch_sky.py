"""The task that `x1 launch --on sky` hands to SkyPilot: our checks of it, and SkyPilot's own."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from x1 import clock, data, deadman, folder, launch, launch_sky, ledger, mirror, plan, saved
from x1 import config as configuration
from x1.launch import Asked
from x1.launch_sky import Cloud, Offer
from x1.text import UserError

ROOT = Path(__file__).parents[1]
TODAY = date(2026, 11, 21)
MIRROR = "s3://a-bucket/x1"
TABLE = (
    Cloud("one", True, None, None),
    Cloud("two", True, None, None),
    Cloud("no", False, None, None),
)


def planned(path: Path, *settings: str, preset: str = "x1-50m", price: float = 1.39) -> Path:
    given = (
        "money.hardware='a100-80gb'", f"money.price_usd_per_hour={price}",
        f"money.price_date='{TODAY}'", "money.stop_command='true'",
        f"checkpoint.mirror='{MIRROR}'",
    )  # fmt: skip
    config = configuration.build(preset, settings=(*given, *settings))
    plan.write_plan(path, plan.make_plan(config, today=TODAY, mfu=0.4))
    return path


def task_of(run: Path, most_usd: float = 1.39, **asked: Any) -> dict[str, Any]:
    offers = launch_sky.choose(launch_sky.listed_here(), launch_sky.clouds(), most_usd)
    return launch_sky.make_task(run, folder.open_run(run), offers, most_usd, Asked(**asked))


# ---- Which offers


def chosen(*offers: Offer, most_usd: float = 1.0) -> list[Offer]:
    return launch_sky.choose(list(offers), TABLE, most_usd)


def test_spot_machines_come_first_in_the_tables_order_then_the_others() -> None:
    offers = [Offer("no", False, 0.1), Offer("two", False, 0.9), Offer("two", True, 0.5),
              Offer("one", True, 0.7), Offer("stranger", True, 0.01)]  # fmt: skip
    assert [(o.cloud, o.spot) for o in chosen(*offers)] == [
        ("one", True), ("two", True), ("two", False), ("no", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "offer",
    [
        Offer("one", True, 0.0),
        Offer("one", True, -0.5),
        Offer("one", True, float("nan")),
        Offer("one", False, float("inf")),
        Offer("one", True, 1.01),
        Offer("no", True, 0.5),
    ],
)
def test_no_price_too_high_a_price_and_spot_where_there_is_none(offer: Offer) -> None:
    good = Offer("two", True, 1.0)
    assert chosen(offer, good) == [good]
    with pytest.raises(UserError) as caught:
        chosen(offer)
    assert caught.value.key == "sky.no_offer" and offer.cloud in str(caught.value)


def test_the_shipped_table_knows_who_has_no_spot_machines() -> None:
    table = {cloud.name: cloud for cloud in launch_sky.clouds()}
    assert not table["lambda"].spot and not table["vast"].spot
    assert table["verda"].spot and table["runpod"].spot
    offers = launch_sky.choose(launch_sky.listed_here(), launch_sky.clouds(), 1.39)
    assert offers[0].spot and all(0 < offer.usd_per_hour <= 1.39 for offer in offers)


def test_skypilots_list_is_read_the_cheapest_of_each_kind() -> None:
    """In the form of `sky gpus list A100-80GB:1 --output json`, SkyPilot 0.14.1."""

    def entry(cloud: str, price: float, spot: float, count: float = 1) -> dict[str, Any]:
        return {"cloud": cloud, "instance_type": "x", "accelerator_name": "A100-80GB",
                "accelerator_count": count, "price": price, "spot_price": spot,
                "region": "r"}  # fmt: skip

    listed = {"A100-80GB": [
        entry("Verda", 1.16, 0.58), entry("Verda", 1.16, float("nan")), entry("RunPod", 1.64, 0.82),
        entry("Vast", 0.87, 0.0), entry("GCP", 5.07, 2.03), entry("RunPod", 0.1, 0.1, count=2),
    ]}  # fmt: skip
    found = launch_sky.parse_catalogue("a notice\n" + json.dumps(listed))
    assert set(found) == {
        Offer("verda", False, 1.16), Offer("verda", True, 0.58), Offer("runpod", False, 1.64),
        Offer("runpod", True, 0.82), Offer("vast", False, 0.87), Offer("vast", True, 0.0),
        Offer("gcp", False, 5.07), Offer("gcp", True, 2.03),
    }  # fmt: skip
    offers = launch_sky.choose(found, launch_sky.clouds(), 1.39)
    assert [(o.cloud, o.spot) for o in offers] == [
        ("verda", True), ("runpod", True), ("verda", False), ("vast", False),
    ]  # fmt: skip


# ---- The task


def test_the_task_passes_its_own_checks_and_reads_back_the_same(tmp_path: Path) -> None:
    task = task_of(planned(tmp_path / "My run"), secrets=("AWS_SECRET_ACCESS_KEY",))
    launch_sky.check_task(task, launch_sky.clouds(), 1.39)
    assert yaml.safe_load(launch_sky.to_yaml(task)) == task
    assert task["name"] == "x1-my-run"
    assert task["secrets"] == {"AWS_SECRET_ACCESS_KEY": None}
    assert "--resume-from s3://a-bucket/x1 --out runs/x1-my-run" in task["run"]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("name", {"name": "My run; true"}),
        ("num_nodes", {"num_nodes": 2}),
        ("accelerators", {"resources": {"accelerators": "A100-80GB:8"}}),
        ("max_hourly_cost", {"resources": {"max_hourly_cost": 1.40}}),
        ("max_hourly_cost", {"resources": {"max_hourly_cost": 0.0}}),
        ("autostop", {"resources": {"autostop": {"idle_minutes": 10, "down": False}}}),
        ("job_recovery", {"resources": {"job_recovery": {"max_restarts_on_errors": 3}}}),
        ("ordered", {"resources": {"ordered": []}}),
        ("ordered", {"resources": {"ordered": [{"infra": "moon", "use_spot": False}]}}),
        ("use_spot", {"resources": {"ordered": [{"infra": "lambda", "use_spot": True}]}}),
        ("use_spot", {"resources": {"ordered": [{"infra": "vast", "use_spot": True}]}}),
        ("secrets", {"secrets": {"NAME": "value"}}),
        ("run", {"run": "python train.py\n"}),
    ],
)
def test_each_check_of_the_task_bites(tmp_path: Path, part: str, change: dict[str, Any]) -> None:
    task = task_of(planned(tmp_path / "run"))
    resources = {**task["resources"], **change.get("resources", {})}
    with pytest.raises(UserError) as caught:
        launch_sky.check_task({**task, **change, "resources": resources}, launch_sky.clouds(), 1.39)
    assert caught.value.values["part"] == part


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("checkpoint.mirror=''", "sky.no_mirror"),
        ("checkpoint.mirror='file:///mirror'", "sky.no_mirror"),
        ("money.hardware='rtx-3090'", "sky.hardware"),
    ],
)
def test_a_run_that_no_cloud_can_do_is_refused(tmp_path: Path, setting: str, key: str) -> None:
    config = folder.open_run(planned(tmp_path / "run", setting))
    with pytest.raises(UserError) as caught:
        launch_sky.check_config(config, ())
    assert caught.value.key == key


@pytest.mark.parametrize("name", ["AWS_SECRET=abc", "hf_abcdef", "a b", "", "1X", "X;true"])
def test_a_secret_is_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        launch_sky.check_config(folder.open_run(planned(tmp_path / "run")), (name,))
    assert caught.value.key == "sky.secret_value"
    assert not name.strip() or name not in str(caught.value)


def x1_(*words: Any, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("x1"), *map(str, words)], cwd=cwd, text=True,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=240, check=False,
        env={**os.environ, "PATH": str(Path(sys.executable).parent), **environment},
    )  # fmt: skip


def test_a_dry_run_prints_the_task_and_the_command_and_stops(tmp_path: Path) -> None:
    run = planned(tmp_path / "run", f"money.price_date='{date.today()}'")
    words = ("launch", run, "--on", "sky", "--secret", "A_TOKEN")
    done = x1_(*words, "--dry-run", cwd=tmp_path, A_TOKEN="of great value")
    assert done.returncode == 0, done.stderr
    text, _, command = done.stdout.partition("Would run: ")
    task = yaml.safe_load(text)
    launch_sky.check_task(task, launch_sky.clouds(), 1.39)
    assert shlex.split(command)[:4] == ["sky", "jobs", "launch", "--yes"]
    assert "of great value" not in done.stdout + done.stderr
    assert sorted(p.name for p in run.iterdir()) == ["config.toml", "plan.json"]
    done = x1_(*words, cwd=tmp_path)  # in earnest, where SkyPilot is not installed
    assert done.returncode == 2 and "SkyPilot is not installed" in done.stderr
    assert sorted(p.name for p in run.iterdir()) == ["config.toml", "plan.json"]


# ---- A launch, with everything but the cloud

SKY = """#!/bin/sh
# In sky's place: prices, and a machine that is this one.
case "$1 $2" in
"gpus list") cat "$X1_TEST_CATALOGUE" ;;
"jobs launch") echo "$@" > "$X1_TEST_SAID"; eval "cp \\${$#} $X1_TEST_TASK" ;;
*) echo "$@" >> "$X1_TEST_SAID" ;;
esac
"""


def test_from_the_sentence_to_the_folder_that_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task's own `run` is carried out here, on a mirror in a folder: no machine is rented."""
    monkeypatch.chdir(tmp_path)
    uri = f"file://{tmp_path}/mirror"
    small = ("train.steps=6", "train.threads=1", "train.batch_sequences=4",
             "checkpoint.every_steps=3", "stability.inject=[]", "stability.window=16",
             "sample.milestones=[0]", "evaluate.tokens=500", f"checkpoint.mirror='{uri}'",
             "train.device='cpu'")  # fmt: skip
    run = planned(tmp_path / "runs" / "r", *small, preset="rehearsal")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sky").write_text(SKY)
    (programs / "sky").chmod(0o755)
    price = {"cloud": "Verda", "accelerator_count": 1, "price": 1.16, "spot_price": 0.58}
    (tmp_path / "catalogue").write_text(json.dumps({"A100-80GB": [price]}))
    for name in ("catalogue", "said", "task"):
        monkeypatch.setenv(f"X1_TEST_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(launch_sky, "check_config", lambda config, names: uri)
    sentence = plan.read_plan(run)["sentence"]["en"]
    try:
        asked = Asked(on="sky", confirm=sentence)
        assert launch_sky.launch_on(run, folder.open_run(run), asked, TODAY) == 0
        state = deadman.read_state(run)
        assert state is not None and state["status"] == "armed" and deadman.is_running(state)
        assert ledger.read_ledger(run).closed and ledger.read_ledger(run).reserved_usd > 0
        record = launch.read_record(run)
        assert record is not None and record["handed_over"] and record["job"] == "x1-r"
        assert "jobs launch --yes --detach-run" in (tmp_path / "said").read_text()

        # The machine: only what was copied, and what comes through the mirror.
        task = yaml.safe_load((tmp_path / "task").read_text())
        machine = Path(task["workdir"])
        assert {p.name for p in machine.iterdir()} <= {
            "COMMIT", "LICENSE", "LICENSE-TEXT", "Makefile", "README.md", "constraints.txt",
            "pyproject.toml", "src",
        }  # fmt: skip
        (machine / ".venv").symlink_to(Path(sys.executable).parents[1])
        environment = {**os.environ, "PYTHONPATH": str(machine / "src")}
        launched = subprocess.run(["bash", "-c", task["run"]], cwd=machine, env=environment,
                                  capture_output=True, text=True, check=False)  # fmt: skip
        # This computer is not another machine, and the timer on it therefore does not count.
        assert launched.returncode == 2 and "No dead-man's limit is armed" in launched.stderr
        assert (machine / "data" / data.path_of(folder.open_run(run)).name / data.INDEX).is_file()
        watched = task["run"].replace("--allow-commands", "--allow-commands --i-will-watch")
        launched = subprocess.run(["bash", "-c", watched], cwd=machine, env=environment,
                                  capture_output=True, text=True, check=False)  # fmt: skip
        assert launched.returncode == 0, launched.stderr

        # Back here.
        assert launch_sky.launch_on(run, folder.open_run(run), Asked(on="sky"), TODAY) == 0
        (event,) = folder.events(run, "finish")
        assert event["step"] == 6
        newest, refused = saved.newest(run)
        assert newest is not None and newest.step == 6 and not refused
        theirs = machine / "runs" / "x1-r"
        for name in (folder.LEDGER, folder.METRICS, folder.EVENTS):
            assert (run / name).read_bytes() == (theirs / name).read_bytes(), name
        assert deadman.read_state(run)["pid"] == state["pid"]  # the timer's state is its own
    finally:
        deadman.disarm(run)


def test_bringing_back_claims_nothing_and_refuses_another_ledger(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/mirror"
    run = planned(tmp_path / "run", f"checkpoint.mirror='{uri}'")
    config = folder.open_run(run)
    sentence = launch.gate(run, config, TODAY, False)
    launch.reserve(run, config, sentence, clock.instant())
    mine = mirror.take(run, uri)
    mirror.publish(mine, everything=True)
    before = mirror.claims(mine.store)
    launch_sky.fetch(run, uri)
    assert mirror.claims(mine.store) == before
    text = (run / folder.LEDGER).read_bytes()
    (run / folder.LEDGER).write_bytes(text.replace(b'"reserve"', b'"reverse"'))
    with pytest.raises(UserError) as caught:
        launch_sky.fetch(run, uri)
    assert caught.value.key == "launch.other_file"
    other = planned(tmp_path / "other", "train.seed=1")
    with pytest.raises(UserError) as caught:
        launch_sky.fetch(other, uri)
    assert caught.value.key == "mirror.other_run"


# ---- SkyPilot's own opinion

VALIDATE = r"""
import json, os, sys
from pathlib import Path
task_file, = sys.argv[1:]
home = Path(os.environ["HOME"]) / ".sky" / "catalogs" / "v8"
rows = {
    "verda": "1A100.22V,1A100.22V,22.0,120.0,A100-80GB,1.0,{},FIN-01,1.16,0.58",
    "runpod": "1x_A100-80GB_SECURE,A100-80GB,1.0,8.0,117.0,CA,0.82,1.64,CA-MTL-1,{}",
    "vast": "1x-A100_80GB,A100-80GB,1,32,64.0,{},0.87,0.00,US",
    "lambda": "gpu_1x_a100_sxm4,A100,1.0,30.0,200.0,1.99,us-east-1,{},",
}
heads = {
    "verda": "InstanceType,UpstreamCloudId,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,"
             "GpuInfo,Region,Price,SpotPrice",
    "runpod": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Region,SpotPrice,"
              "Price,AvailabilityZone,GpuInfo",
    "vast": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,"
            "SpotPrice,Region",
    "lambda": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,"
              "GpuInfo,SpotPrice",
}
for cloud, row in rows.items():
    (home / cloud).mkdir(parents=True, exist_ok=True)
    (home / cloud / "vms.csv").write_text(heads[cloud] + "\n" + row + "\n")
(home / "common").mkdir(exist_ok=True)
(home / "common" / "accelerators.csv").write_text(
    "AcceleratorName,Clouds\nA100,['Lambda']\nA100-80GB,\"['RunPod', 'Vast', 'Verda']\"\n")
(home / "common" / "metadata.csv").write_text("GPU,MemoryGB,Manufacturer\nA100-80GB,80,NVIDIA\n")
import sky
from sky import check, clouds, optimizer
from sky.utils import registry
enabled = [registry.CLOUD_REGISTRY.from_str(name) for name in rows]
check.get_cached_enabled_clouds_or_refresh = lambda *a, **k: enabled
check.check_capability = lambda *a, **k: {}
task = sky.Task.from_yaml(task_file)
with sky.Dag() as dag:
    dag.add(task)
optimizer.Optimizer.optimize(dag, quiet=True)
best = task.best_resources
print("RESULT " + json.dumps({
    "version": sky.__version__, "cloud": str(best.cloud).lower(), "spot": best.use_spot,
    "usd_per_hour": best.get_cost(3600), "recovery": str(best.job_recovery),
    "down": best.autostop_config.down, "secrets": sorted(task.secrets or {}),
}))
"""


def skypilot() -> str | None:
    """A Python that has SkyPilot: X1_SKYPILOT_PYTHON names one, or this one does."""
    named = os.environ.get("X1_SKYPILOT_PYTHON")
    return named or (sys.executable if importlib.util.find_spec("sky") else None)


@pytest.mark.skipif(skypilot() is None, reason="SkyPilot is not installed (pip install '.[cloud]')")
def test_skypilot_takes_the_task_and_picks_the_spot_machine(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    task = task_of(run)
    launch_sky.stage(run, task)
    done = subprocess.run(
        [str(skypilot()), "-c", VALIDATE, str(run / launch_sky.STAGE / launch_sky.TASK)],
        env={**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT "))
    result = json.loads(line.removeprefix("RESULT "))
    assert (result["cloud"], result["spot"]) == ("verda", True)
    assert result["usd_per_hour"] == pytest.approx(0.58) and result["down"] is True
    assert "EAGER_NEXT_REGION" in result["recovery"].upper()
