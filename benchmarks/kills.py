"""What a kill costs: nothing. python benchmarks/kills.py --out docs/measured/kills.json

A small real run with planted faults, and so two roll-backs, is trained once without any trouble.
Then it is trained again and again and killed with SIGKILL: at any moment, while a checkpoint is
being written, just after a roll-back has been put on record, and while it starts; after some kills
it may end. Other runs get SIGTERM with a deadline of 30 seconds, or a disk that fills up. Every run
must end with the same bytes: weights, optimizer, metrics without `clock`, skipped batches, detector
and random state.

Most of a start is importing torch. So most trainers are forked from this process, which has done
so; the rest are `python -m x1.train`. All are killed from outside. Which phase a kill hit is read
from the disk afterwards.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from provenance import provenance

from x1 import checkpoint, config, data, flops, folder, train
from x1.ranks import Ranks

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "runs" / "kills"
STEPS = 44
SETTINGS = (
    "model.n_layers=1", "model.n_heads=2", "model.d_model=16", "model.d_ff=32", "model.context=16",
    "optim.warmup_steps=5", "optim.schedule=constant", "optim.clip=0",
    f"train.steps={STEPS}", "train.batch_sequences=4", "train.threads=1",
    "checkpoint.every_steps=4", "checkpoint.keep=2",
    "evaluate.every_steps=22", "evaluate.tokens=64", "sample.milestones=[]",
    "stability.window=16", 'stability.inject=["nan-gradient@8", "lr-x100@22", "lr-x100@36"]',
)  # fmt: skip
KILLS_PER_LIFE = 12
DEADLINE_S = 30.0
LIMIT_S = 300.0  # no trainer here takes as long, however busy the machine

PHASES = {  # as read from the disk; in the order in which they are looked for
    "replacing": ("between the renames of a checkpoint", "entre los renombrados de un checkpoint"),
    "writing": ("writing a checkpoint", "al escribir un checkpoint"),
    "rolling back": ("after a roll-back's record, before its first step",
                     "tras anotar un retroceso, antes de su primer paso"),
    "restoring": ("after a start's record, before its first step",
                  "tras anotar un arranque, antes de su primer paso"),
    "pruning": ("deleting an old checkpoint", "al borrar un checkpoint antiguo"),
    "unrecorded": ("checkpoint there, not yet on record",
                   "con el checkpoint escrito y aún sin anotar"),
    "training": ("between steps, or in one", "entre pasos, o en uno"),
    "starting": ("before the start's record", "antes de anotar el arranque"),
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--processes", type=int, default=4, help="kills of whole processes")
    options.add_argument("--sigterms", type=int, default=12)
    options.add_argument("--disks", type=int, default=12)
    asked = options.parse_args()
    source = provenance(threads=1)
    torch.set_num_threads(1)
    out = asked.out.resolve()
    draw = random.Random(5)
    prepare()
    warm_up()
    deaths = Deaths(draw, out, source)
    deaths.expected = never_killed()
    deaths.took_s = time_of_a_fork()
    fill_disks(deaths, asked.disks)
    terminate(deaths, asked.sigterms)
    kill(deaths, asked.processes, spawn)
    kill(deaths, asked.kills, fork)
    print(out.read_text())


def prepare() -> None:
    """The data, and the folder everything happens in."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    os.chdir(SCRATCH)
    draw = random.Random(0)
    words = ["one", "small", "model", "learns", "the", "words", "of", "a", "tiny", "text"]
    text = " ".join(draw.choice(words) + draw.choice(["", "", ".\n"]) for _ in range(4000))
    Path("words.txt").write_text(text)
    data.prepare(chosen(), quiet=True)


def warm_up() -> None:
    """What takes a start seconds, once for all that are forked: imports, and the machine's peak."""
    train.assemble(chosen(), Ranks(0, 1, torch.device("cpu")))
    flops.device_peak = cache(flops.device_peak)
    flops.device_peak("cpu", "fp32", 1)


