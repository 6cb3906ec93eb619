"""X1 on one GPU in under ten minutes: python benchmarks/gpu.py [--peer NANOGPT] [--out FILE]

Speed, MFU and memory of a preset over micro-batch, sequence length, ways to compile, recompute,
losses, attention backends and determinism; correctness against the CPU; nanoGPT at the same shape
(PEER is a checkout of github.com/karpathy/nanoGPT); where the milliseconds of a step go; and the
two-term model of x1.throughput fitted to all that.

The most valuable comes first, every variant in a process of its own, and each result is in the file
as soon as it is there: one that runs out of memory ends nothing, and a script stopped at any moment
leaves what it measured. Started again with the same file it measures what is missing. --tiny runs
all of it at a tiny size on the CPU at hand, to see it work; such numbers say nothing.

What the training loop does not have, such as other losses, lives here as a wrapper around its
parts: what gains more than 5% may move there.
"""

import argparse
import contextlib
import gc
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from provenance import provenance
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.checkpoint import checkpoint

from x1 import config, flops, folder, hardware, optim, throughput, train
from x1.config import RunConfig
from x1.ranks import Ranks
from x1.text import UserError

Json = dict[str, Any]

FORMAT = "x1-measured-1"
PAYS = 0.05  # a variant that gains more is worth its lines in the loop
WARM_UP_STEPS = 3
TIMED_S, TIMED_STEPS = 2.0, (5, 30)
JOB_LIMIT_S = 180.0
PROFILED_STEPS = 3
TRACE_STEPS = 20
PEER_STEPS = 25
CHUNK_TOKENS = 8192
# Nats, and for norms relative. Muon's rounds run in bf16, so that a sum in another order grows
# faster than fp32 alone would let it; bf16 has 8 bits.
TOLERANCE = {
    "fp32": {"first_loss": 1e-4, "losses": 0.01, "first_norm": 1e-3},
    "bf16": {"first_loss": 0.02, "losses": 0.1, "first_norm": 0.02},
}
TINY_MODEL = (
    "model.vocab_size=512",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.d_model=32",
    "model.d_ff=80",
    "model.context=32",
    "train.threads=1",
)
TINY = (*TINY_MODEL, "train.batch_sequences=8")
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class Variant:
    """One thing to measure: the preset with `settings`, and what the loop's parts are wrapped in.

    compile: "loop" as the preset and train.assemble have it, "static", "dynamic", "blocks", or a
    mode of torch.compile. loss: "loop", or where it is computed instead. `baseline` names the
    variant that it is compared with. `evaluated_first`: a batch of another size comes before
    training, as the evaluation at step 0 does in train.loop; torch may then compile for any batch
    size.
    """

    name: str
    kind: str = "speed"
    settings: tuple[str, ...] = ()
    micro_batch: int = 0
    compile: str = "loop"
    loss: str = "loop"
    attention: str = ""
    compiled_muon: bool = False
    evaluated_first: bool = False
    needs_gpu: bool = False
    baseline: str = "as it is"


