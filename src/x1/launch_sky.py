"""`x1 launch RUN --on sky`: one A100-80GB on a cloud, preferably one that may be taken away.

SkyPilot rents the machine, another when that is taken away, and gives it back when the job ends
(https://docs.skypilot.co, managed jobs). What is ours: which offers it may take, and at what price;
the hand-over, and all that comes back, through `checkpoint.mirror`.

    here                                          the machine
    runs/NAME, ledger closed  ->  mirror URI  ->  x1 train --resume-from URI --out runs/NAME
    data/NAME                 ->  URI/data    ->  data/NAME
    runs/NAME                 <-  mirror URI  <-  published by its supervisor

No offer above the price in the cost sentence is taken, so the ledger, which counts at that price,
never counts too little. Keys and tokens are SkyPilot's business, and what the job needs is named,
never read: `--secret NAME`.
"""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.progress import Progress

from x1 import clock, data, deadman, folder, launch, launch_send, launch_ssh, mirror, money, saved
from x1.config import RunConfig
from x1.launch import Asked, tell
from x1.store import Store, open_store, reaching
from x1.text import UserError, say

HARDWARE, ACCELERATOR = "a100-80gb", "A100-80GB"
DISK_GB = 100
IDLE_MINUTES = 10  # a machine that SkyPilot has lost sight of ends itself after that
STAGE = ".sky"  # in the run's folder: the task file and what it copies
TASK = "task.yaml"
CLOUDS_FORMAT = "x1-clouds-1"
SECRET_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")

Json = dict[str, Any]


@dataclass(frozen=True)
class Cloud:
    """What a cloud can do, whoever says so; its prices as they once stood, for a dry run."""

    name: str
    spot: bool
    usd_per_hour: float | None
    spot_usd_per_hour: float | None


@dataclass(frozen=True)
class Offer:
    """One GPU for an hour on a cloud, at the cheapest price listed."""

    cloud: str
    spot: bool
    usd_per_hour: float


def launch_on(run: Path, config: RunConfig, asked: Asked, today: date) -> int:
    """Launch there, or bring what has been published back; returns the exit code for the shell."""
    record = launch.read_record(run)
    gone = record is not None and record["on"] == launch.SKY and record["handed_over"]
    if asked.stop and not gone:
        raise UserError("launch.not_launched", run=run)
    if gone and not asked.dry_run:
        code = come_back(run, asked)
        if code is not None:
            return code
    sentence = launch.gate(run, config, today, asked.accept_old_price)
    limit = launch.dead_man(run, config, asked)
    uri = check_config(config, asked.secrets)
    price_usd = sentence.price_usd_per_hour or 0.0
    offers = listed_by_sky() if shutil.which("sky") else listed_here()
    task = make_task(run, config, choose(offers, clouds(), price_usd), price_usd, asked)
    check_task(task, clouds(), price_usd)
    command = launch_command(run, asked.secrets)
    if asked.dry_run:
        print(to_yaml(task))
        print(say("launch.would_run", command=shlex.join(command)))
        return 0
    if shutil.which("sky") is None:
        raise UserError("sky.not_installed")
    missing = [name for name in asked.secrets if name not in os.environ]
    if missing:
        raise UserError("sky.no_secret", names=", ".join(missing))
    print(limit)
    launch.confirm(sentence, asked)
    data.prepare(config)  # off the GPU's clock
    if not gone:
        at = clock.instant()
        launch.reserve(run, config, sentence, at)
        launch.arm(run, config, at)
        hand_over(run, config, uri)
    stage(run, task)
    launch.write_record(run, launch.SKY, launch.SKY, handed_over=True, job=task["name"], uri=uri)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise UserError("sky.failed", code=code)
    tell("sky.started", job=task["name"], run=run)
    return 0


# ---- Which offers


def clouds() -> tuple[Cloud, ...]:
    """The clouds to ask, in order (`clouds.toml`)."""
    raw = tomllib.loads(files("x1").joinpath("clouds.toml").read_text("utf-8"))
    assert raw["format"] == CLOUDS_FORMAT
    return tuple(
        Cloud(c["name"], c["spot"], c.get("usd_per_hour"), c.get("spot_usd_per_hour"))
        for c in raw["cloud"]
    )