def chosen() -> config.RunConfig:
    source = {"source": "text", "files": ["words.txt"]}
    return config.build("shakespeare-bytes", settings=SETTINGS, data=source)


def new_run(name: str) -> Path:
    run = Path(name).absolute()
    shutil.rmtree(run, ignore_errors=True)
    folder.claim(run, chosen())
    return run


def ending(run: Path) -> dict[str, Any]:
    """All that must be the same in the end."""
    at = checkpoint.read(checkpoint.path_of(run, STEPS))
    if at is None:
        raise SystemExit(f"{run}: no sound checkpoint at step {STEPS}")
    curve = json.dumps(folder.curve(run, keep_clock=False)).encode()
    parts = {name: at.state["files"][name] for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)}
    parts["metrics"] = hashlib.sha256(curve).hexdigest()
    for name in ("data_index", "skipped", "detector", "torch_rng"):
        content = json.dumps(at.state[name], sort_keys=True).encode()
        parts[name] = hashlib.sha256(content).hexdigest()
    whole = json.dumps(parts, sort_keys=True).encode()
    return parts | {"sha256": hashlib.sha256(whole).hexdigest()}


def never_killed() -> dict[str, Any]:
    """The ending of `python -m x1.train` left alone; it must have rolled back twice."""
    run = new_run("whole")
    code = ended(spawn(run))
    rollbacks, skips = folder.events(run, "rollback"), folder.events(run, "skip")
    if code or len(rollbacks) != 2 or not skips:
        raise SystemExit(f"the run to compare with: code {code}, {len(rollbacks)} roll-backs")
    return ending(run)


def time_of_a_fork() -> float:
    run = new_run("timed")
    began = time.monotonic()
    ended(fork(run))
    return time.monotonic() - began


# Trainers. Each is a process id whose exit status `ended` waits for.


def fork(run: Path) -> int:
    """A trainer without the minute of imports: the same `main`, in a child of this process."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        log = os.open(run / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["x1.train", str(run)]
        code = train.main()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as fault:
        os.write(2, repr(fault).encode())
        code = 99
    os._exit(code)


def spawn(run: Path) -> int:
    with (run / "log.txt").open("a") as log:
        command = [sys.executable, "-m", "x1.train", str(run)]
        return subprocess.Popen(command, stdout=log, stderr=log).pid


def over(pid: int) -> int | None:
    """The exit code (negative: the signal), or None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def ended(pid: int, limit_s: float = LIMIT_S) -> int | None:
    """The exit code, or None if it is still running after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        code = over(pid)
        if code is not None:
            return code
        time.sleep(0.002)
    return None


class Deaths:
    """What is counted, and what every run is compared with. Written anew after each run's end."""

    def __init__(self, draw: random.Random, out: Path, source: dict[str, Any]) -> None:
        self.draw, self.out, self.source = draw, out, source
        self.began = time.monotonic()
        self.expected: dict[str, Any] = {}
        self.took_s = 0.0
        self.phases: Counter[str] = Counter()
        self.processes = self.ended = self.identical = 0
        self.sigterm: dict[str, Any] = {"times": 0}
        self.full_disk: dict[str, Any] = {"times": 0}

    def compare(self, run: Path) -> None:
        """Let `run` end, and hold it against the one that was never killed."""
        code = ended(fork(run))
        found = ending(run)
        self.ended += 1
        self.identical += found == self.expected
        if code or found != self.expected:
            different = [name for name in found if found[name] != self.expected[name]]
            raise SystemExit(f"{run} ended differently: code {code}, {different}")
        shutil.rmtree(run)

    def write(self) -> None:
        killed, terms = self.phases.total(), self.sigterm["times"]
        disks = self.full_disk["times"]
        record = {
            "format": "x1-measured-1",
            "what": f"{killed} SIGKILLs, {terms} SIGTERMs and {disks} full disks: "
            "every run ends like the one that had none",
            "what_es": f"{killed} SIGKILL, {terms} SIGTERM y {disks} discos llenos: "
            "cada ejecución termina como la que no tuvo ninguno",
            **self.source,
            "seconds": round(time.monotonic() - self.began),
            "settings": list(SETTINGS),
            "phases": [
                {"phase": english, "phase_es": spanish, "kills": self.phases[name]}
                for name, (english, spanish) in PHASES.items()
            ],
            "runs": [
                {
                    "killed": killed,
                    "whole_processes": self.processes,
                    "ended": self.ended,
                    "identical": self.identical,
                    "sha256": self.expected["sha256"],
                }
            ],
            "sigterm": [self.sigterm],
            "full_disk": [self.full_disk],
        }
        folder.write_json(self.out, record)