def variants(base: RunConfig, micro_batch: int, peer: bool) -> list[Variant]:
    """Everything to measure, the most valuable first."""
    m, sequences, context = micro_batch, base.train.batch_sequences, base.model.context
    eager = ("train.compile=false",)

    def sized(size: int) -> Variant:
        return Variant(f"micro-batch {size}", micro_batch=size)

    def of_length(factor: float) -> Variant:
        length, count = int(context * factor), max(1, int(sequences / factor))
        settings = (f"model.context={length}", f"train.batch_sequences={count}")
        size = max(1, int(m / factor))
        return Variant(f"sequence length {length}", settings=settings, micro_batch=size)

    def backend(name: str) -> Variant:
        on_cpu = name in ("flash", "math")
        return Variant(f"attention by {name}", attention=name, needs_gpu=not on_cpu)

    found = [
        Variant("as it is"),
        Variant("loss left eager", loss="eager"),
        Variant("correctness", kind="correctness"),
        Variant("profile of as it is", kind="profile"),
        Variant("loss compiled with the model", loss="inside", compile="static"),
        sized(2 * m),
        Variant("after an evaluation", evaluated_first=True),
        Variant("after an evaluation, any shape", compile="dynamic", evaluated_first=True),
        sized(max(1, m // 2)),
        *([Variant(f"nanoGPT, micro-batch {m}", kind="peer")] if peer else []),
        Variant("recompute", settings=("train.recompute=true",)),
        Variant("deterministic", settings=("train.deterministic=true",)),
        Variant("deterministic, again", settings=("train.deterministic=true",)),
        Variant("eager", settings=eager),
        backend("cudnn"),
        Variant(
            f"profile, loss compiled with the model, micro-batch {m}",
            kind="profile", loss="inside", compile="static",
        ),
        Variant("Muon compiled", compiled_muon=True),
        Variant("AdamW alone", settings=("optim.name=adamw",)),
        of_length(2),
        of_length(0.5),
        sized(max(1, m // 4)),
        Variant("no z-loss", settings=("optim.z_loss=0",)),
        Variant("loss in chunks", loss="chunks"),
        Variant(
            "torch's linear_cross_entropy, no z-loss",
            loss="linear", settings=("optim.z_loss=0",), baseline="no z-loss",
        ),
        *([Variant(f"nanoGPT, micro-batch {2 * m}", "peer", micro_batch=2 * m)] if peer else []),
        Variant("compiled block by block", compile="blocks"),
        sized(4 * m),
        Variant("eager, recompute", settings=(*eager, "train.recompute=true"), baseline="eager"),
        backend("efficient"),
        of_length(4),
        Variant("CUDA graphs", compile="reduce-overhead", needs_gpu=True),
        Variant("fp32 in TF32", settings=("train.dtype=fp32",)),
        backend("flash"),
        backend("math"),
        Variant("tuned matmuls", compile="max-autotune-no-cudagraphs", needs_gpu=True),
    ]  # fmt: skip
    unique = {variant.name: variant for variant in found}  # small batches make some coincide
    placed = (replace(v, micro_batch=v.micro_batch or m) for v in unique.values())
    return [v for v in placed if v.micro_batch <= built(base, v).train.batch_sequences]


def built(base: RunConfig, variant: Variant) -> RunConfig:
    """The base configuration with the variant's settings."""
    sections = base.model_dump(exclude={"preset"})
    return config.build(base.preset if base.preset in config.PRESETS else None,
                        settings=variant.settings, **sections)  # fmt: skip


# The worker: measures one variant at a time and answers with one line of JSON.


def assembled(variant: Variant, base: RunConfig, tiny: bool) -> "Setup":
    """The package's own model, network and optimizers, compiled as the variant says."""
    chosen = built(base, variant)
    torch.use_deterministic_algorithms(False)  # a worker may have measured another variant before
    hardware.prepare(chosen.train)
    device = torch.device("cpu" if tiny or not torch.cuda.is_available() else "cuda")
    by_loop = variant.compile == "loop" and chosen.train.compile
    # A tiny model is traced as a compiled one is, but no kernels are written for it.
    assembled_by_loop = by_loop and not tiny
    raw = chosen.model_copy(
        update={"train": chosen.train.model_copy(update={"compile": assembled_by_loop})}
    )
    model, network, optimizers = train.assemble(raw, Ranks(0, 1, device))
    options: Json = {"backend": "eager"} if tiny else {}
    if by_loop and tiny:
        network.compile(dynamic=False, **options)
    elif variant.compile == "dynamic":
        network.compile(**options)
    elif variant.compile == "static" and variant.loss != "inside":
        network.compile(dynamic=False, **options)
    elif variant.compile == "blocks":
        for block in model.layers:
            block.compile(dynamic=False, **options)
    elif variant.compile not in ("loop", "static"):
        network.compile(dynamic=False, mode=variant.compile)
    losses = losses_of(variant.loss, model, network, chosen.optim.z_loss, options)
    graphs = variant.compile == "reduce-overhead"
    compiled_loss = chosen.train.compile and not tiny
    return Setup(
        chosen, variant.micro_batch, device, model, network, optimizers, losses, graphs,
        compiled_loss,
    )  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """A model ready to train. `losses` is None where the loop's own loss is used."""

    config: RunConfig
    micro_batch: int
    device: torch.device
    model: nn.Module
    network: nn.Module
    optimizers: list[torch.optim.Optimizer]
    losses: Callable[[Tensor], tuple[Tensor, Tensor]] | None
    cuda_graphs: bool
    compiled_loss: bool

    def step(self, ids: Tensor) -> None:
        """One optimizer step as train.loop makes it, its one synchronisation included."""
        optimisation = self.config.optim
        if self.losses or self.cuda_graphs:
            loss = self.forward_backward(ids)
        else:
            loss = train.forward_backward(
                self.network, ids, self.micro_batch, optimisation.z_loss, self.compiled_loss
            )
        with record_function("x1.clip"):
            norm = train.clip_gradients(self.model, optimisation.clip)
        torch.stack([loss, norm]).tolist()
        with record_function("x1.update"):
            train.update(self.optimizers, optimisation.lr)

    def forward_backward(self, ids: Tensor) -> Tensor:
        """train.forward_backward with another loss, or as replayed CUDA graphs need it."""
        total = torch.zeros((), device=ids.device)
        for part in ids.split(self.micro_batch):
            if self.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            share = len(part) / len(ids)
            loss, penalty = (
                self.losses(part)
                if self.losses
                else train.loss_and_penalty(
                    self.network(part[:, :-1]), part[:, 1:], self.config.optim.z_loss
                )
            )
            ((loss + penalty) * share).backward()
            total += loss.detach() * share
        return total

    def profiled_step(self, ids: Tensor) -> None:
        """`step` with the loss apart from the model, so that its share can be told."""
        total = torch.zeros((), device=ids.device)
        z_loss = self.config.optim.z_loss
        for part in ids.split(self.micro_batch):
            share = len(part) / len(ids)
            logits = self.network(part[:, :-1])
            with record_function("x1.loss"):
                apart = logits.detach().requires_grad_()
                loss, penalty = train.loss_and_penalty(apart, part[:, 1:], z_loss)
                ((loss + penalty) * share).backward()
            logits.backward(apart.grad)
            total += loss.detach() * share
        with record_function("x1.clip"):
            norm = train.clip_gradients(self.model, self.config.optim.clip)
        torch.stack([total, norm]).tolist()
        with record_function("x1.update"):
            train.update(self.optimizers, self.config.optim.lr)


class WithLoss(nn.Module):
    """Ids (B, T + 1) to their loss and z-loss: one graph when compiled, no table of logits kept."""

    def __init__(self, network: nn.Module, z_loss: float) -> None:
        super().__init__()
        self.network, self.z_loss = network, z_loss

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return train.loss_and_penalty(self.network(ids[:, :-1]), ids[:, 1:], self.z_loss)


def losses_of(
    kind: str, model: Any, network: nn.Module, z_loss: float, options: Json
) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    """What turns ids (B, T + 1) into a loss and a z-loss; None for the loop's own way."""
    if kind == "loop":
        return None
    if kind == "inside":
        whole = WithLoss(network, z_loss)
        whole.compile(dynamic=False, **options)
        return whole
    if kind == "eager":
        return lambda ids: train.loss_and_penalty(network(ids[:, :-1]), ids[:, 1:], z_loss)

    # Below, the model ends at its last norm, and the head is part of the loss.
    head = model.embed_tokens if model.lm_head is None else model.lm_head
    model.head_of_the_loss, model.lm_head = head, nn.Identity()
    if kind == "linear":
        chunked = torch.nn.LinearCrossEntropyOptions()

        def linear(ids: Tensor) -> tuple[Tensor, Tensor]:
            x = network(ids[:, :-1]).flatten(0, 1)
            targets = ids[:, 1:].flatten()
            loss = F.linear_cross_entropy(x, head.weight.to(x.dtype), targets, options=chunked)
            return loss, loss.new_zeros(())

        return linear

    def sums(x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.linear(x, weight).float()
        penalty = logits.logsumexp(-1).square().sum()
        return F.cross_entropy(logits, targets, reduction="sum"), penalty

    fused_sums = torch.compile(sums, dynamic=False, **options)

    def chunks(ids: Tensor) -> tuple[Tensor, Tensor]:
        x, targets = network(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
        weight = head.weight.to(x.dtype)
        pieces = zip(x.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
        pairs = [
            checkpoint(fused_sums, piece, weight, wanted, use_reentrant=False)
            for piece, wanted in pieces
        ]
        loss = torch.stack([pair[0] for pair in pairs]).sum() / len(targets)
        penalty = torch.stack([pair[1] for pair in pairs]).sum() / len(targets)
        return loss, z_loss * penalty

    return chunks


def batches(chosen: RunConfig, device: torch.device) -> Iterator[Tensor]:
    """Random ids (B, T + 1), drawn on the host and moved as train.batch moves them."""
    generator = torch.Generator().manual_seed(chosen.data.seed)
    shape = (chosen.train.batch_sequences, chosen.model.context + 1)
    while True:
        ids = torch.randint(chosen.model.vocab_size, shape, generator=generator)
        if device.type == "cuda":
            ids = ids.pin_memory()
        yield ids.to(device, non_blocking=True)


@contextlib.contextmanager
def wrapped(variant: Variant, tiny: bool) -> Iterator[None]:
    """Around all of a variant: the attention backend, and Muon's rounds compiled."""
    before = optim.orthogonalise
    if variant.compiled_muon:
        options: Json = {"backend": "eager"} if tiny else {}
        optim.orthogonalise = torch.compile(before, dynamic=False, **options)
    try:
        with contextlib.ExitStack() as stack:
            if variant.attention:
                stack.enter_context(sdpa_kernel(BACKENDS[variant.attention]))
            yield
    finally:
        optim.orthogonalise = before


def measure_speed(variant: Variant, base: RunConfig, tiny: bool) -> Json:
    """Seconds of an optimizer step (median), peak memory, power, and the weights after warm-up."""
    began = time.perf_counter()
    setup = assembled(variant, base, tiny)
    ids = batches(setup.config, setup.device)
    if variant.evaluated_first:
        setup.network.eval()
        with torch.no_grad():
            setup.network(next(ids)[: max(2, variant.micro_batch // 2), :-1])
        setup.network.train()
    for _ in range(WARM_UP_STEPS):
        setup.step(next(ids))
    digest = weights_digest(setup.model)  # waits for the device
    setup_s = time.perf_counter() - began
    on_gpu = setup.device.type == "cuda"
    one = seconds_of_steps(setup, ids, 2)[-1]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    least, most = TIMED_STEPS
    n = 3 if tiny else min(max(int(TIMED_S / one), least), most)
    with Power(on_gpu) as power:
        durations = seconds_of_steps(setup, ids, n)
    step_s = median(durations)
    chosen = setup.config
    return {
        "sequences": chosen.train.batch_sequences,
        "context": chosen.model.context,
        "step_s": round(step_s, 6),
        "fastest_s": round(min(durations), 6),
        "slowest_s": round(max(durations), 6),
        "steps_timed": n,
        "tokens_per_s": round(chosen.batch_tokens / step_s, 1),
        "mfu": utilisation(chosen, step_s, setup.device),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3) if on_gpu else None,
        "watts": power.watts,
        "setup_s": round(setup_s, 1),
        "weights_sha256": digest,
    }


def utilisation(chosen: RunConfig, step_s: float, device: torch.device) -> float | None:
    """MFU against the data sheet, causal attention; None for a device that is not in the table.

    None for fp32 too: its products run in TF32, whose peak is not in the table.
    """
    card = flops.identify(torch.cuda.get_device_name()) if device.type == "cuda" else None
    if card is None or chosen.train.dtype == "fp32":
        return None
    peak = card.peak_flops_per_s(chosen.train.dtype)
    per_token = flops.token_flops(chosen.model, "causal").total
    return round(flops.mfu(chosen.batch_tokens / step_s, per_token, peak), 4)


def seconds_of_steps(setup: Setup, ids: Iterator[Tensor], n: int) -> list[float]:
    """Seconds of n consecutive steps on the device's own clock, none waiting for the next."""
    if setup.device.type == "cpu":
        marks = [time.perf_counter()]
        for _ in range(n):
            setup.step(next(ids))
            marks.append(time.perf_counter())
        return [b - a for a, b in pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(n + 1)]
    events[0].record()
    for event in events[1:]:
        setup.step(next(ids))
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1000 for a, b in pairwise(events)]


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all parameters, in order."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Power:
    """Mean watts of GPU 0 while inside: NVML's energy counter, else nvidia-smi, else None."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.watts: float | None = None
        self.nvml: Any = None
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Power":
        if not self.on_gpu:
            return self
        self.began = time.perf_counter()
        try:
            import pynvml

            pynvml.nvmlInit()
            self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            self.millijoules = pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)
            self.nvml = pynvml
        except Exception:  # the package, the driver's library or the counter may be missing
            query = ["--query-gpu=power.draw", "--format=csv,noheader,nounits", "--id=0"]
            with contextlib.suppress(OSError):
                self.process = subprocess.Popen(
                    ["nvidia-smi", *query, "--loop-ms=200"],
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                )  # fmt: skip
        return self

    def __exit__(self, *fault: object) -> None:
        if self.nvml:
            joules = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) - self.millijoules
            self.watts = round(joules / 1000 / (time.perf_counter() - self.began), 1)
        elif self.process:
            self.process.terminate()
            said = re.findall(r"^\s*(\d+\.?\d*)\s*$", self.process.communicate()[0], re.M)
            self.watts = round(median(map(float, said)), 1) if said else None


def trace(chosen: RunConfig, device: torch.device, tiny: bool) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of TRACE_STEPS steps on four batches that come round again."""
    hardware.prepare(chosen.train)
    torch.set_num_threads(1 if tiny else os.cpu_count() or 1)
    torch.set_float32_matmul_precision("highest")  # no TF32: fp32 is compared with fp32
    model, network, optimizers = train.assemble(chosen, Ranks(0, 1, device))
    source = batches(chosen, device)
    fixed = [next(source) for _ in range(4)]
    losses, norms = [], []
    for step in range(TRACE_STEPS):
        loss = train.forward_backward(
            network, fixed[step % 4], chosen.train.batch_sequences, chosen.optim.z_loss
        )
        norm = train.clip_gradients(model, chosen.optim.clip)
        losses.append(float(loss))
        norms.append(float(norm))
        train.update(optimizers, optim.learning_rate(chosen.optim, step, TRACE_STEPS))
    return losses, norms


def measure_correctness(variant: Variant, base: RunConfig, tiny: bool) -> Json:
    """Losses, gradient norms and TRACE_STEPS steps against the CPU in fp32."""
    small = ("optim.warmup_steps=5", "train.batch_sequences=2")
    shapes: dict[str, tuple[str, ...]] = {"tiny": (*TINY_MODEL, *small)}
    if not tiny:
        few = min(4, base.model.n_layers)  # Muon's rounds take a CPU long
        shapes["preset"] = (f"model.n_layers={few}", "model.context=128", *small)
    cases = [("cpu", "bf16", False), ("cuda", "fp32", False), ("cuda", "bf16", False)]
    cases.append(("cuda", "bf16", True))
    found: Json = {"steps": TRACE_STEPS, "tolerance": TOLERANCE}
    for name, settings in shapes.items():
        rows: Json = {}
        found[f"shape: {name}"] = rows

        def case(device: str, dtype: str, compiled: bool, settings: Any = settings) -> Any:
            precise = (f"train.dtype={dtype}", f"train.compile={str(compiled).lower()}")
            chosen = built(base, replace(variant, settings=(*settings, *precise)))
            return trace(chosen, torch.device(device), tiny)

        expected = case("cpu", "fp32", False)
        rows["cpu fp32 losses"] = [round(loss, 6) for loss in expected[0]]
        for device, dtype, compiled in cases if name == "tiny" else cases[1:]:
            label = f"{device} {dtype}{' compiled' if compiled else ''}"
            if device == "cuda" and (tiny or not torch.cuda.is_available()):
                rows[label] = {"status": "needs a GPU"}
            else:
                rows[label] = compared(expected, case(device, dtype, compiled), TOLERANCE[dtype])
    return found


def compared(
    expected: tuple[list[float], list[float]],
    found: tuple[list[float], list[float]],
    tolerance: dict[str, float],
) -> Json:
    """How far two traces (losses, norms) are apart, and whether that is within the tolerance."""
    apart = [abs(a - b) for a, b in zip(expected[0], found[0], strict=True)]
    norms = [abs(a - b) / a for a, b in zip(expected[1], found[1], strict=True)]
    first = {"first_loss": apart[0], "losses": max(apart), "first_norm": norms[0]}
    return {
        "status": "measured",
        **{name: float(f"{value:.3g}") for name, value in first.items()},
        "norms": float(f"{max(norms):.3g}"),
        "last_loss": round(found[0][-1], 6),
        "within_tolerance": all(first[name] <= limit for name, limit in tolerance.items()),
    }


# The first pattern that is found in a kernel's (or, on a CPU, an operator's) name says where its
# time belongs, unless it was launched by the optimizer, the clipping or the loss.
CATEGORIES = {
    "copies": r"memcpy|memset|^aten::(copy_|zero_|fill_)$",
    "attention": r"flash|fmha|sdpa|attention|\bmha_",
    "loss": r"softmax|nll_loss|logsumexp|cross_entropy",
    "matmul": r"gemm|nvjet|cutlass|xmma|wgmma|cublas|splitk|gemv|^triton_tem"
    r"|^aten::(mm|addmm|b?addbmm|bmm)$",
    "optimizer": r"multi_tensor|adam|newton_schulz|foreach",
}
OWNERS = {"x1.loss": "loss", "x1.update": "optimizer", "x1.clip": "optimizer"}
REST = "norms and elementwise"


def category(name: str, owner: str = "") -> str:
    """Where a kernel's time belongs; `owner` is the annotated part of the step it came from."""
    if owner:
        return OWNERS[owner]
    lower = name.lower()
    if re.match(r"triton_(poi|red|per)_", lower):  # named after all that was fused into them
        return "loss" if re.search(CATEGORIES["loss"], lower) else REST
    return next((c for c, pattern in CATEGORIES.items() if re.search(pattern, lower)), REST)


def milliseconds(events: list[Json], steps: int) -> dict[str, float]:
    """Milliseconds of one step by category, from the events of a Chrome trace.

    A kernel belongs to the annotated part of the step during which the host launched it, whichever
    thread did. Idle is the time between first and last kernel in which none ran. Without kernels (a
    CPU) the operators' own times stand in for them.
    """
    timed = [e for e in events if e.get("ph") == "X"]
    windows = [
        (e["name"], e["ts"], e["ts"] + e["dur"])
        for e in timed
        if e.get("cat") == "user_annotation" and e["name"] in OWNERS
    ]

    def owner(at: float) -> str:
        return next((name for name, start, end in windows if start <= at < end), "")

    kernels = [e for e in timed if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    if kernels:
        launched = {
            e["args"]["correlation"]: e["ts"]
            for e in timed
            if e.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in e["args"]
        }
        work = [
            (e["ts"], e["dur"], e["name"], owner(launched.get(e["args"].get("correlation"), -1.0)))
            for e in kernels
        ]
    else:
        work = [
            (start, own, name, owner(start)) for start, own, name in own_times(timed) if own > 0
        ]
    spent = dict.fromkeys((*CATEGORIES, REST), 0.0)
    for _, duration, name, owned in work:
        spent[category(name, owned)] += duration
    if work:
        span = max(e["ts"] + e["dur"] for e in kernels or timed) - min(w[0] for w in work)
        spent["idle"] = max(0.0, span - busy([(start, start + dur) for start, dur, *_ in work]))
    return {name: us / 1000 / steps for name, us in spent.items()}


def own_times(timed: list[Json]) -> Iterator[tuple[float, float, str]]:
    """(start, time not spent in operators it called, name) of every CPU operator."""
    threads: dict[Any, list[Json]] = {}
    for event in timed:
        if event.get("cat") == "cpu_op":
            threads.setdefault(event["tid"], []).append(event)
    for operators in threads.values():
        stack: list[list[Any]] = []  # [event, own time]
        for event in sorted(operators, key=lambda e: (e["ts"], -e["dur"])):
            while stack and stack[-1][0]["ts"] + stack[-1][0]["dur"] <= event["ts"]:
                done, own = stack.pop()
                yield done["ts"], own, done["name"]
            if stack:
                stack[-1][1] -= event["dur"]
            stack.append([event, event["dur"]])
        yield from ((done["ts"], own, done["name"]) for done, own in stack)


def busy(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def measure_profile(variant: Variant, base: RunConfig, tiny: bool) -> Json:
    """Milliseconds and share of a step by category. Profiling itself slows the host down."""
    setup = assembled(variant, base, tiny)
    ids = batches(setup.config, setup.device)
    step = setup.step if setup.losses else setup.profiled_step
    for _ in range(WARM_UP_STEPS):
        step(next(ids))
    activities = [ProfilerActivity.CPU]
    if setup.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as profiler:
        for _ in range(PROFILED_STEPS):
            step(next(ids))
        if setup.device.type == "cuda":
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text("utf-8"))["traceEvents"]
    spent = milliseconds(events, PROFILED_STEPS)
    total = sum(spent.values())
    return {
        "steps": PROFILED_STEPS,
        "step_ms": round(total, 3),
        "ms": {name: round(ms, 3) for name, ms in spent.items()},
        "share": {name: round(ms / total, 4) for name, ms in spent.items()},
        "of": "GPU kernels" if setup.device.type == "cuda" else "CPU operators",
    }


def measure_peer(variant: Variant, base: RunConfig, tiny: bool, peer: Path) -> Json:
    """nanoGPT's train.py as it is, on random tokens, at the preset's shape and batch.

    Its MLP is a GELU one of width 4 d_model. Its own clock, one reading of the loss a step.
    """
    chosen = built(base, variant)
    model, micro_batch = chosen.model, variant.micro_batch
    on_gpu = torch.cuda.is_available() and not tiny
    options = {
        "device": "cuda" if on_gpu else "cpu",
        "dtype": "bfloat16" if on_gpu else "float32",
        "compile": on_gpu,
        "dataset": "random",
        "gradient_accumulation_steps": chosen.train.batch_sequences // micro_batch,
        "batch_size": micro_batch,
        "n_layer": model.n_layers,
        "n_head": model.n_heads,
        "n_embd": model.d_model,
        "block_size": model.context,
        "dropout": 0.0,
        "bias": False,
        "max_iters": PEER_STEPS,
        "eval_interval": 10**7,
        "eval_iters": 1,
        "log_interval": 1,
        "out_dir": "out",
    }
    program = (
        "import runpy, sys, torch; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__');"
        "print('peak', torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)"
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        for name in ("train.py", "model.py", "configurator.py"):
            shutil.copyfile(peer / name, here / name)
        place = here / "data" / "random"
        place.mkdir(parents=True)
        draw = np.random.default_rng(0)
        for split in ("train", "val"):
            ids = draw.integers(model.vocab_size, size=64 * model.context, dtype=np.uint16)
            ids.tofile(place / f"{split}.bin")
        (place / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": model.vocab_size}))
        done = subprocess.run(
            [sys.executable, "-c", program, "train.py",
             *(f"--{key}={value}" for key, value in options.items())],
            cwd=here, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:])
    said = re.findall(r"^iter \d+: .* time ([\d.]+)ms", done.stdout, re.M)
    step_s = median(float(value) / 1000 for value in said[-PEER_STEPS // 2 :])
    per_token = peer_flops(chosen)
    card = flops.identify(torch.cuda.get_device_name()) if on_gpu else None
    peak = card.peak_flops_per_s("bf16") if card else None
    memory = re.search(r"^peak (\d+)", done.stdout, re.M)
    rate = chosen.batch_tokens / step_s
    return {
        "sequences": chosen.train.batch_sequences,
        "context": model.context,
        "step_s": round(step_s, 6),
        "tokens_per_s": round(rate, 1),
        "mfu": round(flops.mfu(rate, per_token, peak), 4) if peak else None,
        "flops_per_token": per_token,
        "peak_memory_gb": round(int(memory[1]) / 1e9, 3) if memory and on_gpu else None,
        "setup_s": round(time.perf_counter() - began, 1),
    }


def peer_flops(chosen: RunConfig) -> int:
    """FLOPs per token of nanoGPT at this shape, causal: its MLP has two matrices of 4 d²."""
    model = chosen.model
    mlp = model.n_layers * 2 * 2 * 4 * model.d_model**2
    return replace(flops.token_flops(model, "causal"), mlp=mlp).total


def machine() -> Json:
    """The GPU and the libraries below torch; None for what is not there."""
    if not torch.cuda.is_available():
        return {"gpu": None}
    properties = torch.cuda.get_device_properties(0)
    card = flops.identify(properties.name)
    try:
        import triton  # type: ignore[import-not-found]

        triton_version: str | None = triton.__version__
    except ImportError:
        triton_version = None
    driver = None
    with contextlib.suppress(OSError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() or None
    return {
        "gpu": properties.name,
        "table": card.name if card else None,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver,
        "triton": triton_version,
    }


def answer(job: Json) -> Json:
    """Do one job; whatever goes wrong is the job's status, not the worker's end."""
    if job["job"] == "machine":
        return machine()
    variant = Variant(**{**job["variant"], "settings": tuple(job["variant"]["settings"])})
    base, tiny = config.validate(job["base"]), job["tiny"]
    if variant.needs_gpu and (tiny or not torch.cuda.is_available()):
        return {"status": "needs a GPU"}
    try:
        with wrapped(variant, tiny):
            if variant.kind == "peer":
                found = measure_peer(variant, base, tiny, Path(job["peer"]))
            elif variant.kind == "correctness":
                found = measure_correctness(variant, base, tiny)
            elif variant.kind == "profile":
                found = measure_profile(variant, base, tiny)
            else:
                found = measure_speed(variant, base, tiny)
        return {"status": "measured", **found}
    except RuntimeError as fault:
        text = str(fault)
        if hardware.is_out_of_memory(fault) or "out of memory" in text.lower():
            return {"status": "out of memory"}
        return failed(fault)
    except Exception as fault:  # a compiler may raise anything: the rest goes on
        return failed(fault)
    finally:
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def failed(fault: Exception) -> Json:
    return {"status": "failed", "fault": f"{type(fault).__name__}: {str(fault)[-600:]}"}


def work() -> None:
    """Answer jobs from stdin until it is closed, one line each; whatever else is said is stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


# The parent: decides what is next, and writes down what came back. It never touches the GPU.


class Worker:
    """A process that measures. `fresh`: a new one for every job, so that nothing is left over."""

    def __init__(self, fresh: bool) -> None:
        self.fresh = fresh
        self.process: subprocess.Popen[str] | None = None

    def ask(self, job: Json, limit_s: float) -> Json:
        """The answer, or the status "out of time" or "failed" of a process that gave none."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        process = self.process
        assert process.stdin and process.stdout
        expired = threading.Event()

        def end() -> None:
            expired.set()
            self.close()

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
        finally:
            timer.cancel()
        if line and not self.fresh:
            return dict(json.loads(line))
        if not line:  # it is ending by itself, or was ended: let its own code stand
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        self.close()
        if line:
            return dict(json.loads(line))
        if expired.is_set():
            return {"status": "out of time"}
        return {"status": "failed", "fault": f"the process ended with code {process.wait()}"}

    def close(self) -> None:
        """End the process and the compilers it started."""
        if self.process is None:
            return
        process, self.process = self.process, None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(
    record: Json,
    todo: list[Variant],
    base: RunConfig,
    worker: Worker,
    write: Callable[[Json], None],
    deadline: float,
    tiny: bool = False,
    peer: Path | None = None,
) -> None:
    """Measure `todo` in order into `record`, which is written after each.

    What is in the record already is not measured again; what there is no time for is listed under
    `skipped`. `deadline` is a reading of time.monotonic().
    """
    done = {row["name"] for row in record["results"] if row["status"] not in UNFINISHED}
    record["results"] = [row for row in record["results"] if row["name"] in done]
    todo = [variant for variant in todo if variant.name not in done]
    took: list[float] = []
    for number, variant in enumerate(todo):
        left = deadline - time.monotonic()
        if left < (median(took) if took else 0):
            record["skipped"] = [v.name for v in todo[number:]]
            print(f"no time left for: {', '.join(record['skipped'])}", file=sys.stderr)
            break
        began = time.monotonic()
        job = {
            "job": "measure",
            "variant": asdict(variant),
            "base": base.model_dump(),
            "tiny": tiny,
            "peer": str(peer),
        }
        row = asdict(variant) | worker.ask(job, min(left, JOB_LIMIT_S))
        if row["status"] == "measured":
            took.append(time.monotonic() - began)
        record["results"].append(row)
        record["summary"] = summary(record, base)
        write(record)
        print(told(row, left), file=sys.stderr)
    else:
        record["skipped"] = []
    record["finished"] = True
    record["summary"] = summary(record, base)
    write(record)


UNFINISHED = ("out of time", "failed")


def told(row: Json, left_s: float) -> str:
    """A line of progress."""
    figures = row["fault"].strip().splitlines()[-1:] if "fault" in row else []
    if "tokens_per_s" in row:
        figures.append(f"{row['tokens_per_s']:,.0f} tokens/s")
    if row.get("mfu"):
        figures.append(f"MFU {row['mfu']:.3f}")
    if row.get("peak_memory_gb"):
        figures.append(f"{row['peak_memory_gb']:.1f} GB")
    return f"[{left_s:4.0f} s left] {row['name']}: {', '.join([row['status'], *figures])}"


def summary(record: Json, base: RunConfig) -> Json:
    """What the rows say together: gains, the peer, determinism, the fitted two-term model."""
    rows = {row["name"]: row for row in record["results"] if row["status"] == "measured"}
    gains = {}
    for name, row in rows.items():
        baseline = rows.get(row["baseline"])
        if row["kind"] == "speed" and baseline and baseline is not row:
            gain = row["tokens_per_s"] / baseline["tokens_per_s"] - 1
            gains[name] = {"over": row["baseline"], "gain": round(gain, 4), "pays": gain > PAYS}
    found: Json = {"gains": gains}

    ours = [row for row in rows.values() if row["kind"] == "speed" and same_work(row)]
    peers = [row for row in rows.values() if row["kind"] == "peer"]
    if ours and peers:
        best, theirs = (max(kind, key=lambda r: r["tokens_per_s"]) for kind in (ours, peers))
        found["beside_nanogpt"] = {
            "ours": best["name"],
            "theirs": theirs["name"],
            "tokens_per_s_ratio": round(best["tokens_per_s"] / theirs["tokens_per_s"], 4),
        }
        if "as it is" in rows:
            ratio = rows["as it is"]["tokens_per_s"] / theirs["tokens_per_s"]
            found["beside_nanogpt"]["ratio_as_it_is"] = round(ratio, 4)
    if {"deterministic", "deterministic, again"} <= set(rows):
        first, second = rows["deterministic"], rows["deterministic, again"]
        found["deterministic"] = {
            "bitwise_equal": first["weights_sha256"] == second["weights_sha256"],
            "cost": round(-gains["deterministic"]["gain"], 4) if "deterministic" in gains else None,
        }
    found["two_terms"] = two_terms(record, base)
    return found


def same_work(row: Json) -> bool:
    """Whether a row trains the preset itself, so that it may stand beside the peer's."""
    return not any(s.startswith(("model.", "optim.", "train.dtype")) for s in row["settings"])


def two_terms(record: Json, base: RunConfig) -> Json:
    """The two-term model fitted to the compiled rows, and what it says of other GPUs."""
    name = record["hardware"].get("table")
    if not name:
        return {"status": "needs a GPU that is in the table"}
    here = flops.gpu(name)
    rows = []
    for row in record["results"]:
        chosen = built(base, Variant(row["name"], settings=tuple(row["settings"])))
        plain = not row["attention"] and not row["compiled_muon"]
        plain = plain and row["compile"] in ("loop", "static") and not chosen.train.deterministic
        plain = plain and row["loss"] in ("loop", "eager", "inside")
        of_base = chosen.train.compile and chosen.train.dtype == base.train.dtype
        if row["kind"] == "speed" and row["status"] == "measured" and plain and of_base:
            fused = row["loss"] != "eager"
            rows.append(throughput.Row(chosen, row["micro_batch"], fused, row["step_s"], here))
    try:
        fitted = throughput.fit_two_terms(rows)
    except ValueError as fault:
        return {"status": f"not fitted: {fault}"}
    others = {}
    for gpu in flops.PEAKS.values():
        rate = throughput.predict_tokens_per_s(base, gpu, fitted)
        others[gpu.label] = {
            "tokens_per_s": round(rate.tokens_per_s),
            "low": round(rate.low),
            "high": round(rate.high),
            "basis": "extrapolated" if rate.extrapolated else "fitted",
        }
    return {"status": "fitted", **fitted.to_json(), "predictions": others}


def first_record(base: RunConfig, gpu: Json, tiny: bool) -> Json:
    """The record before anything is measured."""
    stood = provenance(base.train.threads)
    where, where_es = (", tiny, on a CPU", ", diminuto, en una CPU") if tiny else ("", "")
    return {
        "format": FORMAT,
        "what": f"training speed of {base.preset} on one GPU{where}",
        "what_es": f"velocidad de entrenamiento de {base.preset} en una GPU{where_es}",
        **stood,
        "hardware": {**stood["hardware"], **gpu},
        "preset": base.preset,
        "tiny": tiny,
        "model": base.model.model_dump(),
        "batch_sequences": base.train.batch_sequences,
        "flops_per_token": flops.token_flops(base.model, "causal").total,
        "finished": False,
        "skipped": [],
        "results": [],
        "summary": {},
    }


def taken_up(out: Path | None, fresh: Json) -> Json:
    """The record in `out` if it is of the same code, GPU and preset, else `fresh`."""
    if out is None or not out.exists():
        return fresh
    old = folder.read_json(out, FORMAT)
    same = all(old.get(key) == fresh[key] for key in ("preset", "tiny", "model", "git_commit"))
    if same and old["hardware"].get("gpu") == fresh["hardware"]["gpu"]:
        return {**old, "finished": False}
    raise SystemExit(f"{out} is of another GPU, preset or commit: move it away, or name another")


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    asked.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    asked.add_argument("--preset", default="x1-50m")
    asked.add_argument("--out", type=Path, help="default: docs/measured/gpu-NAME.json")
    asked.add_argument("--minutes", type=float, default=9)
    asked.add_argument("--tiny", action="store_true", help="tiny, on a CPU; --out or nothing kept")
    asked.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.worker:
        work()
        return
    deadline = time.monotonic() + 60 * options.minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    worker = Worker(fresh=not options.tiny)
    try:
        settings = TINY if options.tiny else ()
        base = config.build(options.preset, settings=settings)
        gpu = worker.ask({"job": "machine"}, limit_s=120)
        if gpu.get("status"):
            raise SystemExit(f"the GPU could not be asked: {gpu}")
        if not gpu["gpu"] and not options.tiny:
            raise SystemExit("there is no GPU here; --tiny shows on a CPU that everything runs")
        out = options.out
        if out is None and not options.tiny:
            slug = gpu["table"] or re.sub(r"\W+", "-", gpu["gpu"].lower()).strip("-")
            out = Path(f"docs/measured/gpu-{slug}.json")
        record = taken_up(out, first_record(base, gpu, options.tiny))
        if options.peer:
            record["peer"] = peer_commit(options.peer)
        fits = 4 if options.tiny else min(32, flops.fitting_micro_batch(base, gpu["memory_gb"]))
        micro_batch = 2 ** int(math.log2(max(1, min(fits, base.train.batch_sequences))))
        todo = variants(base, micro_batch, peer=options.peer is not None)
        write = (lambda record: folder.write_json(out, record)) if out else (lambda record: None)
        write(record)
        peer = options.peer.resolve() if options.peer else None
        run(record, todo, base, worker, write, deadline, options.tiny, peer)
        print(json.dumps(record if out is None else record["summary"], indent=1))
    except UserError as fault:
        raise SystemExit(str(fault)) from None
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        worker.close()


def peer_commit(peer: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(peer), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return f"karpathy/nanoGPT {done.stdout.strip() or 'of unknown commit'}"


if __name__ == "__main__":
    main()
