"""What n GPUs say to each other in a step, how long it takes, and what is left of their speed.

Volume. A ring all-gather or reduce-scatter of S bytes makes every rank send S·(n − 1)/n, an
all-reduce twice that (nccl-tests, doc/PERFORMANCE.md). DDP all-reduces the gradients; FSDP gathers
the parameters for the forward pass and again for the backward one, and reduce-scatters the
gradients: 2 and 3 times the model where all have one dtype (ZeRO, 1910.02054, section 7).

Time. Latency per hop plus bytes over bandwidth, with the constants by which NCCL itself chooses
an algorithm (NVIDIA/nccl, src/graph/tuning.cc and topo.h).

Efficiency. Computing time over step time, between two bounds: communication hidden behind
computation wherever the data allow it, or never. Left out: stragglers, congestion, failures, and
the matmuls' own loss of speed when a GPU's share of the batch gets small.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from x1.config import build
from x1.flops import GIGA, RESERVED_BYTES, USABLE, gpu, palm_flops_per_token, parameters

Parallel = Literal["ddp", "fsdp"]

# Protocol "Simple", the one for large messages: a call, a ring's hop over NVLink and over the
# network, and a tree's hop, which waits for a whole chunk.
CALL_S, NVLINK_HOP_S, NETWORK_HOP_S, TREE_HOP_S = 8.4e-6, 3.4e-6, 14e-6, 28e-6
TREE_BANDWIDTH = 0.92  # of the ring's
BUCKET_BYTES = 25 * 2**20  # DistributedDataParallel's bucket_cap_mb
STATE_BYTES = 16  # a parameter, its gradient and two moments, each fp32


@dataclass(frozen=True)
class Cluster:
    """Nodes of `node_gpus` GPUs. Bandwidths in GB/s, one direction.

    `nvlink_gb_s` is what a ring inside a node gets. `network_gb_s` is a node's, all its network
    cards together: a ring enters a node once and leaves it once however many GPUs it passes
    inside, and NCCL lays one ring over each card, so every rank sees the node's bandwidth and
    not the eighth part of it.
    """

    gpu: str
    nvlink_gb_s: float
    network_gb_s: float
    node_gpus: int = 8

    def nodes(self, n: int) -> int:
        return -(-n // self.node_gpus)

    def bytes_per_s(self, n: int) -> float:
        """Bandwidth of a ring over `n` GPUs."""
        inside = self.nvlink_gb_s
        return GIGA * (inside if self.nodes(n) == 1 else min(inside, self.network_gb_s))


# NVLink: links a GPU has (NVIDIA's A100 and H100 data sheets: 12 of 50 GB/s both ways, 18 of 50)
# by what NCCL counts for one (topo.h: 20.0 and 20.6 GB/s). Network: the cards of a DGX node.
CLUSTERS: dict[str, Cluster] = {
    "a100": Cluster("a100-80gb", 12 * 20.0, 8 * 25.0),
    "h100": Cluster("h100-sxm", 18 * 20.6, 8 * 50.0),
}


def gathered_bytes(whole_bytes: float, n: int) -> float:
    """Bytes each of `n` ranks sends to all-gather, or reduce-scatter, `whole_bytes`."""
    return whole_bytes * (n - 1) / n


def ddp_bytes(n_parameters: int, n: int, reduce_bytes: int = 4) -> float:
    """Bytes each rank sends in a DDP step: one all-reduce of gradients of `reduce_bytes` each."""
    return 2 * gathered_bytes(n_parameters * reduce_bytes, n)


def fsdp_bytes(
    n_parameters: int,
    n: int,
    gather_bytes: int = 2,
    reduce_bytes: int = 4,
    micro_batches: int = 1,
    n_kept: int = 0,
) -> float:
    """Bytes each rank sends in an FSDP step that reduces the gradients once.

    `n_kept` of the parameters stay whole between the forward and the backward pass: in torch's
    FSDP2 the root's own, which here are the embedding, the last norm and the head.
    """
    gathered = micro_batches * (2 * n_parameters - n_kept) * gather_bytes
    return gathered_bytes(gathered + n_parameters * reduce_bytes, n)


def all_gather_s(cluster: Cluster, n: int, whole_bytes: float) -> float:
    """Seconds of a ring all-gather, or reduce-scatter, of `whole_bytes` over `n` GPUs."""
    if n == 1:
        return 0.0
    between = cluster.nodes(n) - 1
    hops_s = (n - 1 - between) * NVLINK_HOP_S + between * NETWORK_HOP_S
    return CALL_S + hops_s + gathered_bytes(whole_bytes, n) / cluster.bytes_per_s(n)


def all_reduce_s(cluster: Cluster, n: int, whole_bytes: float) -> float:
    """Seconds of an all-reduce of `whole_bytes` over `n` GPUs: ring or tree, the faster."""
    if n == 1:
        return 0.0
    ring_s = 2 * all_gather_s(cluster, n, whole_bytes) - CALL_S
    nodes = cluster.nodes(n)
    hops = 2 * (n / nodes - 1 + math.log2(nodes))
    bandwidth = TREE_BANDWIDTH * cluster.bytes_per_s(n)
    return min(ring_s, hops * TREE_HOP_S + 2 * whole_bytes / bandwidth)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step: computing, communicating, and what of that nothing can hide."""

    compute_s: float
    communication_s: float
    exposed_s: float

    @property
    def overlapped(self) -> float:
        """Efficiency when all that can be hidden behind computation is."""
        return self.compute_s / (self.compute_s + self.exposed_s)

    @property
    def serial(self) -> float:
        """Efficiency when nothing is."""
        return self.compute_s / (self.compute_s + self.communication_s)


