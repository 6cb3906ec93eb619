"""Several ranks under torchrun (gloo, two processes) train like one, and share its checkpoints."""

import pytest
import torch
from safetensors.torch import load_file

from x1 import checkpoint, folder


def train(trainer, run, ranks=1):
    process = trainer(run, ranks)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    return [line["loss"] for line in folder.curve(run) if "loss" in line]


def worst(one, other):
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("optimizer", "parallel", "tolerance"),
    [
        ("adamw", "ddp", 1e-5),
        ("adamw", "fsdp", 1e-5),
        ("muon", "ddp", 5e-3),
        ("muon", "fsdp", 5e-3),
    ],
)
def test_two_ranks_train_like_one(make_run, trainer, optimizer, parallel, tolerance):
    settings = ("train.steps=100", f"optim.name={optimizer}", "train.micro_batch=2")
    settings += ("optim.lr=0.003", "evaluate.every_steps=50", "checkpoint.every_steps=50")
    settings += ("model.n_layers=1",)
    one = train(trainer, make_run("one", *settings))
    two = train(trainer, make_run("two", *settings, f"train.parallel={parallel}"), ranks=2)
    assert abs(one[0] - two[0]) < 1e-6
    assert worst(one, two) < tolerance, worst(one, two)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_have_the_gradient_of_one(make_run, trainer, parallel):
    """After one unclipped step AdamW's first moment is (1 - beta1) times the gradient."""
    settings = ("train.steps=1", "optim.name=adamw", "optim.clip=0", "train.micro_batch=2")
    one = make_run("one", *settings)
    two = make_run("two", *settings, f"train.parallel={parallel}")
    train(trainer, one)
    train(trainer, two, ranks=2)
    expected = load_file(checkpoint.path_of(one, 1) / checkpoint.OPTIMIZER)
    found = load_file(checkpoint.path_of(two, 1) / checkpoint.OPTIMIZER)
    moments = [key for key in expected if key.endswith("|exp_avg")]
    assert sum(expected[key].norm() > 0 for key in moments) >= 6  # not all are zero at the start
    for key in moments:
        assert (found[key] - expected[key]).norm() <= 1e-5 * expected[key].norm()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_checkpoints_move_between_one_rank_and_two(make_run, trainer, parallel):
    """Ten steps alone and ten more on two ranks, and the other way round, end like twenty alone."""
    settings = ("train.steps=20", "optim.name=adamw", f"train.parallel={parallel}")
    alone = make_run("alone", *settings)
    train(trainer, alone)
    for first, then in ((1, 2), (2, 1)):
        moved = make_run(f"moved-{first}-{then}", *settings)
        train(trainer, moved, ranks=first)
        for step in checkpoint.steps(moved):
            if step > 10:  # as if it had stopped there
                for file in checkpoint.path_of(moved, step).iterdir():
                    file.unlink()
                checkpoint.path_of(moved, step).rmdir()
        losses = train(trainer, moved, ranks=then)
        assert folder.events(moved, "start")[-1]["step"] == 10
        assert len(losses) == 20
        for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
            expected = load_file(checkpoint.path_of(alone, 20) / name)
            found = load_file(checkpoint.path_of(moved, 20) / name)
            assert sorted(expected) == sorted(found)
            for key in expected:
                torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-5)


def test_a_batch_the_ranks_cannot_share_is_refused(make_run, trainer):
    process = trainer(make_run("run", "train.batch_sequences=7"), ranks=2)
    out, err = process.communicate(timeout=100)
    assert process.returncode != 0 and "nearest train.batch_sequences is 8" in out + err
