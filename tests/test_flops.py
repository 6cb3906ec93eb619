import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from x1 import flops
from x1.config import ModelConfig, RunConfig, build, validate
from x1.model import Transformer, count_parameters, initialise
from x1.optim import build_optimizers
from x1.text import UserError

BURNOUT_6N = flops.six_n_flops(10**9)


def drawn_model(seed: int) -> ModelConfig:
    draw = random.Random(seed)
    heads = draw.choice([1, 2, 3, 4])
    return ModelConfig(
        vocab_size=draw.randrange(20, 300),
        n_layers=draw.randrange(1, 4),
        n_heads=heads,
        d_model=heads * draw.choice([8, 16, 24]),
        d_ff=draw.randrange(8, 200),
        context=draw.randrange(4, 70),
        tied=draw.random() < 0.5,
        qk_norm=draw.random() < 0.5,
    )


def counted(model: ModelConfig, sequences: int) -> tuple[int, int]:
    """FLOPs of a forward and of a forward and backward pass, by torch's own counter."""
    network = Transformer(model)
    ids = torch.randint(model.vocab_size, (sequences, model.context))
    # Flash attention on a CPU is not registered with the counter: it would count as zero.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = F.cross_entropy(network(ids).flatten(0, 1), ids.flatten())
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


@pytest.mark.parametrize("seed", range(25))
def test_full_flops_equal_torchs_counter(seed: int) -> None:
    model = drawn_model(seed)
    forward, total = counted(model, sequences=2)
    tokens = 2 * model.context
    ours = flops.token_flops(model, "full")
    assert ours.forward * tokens == pytest.approx(forward, rel=1e-3)
    assert ours.total * tokens == pytest.approx(total, rel=1e-3)


def test_the_counter_sees_nothing_of_flash_attention_on_a_cpu() -> None:
    model = drawn_model(0)
    network, ids = Transformer(model), torch.zeros((1, model.context), dtype=torch.long)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), FlopCounterMode(display=False) as counter:
        network(ids)
    ours = flops.token_flops(model, "full")
    assert counter.get_total_flops() == model.context * (ours.forward - ours.attention)


@pytest.mark.parametrize("seed", range(10))
def test_causal_attention_counts_each_positions_own_keys(seed: int) -> None:
    model = drawn_model(seed)
    # 2 FLOPs per multiply-add, scores and values, every head's width: 4·d for each key seen.
    seen = sum(position + 1 for position in range(model.context))
    one_sequence = model.n_layers * 4 * model.d_model * seen
    assert flops.token_flops(model, "causal").attention * model.context == one_sequence
    causal, full = flops.token_flops(model, "causal"), flops.token_flops(model, "full")
    assert (causal.projections, causal.mlp, causal.head) == (full.projections, full.mlp, full.head)


@pytest.mark.parametrize("seed", range(10))
def test_parameters_equal_the_models(seed: int) -> None:
    model = drawn_model(seed)
    network = Transformer(model)
    assert flops.parameters(model) == count_parameters(network)
    outside = {"embed_tokens.weight", "lm_head.weight"}
    inside = [p for name, p in network.named_parameters() if name not in outside]
    groups = flops.parameter_groups(model)
    assert groups.non_embedding == sum(p.numel() for p in inside)
    assert groups.matrices == sum(p.numel() for p in inside if p.ndim == 2)


def test_the_capstone() -> None:
    model = build("x1-50m").model
    assert flops.parameters(model) == pytest.approx(46.9e6, rel=2e-3)
    assert flops.token_flops(model, "causal").total == pytest.approx(319e6, rel=2e-3)
    wider = model.model_copy(update={"vocab_size": 32_768})
    assert flops.token_flops(wider).total == pytest.approx(370e6, rel=2e-3)
    for convention, low, high in (("causal", 0.10, 0.12), ("full", 0.18, 0.22)):
        count = flops.token_flops(model, convention)  # type: ignore[arg-type]
        assert low < count.attention / count.forward < high


