"""Checkpoints: whole or not there, checked to the last bit, and never unpickled."""

import errno
import json
import os
import pickle
import random
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from x1 import checkpoint, folder, saved
from x1.text import UserError

STEPS = (10, 20, 30)
FILES = (checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE)


def save(run, step, value=None):
    """A small checkpoint whose every number is `value`."""
    value = float(step if value is None else value)
    weights = {"weight": torch.full((3, 5), value), "bias": torch.full((3,), value)}
    moments = {f"{name}|momentum_buffer": tensor + 1 for name, tensor in weights.items()}
    state = {"attempt": 1, "detector": {"history": [0.5, value]}, "skipped": {"7": "non-finite"}}
    return checkpoint.write(run, step, weights, moments, state)


@pytest.fixture
def run(tmp_path):
    for step in STEPS:
        save(tmp_path, step)
    return tmp_path


def model_with(optimizers=True):
    model = torch.nn.Linear(5, 3)
    return model, [torch.optim.SGD(model.parameters(), momentum=0.9)] if optimizers else []


def content(run):
    """Every file there is, by path."""
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_what_is_written_comes_back_with_moments_and_random_state(run):
    torch.manual_seed(3)
    save(run, 40)
    drawn = torch.rand(4)
    model, optimizers = model_with()
    checkpoint.restore(run, 40, model, optimizers)
    assert torch.equal(torch.rand(4), drawn)
    assert (model.weight == 40).all() and (model.bias == 40).all()
    (optimizer,) = optimizers
    assert (optimizer.state[model.weight]["momentum_buffer"] == 41).all()
    found, damaged = checkpoint.newest(run)
    assert (found.step, damaged) == (40, [])
    assert found.state["skipped"] == {"7": "non-finite"}


def flip(draw, path, others):
    raw = bytearray(path.read_bytes())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)


def truncate(draw, path, others):
    os.truncate(path, draw.randrange(path.stat().st_size))


def lengthen(draw, path, others):
    with path.open("ab") as file:
        file.write(draw.randbytes(draw.randrange(1, 9)))


def delete(draw, path, others):
    path.unlink()


def empty(draw, path, others):
    path.write_bytes(b"")


def replace_by_folder(draw, path, others):
    path.unlink()
    path.mkdir()


def replace_by_pipe(draw, path, others):
    path.unlink()
    os.mkfifo(path)  # to be opened, it would be waited for without end


def swap(draw, path, others):
    shutil.copyfile(draw.choice(others) / path.name, path)


def exchange_names(draw, path, others):
    names = [name for name in FILES if name != path.name]
    shutil.copyfile(path.with_name(draw.choice(names)), path)


HARMS = (
    flip, truncate, lengthen, delete, empty, replace_by_folder, replace_by_pipe, swap,
    exchange_names,
)  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", FILES)
def test_a_harmed_checkpoint_is_never_loaded_and_the_one_before_is_found(run, harm, name):
    draw = random.Random(f"{harm.__name__} {name}")
    before = content(run)
    for _ in range(8 if harm in (flip, truncate) else 2):
        step = draw.choice(STEPS)
        path = checkpoint.path_of(run, step)
        others = [checkpoint.path_of(run, other) for other in STEPS if other != step]
        harm(draw, path / name, others)
        assert content(run) != before

        assert checkpoint.read(path) is None
        model, optimizers = model_with()
        untouched = model.weight.clone()
        with pytest.raises(UserError) as refused:
            checkpoint.restore(run, step, model, optimizers)
        assert str(path) in str(refused.value) and torch.equal(model.weight, untouched)
        found, damaged = checkpoint.newest(run)
        if step == STEPS[-1]:
            assert (found.step, damaged) == (STEPS[-2], [path])
        else:
            assert (found.step, damaged) == (STEPS[-1], [])
        shutil.rmtree(path)
        save(run, step)
        before = content(run)


def test_all_damaged_is_none_and_names_each(run):
    for step in STEPS:
        (checkpoint.path_of(run, step) / checkpoint.STATE).write_text("{}")
    paths = [checkpoint.path_of(run, step) for step in reversed(STEPS)]
    assert checkpoint.newest(run) == (None, paths)


