"""What a token costs: FLOPs counted matmul by matmul, hardware peaks, MFU, memory.

A matmul of (m, k) by (k, n) is 2·m·n·k FLOPs; norms, activations, softmax and look-ups are not
counted, here or in torch's own counter. A backward pass multiplies twice for every forward
matmul, once for each of its two inputs.

torch is imported only by what measures, so that planning stays light.
"""

import difflib
import re
import time
from dataclasses import dataclass
from typing import Literal

from x1.config import ModelConfig, RunConfig
from x1.text import UserError

Convention = Literal["causal", "full"]

SHORT_CONTEXT = 512  # up to here attention in bf16 on a CPU is two matmuls, not one kernel
TERA = 1e12
GIGA = 1e9


@dataclass(frozen=True)
class TokenFlops:
    """Forward FLOPs for one token, averaged over a full context, by kind of layer.

    `convention` says how attention was counted. "full": every position against all T keys, the
    habit of most papers and of torch's counter. "causal": position t against its t + 1 keys,
    the work there is to do, (T + 1) / 2 keys on average.
    """

    convention: Convention
    projections: int
    mlp: int
    attention: int
    head: int

    @property
    def forward(self) -> int:
        return self.projections + self.mlp + self.attention + self.head

    @property
    def backward(self) -> int:
        return 2 * self.forward

    @property
    def total(self) -> int:
        """Forward and backward: the FLOPs that MFU counts."""
        return self.forward + self.backward

    @property
    def with_recompute(self) -> int:
        """FLOPs executed when blocks are recomputed in the backward pass: what HFU counts.

        The head lies outside the recomputed blocks.
        """
        return self.total + self.forward - self.head


def token_flops(model: ModelConfig, convention: Convention = "causal") -> TokenFlops:
    """Exact forward FLOPs per token of our model; see TokenFlops for the two conventions."""
    d, layers = model.d_model, model.n_layers
    keys = model.context + 1 if convention == "causal" else 2 * model.context  # twice the mean
    return TokenFlops(
        convention=convention,
        projections=layers * 4 * 2 * d * d,
        mlp=layers * 3 * 2 * d * model.d_ff,
        attention=layers * 2 * d * keys,  # scores and values: 2 matmuls of 2·d·(keys / 2)
        head=2 * d * model.vocab_size,
    )


@dataclass(frozen=True)
class Parameters:
    """Trainable numbers by kind. `head` is 0 when it shares the embedding's matrix."""

    embedding: int
    head: int
    projections: int
    mlp: int
    gains: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.matrices + self.gains

    @property
    def matrices(self) -> int:
        """Those inside the blocks, which Muon moves."""
        return self.projections + self.mlp

    @property
    def non_embedding(self) -> int:
        """Without embedding and head: the N of Kaplan et al. (2001.08361, section 2.1)."""
        return self.matrices + self.gains


def parameter_groups(model: ModelConfig) -> Parameters:
    """Closed form of the parameter count, by kind."""
    d, layers = model.d_model, model.n_layers
    table = model.vocab_size * d
    return Parameters(
        embedding=table,
        head=0 if model.tied else table,
        projections=layers * 4 * d * d,
        mlp=layers * 3 * d * model.d_ff,
        gains=layers * (2 * d + (2 * model.head_dim if model.qk_norm else 0)) + d,
    )


def parameters(model: ModelConfig) -> int:
    """Every trainable number, embedding included, a shared matrix once: N in this project."""
    return parameter_groups(model).total


def six_n_flops(n_parameters: int) -> int:
    """The rule of thumb 6·N FLOPs per token (2001.08361, section 2.1).

    With tied embeddings and all parameters in N it contains the head and omits attention.
    """
    return 6 * n_parameters


def palm_flops_per_token(
    n_parameters: int, n_layers: int, n_heads: int, head_dim: int, context: int
) -> int:
    """6·N + 12·L·H·Q·T, full attention (PaLM, 2204.02311, appendix B)."""
    return 6 * n_parameters + 12 * n_layers * n_heads * head_dim * context


def mfu(tokens_per_s: float, flops_per_token: float, peak_flops_per_s: float) -> float:
    """Model FLOPs utilisation: needed FLOPs done per second over the hardware's peak.

    Recomputed FLOPs do not count (2204.02311, appendix B): pass `TokenFlops.total`. The same
    division with `TokenFlops.with_recompute` is HFU.
    """
    return tokens_per_s * flops_per_token / peak_flops_per_s


def hfu(tokens_per_s: float, flops: TokenFlops, peak_flops_per_s: float, recompute: bool) -> float:
    """Hardware FLOPs utilisation: every FLOP executed counts, recomputed ones too."""
    executed = flops.with_recompute if recompute else flops.total
    return mfu(tokens_per_s, executed, peak_flops_per_s)


