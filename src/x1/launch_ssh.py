"""`x1 launch RUN --on ssh://user@host[:port]`: a box of one's own, or a rented one.

    here                                 on the machine, in DIR
    the package's own files         ->   DIR/            set up by its own Makefile
    data/NAME, if prepared here     ->   DIR/data/NAME
    the run's folder, ledger closed ->   DIR/runs/NAME   the job there is its only writer now
    the run's folder               <-    what has been added since, every few seconds

The job outlives the connection, and a connection that is cut is made again. See `x1.launch_machine`
for the other side, `x1.launch_fetch` for what is taken in.
"""

import json
import secrets
import shlex
import time
from datetime import date
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from x1 import clock, data, folder, launch, launch_machine, ledger, money, plan, predict, ssh
from x1.config import RunConfig
from x1.launch import Asked, tell
from x1.launch_fetch import machine_script, patiently, sync, there
from x1.launch_send import (
    ROOT,
    SETTING_UP_S,
    hand_over,
    make_script,
    project_files,
    send_data,
    set_up,
    unpack_script,
)
from x1.ssh import Machine
from x1.text import UserError, say

MODULES = ("torch", "numpy", "safetensors", "tokenizers", "datasets", "pydantic", "typer", "rich",
           "matplotlib", "fsspec")  # fmt: skip
FIRST_POLL_S, LONGEST_POLL_S = 1.0, 10.0
AWAY_S = 6 * 3600.0  # while the job runs: a night's router is no reason to look away
LOST = 1  # exit code: the job ended without saying how

PROBE = """
import importlib.util, json, os, shutil, sys
tools, modules = sys.argv[1].split(), sys.argv[2].split()
missing = [tool for tool in tools if not shutil.which(tool)]
missing += [name for name in modules if importlib.util.find_spec(name) is None]
try:
    ticks = int(open("/proc/1/stat").read().rpartition(")")[2].split()[19])
    age_s = float(open("/proc/uptime").read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
except Exception:
    age_s = 0.0
where = os.path.abspath(sys.argv[3])
while not os.path.isdir(where):
    where = os.path.dirname(where)
print(json.dumps({"python": sys.version_info[:2], "missing": missing, "age_s": max(age_s, 0.0),
                  "free_bytes": shutil.disk_usage(where).free}))
"""

Json = dict[str, Any]


def launch_on(run: Path, config: RunConfig, asked: Asked, today: date) -> int:
    """Launch there, or go back to what was launched there; returns the exit code for the shell."""
    record = launch.read_record(run)
    machine = machine_of(str(asked.on or (record or {}).get("target")), asked, record)
    gone = record is not None and record["handed_over"]
    if record and gone and record["target"] != address(machine):
        raise UserError("launch.elsewhere", target=record["target"], run=run)
    if (asked.stop or asked.attach) and not gone:
        raise UserError("launch.not_launched", run=run)
    if asked.stop:
        return stop(run, machine)
    if gone and not asked.dry_run:
        back = started_there(run, machine)
        if asked.attach and not back:
            raise UserError("launch.not_launched", run=run)
        if back:
            status = sync(run, machine)
            if status["running"] or asked.attach or folder.events(run, "finish"):
                return wait_or_leave(run, config, machine, asked)
    sentence = launch.gate(run, config, today, asked.accept_old_price)
    limit = launch.dead_man(run, config, asked)
    files = project_files(ROOT)
    if asked.dry_run:
        show(run, machine, asked, len(files))
        return 0
    probed = probe(run, config, machine)
    if limit:
        print(limit)
    launch.confirm(sentence, asked)
    if config.data.source == "text":  # its files are here
        data.prepare(config)
    at = clock.instant()
    launch.reserve(run, config, sentence, at)
    launch.arm(run, config, at, probed["age_s"])
    set_up(machine, files)
    send_data(config, machine)
    hand_over(run, machine)
    nonce = secrets.token_hex(8)
    launch.write_record(
        run, launch.SSH, address(machine), handed_over=True, directory=machine.directory,
        python=machine.python, ssh_config=machine.ssh_config, nonce=nonce,
    )  # fmt: skip
    watching = ["--i-will-watch"] if asked.i_will_watch else []
    job = machine_script(machine, "start", there(run), nonce, *watching)
    patiently(lambda: ssh.ask(machine, job), SETTING_UP_S)
    tell("launch.started", target=address(machine), run=run)
    return wait_or_leave(run, config, machine, asked)


def wait_or_leave(run: Path, config: RunConfig, machine: Machine, asked: Asked) -> int:
    if not asked.detach:
        return attach(run, config, machine)
    tell("launch.detached", run=run)
    return 0


def machine_of(target: str, asked: Asked, record: Json | None) -> Machine:
    """The machine meant; what is not said this time is as it was the last time."""
    host, user, port = ssh.parse_target(target)
    before = record if record and record["on"] == launch.SSH else {}
    return Machine(
        host,
        user,
        port,
        ssh.readable(asked.ssh_config) if asked.ssh_config else before.get("ssh_config"),
        asked.directory or before.get("directory") or "x1",
        asked.python or before.get("python"),
    )