def test_a_checkpoint_under_another_steps_name_is_damaged(run):
    path = checkpoint.path_of(run, 30)
    path.rename(checkpoint.path_of(run, 35))
    found, damaged = checkpoint.newest(run)
    assert (found.step, damaged) == (20, [checkpoint.path_of(run, 35)])


def test_other_folders_among_the_checkpoints_are_left_alone(run):
    (run / folder.CHECKPOINTS / "step-of-my-own").mkdir()
    (run / folder.CHECKPOINTS / "step-00000030.bak").mkdir()
    assert checkpoint.steps(run) == list(STEPS)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.OPTIMIZER])
def test_a_pickle_in_a_files_place_is_refused_and_never_run(run, monkeypatch, name, forged):
    monkeypatch.chdir(run)
    path = checkpoint.path_of(run, 30)
    (path / name).write_bytes(pickle.dumps(Bomb()))
    if forged:  # by somebody who knows how the checksums are made
        state = json.loads((path / checkpoint.STATE).read_text())
        del state["checksum"]
        state["files"][name] = saved.sha256_of(path / name)
        folder.write_json(path / checkpoint.STATE, {**state, "checksum": saved.digest(state)})
        assert checkpoint.read(path) is not None
    model, optimizers = model_with()
    before = model.weight.clone()
    with pytest.raises(UserError, match="step-00000030"):
        checkpoint.restore(run, 30, model, optimizers)
    assert torch.equal(model.weight, before)
    assert not Path("exploded").exists()
    pickle.loads((path / name).read_bytes())  # it was live
    assert Path("exploded").exists()


class Killed(BaseException):
    """Nothing that runs in the process comes after it, as after SIGKILL."""


def break_off(monkeypatch, at, fault):
    """Make the at-th rename from here on raise `fault`, and every one after it."""
    calls = []
    rename = Path.rename

    def failing(path, target):
        calls.append(path)
        if len(calls) >= at:
            raise fault
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    if isinstance(fault, Killed):  # nor does it clean up
        monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)
        monkeypatch.setattr(Path, "unlink", lambda *a, **k: None)


def test_a_checkpoint_of_another_run_at_the_same_step_is_not_this_ones(run, tmp_path_factory):
    """Even a whole one, every checksum in order; said so, and the one before is used."""
    other = tmp_path_factory.mktemp("other")
    (other / folder.CONFIG).write_text("seed = 1")
    path = save(other, 30)
    shutil.rmtree(checkpoint.path_of(run, 30))
    shutil.copytree(path, checkpoint.path_of(run, 30))
    assert checkpoint.read(path) and checkpoint.read(checkpoint.path_of(run, 30)) is None
    assert checkpoint.fault(checkpoint.path_of(run, 30)) == "foreign"
    found, refused = checkpoint.newest(run)
    assert (found.step, refused) == (20, [checkpoint.path_of(run, 30)])
    model, optimizers = model_with()
    with pytest.raises(UserError, match="another run's"):
        checkpoint.restore(run, 30, model, optimizers)
    # Handed over in good order, it is this run's.
    assert checkpoint.hand_over(checkpoint.read(path), run) == checkpoint.path_of(run, 30)
    checkpoint.restore(run, 30, model, optimizers)
    assert checkpoint.newest(run)[0].step == 30


def test_a_changed_configuration_or_plan_makes_another_run(run):
    for name in (folder.CONFIG, folder.PLAN):
        (run / name).write_text("something")
        assert checkpoint.newest(run) == (None, [checkpoint.path_of(run, s) for s in (30, 20, 10)])
        (run / name).unlink()
    assert checkpoint.newest(run)[0].step == 30


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.OPTIMIZER])
@pytest.mark.parametrize("change", ["name", "shape"])
def test_tensors_that_are_not_the_models_are_refused_before_any_is_loaded(run, name, change):
    """Sealed in good order by somebody who knows how."""
    weights = {"weight": torch.ones(3, 5), "bias": torch.ones(3)}
    moments = {f"{key}|momentum_buffer": tensor for key, tensor in weights.items()}
    changed = weights if name == checkpoint.MODEL else moments
    last = next(reversed(changed))
    if change == "name":
        changed[f"more.{last}"] = changed.pop(last)
    else:
        changed[last] = torch.ones(4)
    checkpoint.write(run, 30, weights, moments, {"attempt": 1})
    model, optimizers = model_with()
    before = model.weight.clone()
    with pytest.raises(UserError, match="step-00000030"):
        checkpoint.restore(run, 30, model, optimizers)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("step", [30, 40])