@dataclass(frozen=True)
class Gpu:
    """One GPU: dense peaks in TFLOP/s, memory, and the power its maker rates it for.

    `device` matches the name the driver gives it.
    """

    name: str
    label: str
    bf16_tflops: float
    fp32_tflops: float
    bandwidth_gb_s: float
    memory_gb: float
    watts: float
    source: str
    device: str

    def peak_flops_per_s(self, dtype: str) -> float:
        return (self.bf16_tflops if dtype == "bf16" else self.fp32_tflops) * TERA


# Two traps in the makers' tables. Headline tensor figures of Ampere and later assume 2:4 sparsity,
# twice what a dense matmul can do: these are dense. GeForce cards halve the tensor rate when fp16
# or bf16 products are accumulated in fp32, which training does: these are the halved ones.
# fp32 is without tensor cores; TF32 must be asked for and rounds to 10 bits.
PEAKS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            "a100-40gb", "A100-40GB", 312, 19.5, 1555, 40, 400,
            "NVIDIA A100 data sheet (SXM4 40 GB; the PCIe card is rated for 250 W)",
            r"A100-(SXM4?|PCIE)-40GB",
        ),
        Gpu(
            "a100-80gb", "A100-80GB", 312, 19.5, 2039, 80, 400,
            "NVIDIA A100 data sheet (SXM4 80 GB; the PCIe card has 1,935 GB/s and 300 W)",
            r"A100[- ](SXM4?-)?80GB( PCIe)?",
        ),
        Gpu(
            "h100-sxm", "H100-SXM", 989, 67, 3350, 80, 700,
            "NVIDIA H100 data sheet (SXM5)",
            r"H100 80GB HBM3",
        ),
        Gpu(
            "h100-pcie", "H100-PCIe", 756, 51, 2000, 80, 350,
            "NVIDIA H100 data sheet (PCIe)",
            r"H100 PCIe",
        ),
        Gpu(
            "h200", "H200", 989, 67, 4800, 141, 700,
            "NVIDIA H200 data sheet (SXM)",
            r"H200",
        ),
        Gpu(
            "l4", "L4", 121, 30.3, 300, 24, 72,
            "NVIDIA L4 data sheet",
            r"L4",
        ),
        Gpu(
            "rtx-3090", "RTX-3090", 71, 35.6, 936, 24, 350,
            "NVIDIA Ampere GA102 whitepaper, appendix A",
            r"(GeForce )?RTX 3090",
        ),
        Gpu(
            "rtx-4090", "RTX-4090", 165.2, 82.6, 1008, 24, 450,
            "NVIDIA Ada GPU architecture whitepaper, appendix A",
            r"(GeForce )?RTX 4090",
        ),
        Gpu(
            "rtx-5090", "RTX-5090", 209.5, 104.8, 1792, 32, 575,
            "NVIDIA RTX Blackwell GPU architecture whitepaper, appendix A",
            r"(GeForce )?RTX 5090",
        ),
    )
}  # fmt: skip


def gpu(name: str) -> Gpu:
    """The GPU called `name`, case and separators aside. Raises UserError with the nearest names."""
    plain = re.sub(r"[\s_]+", "-", name.strip().lower())
    plain = plain.removeprefix("nvidia-").removeprefix("geforce-")
    if plain not in PEAKS:
        nearest = difflib.get_close_matches(plain, PEAKS, n=3, cutoff=0.0)
        raise UserError("flops.unknown_gpu", name=name, nearest=", ".join(nearest))
    return PEAKS[plain]


def identify(device_name: str) -> Gpu | None:
    """The GPU behind the driver's name ("NVIDIA A100-SXM4-80GB"), or None if not in the table."""
    bare = device_name.removeprefix("NVIDIA ")
    return next((g for g in PEAKS.values() if re.fullmatch(g.device, bare)), None)


@dataclass(frozen=True)
class Peak:
    """The denominator of an MFU, and whether it is a maker's figure or was measured here."""

    flops_per_s: float
    name: str
    measured: bool


def measured_matmul_ceiling(
    dtype: str = "fp32",
    threads: int = 2,
    seconds: float = 1.0,
    device: str = "cpu",
    sizes: tuple[int, ...] = (),
) -> Peak:
    """The fastest square matmul seen in `seconds`: the peak of hardware with no table entry.

    `sizes` are those tried; by default small ones on a CPU, large ones on a GPU.

    It is a ceiling of this library on this machine, not of the silicon: an MFU against it is not
    comparable with one against a data sheet, and matmuls of luckier shapes may pass it.
    """
    import torch

    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    sizes = sizes or ((512, 1024, 2048) if device == "cpu" else (2048, 4096, 8192))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        best = 0.0
        for n in sizes:
            a = torch.randn(n, n, device=device).to(kind)
            a @ a  # the first call pays for set-up
            deadline = time.perf_counter() + seconds / len(sizes)
            while True:
                if device != "cpu":
                    torch.cuda.synchronize()
                start = time.perf_counter()
                a @ a
                if device != "cpu":
                    torch.cuda.synchronize()
                end = time.perf_counter()
                best = max(best, 2 * n**3 / (end - start))
                if end > deadline:
                    break
    finally:
        torch.set_num_threads(before)
    where = f"{threads} threads" if device == "cpu" else device
    return Peak(best, f"measured matmul ceiling, {dtype}, {where}", measured=True)