def backward_share(recompute: bool) -> float:
    """The backward pass's part of the computing time: 2 of 3, or 3 of 4 with recomputation."""
    return 3 / 4 if recompute else 2 / 3


def ddp_step(
    cluster: Cluster,
    n: int,
    n_parameters: int,
    compute_s: float,
    reduce_bytes: int = 4,
    recompute: bool = False,
    micro_batches: int = 1,
) -> StepTime:
    """A DDP step. Each bucket is reduced as soon as the last backward pass has filled it."""
    buckets = math.ceil(n_parameters * reduce_bytes / BUCKET_BYTES)
    bucket_s = all_reduce_s(cluster, n, n_parameters * reduce_bytes / buckets)
    backward_s = backward_share(recompute) * compute_s / micro_batches
    # Either the network is idle when the last bucket comes, or busy since the first came.
    exposed_s = max(bucket_s, buckets * bucket_s - backward_s * (buckets - 1) / buckets)
    return StepTime(compute_s, buckets * bucket_s, exposed_s)


def fsdp_step(
    cluster: Cluster,
    n: int,
    n_parameters: int,
    layers: int,
    compute_s: float,
    gather_bytes: int = 2,
    reduce_bytes: int = 4,
    recompute: bool = False,
    micro_batches: int = 1,
) -> StepTime:
    """An FSDP step over `layers` blocks and the rest of the model, taken as pieces of equal size.

    While a piece computes, the next one is gathered and, in the last backward pass, the gradients
    of the one before are reduced, one after the other on the same wires. Nothing hides each
    pass's first gather and the last reduction.
    """
    pieces = layers + 1
    gather_s = all_gather_s(cluster, n, n_parameters * gather_bytes / pieces)
    reduce_s = all_gather_s(cluster, n, n_parameters * reduce_bytes / pieces)
    piece_s = compute_s / micro_batches / pieces
    forward_s = piece_s * (1 - backward_share(recompute))
    backward_s = piece_s * backward_share(recompute)

    forward_exposed_s = gather_s + layers * max(0.0, gather_s - forward_s)
    backward_exposed_s = gather_s + layers * max(0.0, gather_s - backward_s)
    last_exposed_s = gather_s + layers * max(0.0, gather_s + reduce_s - backward_s) + reduce_s
    return StepTime(
        compute_s=compute_s,
        communication_s=pieces * (2 * micro_batches * gather_s + reduce_s),
        exposed_s=micro_batches * forward_exposed_s
        + (micro_batches - 1) * backward_exposed_s
        + last_exposed_s,
    )


def fits(cluster: Cluster, n: int, n_parameters: int, layers: int, parallel: Parallel) -> bool:
    """Whether weights, gradients and moments leave room on each GPU; activations not counted."""
    held = float(STATE_BYTES * n_parameters)
    if parallel == "fsdp":  # its share, two pieces gathered in bf16, one piece's gradients in fp32
        held = held / n + (2 * 2 + 4) * n_parameters / (layers + 1)
    return held <= USABLE * (gpu(cluster.gpu).memory_gb * GIGA - RESERVED_BYTES)


@dataclass(frozen=True)
class Work:
    """A model and how it is trained.

    `gpu_sequences` is one GPU's share under weak scaling, and the most it takes at a time.
    """

    label: str
    n_parameters: int
    layers: int
    flops_per_token: int
    context: int
    batch_tokens: int
    gpu_sequences: int
    recompute: bool = False


def best_batch_tokens(n_parameters: int) -> int:
    """Batch of least loss at 20 tokens a parameter, rounded to a power of two.

    0.58·D^0.571 tokens (Step Law, 2503.04715). Larger batches need more tokens for the same loss;
    how large is still worth it grows with the tokens and hardly with the model (2410.21676).
    """
    return int(2 ** round(math.log2(0.58 * (20 * n_parameters) ** 0.571)))


