"""The loop: what a kill cannot change, what a bad step cannot touch, and how it ends."""

import ctypes
import json
import math
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from x1 import checkpoint, config, data, folder, hardware, stability, train
from x1.ranks import Ranks
from x1.stability import Detector
from x1.text import UserError
from x1.train import Job, Position

STEPS = 60


def finish(process, code=0, timeout=120):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, err
    return out + err


def final_bytes(run, step=STEPS):
    path = checkpoint.path_of(run, step)
    return [(path / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)]


def samples(run):
    lines = folder.read_lines(run / folder.SAMPLES)
    return sorted({(s["step"], s["prompt"], s["text"]) for s in lines})


def wait_for_step(run, step, process, attempt=1, limit_s=60):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        lines = folder.read_lines(run / folder.METRICS)
        if lines and lines[-1]["step"] >= step and lines[-1]["attempt"] >= attempt:
            return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached")


DRILLS = {
    "clean": (),
    "adamw": ("optim.name=adamw",),
    "nan and spike": (
        'stability.inject=["nan-gradient@25", "lr-x100@40"]',
        "optim.schedule=constant",
        "optim.clip=0",
    ),
}


@pytest.mark.parametrize("drill", DRILLS)
def test_a_run_killed_anywhere_ends_byte_for_byte_the_same(make_run, trainer, drill):
    whole = make_run("whole", f"train.steps={STEPS}", *DRILLS[drill])
    killed = make_run("killed", f"train.steps={STEPS}", *DRILLS[drill])
    finish(trainer(whole))

    draw = random.Random(drill)
    for step in sorted(draw.sample(range(3, STEPS - 2), 3)):
        attempt = folder.attempt(killed) + 1
        process = trainer(killed)
        wait_for_step(killed, step, process, attempt)
        time.sleep(draw.random() * 0.02)
        process.kill()
        process.communicate()
    finish(trainer(killed))

    assert len(folder.events(killed, "start")) == 4
    assert final_bytes(whole) == final_bytes(killed)
    assert folder.curve(whole, keep_clock=False) == folder.curve(killed, keep_clock=False)
    assert samples(whole) == samples(killed)
    if drill == "nan and spike":
        (skip,) = folder.events(whole, "skip")
        assert (skip["data_index"], skip["reason"]) == (25, "non-finite")
        assert [e["data_index"] for e in folder.events(killed, "skip")] == [25]
        assert len(folder.events(whole, "rollback")) == 1
        indices = [line["data_index"] for line in folder.curve(whole) if "loss" in line]
        skipped = set(folder.events(whole, "rollback")[0]["skipped"]) | {25}
        assert 40 in skipped and not skipped & set(indices)
        assert indices == [i for i in range(STEPS + len(skipped)) if i not in skipped]


@pytest.fixture
def make_job(make_run):
    def make(*settings):
        run = make_run(f"job-{len(settings)}", "train.steps=5", *settings)
        config = folder.open_run(run)
        ranks = Ranks(0, 1, torch.device("cpu"))
        model, network, optimizers = train.assemble(config, ranks)
        dataset = data.open_data(data.path_of(config))
        return Job(run, config, dataset, ranks, model, network, optimizers, micro_batch=4)

    return make


def state_of(job):
    tensors = checkpoint.optimizer_tensors(job.model, job.optimizers)
    tensors |= checkpoint.model_tensors(job.model)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.fixture
def process_settings():
    """What a test sets for its whole process is as it was afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_a_compiled_batch_has_the_same_gradients_every_time(process_settings):
    """With two threads or more: one thread adds in one order anyway."""
    chosen = config.build("shakespeare-bytes", settings=("model.n_layers=1", "train.compile=true"))
    hardware.prepare(chosen.train)
    assert torch.get_num_threads() > 1
    model, network, optimizers = train.assemble(chosen, Ranks(0, 1, torch.device("cpu")))
    ids = torch.randint(257, (24, 65), generator=torch.Generator().manual_seed(0))
    seen = set()
    for _ in range(8):
        train.forward_backward(network, ids, 24, 0.0, compiled=True)
        seen.add(tuple(p.grad.numpy().tobytes() for p in model.parameters()))
        train.discard_gradients(optimizers)
    assert len(seen) == 1


PAGES_TAKEN = """
import resource, torch
from x1 import config, hardware
hardware.prepare(config.build("rehearsal").train)
taken = []
for _ in range(20):
    [torch.ones(2**21) for _ in range(8)]  # 64 MB, freed at once
    taken.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(taken[-1] - taken[-11])
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's alone")
def test_what_a_step_frees_is_there_for_the_next():
    """In a process of its own, since it cannot be undone. All given back: 163,840 pages."""
    done = subprocess.run([sys.executable, "-c", PAGES_TAKEN], capture_output=True, text=True)
    assert int(done.stdout) < 10_000, done.stderr


@pytest.mark.parametrize("name", ["muon", "adamw"])
@pytest.mark.parametrize("compile", ["true", "false"])
def test_one_nan_in_one_gradient_element_leaves_everything_bitwise_unchanged(
    make_job, name, compile
):
    job = make_job(f"optim.name={name}", f"train.compile={compile}")
    at = Position(0, 1, {}, Detector())

    def step(faults):
        ids = train.batch(job, at.data_index)
        loss = train.forward_backward(job.network, ids, 4, 0.0)
        stability.tamper_gradient(faults, job.model)
        norm = train.clip_gradients(job.model, 1.0)
        verdict = train.judge(job, at, float(loss), float(norm), 1.0)
        if verdict.action == "go":
            train.update(job.optimizers, 0.01)
        else:
            train.discard_gradients(job.optimizers)
        return verdict.action

    assert step(set()) == "go"  # so that there are moments and counters
    before, memory = state_of(job), at.detector.state()
    assert step({"nan-gradient"}) == "skip"
    assert state_of(job) == before
    assert at.detector.state() == memory
    assert step(set()) == "go"
    assert state_of(job) != before


