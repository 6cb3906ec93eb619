"""`x1 watch`: what it sees is the folder's, it disturbs nothing, and it fits every terminal."""

import fcntl
import json
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
import time
from datetime import datetime
from pathlib import Path

import pytest
from rich.cells import cell_len
from test_report import START_S, make_run

from x1 import cli, config, folder, guard, ledger, money, record, watch, watch_page, watch_ssh
from x1.text import LANGUAGES, UserError, say, set_language

X1 = Path(sys.executable).with_name("x1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of 400 steps, and the same folder as it was when 70% of it had been done."""
    place = tmp_path_factory.mktemp("runs")
    make_run(place / "finished", 400)
    running = make_run(place / "running", 400)
    (running / folder.EVALUATION).unlink()
    cut(running / folder.METRICS, 0.7)
    lines = folder.read_lines(running / folder.METRICS)
    now = datetime.fromisoformat(lines[-1]["clock"]["time"])
    kept = [e for e in folder.events(running) if datetime.fromisoformat(e["time"]) <= now]
    (running / folder.EVENTS).write_text("".join(json.dumps(e) + "\n" for e in kept), "utf-8")
    return place


def cut(path, share):
    """Keep the first lines, and half of the one that was being written."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    kept = int(share * len(lines))
    path.write_text("".join(lines[:kept]) + lines[kept][:37], "utf-8")


def seen_while_running(made):
    with folder.locked(made / "running"), folder.locked(made / "running", "supervise"):
        return watch.snapshot(made / "running", START_S + 100.0)


def test_a_running_run_as_its_files_say(made):
    seen = seen_while_running(made)
    run = made / "running"
    here, book = record.read(run), ledger.read_ledger(run)
    steps = here.steps_done
    assert (seen["state"], seen["step"], seen["steps"]) == ("running", steps, 400)
    assert seen["loss_nats_per_token"] == record.last_loss(here)
    rates = [line["clock"]["tokens_per_s"] for line in folder.read_lines(run / folder.METRICS)
             if "loss" in line]  # fmt: skip
    assert seen["speed"]["tokens_per_s"] == pytest.approx(sorted(rates)[len(rates) // 2], rel=0.01)
    remaining = (400 - steps) * here.config.batch_tokens
    assert seen["seconds_left"] == pytest.approx(remaining / seen["speed"]["tokens_per_s"])
    state = guard.GuardState(
        float(book.spent_usd), 50.0, None, book.price.usd_per_hour, 0.0, 60.0, 1e4,
        steps * here.config.batch_tokens, here.config.tokens, seen["speed"]["tokens_per_s"],
        0.0, 0.0, 300.0, False, "ask", True,
    )  # fmt: skip
    assert seen["money"]["projected_usd"] == pytest.approx(guard.projection_usd(state))
    assert seen["money"]["left_usd"] == pytest.approx(50.0 - float(book.spent_usd))
    saved = folder.events(run, "checkpoint")[-1]
    age = START_S + 100 - datetime.fromisoformat(saved["time"]).timestamp()
    assert seen["checkpoint"] == {"step": saved["step"], "age_s": max(age, 0.0)}
    assert seen["predicted"]["basis"] == "plan"
    assert seen["predicted"]["loss_nats_per_token"] == {"value": 1.30, "low": 1.28, "high": 1.32}
    assert f"pid {os.getpid()}" in seen["supervisor"]
    assert [e["kind"] for e in seen["events"]].count("checkpoint") == 0
    assert seen["events"][-1]["kind"] in ("rollback", "kill")
    assert all(point[0] < steps for point in seen["curve"]["loss"])


def test_only_the_last_half_hour_counts_for_the_speed(made):
    here = record.read(made / "finished")
    first = here.training.step < 320  # most of the run
    here.training.values["tokens_per_s"][:] = 100.0
    here.training.values["tokens_per_s"][first] = 900.0
    here.training.time_s[first] -= guard.RATE_WINDOW_S
    assert watch.recent_tokens_per_s(here) == 100.0


def test_a_finished_run_projects_nothing_more(made):
    seen = watch.snapshot(made / "finished", START_S + 1000.0)
    assert seen["state"] == "finished" and seen["step"] == 400
    assert seen["seconds_left"] is None and seen["money"]["projected_usd"] is None
    assert seen["held_out"] == {"loss_nats_per_token": 1.3325, "step": 400}
    assert seen["supervisor"] is None
    assert json.loads(json.dumps(seen, allow_nan=False)) == seen


def test_looking_writes_nothing_and_takes_no_lock(made, monkeypatch):
    run = made / "running"
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in made.rglob("*")}

    def taken(*arguments):
        raise AssertionError("a lock")

    with folder.locked(run):
        monkeypatch.setattr(fcntl, "flock", taken)
        assert watch.snapshot(run, time.time())["state"] == "running"
    monkeypatch.undo()
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in made.rglob("*")}
    locks = {run / ".train.lock"}
    assert {p: s for p, s in after.items() if p not in locks} == {
        p: s for p, s in before.items() if p not in locks
    }


def test_a_killed_process_holds_nothing(tmp_path):
    run = tmp_path
    child = subprocess.Popen(
        [sys.executable, "-c",
         "import sys, time; from pathlib import Path; from x1 import folder\n"
         "with folder.locked(Path(sys.argv[1])): print(flush=True); time.sleep(60)", run],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    child.stdout.readline()
    assert record.holder(run).startswith(f"pid {child.pid}, {socket.gethostname()}, ")
    child.kill()
    deadline = time.monotonic() + 10
    while record.holder(run) and time.monotonic() < deadline:  # it is a zombie now
        time.sleep(0.01)
    assert record.holder(run) is None
    child.wait()
    assert record.holder(run) is None and (run / ".train.lock").read_text()


def test_who_holds_a_lock(tmp_path):
    lock = tmp_path / ".train.lock"
    assert record.holder(tmp_path) is None
    mine = f"pid {os.getpid()}, {socket.gethostname()}, 2026-03-01 10:00:00"
    lock.write_text(mine)
    assert record.holder(tmp_path) == mine
    os.utime(lock, (0, 0))  # taken long before this process was born: its number is another's
    assert record.holder(tmp_path) is None
    lock.write_text("pid 1, elsewhere, 2026-03-01 10:00:00")
    os.utime(lock, (0, 0))
    assert record.holder(tmp_path) == "pid 1, elsewhere, 2026-03-01 10:00:00"
    for nonsense in ("", "pid x", "pid 99999999999999999999999, a, b"):
        lock.write_text(nonsense)
        assert record.holder(tmp_path) is None


def untouched(place):
    run = place / "untouched"
    folder.claim(run, config.build("rehearsal"))
    return run


def test_a_run_that_has_not_begun_and_one_with_everything_damaged(made, tmp_path):
    seen = watch.snapshot(untouched(tmp_path), time.time())
    assert (seen["state"], seen["step"], seen["money"]) == ("untouched", 0, None)
    assert seen["loss_nats_per_token"] is None and seen["curve"] == {"loss": [], "held_out": []}
    names = (folder.METRICS, folder.EVENTS, folder.LEDGER, folder.PLAN, folder.MANIFEST)
    for name in names:
        (tmp_path / "untouched" / name).write_bytes(b'{"a": \xff[[[')
    seen = watch.snapshot(tmp_path / "untouched", time.time())
    assert seen["money"] is None and folder.PLAN in seen["damaged"]
    (tmp_path / "untouched" / "deadman.json").write_text("[")
    assert watch.snapshot(tmp_path / "untouched", time.time())["deadman"] == {"kind": "own"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), {"kind": "none"}),
        (("money.max_lifetime_hours=9",), {"kind": "provider", "hours": 9.0}),
    ],
)
def test_what_ends_a_rented_machine(settings, expected, tmp_path):
    run = tmp_path / "r"
    folder.claim(run, config.build("x1-50m", None, settings))
    assert watch.snapshot(run, time.time())["deadman"] == expected
    if settings:
        return
    state = {"format": "x1-deadman-1", "status": "armed", "until": "2030-01-01T00:00:00+00:00",
             "host": "laptop"}  # fmt: skip
    folder.write_json(run / "deadman.json", state)
    shown = watch.snapshot(run, time.time())["deadman"]
    assert shown == {"kind": "timer", **{k: state[k] for k in ("status", "until", "host")}}


def test_a_run_handed_to_another_machine_runs_there(made, tmp_path):
    run = make_run(tmp_path / "r", 100)
    (run / folder.EVALUATION).unlink()
    cut(run / folder.METRICS, 0.5)
    cut(run / folder.EVENTS, 0.4)
    assert watch.snapshot(run, time.time())["state"] == "interrupted"
    folder.write_json(
        run / "launch.json", {"on": "ssh", "target": "ssh://me@box", "handed_over": 1}
    )
    heard = {"time": "2030-03-17T18:00:00+00:00", "running": True, "exit_code": None}
    folder.write_json(run / "launch-status.json", heard)
    at = datetime.fromisoformat(heard["time"]).timestamp()
    seen = watch.snapshot(run, at + 90)
    assert seen["state"] == "running"
    assert seen["away"] == {"target": "ssh://me@box", "running": True, "age_s": 90.0}
    text = "\n".join(line.plain for line in watch_page.page(seen, 80, 24))
    assert "ssh://me@box" in text and "1 min 30 s" in text
    assert say("watch.no_supervisor", "en") not in text


# ---- Drawn


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("size", [(80, 24), (60, 24), (60, 10), (200, 60), (40, 15)])
@pytest.mark.parametrize("state", ["running", "finished", "untouched"])
def test_it_fits_the_terminal(made, tmp_path, lang, size, state):
    set_language(lang)
    if state == "untouched":
        seen = watch.snapshot(untouched(tmp_path), time.time())
    elif state == "running":
        seen = seen_while_running(made)
    else:
        seen = watch.snapshot(made / "finished", time.time())
    width, height = size
    lines = watch_page.page(seen, width, height)
    set_language(None)
    assert len(lines) <= height
    assert max(cell_len(line.plain) for line in lines) <= width
    text = "\n".join(line.plain for line in lines)
    assert say(f"watch.state_{state}", lang) in text
    if height >= 24 and state != "untouched":
        assert f"{seen['loss_nats_per_token']:.3f}" in text
        assert any(0x2800 < ord(c) < 0x2900 for c in text)  # the curve
        assert money.usd(seen["money"]["spent_usd"]) in text


def test_the_curve_is_where_its_values_are():
    """A loss that falls on a line from upper left to lower right, and a band below its end."""
    points = [[float(step), 4.0 - step / 100] for step in range(201)]
    band = {"value": 1.0, "low": 0.9, "high": 1.1}
    seen = {"curve": {"loss": points, "held_out": [[200.0, 2.0]]}, "steps": 400,
            "predicted": {"loss_nats_per_token": band}}  # fmt: skip
    lines = [line.plain for line in watch_page.chart(seen, 80, 21)]
    drawn = [line[watch_page.SCALE :] for line in lines[:-1]]
    columns = 80 - watch_page.SCALE
    low, high = watch_page.scale(points, [], band)
    assert low < 0.9 and high == pytest.approx(3.8 + 0.04 * 2.9)
    for step in (60, 120, 180):
        row = int((high - (4.0 - step / 100)) / (high - low) * 20)
        column = int(step / 400 * columns)
        near = "".join(line[column - 1 : column + 2] for line in drawn[row - 1 : row + 2])
        assert any(0x2800 < ord(c) < 0x2900 for c in near), (step, row, column)
    # Beyond the present step there is the band alone: three rows of dots.
    right = [row for row, line in enumerate(drawn) if line[columns // 2 + 3 :].strip()]
    assert len(right) <= 3 and right[-1] >= 18
    assert "•" in drawn[int((high - 2.0) / (high - low) * 20)]


def test_a_ladder_before_the_run_is_shown_while_it_is_climbed(tmp_path):
    seen = watch.snapshot(untouched(tmp_path), time.time())
    text = "\n".join(line.plain for line in watch_page.page(seen, 60, 24))
    assert say("watch.row_ladder", "en") not in text
    seen["ladder"] = {
        "tokens": 2.5e8,
        "tokens_total": 3.7e9,
        "share": 0.0712,
        "at": "d128-s0-trunk",
    }
    text = "\n".join(line.plain for line in watch_page.page(seen, 60, 24))
    assert "7.1%" in text and "250.0M of 3,700.0M" in text and "d128-s0-trunk" in text


def test_an_old_picture_says_so(made):
    seen = seen_while_running(made)
    fresh = watch_page.page(seen, 80, 24, age_s=1.0)
    old = watch_page.page(seen, 80, 24, age_s=600.0, trouble=say("watch.lost", "en"))
    said = say("watch.as_of", "en", age="10 min 00 s")
    set_language("en")
    assert said not in "\n".join(line.plain for line in fresh)
    text = "\n".join(line.plain for line in old)
    assert f"{said} {say('watch.lost', 'en')}" in text
    assert "has charged nothing for" in text


# ---- The command


def x1_(*arguments, **more):
    return subprocess.run(
        [X1, *map(str, arguments)], env=os.environ | {"X1_LANG": "en"} | more,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_json_is_one_line_and_follow_ends_with_the_run(made):
    done = x1_("watch", made / "finished", "--json", "--follow")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert json.loads(line)["state"] == "finished"


def test_without_a_terminal_it_is_drawn_once(made):
    done = x1_("watch", made / "running", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert "interrupted" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80


def test_on_a_terminal_a_finished_run_is_shown_and_left(made):
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"X1_LANG": "en", "TERM": "xterm-256color"}
    environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen([X1, "watch", made / "finished"], stdin=there, stdout=there,
                               stderr=there, env=environment)  # fmt: skip
    os.close(there)
    shown = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(here)
    assert process.wait(30) == 0
    _, _, left = shown.rpartition(b"\x1b[?1049l")  # back from the other screen
    assert b"finished" in left and b"400" in left and b"\x1b[?1049h" in shown


REFUSALS = {
    "no folder": ("nowhere", "folder.not_a_run", {"path": "nowhere", "file": "config.toml"}),
    "no path": ("ssh://me@box", "watch.no_path", {}),
    "an option": ("ssh://-oProxyCommand=x/r", "ssh.target", {}),
    "a password": ("ssh://me:pw@box/r", "ssh.password", {}),
    "a port": ("ssh://me@box:no/r", "ssh.target", {}),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    target, key, values = REFUSALS[name]
    for code in LANGUAGES:
        for more in ([], ["--json"]):
            monkeypatch.setattr(sys, "argv", ["x1", "watch", target, *more, "--lang", code])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            out, err = capsys.readouterr()
            assert (ended.value.code, out, err) == (2, "", say(key, code, **values) + "\n")


def test_a_target_becomes_words_for_ssh():
    target = watch_ssh.parse("ssh://me@box:2222/home/me/my runs/a'b")
    machine = target.machine
    assert (machine.user, machine.host, machine.port) == ("me", "box", 2222)
    assert target.path == "/home/me/my runs/a'b"
    words = target.command(follow=True)
    assert words[0] == "ssh" and words[words.index("-p") + 1] == "2222"
    assert words[-3:-1] == ["--", "box"] and "BatchMode=yes" in words
    assert watch_ssh.parse("ssh://box/~/r").path == "r"
    # What the shell there makes of the last word, with a program in the place of x1.
    probe = words[-1].replace("command -v x1", "command -v echo")
    said = subprocess.run(["sh", "-c", probe], capture_output=True, text=True, check=True).stdout
    assert said == "watch /home/me/my runs/a'b --json --follow\n"


def test_what_ssh_says_becomes_one_sentence():
    target = watch_ssh.parse("ssh://box/r")
    for code, key in ((255, "ssh.unreachable"), (127, "watch.no_x1"), (2, "watch.not_seen")):
        fault = watch_ssh.why(target, code, b"banner\nConnection refused\n")
        assert isinstance(fault, UserError) and fault.key == key
        assert str(fault).count("\n") == 0
