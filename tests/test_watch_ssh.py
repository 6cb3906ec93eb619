"""`x1 watch ssh://…` against a real sshd on loopback: seen from here, cut off, seen again."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sshd import Sshd, missing
from test_report import make_run

from x1 import folder, watch_command, watch_ssh
from x1.text import UserError, say

ROOT = Path(__file__).parent.parent
X1 = Path(sys.executable).with_name("x1")
pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")


@pytest.fixture
def server(tmp_path):
    with Sshd(tmp_path / "sshd") as running:
        yield running


@pytest.fixture
def project(tmp_path):
    """A project as `x1 launch` sets it up, with a run that has not come to its end."""
    home = tmp_path / "it's a project"
    (home / "runs").mkdir(parents=True)
    (home / "src").symlink_to(ROOT / "src")
    (home / ".venv").symlink_to(Path(sys.prefix))
    run = make_run(home / "runs/r", 100)
    (run / folder.EVALUATION).unlink()
    kept = [e for e in folder.events(run) if e["event"] != "finish"]
    (run / folder.EVENTS).write_text("".join(json.dumps(e) + "\n" for e in kept), "utf-8")
    return home


def test_a_cut_connection_says_so_and_comes_back(server, project, monkeypatch):
    monkeypatch.setattr(watch_ssh, "WAITS_S", (0.2, 0.5))
    run = project / "runs/r"
    target = watch_ssh.parse(f"{server.target}{run}", server.config)
    stages, views = ["seen"], []
    with folder.locked(run):
        for view in watch_command.over_ssh(target):
            views.append(view)
            now = time.monotonic()
            if stages[-1] == "seen":
                assert view.seen["state"] == "running" and not view.trouble
                server.cut()
                stages.append("cut")
            elif stages[-1] == "cut" and view.trouble:
                assert view.trouble == say("watch.lost") and view.seen == views[0].seen
                server.start()
                stages.append("lost")
            elif stages[-1] == "lost" and not view.trouble:
                assert view.received_s > views[0].received_s
                folder.record_event(run, "finish", step=100)
                stages.append("back")
            assert now - views[0].received_s < 120, stages
    assert stages == ["seen", "cut", "lost", "back"]
    assert views[-1].seen["state"] == "finished"


def test_json_over_ssh_is_what_is_printed_there(server, project):
    words = [f"{server.target}{project}/runs/r", "--json", "--ssh-config", server.config]
    done = subprocess.run([X1, "watch", *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    assert json.loads(line)["run"] == "r" and json.loads(line)["state"] == "interrupted"


def test_what_cannot_be_seen_is_one_sentence(server, project, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    cases = {
        f"{server.target}{project}/runs/none": "watch.not_seen",
        f"{server.target}{bare}/runs/r": "watch.no_x1",
        f"ssh://127.0.0.1:1{project}/runs/r": "ssh.unreachable",
    }
    for address, key in cases.items():
        target = watch_ssh.parse(address, server.config)
        for look in (lambda t=target: watch_ssh.once(t), lambda t=target: next(watch_ssh.looks(t))):
            with pytest.raises(UserError) as refused:
                look()
            assert refused.value.key == key, refused.value
            assert str(refused.value).count("\n") == 0