def test_a_compiled_run_compiles_its_training_and_nothing_else(make_job):
    """Held-out loss, samples and the probe of a suspicious step have no graph of their own."""
    job = make_job("train.compile=true")
    losses = [5.0 + 0.01 * (i % 2) for i in range(stability.LEVEL_STEPS)]
    detector = Detector(losses, losses, quiet_index=0, quiet_loss=5.0)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = torch._dynamo.utils.counters["stats"]
    train.milestone(job, Position(0, 1, {}, detector))
    verdict = train.judge(job, Position(0, 1, {}, detector), 9.0, math.exp(5.0), 1.0)
    assert verdict.event and graphs["unique_graphs"] == 0  # it was probed
    train.forward_backward(job.network, train.batch(job, 0), 4, 0.0, compiled=True)
    assert graphs["unique_graphs"] == 2  # the model and the loss


def test_accumulated_micro_batches_give_the_whole_batchs_gradient(make_job):
    job = make_job()
    ids = train.batch(job, 0)
    gradients = []
    for micro_batch in (8, 4, 3, 1):
        loss = train.forward_backward(job.network, ids, micro_batch, z_loss=1e-3)
        gradients.append([p.grad.clone() for p in job.model.parameters()] + [loss])
        train.discard_gradients(job.optimizers)
    for others in gradients[1:]:
        for one, other in zip(gradients[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_in_a_checkpoint_and_a_sentence(make_run, trainer, number):
    run = make_run("stopped", "train.steps=100000")
    process = trainer(run)
    wait_for_step(run, 12, process)
    process.send_signal(number)
    said = finish(process, code=130)
    step = checkpoint.steps(run)[-1]
    assert step > 12 and f"step {step}" in said and f"x1 train --out {run}" in said
    assert folder.curve(run)[-1]["step"] == step - 1
    assert folder.events(run, "stop")[-1]["reason"] == number.name.lower()


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(make_run, trainer):
    run = make_run("run", "train.steps=30")
    finish(trainer(run))
    before = final_bytes(run, 30)
    weights = checkpoint.path_of(run, 30) / checkpoint.MODEL
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    said = finish(trainer(run))
    assert "step-00000030 is damaged" in said
    assert folder.events(run, "damaged")[0]["path"] == "step-00000030"
    assert folder.events(run, "start")[-1]["step"] == 20
    assert final_bytes(run, 30) == before


def test_a_second_start_on_a_training_run_is_refused(make_run, trainer):
    run = make_run("run", "train.steps=100000")
    first = trainer(run)
    wait_for_step(run, 0, first)
    assert f"pid {first.pid}" in finish(trainer(run), code=2)
    assert first.poll() is None


def test_the_newest_good_checkpoint_and_the_milestones_stay(make_run, trainer):
    run = make_run("run", "train.steps=70", "checkpoint.keep=1", "checkpoint.milestones=[7]")
    finish(trainer(run))
    # 70 - window 16 = 54: the checkpoint of step 50 is good; that of 60 may yet be.
    assert checkpoint.steps(run) == [7, 50, 60, 70]


def test_spikes_beyond_what_roll_backs_cure_end_the_run_with_a_checkpoint(make_run, trainer):
    run = make_run(
        "run", "train.steps=80", "stability.max_rollbacks=0", 'stability.inject=["lr-x100@40"]',
        "optim.schedule=constant", "optim.clip=0",
    )  # fmt: skip
    said = finish(trainer(run), code=3)
    stop = folder.events(run, "stop")[-1]
    assert stop["reason"] == "spike" and f"step {stop['step']}" in said
    assert checkpoint.steps(run)[-1] == stop["step"]


def test_constant_batches_are_logged_as_benign_and_nothing_is_undone(make_run, trainer):
    run = make_run("run", "train.steps=60", 'stability.inject=["constant-batch@40"]')
    finish(trainer(run))
    assert [e["kinds"] for e in folder.events(run, "inject")] == [["constant-batch"]] * 3
    assert folder.events(run, "spike") and all(e["benign"] for e in folder.events(run, "spike"))
    assert not folder.events(run, "rollback", "skip")


@pytest.mark.parametrize("inject", ['["lr-x10@3"]', '["lr-x100@99"]', '["lr-x100"]'])
def test_an_impossible_injection_is_refused(make_run, trainer, inject):
    with pytest.raises(UserError):
        make_run("refused", "train.steps=20", f"stability.inject={inject}")
    run = make_run("run", "train.steps=20")
    path = run / folder.CONFIG
    path.write_text(path.read_text().replace("inject = []", f"inject = {inject}"))
    said = finish(trainer(run), code=2)
    assert json.loads(inject)[0] in said and "Traceback" not in said


@pytest.mark.parametrize(("micro_batch", "advice"), [(2048, "micro_batch=1024"), (1, "recompute")])
def test_out_of_memory_names_the_setting_to_lower(make_run, trainer, micro_batch, advice):
    """One tensor of the MLP alone is larger than all the memory the process may have."""
    context, d_ff = (16, 2**17) if micro_batch > 1 else (8192, 2**19)
    settings = (f"train.micro_batch={micro_batch}", f"train.batch_sequences={micro_batch}")
    run = make_run("run", *settings, f"model.context={context}", f"model.d_ff={d_ff}")
    with limited_memory(8 * 2**30):
        process = trainer(run)
    said = finish(process, code=2)
    assert advice in said and "Traceback" not in said


@contextmanager
def limited_memory(size):
    """Processes started inside may have `size` bytes of address space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
