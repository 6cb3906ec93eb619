"""A launch over ssh, from a clone, with everything that can go wrong on the way:
python benchmarks/launch_over_ssh.py --out docs/measured/launch.json

A server with keys of its own listens on loopback. A clone of the repository launches the rehearsal,
cut to fewer steps, onto it: the project is copied and sets itself up there with `make`, as on a
machine that has nothing of it. While it trains, the server and all connections are killed, and come
back; then the trainer is killed; then the run is launched again. What comes back is compared with
the same run trained without any of that.

The clone is run by this Python; TORCH_ARGS means here what it means to `make`.
"""

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from provenance import provenance

from x1 import config, folder, ledger, plan, saved

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
Sshd = importlib.import_module("sshd").Sshd  # the tests' server

SETTINGS = (
    "train.steps=80", "train.threads=1", "train.batch_sequences=8", "checkpoint.every_steps=20",
    "stability.window=16", "stability.inject=[]", "sample.milestones=[0]",
    "evaluate.every_steps=40", "evaluate.tokens=2000",
)  # fmt: skip
AWAY_S = 10.0
WHAT = "A launch over ssh from a clone: connection cut, trainer killed, in the end the same bytes"
WHAT_ES = (
    "Un lanzamiento por ssh desde un clon: conexión cortada, entrenador muerto con SIGKILL, "
    "al final los mismos bytes"
)


def clone(into: Path) -> None:
    """A clone of the last commit, with what has been changed since and git does not ignore."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(into)], check=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, into / name)


def planned(run: Path) -> list[str]:
    """Plan the run; the words that confirm it."""
    made = plan.make_plan(
        config.build("rehearsal", settings=SETTINGS), today=date.today(), tokens_per_s=4000.0
    )
    plan.write_plan(run, made)
    return ["--confirm", str(made.record["sentence"]["en"])]


def until(true: Callable[[], Any], seconds: float) -> float:
    """Wait for something; returns how long it took."""
    began = time.monotonic()
    while not true():
        if time.monotonic() > began + seconds:
            raise SystemExit("waited in vain")
        time.sleep(0.02)
    return time.monotonic() - began


def steps(run: Path) -> int:
    return sum("loss" in line for line in folder.read_lines(run / folder.METRICS))


def trainer(run: Path) -> int:
    return int(folder.events(run, "start")[-1]["pid"])


def story(place: Path) -> dict[str, Any]:
    """Launch, cut, kill, launch again; what was seen on the way."""
    here, machine, said = place / "clone", place / "machine", place / "said"
    clone(here)
    run, there, plain = place / "runs/a", machine / "runs/a", place / "runs/b"
    confirmed, _ = planned(run), planned(plain)
    x1 = [sys.executable, "-c", "from x1.cli import main; main()"]
    environment = {**os.environ, "PYTHONPATH": str(here / "src"), "X1_LANG": "en"}

    def launched(*words: str) -> subprocess.Popen[bytes]:
        with said.open("ab") as log:
            return subprocess.Popen([*x1, "launch", *words], cwd=place, env=environment,
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip

    with Sshd(place / "server") as server:
        options = ["--on", server.target, "--ssh-config", str(server.config), "--dir", str(machine)]
        process = launched(str(run), *options, *confirmed)
        set_up_s = until(lambda: "Started on" in said.read_text() or process.poll(), 3000)
        if process.poll() is not None:
            raise SystemExit(said.read_text())
        until(lambda: steps(there) >= 5, 600)
        os.kill(trainer(there), signal.SIGSTOP)
        held = steps(there)
        until(lambda: steps(run) == held, 60)
        server.cut()
        os.kill(trainer(there), signal.SIGCONT)
        time.sleep(AWAY_S)
        os.kill(trainer(there), signal.SIGSTOP)
        away = steps(there) - held
        server.start()
        back_s = until(lambda: steps(run) == held + away, 120)
        os.kill(trainer(there), signal.SIGKILL)
        killed = process.wait(120)
        again = launched(str(run), *confirmed).wait(3000)
    code = launched(str(plain), "--on", "local", *confirmed).wait(3000)
    if (killed, again, code) != (128 + signal.SIGKILL, 0, 0):
        raise SystemExit(said.read_text())
    files = [
        saved.path_of(plain, step) / name
        for step in saved.steps(plain)
        for name in (saved.MODEL, saved.OPTIMIZER)
    ]
    same = [(run / f.relative_to(plain)).read_bytes() == f.read_bytes() for f in files]
    return {
        "set_up_s": round(set_up_s),
        "away_s": AWAY_S,
        "steps_while_away": away,
        "back_s": round(back_s, 1),
        "starts": len(folder.events(run, "start")),
        "steps": steps(plain),
        "files": len(files),
        "same_files": sum(same),
        "same_curve": folder.curve(run, keep_clock=False) == folder.curve(plain, keep_clock=False),
        "ledger_closed": ledger.read_ledger(run).closed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as place:
        seen = story(Path(place))
        record = {
            "format": "x1-measured-1",
            "what": WHAT,
            "what_es": WHAT_ES,
            **provenance(threads=1),
            "settings": list(SETTINGS),
            "runs": [seen],
        }
        folder.write_json(out, record)
    whole = seen["same_files"] == seen["files"] and seen["same_curve"] and seen["ledger_closed"]
    print(seen)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