def listed_here() -> list[Offer]:
    """The prices that the table once saw: good enough to show what would be done."""
    found = [(c.name, False, c.usd_per_hour) for c in clouds()]
    found += [(c.name, True, c.spot_usd_per_hour) for c in clouds()]
    return [Offer(name, spot, usd) for name, spot, usd in found if usd is not None]


def listed_by_sky() -> list[Offer]:
    """SkyPilot's catalogue as it is now. Raises UserError if it cannot be asked."""
    words = ["sky", "gpus", "list", f"{ACCELERATOR}:1", "--all-regions", "--output", "json"]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
                              check=True)  # fmt: skip
        return parse_catalogue(done.stdout.decode())
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as fault:
        raise UserError("sky.no_catalogue", fault=type(fault).__name__) from None


def parse_catalogue(text: str) -> list[Offer]:
    """The cheapest price of each kind on each cloud, from what `sky gpus list` prints."""
    cheapest: dict[tuple[str, bool], float] = {}
    for entry in json.loads(text[text.index("{") :])[ACCELERATOR]:
        if entry["accelerator_count"] != 1:
            continue
        for spot, field in ((False, "price"), (True, "spot_price")):
            usd = entry[field]
            if usd is not None and not math.isnan(usd):
                key = (str(entry["cloud"]).lower(), spot)
                cheapest[key] = min(usd, cheapest.get(key, math.inf))
    return [Offer(name, spot, usd) for (name, spot), usd in cheapest.items()]


def choose(offers: list[Offer], table: tuple[Cloud, ...], most_usd: float) -> list[Offer]:
    """What may be taken, in order: spot machines in the table's order, then ordinary ones.

    A price of zero is no price. Raises UserError, with what each offer lacks, if none is left.
    """
    chosen, reasons = [], []
    for spot in (True, False):
        for cloud in table:
            for offer in offers:
                if (offer.cloud, offer.spot) != (cloud.name, spot):
                    continue
                fault = fault_of(offer, cloud, most_usd)
                if fault is None:
                    chosen.append(offer)
                else:
                    reasons.append(fault)
    if not chosen:
        raise UserError("sky.no_offer", most=money.rate(most_usd), reasons=" ".join(reasons))
    return chosen


def fault_of(offer: Offer, cloud: Cloud, most_usd: float) -> str | None:
    """Why this offer is not taken; None if it is."""
    price = money.rate(offer.usd_per_hour)
    if offer.spot and not cloud.spot:
        return say("sky.no_spot", cloud=cloud.name)
    if not (math.isfinite(offer.usd_per_hour) and offer.usd_per_hour > 0):
        return say("sky.no_price", cloud=cloud.name, price=price)
    if offer.usd_per_hour > most_usd:
        return say("sky.too_dear", cloud=cloud.name, price=price)
    return None


# ---- The task


def check_config(config: RunConfig, secrets: tuple[str, ...]) -> str:
    """The URI of the run's mirror. Raises UserError for what a cloud cannot do."""
    if config.money.hardware != HARDWARE:
        raise UserError("sky.hardware", hardware=config.money.hardware, only=HARDWARE)
    uri = config.checkpoint.mirror
    if not uri or uri.startswith("file:"):
        raise UserError("sky.no_mirror", uri=uri or '""')
    for name in secrets:
        if not SECRET_NAME.fullmatch(name):
            raise UserError("sky.secret_value")  # it may be one: it is not repeated
    return uri


