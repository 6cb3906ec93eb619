"""Launching over ssh: a real server on loopback, real processes, a connection really cut."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sshd import Sshd, missing

from x1 import config as configuration
from x1 import (
    data,
    deadman,
    folder,
    launch,
    launch_fetch,
    launch_machine,
    launch_send,
    launch_ssh,
    ledger,
    plan,
    saved,
    ssh,
)
from x1.ssh import Machine
from x1.text import UserError

X1 = Path(sys.executable).with_name("x1")
SMALL = (
    "train.steps=60", "train.threads=1", "train.batch_sequences=4", "checkpoint.every_steps=10",
    "stability.window=16", "stability.inject=[]", "sample.milestones=[0]",
    "evaluate.every_steps=30", "evaluate.tokens=500",
)  # fmt: skip
needs_sshd = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("ssh") / "server") as started:
        yield started


def until(true: Callable[[], Any], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


def rehearsal(path: Path, *settings: str) -> Path:
    config = configuration.build("rehearsal", settings=(*SMALL, *settings))
    plan.write_plan(path, plan.make_plan(config, today=date.today(), tokens_per_s=4000.0))
    return path


def confirmed(run: Path) -> list[str]:
    return ["--confirm", plan.read_plan(run)["sentence"]["en"]]


def to(server: Sshd, where: Path) -> list[str]:
    """The options of a launch on the server, into a folder of its own, with this Python."""
    return ["--on", server.target, "--ssh-config", str(server.config), "--dir", str(where),
            "--python", sys.executable]  # fmt: skip


def x1_(*words: Any, cwd: Path, seconds: float = 240.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([X1, *map(str, words)], cwd=cwd, text=True, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=seconds, check=False)  # fmt: skip


def steps(run: Path) -> int:
    return len([line for line in folder.read_lines(run / folder.METRICS) if "loss" in line])


def trainer(run: Path) -> int:
    return int(folder.events(run, "start")[-1]["pid"])


# ---- The whole story


@needs_sshd
@pytest.mark.timeout(900)
def test_a_cut_connection_a_killed_trainer_and_a_stop_change_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What comes back is, weights and curve, what the same run gives here without any of it."""
    run, there = rehearsal(tmp_path / "runs" / "a"), tmp_path / "machine" / "runs" / "a"
    other = rehearsal(tmp_path / "runs" / "b")
    assert (other / folder.PLAN).read_bytes() == (run / folder.PLAN).read_bytes()
    said = tmp_path / "said"
    with Sshd(tmp_path_factory.mktemp("story") / "server") as server:
        options = to(server, tmp_path / "machine")
        with said.open("wb") as log:
            process = subprocess.Popen([X1, "launch", run, *options, *confirmed(run)],
                                       cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log)  # fmt: skip
        try:
            # It is being fetched while it runs; the trainer is held, so that all can be watched.
            until(lambda: steps(there) >= 5 or process.poll() is not None)
            assert process.poll() is None, said.read_text()
            os.kill(trainer(there), signal.SIGSTOP)
            held = steps(there)
            until(lambda: steps(run) == held)

            # The server is gone, with every connection: the job goes on meanwhile.
            server.cut()
            until(lambda: "trying again" in said.read_text())
            os.kill(trainer(there), signal.SIGCONT)
            until(lambda: steps(there) >= held + 3)
            os.kill(trainer(there), signal.SIGSTOP)
            assert process.poll() is None and steps(run) == held
            server.start()
            until(lambda: "Connected again" in said.read_text())
            until(lambda: steps(run) == steps(there))

            # The trainer is killed: its supervisor says so, and so does the launch.
            os.kill(trainer(there), signal.SIGKILL)
            assert process.wait(120) == 128 + signal.SIGKILL
            assert "exit code 137" in said.read_text()
        finally:
            process.kill()
            process.wait()
        assert folder.read_json(run / launch.STATUS)["running"] is False
        assert ledger.read_ledger(run).closed

        # Launched again, detached, and stopped: it saves, ends, and leaves a closed ledger.
        refused = x1_("launch", run, cwd=tmp_path)
        assert refused.returncode == 2 and "not typed back" in refused.stderr
        done = x1_("launch", run, *confirmed(run), "--detach", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        until(lambda: len(folder.events(there, "start")) == 2)
        done = x1_("launch", run, "--stop", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert folder.read_json(run / launch.STATUS)["exit_code"] in (0, 130)
        assert ledger.read_ledger(run).closed
        assert (run / folder.LEDGER).read_bytes() == (there / folder.LEDGER).read_bytes()

        # And again, to its end.
        if not folder.events(run, "finish"):
            done = x1_("launch", run, *confirmed(run), cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        done = x1_("launch", run, cwd=tmp_path)  # there is nothing left to start
        assert done.returncode == 0 and "Done" in done.stderr, done.stderr

    here = x1_("launch", other, "--on", "local", *confirmed(other), cwd=tmp_path)
    assert here.returncode == 0, here.stderr
    assert folder.curve(run, keep_clock=False) == folder.curve(other, keep_clock=False)
    assert len(folder.events(run, "start")) >= 2 and len(folder.events(other, "start")) == 1
    assert saved.steps(run) == saved.steps(there) and saved.steps(run)[-1] == 60
    for step in saved.steps(other):
        for name in (saved.MODEL, saved.OPTIMIZER):
            one, two = (saved.path_of(r, step) / name for r in (run, other))
            assert one.read_bytes() == two.read_bytes(), (step, name)
    for name in (folder.METRICS, folder.EVENTS, folder.LEDGER, folder.SAMPLES, folder.MANIFEST):
        assert (run / name).read_bytes() == (there / name).read_bytes(), name
    entries = ledger.read_entries(run)
    assert [e["entry"] for e in entries if e["entry"] in ("open", "close")][:2] == ["open", "close"]
    assert not list((tmp_path / "machine").rglob(".git"))
    # The copy has no .git, but it knows of which commit it is.
    manifest = folder.read_json(run / folder.MANIFEST)
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", manifest["git_commit"])


# ---- What is refused, and what is not done then


def refused(run: Path, *words: Any, cwd: Path) -> str:
    before = sorted(p.name for p in run.iterdir() if not p.name.startswith("."))
    done = x1_("launch", run, *words, cwd=cwd)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in run.iterdir() if not p.name.startswith(".")) == before
    return done.stderr


@needs_sshd
def test_nothing_is_reserved_when_the_machine_will_not_do(server: Sshd, tmp_path: Path) -> None:
    run, where = rehearsal(tmp_path / "run"), tmp_path / "machine"
    options, sentence = to(server, where), confirmed(run)
    nobody = [server.target.rpartition(":")[0] + ":1" if o == server.target else o for o in options]
    assert "cannot be reached" in refused(run, *nobody, *sentence, cwd=tmp_path)
    other = [str(tmp_path / "none") if o == sys.executable else o for o in options]
    assert "exit code 127" in refused(run, *other, *sentence, cwd=tmp_path)
    assert "not typed back" in refused(run, *options, cwd=tmp_path)
    wrong = [s.replace("h =", "h  = 1") for s in sentence]
    assert "Nothing was started" in refused(run, *options, *wrong, cwd=tmp_path)
    assert not where.exists()


@needs_sshd
def test_a_host_of_another_key_is_ssh_s_own_to_refuse(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = rehearsal(tmp_path / "run")
    with Sshd(tmp_path_factory.mktemp("other") / "server") as server:
        server.trust((server.folder / "key.pub").read_text())
        said = refused(run, *to(server, tmp_path / "machine"), *confirmed(run), cwd=tmp_path)
    assert "Host key verification failed" in said


@needs_sshd
def test_another_run_of_the_same_name_is_left_alone(server: Sshd, tmp_path: Path) -> None:
    run, where = rehearsal(tmp_path / "run"), tmp_path / "machine"
    other = rehearsal(where / "runs" / "run", "train.seed=1")
    before = {p: p.read_bytes() for p in other.iterdir()}
    done = x1_("launch", run, *to(server, where), *confirmed(run), cwd=tmp_path)
    assert done.returncode == 2 and "another run under this name" in done.stderr
    assert {p: p.read_bytes() for p in other.iterdir()} == before


@needs_sshd
def test_a_rented_machine_gets_its_limit_before_it_trains(server: Sshd, tmp_path: Path) -> None:
    """The timer is armed here and sent along. Here is also there, so it does not count."""
    rented = ("money.hardware='a100-80gb'", "money.price_usd_per_hour=1.39",
              f"money.price_date='{date.today()}'", "money.stop_command='true'")  # fmt: skip
    run, where = rehearsal(tmp_path / "run", *rented), tmp_path / "machine"
    try:
        done = x1_("launch", run, *to(server, where), *confirmed(run), cwd=tmp_path)
        assert done.returncode == 2 and "'true'" in done.stdout, done.stderr
        assert "Give it back" in done.stderr
        state = deadman.read_state(run)
        assert state is not None and state["status"] == "armed" and deadman.is_running(state)
        sent = deadman.read_state(where / "runs" / "run")
        assert sent is not None and sent["pid"] == state["pid"]
        assert "No dead-man's limit is armed" in (run / launch_machine.LOG).read_text()
        assert folder.events(run, "start") == []
        kinds = [entry["entry"] for entry in ledger.read_entries(run)]
        assert kinds.index("reserve") < kinds.index("close") < kinds.index("gap")
        assert ledger.read_ledger(run).closed
        os.kill(state["pid"], signal.SIGKILL)
        done = x1_("launch", run, *confirmed(run), cwd=tmp_path)
        assert done.returncode == 2
        armed, sent = deadman.read_state(run), deadman.read_state(where / "runs" / "run")
        assert armed is not None and deadman.is_running(armed)
        assert sent is not None and sent["pid"] == armed["pid"]  # the one that counts now
    finally:
        deadman.disarm(run)


@needs_sshd
def test_a_dry_run_shows_commands_and_touches_nothing(server: Sshd, tmp_path: Path) -> None:
    run, where = rehearsal(tmp_path / "run"), tmp_path / "machine"
    options = to(server, where)[:-2]  # with a set-up of its own
    done = x1_("launch", run, *options, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in ("tar -xf -", f"make {launch_send.SET_UP}", "x1.launch_machine start runs/run"):
        assert part in done.stdout
    assert not where.exists() and sorted(p.name for p in run.iterdir()) == [
        "config.toml",
        "plan.json",
    ]


# ---- Words from outside

HOSTILE = "a b;touch pwned'1'$(touch pwned2)`touch pwned3`\"|touch pwned4\n-rf *"


@pytest.mark.parametrize(
    "target",
    [
        "ssh://",
        "ssh://-oProxyCommand=touch%20x",
        "ssh://-oProxyCommand=x@host",
        "ssh://user@-oProxyCommand=x",
        "ssh://us er@host",
        "ssh://user@host name",
        "ssh://user@host;touch x",
        "ssh://user@$(touch x)",
        "ssh://us'er@host",
        "ssh://user@host:0",
        "ssh://user@host:65536",
        "ssh://user@host:22x",
        "ssh://user@host:-1",
        "ssh://user@host/path",
        "ssh://user@host?x",
        "ssh://user@host#x",
        "ssh://user@ho\nst",
        "ssh://user@ho\tst",
        "ssh://a@b@host",
        "ssh://user:secret@host",
        "ssh://@host",
    ],
)
def test_a_target_that_is_more_than_a_machine_is_refused(target: str) -> None:
    with pytest.raises(UserError) as caught:
        ssh.parse_target(target)
    assert caught.value.key == ("ssh.password" if "secret" in target else "ssh.target")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("ssh://host", ("host", None, None)),
        ("ssh://user@host:2222", ("host", "user", 2222)),
        ("ssh://user@host/", ("host", "user", None)),
        ("ssh://me@box-1.example.org", ("box-1.example.org", "me", None)),
        ("ssh://root@[::1]:22", ("::1", "root", 22)),
    ],
)
def test_a_machine_is_understood(target: str, meant: Any) -> None:
    assert ssh.parse_target(target) == meant
    host, user, port = meant
    assert ssh.parse_target(launch_ssh.address(Machine(host, user, port))) == meant


def test_no_name_is_more_than_a_name_to_the_shell_there(tmp_path: Path) -> None:
    """The line that ssh would hand to the login shell, handed to one."""
    where = tmp_path / HOSTILE
    where.mkdir()
    machine = Machine("host", "user", 22, None, str(where))
    words = ssh.command(machine, ssh.script(machine, "printf", "%s|", HOSTILE, "-n", NAME=HOSTILE))
    assert words[-3:-1] == ["--", "host"]
    done = subprocess.run(["sh", "-c", words[-1]], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode() == f"{HOSTILE}|-n|"
    pwd = ssh.command(machine, ssh.script(machine, "pwd"))[-1]
    done = subprocess.run(["sh", "-c", pwd], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode() == f"{where}\n"
    assert [p for p in tmp_path.rglob("*") if p != where] == []


def test_a_folder_that_begins_like_an_option(tmp_path: Path) -> None:
    (tmp_path / "-P").mkdir()
    machine = Machine("host", directory="-P")
    line = ssh.command(machine, ssh.script(machine, "pwd"))[-1]
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode() == f"{tmp_path / '-P'}\n"


def test_ssh_asks_nothing_and_forwards_nothing() -> None:
    words = ssh.command(Machine("host", "user", 2222, "/a config"), "true")
    line = shlex.join(words)
    assert words[0] == "ssh" and words[words.index("-F") + 1] == "/a config"
    assert words[words.index("-p") + 1] == "2222" and words[words.index("-l") + 1] == "user"
    for option in ("BatchMode=yes", "ForwardAgent=no", "ServerAliveInterval=15"):
        assert option in line
    assert "StrictHostKeyChecking" not in line  # the user's own to decide


# ---- The project and its data


def test_what_is_copied_is_the_package_and_nothing_hidden_or_ignored(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "src/x1/a.py", "src/x1/new.py",
                 ".env", "src/.token", "src/x1/.secret.toml", "src/x1/cache.pyc", "runs/r/x.jsonl",
                 "data/d/index.json", "work/w.ipynb", "docs/page.md", ".git/config"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / ".gitignore").write_text("*.pyc\n/runs/\n/data/\n")
    (root / ".git" / "config").unlink()
    git = ["git", "-C", str(root)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A", "--", ".", ":!src/x1/new.py"], check=True)
    assert sorted(launch_send.project_files(root)) == [
        "Makefile", "constraints.txt", "pyproject.toml", "src/x1/a.py", "src/x1/new.py",
    ]  # fmt: skip
    (root / "Makefile").unlink()
    with pytest.raises(UserError):
        launch_send.project_files(root)
    with pytest.raises(UserError):
        launch_send.project_files(tmp_path)  # no clone at all


def test_the_real_project_has_what_its_set_up_needs() -> None:
    names = launch_send.project_files(launch_send.ROOT)
    assert {"README.md", "LICENSE", "src/x1/text/es.toml", "src/x1/launch_machine.py"} <= set(names)
    assert not [n for n in names if n.startswith(("runs", "data", "work", "labs", ".", "tests"))]
    makefile = (launch_send.ROOT / "Makefile").read_text()
    assert f"\n{launch_send.SET_UP}:" in makefile


@needs_sshd
def test_data_is_sent_once_and_goes_on_where_it_was_cut(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = configuration.build("rehearsal", settings=(*SMALL, "train.steps=2"))
    here = data.prepare(config, quiet=True)
    user, port = server.target[6:].split("@")[0], server.port
    machine = Machine("127.0.0.1", user, port, str(server.config), str(tmp_path / "machine"))
    aside = tmp_path / "machine" / "data" / f".{here.name}.sent"
    aside.mkdir(parents=True)
    shard = next(here.glob("train-*.bin"))
    (aside / shard.name).write_bytes(shard.read_bytes()[:-1])  # cut off
    (aside / data.TOKENIZER).write_bytes((here / data.TOKENIZER).read_bytes())
    sent: list[str] = []
    original = launch_send.send

    def send(machine: Machine, script: str, entries: Any, label: str) -> None:
        sent.extend(name for _, name in entries)
        original(machine, script, entries, label)

    monkeypatch.setattr(launch_send, "send", send)
    launch_send.send_data(config, machine)
    there = tmp_path / "machine" / "data" / here.name
    assert shard.name in sent and data.TOKENIZER not in sent
    data.verify(there)
    assert not aside.exists()
    sent.clear()
    launch_send.send_data(config, machine)
    assert sent == []


# ---- What the machine sends


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """One run here and on the machine, with a ledger and some steps there."""
    here, there = tmp_path / "here" / "run", tmp_path / "there" / "run"
    rehearsal(here)
    rehearsal(there)
    (there / folder.PLAN).write_bytes((here / folder.PLAN).read_bytes())
    for step in range(3):
        log(there, step)
    write_checkpoint(there, 10)
    folder.write_json(there / folder.MANIFEST, {"a": 1})
    return here, there


def log(run: Path, step: int) -> None:
    folder.append_line(run / folder.METRICS, {"step": step, "attempt": 1, "loss": 1.0})


def write_checkpoint(run: Path, step: int, attempt: int = 1) -> Path:
    path = saved.path_of(run, step)
    path.mkdir(parents=True)
    (path / saved.MODEL).write_bytes(b"model" * 1000 + bytes([attempt]))
    (path / saved.OPTIMIZER).write_bytes(b"moments" * 1000)
    folder.write_json(path / saved.STATE, saved.sealed(path, run, step, {"attempt": attempt}))
    return path


def sent_by(there: Path, here: Path) -> bytes:
    out = io.BytesIO()
    launch_machine.sync(there, launch_fetch.have(here), out)
    return out.getvalue()


def fetch(there: Path, here: Path) -> dict[str, Any]:
    return launch_fetch.receive(here, io.BytesIO(sent_by(there, here)))


def content(run: Path) -> dict[str, bytes]:
    mine = (launch.RECORD, launch.STATUS)
    return {
        p.relative_to(run).as_posix(): p.read_bytes()
        for p in sorted(run.rglob("*"))
        if p.is_file() and p.name not in mine and not p.name.startswith(".")
    }


def test_the_folder_grows_and_what_is_there_is_not_sent_again(pair: tuple[Path, Path]) -> None:
    here, there = pair
    status = fetch(there, here)
    assert content(here) == content(there) and status["running"] is False
    quiet = sent_by(there, here)
    assert quiet.count(b"\n") == 2  # MAGIC and the status
    log(there, 3)
    write_checkpoint(there, 20)
    with (there / folder.METRICS).open("ab") as file:
        file.write(b'{"step": 4, "unfin')  # torn, or not finished yet
    grown = sent_by(there, here)
    assert grown.count(b'"step": 0') == 0 and b"unfin" not in grown
    fetch(there, here)
    assert steps(here) == 4 and saved.read(saved.path_of(here, 20)) is not None


def test_a_checkpoint_written_again_after_a_roll_back_replaces_the_old(
    pair: tuple[Path, Path],
) -> None:
    here, there = pair
    fetch(there, here)
    launch_fetch.shutil.rmtree(saved.path_of(there, 10))
    write_checkpoint(there, 10, attempt=2)
    fetch(there, here)
    found = saved.read(saved.path_of(here, 10))
    assert found is not None and found.state["attempt"] == 2


def test_pruned_there_is_pruned_here_but_never_the_newest(pair: tuple[Path, Path]) -> None:
    here, there = pair
    fetch(there, here)
    launch_fetch.shutil.rmtree(saved.path_of(there, 10))
    write_checkpoint(there, 20)
    fetch(there, here)
    assert saved.steps(here) == [20]
    launch_fetch.shutil.rmtree(saved.path_of(there, 20))
    fetch(there, here)
    assert saved.steps(here) == [20]
    write_checkpoint(there, 15)  # after a roll-back
    fetch(there, here)
    assert saved.steps(here) == [15, 20]


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_stream_cut_anywhere_leaves_only_whole_things(
    pair: tuple[Path, Path], part: float
) -> None:
    here, there = pair
    stream = sent_by(there, here)
    with pytest.raises(launch_fetch.Cut):
        launch_fetch.receive(here, io.BytesIO(stream[: int(part * len(stream))]))
    whole = content(there)
    for name, found in content(here).items():
        assert whole[name] == found, name
    for step in saved.steps(here):
        assert saved.read(saved.path_of(here, step)) is not None
    assert not list(here.rglob("*.fetch"))
    fetch(there, here)
    assert content(here) == whole


def test_a_greeting_of_the_shell_is_read_over(pair: tuple[Path, Path]) -> None:
    here, there = pair
    stream = b"Welcome!\nLast login: {today}\nno newline:" + sent_by(there, here)
    launch_fetch.receive(here, io.BytesIO(stream))
    assert content(here) == content(there)
    with pytest.raises(launch_fetch.Cut):
        launch_fetch.receive(here, io.BytesIO(b"Welcome!\n" * 5))


def test_a_damaged_checkpoint_stays_there(pair: tuple[Path, Path]) -> None:
    here, there = pair
    path = write_checkpoint(there, 20)
    (path / saved.MODEL).write_bytes(b"other")
    fetch(there, here)
    assert saved.steps(here) == [10]


def test_another_runs_checkpoint_stays_there(pair: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = pair
    stranger = rehearsal(tmp_path / "stranger", "train.seed=1")
    write_checkpoint(stranger, 20).rename(saved.path_of(there, 20))
    fetch(there, here)
    assert saved.steps(here) == [10]


def test_another_run_sends_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    here, _ = pair
    with pytest.raises(UserError) as caught:
        sent_by(rehearsal(tmp_path / "stranger", "train.seed=1"), here)
    assert caught.value.key == "launch.other_run"


@pytest.mark.parametrize("side", ["here", "there"])
def test_a_log_that_does_not_go_on_from_the_other_is_refused(
    pair: tuple[Path, Path], side: str
) -> None:
    here, there = pair
    fetch(there, here)
    changed = (here if side == "here" else there) / folder.METRICS
    changed.write_bytes(changed.read_bytes().replace(b"1.0", b"0.5", 1))
    log(there, 3)
    before = (here / folder.METRICS).read_bytes()
    with pytest.raises(UserError) as caught:
        fetch(there, here)
    assert caught.value.key == "launch.other_file"
    assert (here / folder.METRICS).read_bytes() == before


def test_a_ledger_that_was_cut_short_there_does_not_replace_the_one_here(
    pair: tuple[Path, Path],
) -> None:
    here, there = pair
    for entry in range(3):
        folder.append_line(there / folder.LEDGER, {"entry": entry})
    fetch(there, here)
    lines = (there / folder.LEDGER).read_bytes().splitlines(keepends=True)
    (there / folder.LEDGER).write_bytes(b"".join(lines[:2]))
    with pytest.raises(UserError):
        fetch(there, here)
    assert len((here / folder.LEDGER).read_bytes().splitlines()) == 3


def stream_of(header: dict[str, Any], body: bytes = b"") -> io.BytesIO:
    out = io.BytesIO()
    out.write(launch_machine.MAGIC)
    launch_machine.frame(out, {**launch_machine.measure(body), **header}, body)
    launch_machine.frame(out, {"status": {}})
    out.seek(0)
    return out


@pytest.mark.parametrize(
    "header",
    [
        {"file": "../outside", "offset": None},
        {"file": "/etc/outside", "offset": None},
        {"file": "a/../../outside", "offset": None},
        {"file": ".ssh", "offset": None},
        {"file": "a/.hidden", "offset": None},
        {"file": "a b", "offset": None},
        {"file": "link/outside", "offset": None},
        {"file": "config.toml", "offset": None},
        {"file": "plan.json", "offset": None},
        {"file": "launch.json", "offset": None},
        {"file": "deadman.json", "offset": None},
        {"file": "checkpoints/step-00000010/state.json", "offset": None},
        {"file": "report.html", "offset": 0},
        {"file": "events.jsonl", "offset": 7},
        {"file": "big", "offset": None, "bytes": 1 << 40},
        {"file": "a", "offset": None, "bytes": -1},
        {"file": "a", "offset": None, "bytes": "1"},
        {"file": "a", "offset": None, "sha256": "0" * 64},
        {"checkpoint": "../step-00000010", "file": "model.safetensors"},
        {"checkpoint": "step-00000010", "file": "../../x"},
        {"checkpoint": "step-00000010", "file": "state.json"},
    ],
    ids=str,
)
def test_what_a_hostile_machine_sends_is_not_taken_in(
    pair: tuple[Path, Path], tmp_path: Path, header: dict[str, Any]
) -> None:
    here, _ = pair
    (tmp_path / "elsewhere").mkdir()
    (here / "link").symlink_to(tmp_path / "elsewhere")
    before = content(here)
    with pytest.raises(UserError):
        launch_fetch.receive(here, stream_of(header, b"evil"))
    assert content(here) == before
    assert list((tmp_path / "elsewhere").iterdir()) == [] and not (tmp_path / "outside").exists()


def test_a_machine_that_says_nonsense(pair: tuple[Path, Path]) -> None:
    here, _ = pair
    for line in (b"[1]\n", b"{\n", b"null\n", b"\xff\n"):
        with pytest.raises(UserError) as caught:
            launch_fetch.receive(here, io.BytesIO(launch_machine.MAGIC + line))
        assert caught.value.key == "launch.garbled"


def test_what_ssh_says_cannot_steer_the_terminal() -> None:
    said = ssh.last_line(b"first\n\x1b[2J\x1b]0;title\x07denied\n\n")
    assert said == "[2J]0;titledenied"


# ---- The job


def test_a_start_made_twice_is_one_job_and_its_end_is_on_record(tmp_path: Path) -> None:
    """`x1 train` itself, on a configuration that it refuses at once."""
    run = rehearsal(tmp_path / "run", "data.source='text'", "data.files=['none.txt']")
    launch_machine.start(run, "one", [])
    launch_machine.start(run, "one", [])
    until(lambda: not launch_machine.is_running(run))
    state = launch_machine.read_state(run)
    assert (state["nonce"], state["exit_code"]) == ("one", 2)
    assert "none.txt" in (run / launch_machine.LOG).read_text()
    assert launch_machine.status_of(run) == {"running": False, "exit_code": 2, "nonce": "one"}
    launch_machine.start(run, "two", [])
    assert launch_machine.read_state(run)["nonce"] == "two"
    until(lambda: not launch_machine.is_running(run))


def test_a_ledger_that_a_killed_supervisor_left_open_is_closed(tmp_path: Path) -> None:
    run = rehearsal(tmp_path / "run")
    price = ledger.Price(0.01, "stated", "")
    book = ledger.start(run, launch.clock.instant(), price, 50.0, 35.0, plan.plan_digest(run))
    assert not book.closed
    launch_machine.stop(run)
    assert ledger.read_ledger(run).closed
    with folder.locked(run, "supervise"), pytest.raises(UserError):
        ledger.resume(run, launch.clock.instant())
        launch_machine.stop(run)  # somebody is writing: it is theirs


def test_a_failing_connection_is_tried_again_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    now = [0.0]
    monkeypatch.setattr(
        ssh.time, "sleep", lambda s: (waits.append(s), now.__setitem__(0, now[0] + s))
    )
    monkeypatch.setattr(ssh.time, "monotonic", lambda: now[0])
    told: list[str] = []
    failures = [8]

    def attempt() -> str:
        if failures[0]:
            failures[0] -= 1
            raise ssh.Unreachable("ssh.unreachable", host="h", fault="f")
        return "there"

    assert ssh.patiently(attempt, 1000.0, told.append) == "there"
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60] and len(told) == 1
    failures[0] = 100
    with pytest.raises(ssh.Unreachable):
        ssh.patiently(attempt, 100.0, told.append)


def test_what_the_page_says_of_a_whole_launch_was_measured() -> None:
    path = Path(__file__).parents[1] / "docs" / "measured" / "launch.json"
    (seen,) = json.loads(path.read_text("utf-8"))["runs"]
    assert seen["files"] == seen["same_files"] > 0 and seen["same_curve"]
    assert seen["steps_while_away"] > 0 and seen["starts"] == 2 and seen["ledger_closed"]