def work(preset: str, gpu_sequences: int) -> Work:
    """A preset's model, with attention counted over the full context as published MFUs do."""
    model = build(preset).model
    n, layers, context = parameters(model), model.n_layers, model.context
    flops = palm_flops_per_token(n, layers, model.n_heads, model.head_dim, context)
    return Work(preset, n, layers, flops, context, best_batch_tokens(n), gpu_sequences)


def llama_70b() -> Work:
    """Llama 3 70B's shape (2407.21783, table 3), with sequences of 4,096 tokens."""
    d, d_ff, layers, heads, groups, vocabulary, context = 8192, 28672, 80, 64, 8, 128_256, 4096
    head = d // heads
    block = 2 * d * d + 2 * d * groups * head + 3 * d * d_ff + 2 * d
    n = layers * block + 2 * vocabulary * d + d
    flops = palm_flops_per_token(n, layers, heads, head, context)
    return Work("Llama 3 70B", n, layers, flops, context, best_batch_tokens(n), 4, recompute=True)


def works() -> tuple[Work, Work, Work]:
    """The three models of the page: 50M, 1B, 70B."""
    return work("x1-50m", 64), work("gpuburnout-1b", 16), llama_70b()


ASSUMED_MFU = 0.40  # of a GPU that waits for no other, before communication
GPU_COUNTS = (8, 64, 1024)


@dataclass(frozen=True)
class Expectation:
    """What to expect of one model on `n` GPUs. `step` is None where it does not fit in memory.

    `volume_bytes` is what each GPU sends; `batch_tokens` the whole cluster's.
    """

    work: Work
    n: int
    parallel: Parallel
    gpu_sequences: float
    volume_bytes: float
    step: StepTime | None

    @property
    def batch_tokens(self) -> float:
        return self.n * self.gpu_sequences * self.work.context


def expect(
    cluster: Cluster, work: Work, n: int, parallel: Parallel, gpu_sequences: float
) -> Expectation:
    """One model on `n` GPUs that each take `gpu_sequences` sequences a step, at ASSUMED_MFU.

    DDP reduces fp32 gradients, as this project's loop does; FSDP gathers bf16 and reduces fp32.
    """
    peak = gpu(cluster.gpu).peak_flops_per_s("bf16")
    compute_s = gpu_sequences * work.context * work.flops_per_token / (ASSUMED_MFU * peak)
    pieces = math.ceil(gpu_sequences / work.gpu_sequences)
    size, again = work.n_parameters, work.recompute
    if parallel == "ddp":
        volume = ddp_bytes(size, n)
        step = ddp_step(cluster, n, size, compute_s, 4, again, pieces)
    else:
        volume = fsdp_bytes(size, n, 2, 4, pieces)
        step = fsdp_step(cluster, n, size, work.layers, compute_s, 2, 4, again, pieces)
    room = fits(cluster, n, size, work.layers, parallel)
    return Expectation(work, n, parallel, gpu_sequences, volume, step if room else None)


def weak(cluster: Cluster, work: Work, n: int, parallel: Parallel) -> Expectation:
    """Every GPU's share stays the same, so the batch grows with `n`."""
    return expect(cluster, work, n, parallel, work.gpu_sequences)


def strong(cluster: Cluster, work: Work, n: int, parallel: Parallel) -> Expectation | None:
    """The batch stays the same; None once there are fewer sequences than GPUs."""
    sequences = work.batch_tokens / work.context / n
    return expect(cluster, work, n, parallel, sequences) if sequences >= 1 else None


@dataclass(frozen=True)
class Published:
    """Runs of one model under FSDP that someone published, to hold the model of time against.

    `rows`: GPUs, sequences a GPU takes in a step (no accumulation), tokens/s and GPU. All are
    predicted from row `base`, whose step time is taken as the computing time.
    """

    label: str
    source: str
    cluster: Cluster
    n_parameters: int
    layers: int
    context: int
    gather_bytes: int
    reduce_bytes: int
    recompute: bool
    rows: tuple[tuple[int, int, float], ...]
    base: int = 0


@dataclass(frozen=True)
class Comparison:
    """Tokens/s and GPU on `n` GPUs over those on `base_n`: published, and the two bounds."""

    run: Published
    base_n: int
    n: int
    published: float
    overlapped: float
    serial: float

    @property
    def miss(self) -> float:
        """By how much the published ratio lies outside the bounds; 0 inside."""
        low, high = sorted((self.overlapped, self.serial))
        return max(low - self.published, self.published - high, 0.0)