def job_name(run: Path) -> str:
    """What SkyPilot calls the job: lower case, digits and dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", run.absolute().name.lower()).strip("-")
    return f"x1-{name}"[:50].rstrip("-")


def make_task(
    run: Path, config: RunConfig, offers: list[Offer], most_usd: float, asked: Asked
) -> Json:
    """The task as SkyPilot reads it. Nothing in it is a value of a secret."""
    uri = config.checkpoint.mirror
    options = ["--i-will-watch"] if asked.i_will_watch else []
    if config.money.stop_command or config.money.price_source.startswith("command:"):
        options.append("--allow-commands")  # ours: they were confirmed with the plan
    out = f"runs/{job_name(run)}"
    prepared = data.path_of(config).as_posix()
    set_up = ["set -e", f"make {launch_send.SET_UP}"]
    if uri.startswith("s3:"):
        install = ".venv/bin/python -m pip install --quiet --constraint constraints.txt -e '.[s3]'"
        set_up.append(install)
    train = [".venv/bin/x1", "train", "--resume-from", uri, "--out", out, *options]
    work = [
        "set -e",
        shlex.join([".venv/bin/python", "-m", "x1.launch_sky", "data", uri, prepared]),
        f"rm -rf {shlex.quote(out)}",  # of an earlier try: what counts is in the mirror
        f"exec {shlex.join(train)}",
    ]
    return {
        "name": job_name(run),
        "num_nodes": 1,
        "workdir": str((run / STAGE / "project").absolute()),
        "resources": {
            "accelerators": f"{ACCELERATOR}:1",
            "disk_size": DISK_GB,
            "max_hourly_cost": most_usd,
            "autostop": {"idle_minutes": IDLE_MINUTES, "down": True},
            # A machine that is taken away is replaced; a job that fails waits for a person.
            "job_recovery": {"strategy": "EAGER_NEXT_REGION", "max_restarts_on_errors": 0},
            "ordered": [{"infra": o.cloud, "use_spot": o.spot} for o in offers],
        },
        **({"secrets": dict.fromkeys(asked.secrets)} if asked.secrets else {}),
        "setup": "\n".join(set_up) + "\n",
        "run": "\n".join(work) + "\n",
    }


def check_task(task: Json, table: tuple[Cloud, ...], most_usd: float) -> None:
    """SkyPilot accepts spot machines where there are none, and a price of zero: this does not.

    Raises UserError naming what is wrong with the task.
    """
    known = {cloud.name: cloud for cloud in table}
    resources = task["resources"]
    ordered = resources["ordered"]
    recovery = resources["job_recovery"]
    train = task["run"].strip().splitlines()[-1]
    faults = {
        "name": not re.fullmatch(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?", task["name"]),
        "num_nodes": task["num_nodes"] != 1,
        "accelerators": resources["accelerators"] != f"{ACCELERATOR}:1",
        "max_hourly_cost": not 0 < resources["max_hourly_cost"] <= most_usd,
        "autostop": resources["autostop"].get("down") is not True,
        "job_recovery": recovery.get("max_restarts_on_errors") != 0,
        "ordered": not ordered or any(entry["infra"] not in known for entry in ordered),
        "use_spot": any(
            entry["use_spot"] and not known[entry["infra"]].spot
            for entry in ordered
            if entry["infra"] in known
        ),
        "secrets": any(value is not None for value in task.get("secrets", {}).values()),
        "run": not train.startswith("exec .venv/bin/x1 train --resume-from "),
    }
    for part, wrong in faults.items():
        if wrong:
            raise UserError("sky.bad_task", part=part)


def to_yaml(task: Json) -> str:
    """The task as a file, its scripts as they would be typed."""
    import yaml  # type: ignore[import-untyped]

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(task, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


def stage(run: Path, task: Json) -> None:
    """The task file, and beside it the project's own files, which SkyPilot copies."""
    aside = run / STAGE
    shutil.rmtree(aside, ignore_errors=True)
    for name in launch_send.project_files(launch_send.ROOT):
        (aside / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(launch_send.ROOT / name, aside / "project" / name)
    folder.write_atomically(aside / "project" / launch_send.COMMIT, launch_send.commit())
    folder.write_atomically(aside / TASK, to_yaml(task))


def launch_command(run: Path, secrets: tuple[str, ...]) -> list[str]:
    named = [word for name in secrets for word in ("--secret", name)]
    return ["sky", "jobs", "launch", "--yes", "--detach-run", *named, str(run / STAGE / TASK)]


# ---- There and back, through the mirror


def hand_over(run: Path, config: RunConfig, uri: str) -> None:
    """Publish the run's folder and its data; the first to claim the mirror next goes on from it."""
    mine = mirror.take(run, uri)
    with reaching(uri):
        mirror.publish(mine, everything=True)
    send_data(open_store(uri), data.path_of(config))


def send_data(store: Store, source: Path) -> None:
    """Put a prepared dataset beside the mirror, index.json last; what is there stays."""
    index = data.read_index(source)
    with reaching(store.uri), Progress(*Progress.get_default_columns(), transient=True) as bar:
        there = set(store.names(f"data/{source.name}"))
        if f"data/{source.name}/{data.INDEX}" in there:
            return
        task = bar.add_task(say("launch.sending_data"),
                            total=sum(f["bytes"] for f in index["files"].values()))  # fmt: skip
        for name, entry in index["files"].items():
            store.put_file(source / name, f"data/{source.name}/{name}")
            bar.advance(task, entry["bytes"])
        store.put_file(source / data.INDEX, f"data/{source.name}/{data.INDEX}")


def fetch_data(uri: str, final: Path) -> None:
    """On the machine: the dataset that was put there, every byte checked; none if none was."""
    if (final / data.INDEX).is_file():
        return
    store = open_store(uri)
    with reaching(uri):
        names = store.names(f"data/{final.name}")
        if f"data/{final.name}/{data.INDEX}" not in names:
            return
        aside = final.with_name(f".{final.name}.fetch")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        with Progress(*Progress.get_default_columns(), transient=True) as bar:
            for name in bar.track(names):
                part = name.rpartition("/")[2]
                if re.fullmatch(r"[\w-]+\.(bin|json)", part):
                    store.get_file(name, aside / part)
    data.verify(aside)
    aside.rename(final)


def come_back(run: Path, asked: Asked) -> int | None:
    """Bring back what has been published; None if the job has ended before its last step."""
    record = launch.read_record(run) or {}
    if asked.stop:
        words = ["sky", "jobs", "cancel", "--yes", "--name", record["job"]]
        if subprocess.run(words, check=False).returncode:
            raise UserError("sky.failed", code=1)
    fetch(run, record["uri"])
    launch_ssh.show_spent(run)
    if folder.events(run, "finish"):
        tell("launch.done", run=run)
        return 0
    if asked.stop or not launch.is_closed(run):
        tell("sky.fetched", job=record["job"])
        return 0
    return None


def fetch(run: Path, uri: str) -> None:
    """The newest whole manifest's files, into the folder, without claiming the run.

    A log that does not go on from the one here is refused. Raises UserError.
    """
    store = open_store(uri)
    with reaching(uri):
        _, content = next(mirror.published(store), (None, None))
    if content is None or content["run"] != saved.identity(run):
        raise UserError("mirror.other_run" if content else "mirror.empty", uri=uri)
    aside = run / STAGE / "fetch"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        if not mirror.download(store, content, aside):
            raise UserError("mirror.damaged", uri=uri, time=content["time"])
        for path in aside.glob("*.jsonl"):
            here = run / path.name
            if here.exists() and not path.read_bytes().startswith(here.read_bytes()):
                raise UserError("launch.other_file", path=here)
        (aside / deadman.STATE).unlink(missing_ok=True)  # the timer's own is here
        for step in saved.steps(aside):
            saved.path_of(run, step).parent.mkdir(exist_ok=True)
            folder.replace_folder(saved.path_of(aside, step), saved.path_of(run, step))
        for path in sorted(p for p in aside.rglob("*") if p.is_file()):
            here = run / path.relative_to(aside)
            here.parent.mkdir(parents=True, exist_ok=True)
            path.replace(here)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case ["data", where, final]:
                fetch_data(where, Path(final))
            case _:
                sys.exit(2)
    except UserError as fault:
        print(fault, file=sys.stderr)
        sys.exit(2)