# SIGKILL


def kill(deaths: Deaths, kills: int, start: Callable[[Path], int]) -> None:
    """Kill trainers `kills` times, some in each way, several in the life of a run."""
    done = life = 0
    while done < kills:
        life += 1
        run = new_run(f"{start.__name__}-{life}")
        for _ in range(min(KILLS_PER_LIFE, kills - done)):
            ways = [anywhere, anywhere, at_checkpoint, at_checkpoint, at_start]
            left = 2 - len(folder.events(run, "rollback"))
            way = deaths.draw.choice(ways + 2 * left * [at_rollback])
            pid = start(run)
            if not way(deaths, run, pid):
                break  # it ended first
            os.kill(pid, signal.SIGKILL)
            code = ended(pid)
            if code != -signal.SIGKILL:
                break
            deaths.phases[phase(run, pid)] += 1
            deaths.processes += start is spawn
            done += 1
        deaths.compare(run)
        deaths.write()
        say(f"{done} of {kills} kills ({start.__name__}), {dict(deaths.phases)}")


def wait(pid: int, true: Callable[[], Any]) -> bool:
    """Until something holds; False if the trainer ended first."""
    deadline_s = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline_s:
        if true():
            return True
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.001)
    raise SystemExit(f"process {pid} hangs")


def after(deaths: Deaths, pid: int, seconds: float) -> bool:
    until_s = time.monotonic() + deaths.draw.uniform(0, seconds)
    return wait(pid, lambda: time.monotonic() > until_s)


def anywhere(deaths: Deaths, run: Path, pid: int) -> bool:
    """Any time from the first moment on."""
    return after(deaths, pid, deaths.took_s / 3)


def at_checkpoint(deaths: Deaths, run: Path, pid: int) -> bool:
    """Within the writing of a checkpoint, some way into the run."""
    where = run / folder.CHECKPOINTS

    def writing() -> bool:
        return any(where.glob(".step-*"))

    return after(deaths, pid, deaths.took_s / 5) and wait(pid, writing) and after(deaths, pid, 0.02)


def at_rollback(deaths: Deaths, run: Path, pid: int) -> bool:
    """Just after the next roll-back has been put on record."""
    before = len(folder.events(run, "rollback"))
    path = run / folder.EVENTS
    sizes = [-1]

    def rolled_back() -> bool:
        size = path.stat().st_size if path.exists() else 0
        changed, sizes[0] = size != sizes[0], size
        return changed and len(folder.events(run, "rollback")) > before

    return wait(pid, rolled_back) and after(deaths, pid, 0.03)


def at_start(deaths: Deaths, run: Path, pid: int) -> bool:
    """Just after this start has been put on record."""
    return wait(pid, lambda: pid in started(run)) and after(deaths, pid, 0.03)


def started(run: Path) -> list[int]:
    return [event["pid"] for event in folder.events(run, "start")]


def phase(run: Path, pid: int) -> str:
    """What a killed trainer was at, by what it has left on the disk."""
    if pid not in started(run):
        return "starting"
    if any((run / folder.CHECKPOINTS).glob(".step-*.old")):
        return "replacing"
    if any((run / folder.CHECKPOINTS).glob(".step-*.tmp")):
        return "writing"
    if any((run / folder.CHECKPOINTS).glob(".step-*.gone")):
        return "pruning"
    turns = folder.events(run, "start", "rollback")
    lines = folder.read_lines(run / folder.METRICS)
    if not any(line["attempt"] == turns[-1]["attempt"] for line in lines):
        return "rolling back" if turns[-1]["event"] == "rollback" else "restoring"
    recorded = {(e["step"], e["attempt"]) for e in folder.events(run, "checkpoint")}
    for step in checkpoint.steps(run):
        state = folder.read_json(checkpoint.path_of(run, step) / checkpoint.STATE)
        if (step, state["attempt"]) not in recorded:
            return "unrecorded"
    return "training"