def test_palm_formula_is_ours_without_its_gains() -> None:
    """6·N + 12·L·H·Q·T with tied embeddings is our full count, norm gains aside."""
    model = build("x1-50m").model
    groups = flops.parameter_groups(model)
    palm = flops.palm_flops_per_token(
        groups.total - groups.gains, model.n_layers, model.n_heads, model.head_dim, model.context
    )
    assert palm == flops.token_flops(model, "full").total


@pytest.mark.parametrize(("tokens_per_s", "expected"), [(28_300, 0.54), (24_066, 0.46)])
def test_mfu_of_a_field_report(tokens_per_s: float, expected: float) -> None:
    peak = flops.gpu("a100-80gb").peak_flops_per_s("bf16")
    assert flops.mfu(tokens_per_s, BURNOUT_6N, peak) == pytest.approx(expected, rel=0.05)


def test_hfu_counts_the_blocks_again() -> None:
    count = flops.token_flops(build("gpuburnout-1b").model)
    assert count.with_recompute == count.total + count.projections + count.mlp + count.attention
    peak = 312e12
    plain = flops.mfu(24_066, count.total, peak)
    assert flops.hfu(24_066, count, peak, recompute=False) == plain
    assert 1.25 < flops.hfu(24_066, count, peak, recompute=True) / plain < 4 / 3


@pytest.mark.parametrize(
    "name", ["A100-80GB", "a100 80gb", "NVIDIA RTX 4090", "GeForce_RTX_3090", "h200", "L4"]
)
def test_gpu_names_are_read_leniently(name: str) -> None:
    assert flops.gpu(name).name in flops.PEAKS


def test_unknown_gpu_offers_the_nearest() -> None:
    with pytest.raises(UserError) as fault:
        flops.gpu("a100-80g")
    assert fault.value.key == "flops.unknown_gpu"
    assert fault.value.values["nearest"].startswith("a100-80gb")


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_driver_names_are_identified_exactly(device: str, name: str | None) -> None:
    found = flops.identify(device)
    assert (found.name if found else None) == name


def test_the_peaks_are_dense() -> None:
    """What an H200 and an A100 can do per byte, and no figure with 2:4 sparsity among them."""
    intensity = {
        name: gpu.bf16_tflops * 1e3 / gpu.bandwidth_gb_s for name, gpu in flops.PEAKS.items()
    }
    assert intensity["h200"] == pytest.approx(206, abs=1)
    assert intensity["a100-80gb"] == pytest.approx(153, abs=1)
    with_sparsity = {624, 1979, 1513, 242, 142, 285, 330.3, 419, 838}
    assert not with_sparsity & {gpu.bf16_tflops for gpu in flops.PEAKS.values()}
    assert all(gpu.source and gpu.watts > 0 and gpu.memory_gb > 0 for gpu in flops.PEAKS.values())


def test_measured_ceiling_is_labelled_and_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    peak = flops.device_peak("cpu", "fp32", threads=1)
    assert peak.measured and "measured matmul ceiling, fp32, 1 threads" in peak.name
    assert torch.get_num_threads() == before
    # A matmul of another size on the same thread cannot be far above it.
    again = flops.measured_matmul_ceiling("fp32", 1, seconds=0.3, sizes=(768,))
    assert again.flops_per_s < 1.5 * peak.flops_per_s
    assert peak.flops_per_s > 1e9


def tiny(dtype: str = "fp32", **model: object) -> RunConfig:
    shape = {"vocab_size": 512, "n_layers": 3, "n_heads": 4, "d_model": 128, "d_ff": 352}
    return validate(
        {
            "model": {**shape, "context": 128, **model},
            "train": {"dtype": dtype, "batch_sequences": 8},
        }
    )


