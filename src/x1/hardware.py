"""The machine a run is on: what is set before training, and what is put on record about it."""

import ctypes
import os
import platform
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from x1 import flops, folder
from x1.config import RunConfig, TrainConfig
from x1.ranks import Ranks, device_of, from_first
from x1.text import say

if TYPE_CHECKING:
    from x1.train import Job

MANIFEST_FORMAT = "x1-manifest-1"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def prepare(config: TrainConfig) -> None:
    """Fix the thread count, and torch's deterministic algorithms: on a CPU always, else if asked.

    A compiled embedding's backward pass adds with atomics otherwise, in whatever order its threads
    come, and a run could not be lived again.
    """
    torch.set_num_threads(config.threads)
    if device_of(config).type == "cpu":
        keep_freed_memory()
    if config.deterministic or device_of(config).type == "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def keep_freed_memory() -> None:
    """Let this process keep what a step frees, for the next step: glibc's mallopt.

    By default glibc gives large pieces back to the kernel, which fills every page with zeros
    before it lends it again: about a tenth of a step (docs/ideas.md). The peak is the same.
    Another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # bytes in a C int


def micro_batch(run: Path, config: RunConfig, ranks: Ranks) -> int:
    """Sequences per forward pass and rank; "auto" is resolved once, and then read again."""
    per_rank = config.train.batch_sequences // ranks.world
    if config.train.micro_batch != "auto":
        return min(config.train.micro_batch, per_rank)
    if (run / folder.MANIFEST).exists():
        return int(folder.read_json(run / folder.MANIFEST, MANIFEST_FORMAT)["micro_batch"])
    return int(from_first(automatic_micro_batch(config, ranks.device, per_rank), ranks))


def automatic_micro_batch(config: RunConfig, device: torch.device, per_rank: int) -> int:
    """The largest part of `per_rank` sequences that fits: into the GPU's memory by the estimate of
    `flops.memory`, on a CPU into one activation's size. All parts are alike, so that a compiled
    model has one shape.
    """
    if device.type == "cpu":
        fits = flops.cpu_micro_batch(config)
    else:
        _, total_bytes = torch.cuda.mem_get_info(device)
        fits = flops.fitting_micro_batch(config, total_bytes / flops.GIGA)
    return max((n for n in range(1, min(fits, per_rank) + 1) if per_rank % n == 0), default=1)


def write_manifest(job: "Job") -> None:
    """manifest.json: versions, commit, hardware, sizes, the data's fingerprint. Written once."""
    if (job.run / folder.MANIFEST).exists():
        return
    config = job.config
    peak = flops.device_peak(job.ranks.device.type, config.train.dtype, config.train.threads)
    folder.write_json(
        job.run / folder.MANIFEST,
        {
            "format": MANIFEST_FORMAT,
            "time": folder.now(),
            "git_commit": git_commit(),
            "versions": versions(),
            "hardware": describe(job.ranks, config.train.threads),
            "micro_batch": job.micro_batch,
            "data": {"name": job.dataset.name, "fingerprint": job.dataset.fingerprint},
            "seeds": {"model": config.train.seed, "data": config.data.seed},
            "parameters": flops.parameters(config.model),
            "flops_per_token": flops.token_flops(config.model, "causal").total,
            "peak_flops": {"value": peak.flops_per_s, "name": peak.name, "measured": peak.measured},
        },
    )


def trained_on(run: Path) -> str | None:
    """The fingerprint of the data the run's last start found."""
    found = folder.read_json(run / folder.MANIFEST, MANIFEST_FORMAT).get("data")
    return found.get("fingerprint") if isinstance(found, dict) else None


def versions() -> dict[str, str]:
    names = ("torch", "numpy", "safetensors", "tokenizers")
    return {"x1": version("x1-pretraining"), "python": platform.python_version()} | {
        name: torch.__version__ if name == "torch" else version(name) for name in names
    }


def describe(ranks: Ranks, threads: int) -> dict[str, Any]:
    """The hardware in words and numbers."""
    gpu = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else None
    return {
        "device": ranks.device.type,
        "gpu": gpu,
        "ranks": ranks.world,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "hostname": socket.gethostname(),
    }


def cpu_name() -> str:
    """The processor's model name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of the code that runs, "+changes" behind it if files differ; None outside git.

    A copy that a launch has made says in COMMIT which one it is of.
    """
    where = Path(__file__).parent
    copied = where.parents[1] / "COMMIT"
    if copied.is_file():
        return copied.read_text("utf-8").strip() or None
    try:
        commit = _git(where, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(where, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(where: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=where, capture_output=True, text=True, check=True
    ).stdout.strip()


def is_out_of_memory(fault: RuntimeError) -> bool:
    """Whether torch ran out of memory: a class of its own on a GPU, only words on a CPU."""
    return isinstance(fault, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(fault)


def out_of_memory(run: Path) -> str:
    """The sentence for a run that did not fit: which setting to lower, and to what."""
    config = folder.open_run(run)
    used = config.train.micro_batch
    if used == "auto":
        manifest = run / folder.MANIFEST
        used = (
            folder.read_json(manifest)["micro_batch"]
            if manifest.exists()
            else config.train.batch_sequences
        )
    if used > 1:
        return say("train.out_of_memory", micro_batch=used, lower=used // 2)
    return say("train.out_of_memory_at_one", context=config.model.context)