def compare(run: Published) -> Iterator[Comparison]:
    """Each row of a published run against the model's bounds, relative to its base row."""
    base_n, base_sequences, base_speed = run.rows[run.base]
    sequence_s = run.context / base_speed

    def step(n: int, sequences: int) -> StepTime:
        return fsdp_step(
            run.cluster,
            n,
            run.n_parameters,
            run.layers,
            sequences * sequence_s,
            run.gather_bytes,
            run.reduce_bytes,
            run.recompute,
        )

    base = step(base_n, base_sequences)
    for row, (n, sequences, speed) in enumerate(run.rows):
        if row == run.base:
            continue
        here = step(n, sequences)
        yield Comparison(
            run,
            base_n,
            n,
            speed / base_speed,
            here.overlapped / base.overlapped,
            here.serial / base.serial,
        )


MOSAIC = "mosaicml/llm-foundry, scripts/train/benchmarking/README.md"
TITAN = "pytorch/torchtitan, benchmarks/llama3_h100_202412_torchtitan.md"
MOSAIC_A100 = Cluster("a100-40gb", 12 * 20.0, 200.0)  # its 1600 Gb/s between nodes
MOSAIC_H100 = CLUSTERS["h100"]  # the table says nothing of the network
TITAN_H100 = CLUSTERS["h100"]  # its 400 Gb/s a GPU

# MPT: gradients reduced in bf16 where the table says PURE (A100), in fp32 where it says DEFAULT
# (H100); composer, mixed_precision. Only rows without accumulation; the layers are those of the
# table's own configurations. Llama 3.1: torchtitan gathers bf16 and reduces fp32.
PUBLISHED: tuple[Published, ...] = (
    Published(
        "MPT-125M", MOSAIC, MOSAIC_A100, 125_311_488, 12, 2048, 2, 2, False,
        ((16, 26, 130_535), (32, 26, 127_122), (64, 26, 125_234), (128, 26, 123_936)),
    ),
    Published(
        "MPT-350M", MOSAIC, MOSAIC_A100, 355_985_408, 24, 2048, 2, 2, False,
        ((16, 18, 55_413), (32, 18, 53_811), (64, 18, 52_689), (128, 18, 51_934)),
    ),
    Published(
        "MPT-760M", MOSAIC, MOSAIC_A100, 760_470_528, 24, 2048, 2, 2, False,
        ((16, 12, 29_607), (32, 12, 29_648), (64, 12, 29_344), (128, 12, 28_940)),
    ),
    Published(
        "MPT-1B", MOSAIC, MOSAIC_A100, 1_315_950_592, 24, 2048, 2, 2, False,
        ((32, 10, 15_555), (64, 10, 19_001), (128, 10, 18_647)), base=1,
    ),
    Published(
        "MPT-3B", MOSAIC, MOSAIC_A100, 2_651_837_440, 32, 2048, 2, 2, False,
        ((32, 6, 9_914), (64, 6, 9_736), (128, 6, 9_538)),
    ),
    Published(
        "MPT-7B", MOSAIC, MOSAIC_A100, 6_658_859_008, 32, 2048, 2, 2, True,
        ((32, 18, 3_725), (64, 18, 3_665), (128, 18, 3_623)),
    ),
    Published(
        "MPT-13B", MOSAIC, MOSAIC_A100, 12_853_954_560, 40, 2048, 2, 2, True,
        ((64, 16, 1_976), (128, 16, 1_972)),
    ),
    Published(
        "MPT-70B", MOSAIC, MOSAIC_A100, 64_862_437_376, 80, 2048, 2, 2, True,
        ((64, 2, 276), (128, 4, 376)), base=1,
    ),
    Published(
        "MPT-1B", MOSAIC, MOSAIC_H100, 1_315_950_592, 24, 2048, 2, 4, False,
        ((16, 20, 46_037), (32, 20, 45_130), (64, 20, 44_402)),
    ),
    Published(
        "MPT-13B", MOSAIC, MOSAIC_H100, 12_853_954_560, 40, 2048, 2, 4, False,
        ((8, 2, 4_792), (16, 2, 4_767), (32, 2, 4_811), (64, 2, 4_800)),
    ),
    Published(
        "Llama 3.1 8B", TITAN, TITAN_H100, 8_030_261_248, 32, 8192, 2, 4, False,
        ((8, 2, 5_762), (128, 2, 5_605)),
    ),
    Published(
        "Llama 3.1 8B, compiled", TITAN, TITAN_H100, 8_030_261_248, 32, 8192, 2, 4, False,
        ((8, 2, 6_667), (128, 2, 6_514)),
    ),
)  # fmt: skip


def comparisons() -> list[Comparison]:
    """Every published row but the bases."""
    return [comparison for run in PUBLISHED for comparison in compare(run)]