def saved_bytes(config: RunConfig, sequences: int) -> int:
    """Bytes of distinct storages that autograd keeps in a forward pass, parameters aside."""
    kind = torch.bfloat16 if config.train.dtype == "bf16" else torch.float32
    network = Transformer(config.model, kind)
    initialise(network, 0)
    standing = {t.untyped_storage().data_ptr() for t in [*network.parameters(), *network.buffers()]}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)  # held alive, so that no two storages share an address
        return tensor

    ids = torch.randint(config.model.vocab_size, (sequences, config.model.context))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(ids)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for address, size in storages.items() if address not in standing)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_activations_are_what_autograd_keeps(dtype: str, qk_norm: bool) -> None:
    config = tiny(dtype, qk_norm=qk_norm)
    estimate = flops.memory(config, 8, on_cpu=True)
    assert estimate.activations + estimate.casts == pytest.approx(saved_bytes(config, 8), rel=0.005)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_optimizer_bytes_are_its_tensors(name: str) -> None:
    config = build(None, None, (f"optim.name={name}",), model=tiny().model.model_dump())
    network = Transformer(config.model)
    initialise(network, 0)
    optimizers = build_optimizers(network, config.optim)
    network(torch.zeros((1, 8), dtype=torch.long)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    held = sum(
        value.nbytes
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if value.ndim > 0  # step counters aside
    )
    assert flops.memory(config, 1).optimizer == held


MEASURE = """
import json, sys, torch, torch.nn.functional as F
from pathlib import Path
from x1.config import validate
from x1.model import Transformer, initialise
torch.set_num_threads(1)
config = validate(json.loads(sys.argv[1]))

def peak_bytes(recompute, sequences):
    network = Transformer(config.model, recompute=recompute)
    initialise(network, 0)
    ids = torch.randint(config.model.vocab_size, (sequences, config.model.context))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    logits = network(ids).flatten(0, 1)
    F.cross_entropy(logits, ids.flatten()).backward()
    status = Path("/proc/self/status").read_text().split()
    return 1024 * int(status[status.index("VmHWM:") + 1])

for recompute in (False, True):
    few, many = (peak_bytes(recompute, sequences) for sequences in (2, 10))
    print(recompute, many - few)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_against_a_measured_step() -> None:
    """What 8 more sequences add to the peak resident memory of a real step, within 10%."""
    model = {"vocab_size": 1024, "n_layers": 3, "n_heads": 4, "d_model": 256, "d_ff": 704}
    raw = {"model": {**model, "context": 128}}
    # Every tensor its own mapping, so that a freed one leaves the resident set at once.
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }
    environment["PYTHONPATH"] = str(Path(flops.__file__).parents[1])
    command = [sys.executable, "-c", MEASURE, json.dumps(raw)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        recompute, measured = line.split()
        config = validate({**raw, "train": {"recompute": recompute == "True"}})
        few, many = (flops.memory(config, n, on_cpu=True).total for n in (2, 10))
        assert many - few == pytest.approx(int(measured), rel=0.10), line


def test_recompute_trades_memory_for_flops() -> None:
    config = build("gpuburnout-1b")
    plain, light = (flops.memory(config, 8, recompute=r) for r in (False, True))
    assert light.activations < plain.activations / 4
    assert (light.weights, light.logits) == (plain.weights, plain.logits)


def test_micro_batch_fits_and_twice_it_does_not() -> None:
    config = build("x1-50m")
    size = flops.fitting_micro_batch(config, 80)
    room = 0.9 * 79e9
    assert flops.memory(config, size).total <= room
    assert size == 128 or flops.memory(config, 2 * size).total > room
    assert flops.fitting_micro_batch(config, 1.5) == 0


def test_planning_never_loads_torch() -> None:
    code = "import sys, x1.plan; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(flops.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.mark.parametrize(("width", "sequences"), [(64, 64), (128, 32), (384, 8), (512, 8)])
def test_a_pass_on_a_cpu_is_bounded_by_the_size_of_an_activation(width, sequences) -> None:
    config = build("rehearsal", settings=(f"model.d_model={width}", "train.batch_sequences=64"))
    assert flops.cpu_micro_batch(config) == sequences
    assert sequences * config.model.context * width <= flops.CPU_MICRO_BATCH_VALUES
