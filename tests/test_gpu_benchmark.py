import copy
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from x1 import config, flops, folder, throughput, train

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu  # noqa: E402


@pytest.fixture
def base():
    return config.build("x1-50m", settings=(*gpu.TINY, "train.dtype=fp32"))


@pytest.fixture
def worker():
    started = gpu.Worker(fresh=False)
    yield started
    started.close()


def record(base, **hardware):
    return {"hardware": hardware, "results": [], "skipped": [], "summary": {}, "finished": False}


def gradients(setup, ids):
    loss = setup.forward_backward(ids)
    return loss, {name: p.grad.clone() for name, p in setup.model.named_parameters()}


@pytest.mark.parametrize("loss", ["eager", "inside", "chunks", "linear"])
@pytest.mark.parametrize("tied", ["true", "false"])
def test_other_losses_are_the_loops_own(base, loss, tied, monkeypatch):
    monkeypatch.setattr(gpu, "CHUNK_TOKENS", 40)  # does not divide the 96 tokens of a micro-batch
    z_loss = 0 if loss == "linear" else 0.1
    settings = (f"optim.z_loss={z_loss}", f"model.tied={tied}")
    variant = gpu.Variant(
        "x", settings=settings, micro_batch=3, loss=loss,
        compile="static" if loss == "inside" else "loop",
    )  # fmt: skip
    setup = gpu.assembled(variant, base, tiny=True)
    plain = gpu.assembled(replace(variant, loss="loop", compile="loop"), base, tiny=True)
    ids = next(gpu.batches(setup.config, setup.device))
    expected = train.forward_backward(plain.network, ids, 3, setup.config.optim.z_loss)
    found, grads = gradients(setup, ids)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    expected_grads = {name: p.grad for name, p in plain.model.named_parameters()}
    renamed = {name.replace("head_of_the_loss", "lm_head"): g for name, g in grads.items()}
    assert set(renamed) == set(expected_grads)
    for name, grad in expected_grads.items():
        torch.testing.assert_close(renamed[name], grad, rtol=1e-3, atol=1e-6)


def test_a_profiled_step_is_a_step(base):
    variant = gpu.Variant("x", micro_batch=3, settings=("optim.z_loss=0.1",))
    one, other = (gpu.assembled(variant, base, tiny=True) for _ in range(2))
    ids = next(gpu.batches(one.config, one.device))
    before = gpu.weights_digest(one.model)
    one.step(ids)
    other.profiled_step(ids)
    assert gpu.weights_digest(one.model) != before
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "matmul"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matmul"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16>", "matmul"),
        ("triton_tem_fused_mm_3", "matmul"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("triton_poi_fused__scaled_dot_product_flash_attention_mul_4", "norms and elementwise"),
        ("triton_red_fused__log_softmax__to_copy_nll_loss_forward_7", "loss"),
        ("triton_per_fused__fused_rms_norm_add_1", "norms and elementwise"),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float>", "loss"),
        ("void at::native::vectorized_elementwise_kernel<4, silu>", "norms and elementwise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("Memset (Device)", "copies"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
    ],
)
def test_kernels_fall_into_their_category(kernel, expected):
    assert gpu.category(kernel) == expected
    assert gpu.category(kernel, "x1.update") == "optimizer"


def event(name, cat, start, duration, thread=1, **args):
    return {
        "ph": "X", "name": name, "cat": cat, "ts": start, "dur": duration, "tid": thread,
        "args": args,
    }  # fmt: skip


def test_milliseconds_belong_to_who_launched_them_and_gaps_are_idle():
    """Two steps; a kernel runs later than its launch, and the backward pass is another thread."""
    events = [
        event("x1.loss", "user_annotation", 1000, 500),
        event("x1.update", "user_annotation", 3000, 1000),
        event("x1.loss", "gpu_user_annotation", 9000, 5000),  # never looked at
        event("cudaLaunchKernel", "cuda_runtime", 900, 5, correlation=1),
        event("cudaLaunchKernel", "cuda_runtime", 1100, 5, thread=2, correlation=2),
        event("cuLaunchKernel", "cuda_driver", 3500, 5, correlation=3),
        event("cudaLaunchKernel", "cuda_runtime", 4200, 5, correlation=4),
        event("nvjet_tst", "kernel", 2000, 4000, correlation=1),
        event("vectorized_elementwise_kernel", "kernel", 6000, 2000, correlation=2),
        event("sm90_xmma_gemm", "kernel", 9000, 1000, correlation=3),
        event("vectorized_elementwise_kernel", "kernel", 9500, 2500, correlation=4),
        event("aten::mm", "cpu_op", 0, 100),
    ]
    spent = gpu.milliseconds(events, steps=2)
    assert spent == {
        "copies": 0,
        "attention": 0,
        "loss": 1.0,
        "matmul": 2.0,
        "optimizer": 0.5,
        "norms and elementwise": 1.25,
        "idle": 0.5,
    }