def device_peak(device: str, dtype: str, threads: int) -> Peak:
    """The peak for this machine's MFU: the table's if the GPU is in it, otherwise measured."""
    if device != "cpu":
        import torch

        known = identify(torch.cuda.get_device_name())
        if known:
            return Peak(known.peak_flops_per_s(dtype), f"{known.label} {dtype} dense", False)
    return measured_matmul_ceiling(dtype, threads, device=device)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device at the peak of an eager training step, by what they hold.

    An upper bound in kind: gradients fill up while activations are freed, and compilation
    fuses some activations away. Not in it: the framework itself (some hundreds of MB) and what the
    allocator wastes, which on a CPU can be as much again.
    """

    weights: int
    casts: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return (
            self.weights
            + self.casts
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
        )


def memory(
    config: RunConfig,
    micro_batch: int,
    recompute: bool | None = None,
    on_cpu: bool = False,
) -> MemoryEstimate:
    """Memory of one training step on one device with `micro_batch` sequences at a time.

    Weights, gradients and moments are fp32; `a` is the size of an activation. What a block keeps
    for its backward pass, per token, follows model.py line by line: RMSNorm its fp32 input, one
    number per row and its output; the query and key norms likewise, without their output; attention
    q, k, v and its output; SwiGLU gate, silu(gate), up and their product. No T×T matrix: fused
    attention keeps one number per row. On a CPU RMSNorm is not one kernel and keeps its fp32 result
    too, and short contexts in bf16 do keep T×T weights (`model.explicit_attention`). `recompute`
    (default: the config's) keeps each block's input, and one block's activations as far as they
    exceed what the loss has freed by then.
    """
    model, tokens = config.model, micro_batch * config.model.context
    groups = parameter_groups(model)
    a = 2 if config.train.dtype == "bf16" else 4
    d, heads = model.d_model, model.n_heads

    fp32_rows = 8 * d if on_cpu else 4 * d
    norm = fp32_rows + 4 + a * d
    qk_norms = 2 * (fp32_rows + 4 * heads) if model.qk_norm else 0
    row = a * model.context if on_cpu and a == 2 and model.context <= SHORT_CONTEXT else 4
    attention = 4 * a * d + heads * row
    swiglu = 4 * a * model.d_ff
    block = 2 * norm + qk_norms + attention + swiglu
    # The loss needs four fp32 tables of (tokens, V): logits, log-softmax, and a gradient of each;
    # the z-loss a fifth. All but the logits are gone when the blocks' backward pass begins.
    tables = 5 if config.optim.z_loss else 4
    logits = 4 * tables * model.vocab_size
    freed = logits - 4 * model.vocab_size
    if config.train.recompute if recompute is None else recompute:
        blocks = model.n_layers * a * d + max(0, block - freed)
    else:
        blocks = model.n_layers * block

    adamw = groups.total - (groups.matrices if config.optim.name == "muon" else 0)
    return MemoryEstimate(
        weights=4 * groups.total,
        casts=2 * (groups.matrices + model.vocab_size * d) if a == 2 else 0,
        gradients=4 * groups.total,
        optimizer=8 * adamw + 4 * (groups.total - adamw),
        activations=tokens * (blocks + norm),
        logits=tokens * logits,
    )


CPU_MICRO_BATCH_VALUES = 524_288  # beyond it, larger pieces cost memory and gain no speed
RESERVED_BYTES = GIGA  # the framework's context on a GPU
USABLE = 0.9  # the rest goes to the allocator's fragments


def cpu_micro_batch(config: RunConfig) -> int:
    """Sequences per pass on a CPU: the batch, halved until a tensor (B, T, C) is small enough."""
    size = config.train.batch_sequences
    values = config.model.context * config.model.d_model
    while size > 1 and size * values > CPU_MICRO_BATCH_VALUES:
        size = -(-size // 2)
    return size


def fitting_micro_batch(config: RunConfig, memory_gb: float) -> int:
    """Sequences per pass on a GPU: the batch, halved until it fits; 0 if not even one does.

    One GB is kept for the framework and a tenth of the rest for fragmentation.
    """
    room = USABLE * (memory_gb * GIGA - RESERVED_BYTES)
    size = config.train.batch_sequences
    while memory(config, size).total > room:
        if size == 1:
            return 0
        size = -(-size // 2)
    return size