def address(machine: Machine) -> str:
    host = f"[{machine.host}]" if ":" in machine.host else machine.host
    user, port = machine.user, machine.port
    return f"ssh://{f'{user}@' if user else ''}{host}{f':{port}' if port else ''}"


def started_there(run: Path, machine: Machine) -> bool:
    """Whether a job of this run has ever come up there. Raises Unreachable."""
    state = shlex.quote(f"{there(run)}/{launch_machine.STATE}")
    where = shlex.quote(machine.directory)
    look = f"CDPATH= cd -- {where} && test -e {state} && echo started; true"
    return b"started" in ssh.ask(machine, look).splitlines()


# ---- Before the start


def probe(run: Path, config: RunConfig, machine: Machine) -> Json:
    """What the machine says of itself. Raises UserError if it lacks something."""
    wanted = ["tar", " ".join(MODULES)] if machine.python else ["tar make", "venv ensurepip"]
    words = [machine.python or "python3", "-c", PROBE, *wanted, machine.directory]
    try:
        found: Json = json.loads(ssh.ask(machine, shlex.join(words)).splitlines()[-1])
    except (ValueError, IndexError):
        raise UserError("launch.garbled") from None
    if tuple(found["python"]) < (3, 11):
        version = ".".join(map(str, found["python"]))
        raise UserError("launch.old_python", host=machine.host, version=version)
    if found["missing"]:
        raise UserError("launch.missing", host=machine.host, missing=", ".join(found["missing"]))
    if found["free_bytes"] < needed_bytes(run, config):
        raise UserError("launch.no_disk", host=machine.host, free_gb=found["free_bytes"] / 1e9,
                        needed_gb=needed_bytes(run, config) / 1e9)  # fmt: skip
    return found


def needed_bytes(run: Path, config: RunConfig) -> float:
    """The data and the checkpoints that the plan expects to keep."""
    kept = plan.read_plan(run)["predictions"]["checkpoints_kept"]["value"] or 0.0
    token_bytes = 2 if config.model.vocab_size <= 65_536 else 4
    return config.tokens * token_bytes + (kept + 1) * predict.checkpoint_bytes(config)


def show(run: Path, machine: Machine, asked: Asked, files: int) -> None:
    """What would be run, and nothing else."""
    watching = ["--i-will-watch"] if asked.i_will_watch else []
    scripts = [unpack_script(machine)]
    if machine.python is None:
        scripts.append(make_script(machine))
    scripts.append(machine_script(machine, "start", there(run), "NONCE", *watching))
    scripts.append(machine_script(machine, "sync", there(run)))
    print(say("launch.would_copy", files=files, target=address(machine)))
    for script in scripts:
        print(shlex.join(ssh.command(machine, script)))


# ---- While it runs


def attach(run: Path, config: RunConfig, machine: Machine) -> int:
    """Fetch until the job has ended; Ctrl-C leaves it running. Returns the job's exit code."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"),
               TimeRemainingColumn())  # fmt: skip
    poll_s = FIRST_POLL_S
    try:
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task("", total=config.train.steps, state="")
            while (status := patiently(lambda: sync(run, machine), AWAY_S))["running"]:
                step, state = standing(run)
                bar.update(task, completed=step, state=state)
                time.sleep(poll_s)
                poll_s = min(1.2 * poll_s, LONGEST_POLL_S)
    except KeyboardInterrupt:
        tell("launch.detached", run=run)
        return 130
    return report(run, config, status)


def standing(run: Path) -> tuple[int, str]:
    """The last step here, and in words its loss and the dollars so far."""
    lines = [line for line in folder.read_lines(run / folder.METRICS) if "loss" in line]
    spent = money.usd(float(ledger.read_ledger(run).spent_usd))
    if not lines:
        return 0, spent
    return lines[-1]["step"] + 1, f"{say('train.loss', loss=lines[-1]['loss'])}, {spent}"


def report(run: Path, config: RunConfig, status: Json) -> int:
    """How it ended and what it has cost; returns the exit code."""
    code = status["exit_code"]
    if code is None:
        tell("launch.lost", run=run)
    elif code == 0:
        tell("launch.done", run=run)
    else:
        tell("launch.ended", code=code, run=run, log=run / "launch.log")
    show_spent(run)
    if not money.hardware(config.money.hardware).own:
        tell("launch.give_back", run=run)
    return LOST if code is None else int(code)


def show_spent(run: Path) -> None:
    book = ledger.read_ledger(run)
    tell("launch.spent", spent=money.usd(float(book.spent_usd)),
         ceiling=money.usd(book.ceiling_usd))  # fmt: skip


def stop(run: Path, machine: Machine) -> int:
    """Ask the job to save and to end, see it end, and leave no open ledger behind."""
    request = machine_script(machine, "stop", there(run))
    patiently(lambda: ssh.ask(machine, request), SETTING_UP_S)
    tell("launch.stopping")
    while patiently(lambda: sync(run, machine), AWAY_S)["running"]:
        time.sleep(FIRST_POLL_S)
    if not launch.is_closed(run):
        patiently(lambda: ssh.ask(machine, request), SETTING_UP_S)
        sync(run, machine)
    report(run, folder.open_run(run), folder.read_json(run / launch.STATUS))
    return 0
