"""Files of a run survive kills, two writers, and a second start."""

import errno
import multiprocessing

import pytest

from x1 import config, folder
from x1.text import UserError


def test_torn_lines_are_left_out_and_the_next_line_is_whole(tmp_path):
    path = tmp_path / "lines.jsonl"
    folder.append_line(path, {"n": 1})
    with path.open("ab") as file:
        file.write(b'{"n": 2, "x"')
    folder.append_line(path, {"n": 3})
    assert [line["n"] for line in folder.read_lines(path)] == [1, 3]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    folder.write_json(path, {"n": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(folder.os, "fsync", full)
    with pytest.raises(OSError) as fault:
        folder.write_json(path, {"n": 2})
    assert folder.read_json(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
    assert "full" in folder.disk_fault(fault.value)


def test_the_curve_is_each_steps_last_attempt(tmp_path):
    def line(step, attempt, **fields):
        folder.append_line(
            tmp_path / folder.METRICS, {"step": step, "attempt": attempt, **fields, "clock": {}}
        )

    line(0, 1, loss=3.0)
    line(1, 1, loss=9.0)
    line(0, 1, val_loss=3.1)
    line(1, 2, loss=2.0)
    assert folder.curve(tmp_path, keep_clock=False) == [
        {"step": 0, "loss": 3.0},
        {"step": 0, "val_loss": 3.1},
        {"step": 1, "loss": 2.0},
    ]


def _hold(run, ready, done):
    with folder.locked(run):
        ready.set()
        done.wait(10)


def test_a_second_start_says_who_holds_the_run(tmp_path):
    ready, done = multiprocessing.Event(), multiprocessing.Event()
    holder = multiprocessing.Process(target=_hold, args=(tmp_path, ready, done))
    holder.start()
    try:
        assert ready.wait(10)
        with pytest.raises(UserError, match=f"pid {holder.pid}"), folder.locked(tmp_path):
            pass
    finally:
        done.set()
        holder.join(10)
    with folder.locked(tmp_path):
        pass


def test_a_killed_holder_holds_nothing(tmp_path):
    ready, done = multiprocessing.Event(), multiprocessing.Event()
    holder = multiprocessing.Process(target=_hold, args=(tmp_path, ready, done))
    holder.start()
    assert ready.wait(10)
    holder.kill()
    holder.join(10)
    with folder.locked(tmp_path):
        pass


def test_a_run_of_other_values_is_refused_by_field(tmp_path):
    run = tmp_path / "run"
    folder.claim(run, config.build("rehearsal"))
    folder.claim(run, config.build("rehearsal"))
    with pytest.raises(UserError, match=r"optim\.lr"):
        folder.claim(run, config.build("rehearsal", settings=("optim.lr=0.5",)))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="not a run"):
        folder.claim(tmp_path, config.build("rehearsal"))
    with pytest.raises(UserError, match="not a run"):
        folder.open_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_attempts_count_starts_and_rollbacks(tmp_path):
    assert folder.attempt(tmp_path) == 0
    folder.record_event(tmp_path, "start", attempt=1)
    folder.record_event(tmp_path, "rollback", attempt=2)
    assert folder.attempt(tmp_path) == 2