def test_an_operators_own_time_leaves_out_what_it_called():
    events = [
        event("aten::linear", "cpu_op", 0, 1000),
        event("aten::mm", "cpu_op", 100, 800),
        event("aten::copy_", "cpu_op", 1000, 500),
        event("aten::mm", "cpu_op", 0, 300, thread=2),
    ]
    spent = gpu.milliseconds(events, steps=1)
    assert spent["matmul"] == pytest.approx(1.1)
    assert spent["norms and elementwise"] == pytest.approx(0.2)
    assert spent["copies"] == pytest.approx(0.5)


def test_one_that_runs_out_of_memory_or_time_ends_nothing(base, worker, tmp_path):
    out = tmp_path / "gpu.json"
    numbers_of_rows = []

    def write(record):
        folder.write_json(out, record)
        numbers_of_rows.append(len(json.loads(out.read_text())["results"]))

    todo = [
        gpu.Variant("first", micro_batch=4),
        gpu.Variant("huge", micro_batch=4, settings=(f"model.vocab_size={2**42}",)),
        gpu.Variant("wrong", micro_batch=4, settings=("model.n_heads=3",)),
        gpu.Variant("last", micro_batch=4),
    ]
    made = record(base)
    gpu.run(made, todo, base, worker, write, time.monotonic() + 200, tiny=True)
    statuses = [row["status"] for row in json.loads(out.read_text())["results"]]
    assert statuses == ["measured", "out of memory", "failed", "measured"]
    assert "3" in made["results"][2]["fault"]
    assert numbers_of_rows == [1, 2, 3, 4, 4]

    job = {"job": "measure", "variant": gpu.asdict(todo[0]), "base": base.model_dump()}
    job |= {"tiny": True, "peer": ""}
    assert worker.ask(job, limit_s=0.01) == {"status": "out of time"}
    assert worker.ask(job, limit_s=100)["status"] == "measured"


def test_every_job_of_a_fresh_worker_has_a_process_of_its_own():
    worker = gpu.Worker(fresh=True)
    assert worker.ask({"job": "machine"}, limit_s=100) == {"gpu": None}
    assert worker.process is None
    broken = worker.ask({"job": "measure"}, limit_s=100)
    assert broken == {"status": "failed", "fault": "the process ended with code 1"}


def test_what_there_is_no_time_for_is_named(base, worker):
    made, written = record(base), []
    todo = [gpu.Variant("first", micro_batch=4), gpu.Variant("second", micro_batch=4)]
    gpu.run(made, todo, base, worker, written.append, time.monotonic() - 1, tiny=True)
    assert made["skipped"] == ["first", "second"]
    assert made["finished"]
    assert written