# SIGTERM


def terminate(deaths: Deaths, times: int) -> None:
    """SIGTERM at any moment, SIGKILL after 30 seconds: how long does a trainer take to end?"""
    seconds: list[float] = []
    late = saved = before_start = done = life = 0
    while done < times:
        life += 1
        run = new_run(f"term-{life}")
        for _ in range(6):
            pid = fork(run)
            if not anywhere(deaths, run, pid):
                break
            began = time.monotonic()
            os.kill(pid, signal.SIGTERM)
            code = ended(pid, DEADLINE_S)
            seconds.append(time.monotonic() - began)
            done += 1
            if code is None:
                late += 1
                os.kill(pid, signal.SIGKILL)
                ended(pid)
            elif code == train.EXIT_CODES["stopped"]:
                stop = folder.events(run, "stop")[-1]
                if checkpoint.read(checkpoint.path_of(run, stop["step"])) is None:
                    raise SystemExit(f"{run}: stopped without a checkpoint")
                saved += 1
            else:
                before_start += 1  # it had not come to its loop: nothing to save
        deaths.compare(run)
        say(f"{done} of {times} SIGTERMs")
    deaths.sigterm = {
        "times": done,
        "saved": saved,
        "before_the_loop": before_start,
        "late": late,
        "median_s": round(statistics.median(seconds), 3),
        "longest_s": round(max(seconds), 3),
    }
    deaths.write()


# A full disk


def fill_disks(deaths: Deaths, times: int) -> None:
    """Let the disk fill up at some byte of some write; make room again; go on."""
    place = SCRATCH / "disk"
    place.mkdir()
    size = 8 * 2**20
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True
    ).returncode
    if not mounted:
        raise SystemExit("a small disk needs root: mount -t tmpfs was refused")
    codes: Counter[int | None] = Counter()
    at: Counter[str] = Counter()
    done = life = 0
    try:
        while done < times:
            life += 1
            run = new_run(f"disk/{life}")
            for _ in range(5):
                room = deaths.draw.randrange(0, 900_000)
                ballast(place, room)
                pid = fork(run)
                code = ended(pid)
                (place / "ballast").unlink()
                if code == 0:
                    break
                said = (run / "log.txt").read_text()
                codes[code] += 1
                at[where_full(said)] += 1
                done += 1
                damaged = checkpoint.newest(run)[1] if checkpoint.steps(run) else []
                if code != 2 or damaged:
                    raise SystemExit(f"{run}: code {code}, damaged {damaged}: {said[-300:]}")
                (run / "log.txt").unlink()
            deaths.compare(run)
            say(f"{done} of {times} full disks, {dict(at)}")
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    deaths.full_disk = {
        "disk": "tmpfs, 8 MiB",
        "times": done,
        "said_so": codes[2],
        "in_a_checkpoint": sum(n for name, n in at.items() if name.startswith("checkpoint")),
        "elsewhere": sum(n for name, n in at.items() if not name.startswith("checkpoint")),
    }
    deaths.write()


def ballast(place: Path, room: int) -> None:
    """Fill the disk up to `room` bytes."""
    state = os.statvfs(place)
    free = state.f_bavail * state.f_frsize
    with (place / "ballast").open("wb") as file:
        file.write(b"\0" * max(free - room, 0))


def where_full(said: str) -> str:
    """Which file the sentence about the full disk names."""
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE):
        if name in said:
            return f"checkpoint: {name}"
    for name in (folder.METRICS, folder.EVENTS, folder.MANIFEST):
        if name in said:
            return name
    return "other"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