@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_kill_between_any_two_renames_leaves_a_sound_checkpoint(run, step, rename):
    with pytest.MonkeyPatch.context() as patch:
        break_off(patch, rename, Killed())
        try:
            save(run, step, 99)
            killed = False
        except Killed:
            killed = True
    assert killed == (rename <= (3 if step == 30 else 2))  # state.json, the old one, the new one
    found, damaged = checkpoint.newest(run)
    assert damaged == [] and found.step in (20, 30, 40)
    checkpoint.clear_unfinished(run)
    names = {path.name for path in (run / folder.CHECKPOINTS).iterdir()}
    assert names == {checkpoint.path_of(run, s).name for s in checkpoint.steps(run)}
    save(run, step, 99)  # what the kill left is in nobody's way
    assert checkpoint.newest(run)[0].step == step


def test_what_a_kill_left_behind_does_not_hinder_the_next_write(run):
    left = run / folder.CHECKPOINTS
    shutil.copytree(checkpoint.path_of(run, 30), left / ".step-00000030.old")
    shutil.copytree(checkpoint.path_of(run, 30), left / ".step-00000030.tmp")
    save(run, 30, 99)
    assert sorted(p.name for p in left.iterdir()) == [
        checkpoint.path_of(run, s).name for s in STEPS
    ]
    model, _ = model_with(optimizers=False)
    checkpoint.restore(run, 30, model, [])
    assert (model.weight == 99).all()


@pytest.mark.parametrize("step", [30, 40])
@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_refused_rename_leaves_everything_as_it_was(run, step, rename):
    before = content(run)
    with pytest.MonkeyPatch.context() as patch:
        real = Path.rename
        calls = []

        def once(path, target):
            calls.append(path)
            if len(calls) == rename:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return real(path, target)

        patch.setattr(Path, "rename", once)
        if rename <= (3 if step == 30 else 2):
            with pytest.raises(OSError, match="No space"):
                save(run, step, 99)
        else:
            save(run, step, 99)
            return
    assert content(run) == before


@pytest.mark.parametrize("step", [30, 40])
def test_a_file_the_system_refuses_leaves_the_older_checkpoints_and_nothing_else(run, step):
    before = content(run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError) as refused:
            checkpoint.write(run, step, {"weight": torch.zeros(40_000)}, {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.errno == errno.EFBIG
    assert checkpoint.MODEL in folder.disk_fault(refused.value)
    assert content(run) == before


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.OPTIMIZER])
def test_a_full_disk_is_called_so_and_leaves_the_older_checkpoints(run, monkeypatch, name):
    before = content(run)
    save_file = checkpoint.save_file

    def fill(tensors, path, metadata=None):
        save_file(tensors, path, metadata)
        if path.name == name:
            os.truncate(path, 10)
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", fill)
    with pytest.raises(OSError) as refused:
        save(run, 40)
    assert refused.value.errno == errno.ENOSPC
    assert "disk is full" in folder.disk_fault(refused.value)
    assert content(run) == before


def test_pruning_keeps_what_was_written_last_not_the_highest_step(run):
    """After a roll-back from 30 to 10: steps 20 and 30 are of the stretch that was undone."""
    state = {"attempt": 2, "detector": {}, "skipped": {}}
    weights = {"weight": torch.zeros(2)}
    for step in (14, 18):
        checkpoint.write(run, step, weights, weights, state)
        checkpoint.prune(run, keep=2, protected={10})
    assert checkpoint.steps(run) == [10, 14, 18]


def test_pruning_keeps_the_newest_and_the_protected(run):
    save(run, 40)
    checkpoint.prune(run, keep=2, protected={10})
    assert checkpoint.steps(run) == [10, 30, 40]