def test_script_killed_in_the_middle_leaves_its_rows_and_goes_on_from_them(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--tiny", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if out.exists() and len(json.loads(out.read_text())["results"]) >= 2:
            break
        time.sleep(0.02)
    process.kill()
    process.communicate()
    partial = json.loads(out.read_text())
    assert not partial["finished"]
    assert 2 <= len(partial["results"]) < 20

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = json.loads(out.read_text())
    assert whole["finished"]
    assert whole["skipped"] == []
    assert whole["results"][: len(partial["results"])] == partial["results"]
    names = [row["name"] for row in whole["results"]]
    base = config.build("x1-50m", settings=gpu.TINY)
    assert names == [variant.name for variant in gpu.variants(base, 4, peer=False)]
    by_status = {}
    for row in whole["results"]:
        by_status.setdefault(row["status"], []).append(row)
    assert set(by_status) == {"measured", "needs a GPU"}
    assert all(row["needs_gpu"] for row in by_status["needs a GPU"])
    for row in by_status["measured"]:
        if row["kind"] == "speed":
            tokens = row["sequences"] * row["context"]
            assert row["tokens_per_s"] == pytest.approx(tokens / row["step_s"], rel=1e-3)
            assert row["mfu"] is None and row["watts"] is None
        elif row["kind"] == "profile":
            assert sum(row["share"].values()) == pytest.approx(1, abs=1e-3)
            assert row["ms"]["matmul"] > 0 and row["ms"]["loss"] > 0 and row["ms"]["optimizer"] > 0
    correctness = next(row for row in whole["results"] if row["kind"] == "correctness")
    assert correctness["shape: tiny"]["cpu bf16"]["within_tolerance"]
    assert correctness["shape: tiny"]["cuda fp32"] == {"status": "needs a GPU"}
    assert whole["summary"]["deterministic"]["bitwise_equal"]
    assert whole["summary"]["two_terms"] == {"status": "needs a GPU that is in the table"}


def test_a_file_of_another_preset_is_left_alone(tmp_path):
    out = tmp_path / "gpu.json"
    base = config.build("x1-50m", settings=gpu.TINY)
    fresh = gpu.first_record(base, {"gpu": None}, tiny=True)
    assert gpu.taken_up(out, fresh) is fresh
    folder.write_json(out, fresh)
    assert gpu.taken_up(out, fresh) == fresh
    folder.write_json(out, {**fresh, "preset": "baby-7m"})
    with pytest.raises(SystemExit, match="move it away"):
        gpu.taken_up(out, fresh)


def test_a_trace_that_strays_is_not_within_tolerance():
    expected = ([3.0, 2.9], [1.0, 0.9])
    limit = gpu.TOLERANCE["fp32"]
    assert gpu.compared(expected, ([3.00005, 2.895], [1.0005, 0.9]), limit)["within_tolerance"]
    assert not gpu.compared(expected, ([3.0002, 2.9], [1.0, 0.9]), limit)["within_tolerance"]
    assert not gpu.compared(expected, ([3.0, 2.88], [1.0, 0.9]), limit)["within_tolerance"]
    assert not gpu.compared(expected, ([3.0, 2.9], [1.01, 0.9]), limit)["within_tolerance"]


def test_summary_fits_the_compiled_rows_and_says_what_pays():
    base = config.build("x1-50m")
    h200 = flops.gpu("h200")
    made = record(base, table="h200")
    for variant in gpu.variants(base, 32, peer=True):
        chosen = gpu.built(base, variant)
        fused = variant.loss != "eager"
        matmul_s, memory_s = throughput.ideal_seconds(chosen, h200, variant.micro_batch, fused)
        step_s = matmul_s / 0.6 + memory_s / 0.7
        if variant.attention or not chosen.train.compile or variant.compiled_muon:
            step_s *= 3  # what the model does not describe must not reach the fit
        row = gpu.asdict(variant) | {"status": "measured", "step_s": step_s}
        row |= {"tokens_per_s": chosen.batch_tokens / step_s, "weights_sha256": "0"}
        made["results"].append(json.loads(json.dumps(row)))
    ungated = ("deterministic", "CUDA graphs", "loss in chunks", "compiled block by block")
    for row in made["results"]:
        if row["name"].startswith((*ungated, "tuned", "torch's", "fp32")):
            row["step_s"] *= 5
    found = gpu.summary(made, base)
    assert found["two_terms"]["matmul_efficiency"] == pytest.approx(0.6, rel=1e-6)
    assert found["two_terms"]["memory_efficiency"] == pytest.approx(0.7, rel=1e-6)
    predictions = found["two_terms"]["predictions"]
    assert predictions["H200"]["basis"] == "fitted"
    assert predictions["A100-80GB"]["basis"] == "extrapolated"
    assert not found["gains"]["loss left eager"]["pays"]
    assert not found["gains"]["eager"]["pays"]
    assert found["gains"]["eager, recompute"]["over"] == "eager"
    assert found["deterministic"]["bitwise_equal"]
    beside = found["beside_nanogpt"]
    assert beside["tokens_per_s_ratio"] >= beside["ratio_as_it_is"]
    other = copy.deepcopy(made)
    next(r for r in other["results"] if r["name"] == "deterministic")["weights_sha256"] = "1"
    assert not gpu.summary(other, base)["deterministic"]["bitwise_equal"]


def test_the_peers_flops_are_its_own_formula_with_causal_attention():
    base = config.build("x1-50m")
    m = base.model
    matrices = 12 * m.n_layers * m.d_model**2 + m.vocab_size * m.d_model
    causal = 6 * m.n_layers * m.d_model * (m.context + 1)
    assert gpu.peer_flops(base) == 6 * matrices + causal
