"""Every idea for a faster loop, measured: python benchmarks/ideas.py TEXT [NAME...] [--out FILE]

Each idea is a pair of forms of the same computation, run in turns in one process; the gain is the
ratio of their median times, or, for what changes the result, the held-out losses of both on TEXT
(tiny Shakespeare) after the same tokens. Predictions were written before the measurement; the
losers stay. With --out, results are added to those in the file.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from provenance import provenance
from torch import Tensor

from x1 import config, data, folder, hardware, model, optim, train
from x1.evaluate import held_out_loss
from x1.ranks import Ranks

ROOT = Path(__file__).resolve().parent.parent
TIMES = 15
JORDAN = ((3.4445, -4.7750, 2.0315),)  # torch's own round, five times
CPU = torch.device("cpu")
Form = Callable[[], Any]

# The two shapes of peers.py: layers, width, SwiGLU's width, heads, context, sequences.
SIZES = {"width 128": (4, 128, 320, 4, 64, 12), "width 384": (6, 384, 1024, 6, 256, 8)}


def turns(*forms: Form) -> list[float]:
    """Median milliseconds of each form, all taking turns after two rounds that warm up."""
    times: list[list[float]] = [[] for _ in forms]
    for _ in range(TIMES + 2):
        for form, list_of in zip(forms, times, strict=True):
            started = time.perf_counter()
            form()
            list_of.append(1000 * (time.perf_counter() - started))
    return [round(median(list_of[2:]), 3) for list_of in times]


def pair(before: Form, after: Form) -> dict[str, float]:
    first, second = turns(before, after)
    return {"before_ms": first, "after_ms": second, "gain": round(first / second, 2)}


def matrices(size: str) -> list[torch.nn.Parameter]:
    """The hidden matrices of one of the shapes, each with a gradient."""
    layers, d, ff, *_ = SIZES[size]
    shapes = [(d, d)] * 4 + [(ff, d), (ff, d), (d, ff)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes * layers]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return parameters


def muon(kind: type[torch.optim.Muon], way: Any, size: str) -> Form:
    rule = kind(matrices(size), lr=1e-3, adjust_lr_fn="match_rms_adamw")

    def step() -> None:
        orthogonalise_by(way)
        rule.step()

    return step


def orthogonalise_by(way: Any) -> None:
    """Let optim.Muon use these rounds, or this function in place of `orthogonalise`."""
    optim.ROUNDS = THREE if callable(way) else way
    optim.orthogonalise = way if callable(way) else WHOLE


def by_head(heads: int) -> Callable[[Tensor], Tensor]:
    """Attention's square matrices in as many blocks of rows as there are heads, each by itself."""

    def orthogonalise(matrices: Tensor) -> Tensor:
        n, short, long = matrices.shape
        if short != long:
            return WHOLE(matrices)
        return WHOLE(matrices.reshape(n * heads, short // heads, long)).reshape(n, short, long)

    return orthogonalise


def through_gram(matrices: Tensor) -> Tensor:
    """Wide matrices by products of the short side alone (Polar Express, 2505.16932, appendix).

    A round is X <- QX with Q = aI + bG + cG^2 and G = XX^T, so G <- QGQ, and X is multiplied once,
    by the product of all Qs.
    """
    rows, columns = matrices.shape[-2:]
    if rows > columns:
        return through_gram(matrices.mT).mT
    if columns <= 1.5 * rows:  # more multiplications than the plain rounds have
        return WHOLE(matrices)
    x = matrices / (1.01 * matrices.norm(dim=(-2, -1), keepdim=True)).clamp(min=1e-7)
    gram = x @ x.mT
    a, b, c = THREE[0]
    change = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # Q - aI
    factor = change + a * torch.eye(rows, dtype=gram.dtype)
    for following, b, c in THREE[1:]:
        half = torch.baddbmm(gram, change, gram, beta=a)  # QG
        gram = torch.baddbmm(half, half, change, beta=a)
        a = following
        change = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor = torch.baddbmm(factor, change, factor, beta=a)
    return factor @ x


def gram_noise() -> list[dict[str, float]]:
    """How far orthogonalising turns singular vectors: the largest entry off the diagonal of
    U^T O V, over 40 batches of matrices with singular values from 0.002 of the norm up.
    """
    values = torch.logspace(-2, 0.5, 16)
    worst = {"before": 0.0, "after": 0.0}
    for _ in range(40):
        left = torch.linalg.qr(torch.randn(3, 16, 16)).Q
        right = torch.linalg.qr(torch.randn(3, 40, 16)).Q
        for name, way in (("before", WHOLE), ("after", through_gram)):
            inside = left.mT @ way((left * values @ right.mT).bfloat16()).float() @ right
            off = inside - torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1))
            worst[name] = max(worst[name], float(off.abs().max()))
    return [{name: round(value, 3) for name, value in worst.items()}]


class GateAndUpTogether(model.MLP):
    """Both products with the MLP's input as one, with their weights side by side."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat((self.gate_proj.weight, self.up_proj.weight)).to(x.dtype)
        gate, up = F.linear(x, weight).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


def together(size: str) -> dict[str, float]:
    """A step with the MLP's two products apart and as one."""
    apart = step(size, dtype="bf16", compile=True)
    model.MLP, before = GateAndUpTogether, model.MLP  # type: ignore[misc]
    one = step(size, dtype="bf16", compile=True)
    model.MLP = before  # type: ignore[misc]
    return pair(apart, one)


def attention(dtype: torch.dtype, size: str, context: int | None = None) -> dict[str, float]:
    """torch's kernel against the matrix written out, forward and backward."""
    _, d, _, heads, length, sequences = SIZES[size]
    tokens = sequences * length
    length = context or length
    shape = (max(1, tokens // length), heads, length, d // heads)
    q, k, v, upstream = (torch.randn(shape).to(dtype).requires_grad_() for _ in range(4))

    def explicit() -> Tensor:
        future = torch.full((length, length), -torch.inf, dtype=dtype).triu(1)
        return torch.softmax((q * shape[-1] ** -0.5) @ k.mT + future, dim=-1) @ v

    def fused() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return pair(lambda: fused().backward(upstream), lambda: explicit().backward(upstream))


def step(size: str, batch: int = 1, passes: int = 1, **settings: Any) -> Form:
    """One training step of the package; `batch` times the sequences of the shape, in `passes`."""
    layers, d, ff, heads, context, sequences = SIZES[size]
    shape = {"n_layers": layers, "n_heads": heads, "d_model": d, "d_ff": ff, "context": context}
    chosen = config.build(
        "shakespeare-bytes",
        model=shape,
        train={"batch_sequences": batch * sequences, **settings},
    )
    network_of, network, optimizers = train.assemble(chosen, Ranks(0, 1, CPU))
    ids = torch.randint(257, (batch * sequences, context + 1))

    def one() -> None:
        train.forward_backward(network, ids, len(ids) // passes, 0.0, chosen.train.compile)
        float(train.clip_gradients(network_of, 1.0))
        train.update(optimizers, 1e-3)

    return one


def losses(text: Path, *variants: tuple[Any, dict[str, Any]]) -> list[float]:
    """Held-out losses after 1.536M tokens in batches of 24, each with (way of Muon, settings)."""
    found = []
    for way, settings in variants:
        chosen = config.build(
            "shakespeare-bytes",
            settings=tuple(f"{name}={value}" for name, value in settings.items()),
            train={"steps": 1000, "batch_sequences": 24, "dtype": "bf16", "compile": True},
            data={"source": "text", "files": [str(text)], "tokenizer": "bytes"},
        )
        data.prepare(chosen, quiet=True)
        dataset = data.open_data(data.path_of(chosen))
        orthogonalise_by(way)
        torch.compiler.reset()
        network_of, network, optimizers = train.assemble(chosen, Ranks(0, 1, CPU))
        for index in range(chosen.train.steps):
            seed = chosen.data.seed
            ids = torch.from_numpy(data.batch(dataset.train, seed, index, 24, 64, 0, 1))
            train.forward_backward(network, ids, 24, 0.0, chosen.train.compile)
            train.clip_gradients(network_of, 1.0)
            train.update(optimizers, optim.learning_rate(chosen.optim, index, 1000))
        found.append(round(held_out_loss(network, dataset, chosen, CPU).nats_per_token, 4))
    return found


THREE, WHOLE = optim.ROUNDS, optim.orthogonalise
TWO = ((6.7524, -18.351, 13.2633), (2.5379, -1.8747, 0.4413))  # likewise, from [0.05, 1]


def ideas(text: Path) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    bf16, fp32 = torch.bfloat16, torch.float32
    five = JORDAN * 5
    fast: dict[str, Any] = {"dtype": "bf16", "compile": True}

    def sizes(compare: Callable[[str], dict[str, float]]) -> list[dict[str, Any]]:
        return [{"where": size, **compare(size)} for size in SIZES]

    def contexts(dtype: torch.dtype, lengths: tuple[int, ...]) -> list[dict[str, Any]]:
        return [{"where": f"T = {n}", **attention(dtype, "width 384", n)} for n in lengths]

    def learn(before: Any, after: Any) -> list[dict[str, Any]]:
        first, second = losses(text, before, after)
        return [{"before_nats": first, "after_nats": second}]

    def seeds() -> list[dict[str, float]]:
        numbers = (0, 1, 2)
        found = losses(text, *((THREE, {"train.seed": n, "data.seed": n}) for n in numbers))
        return [{"seed": n, "nats": loss} for n, loss in zip(numbers, found, strict=True)]

    return {
        "seeds_loss": seeds,
        "muon_batched": lambda: sizes(
            lambda size: pair(muon(torch.optim.Muon, five, size), muon(optim.Muon, five, size))
        ),
        "muon_three_rounds": lambda: sizes(
            lambda size: pair(muon(optim.Muon, five, size), muon(optim.Muon, THREE, size))
        ),
        "muon_by_head": lambda: sizes(
            lambda size: pair(
                muon(optim.Muon, THREE, size), muon(optim.Muon, by_head(SIZES[size][3]), size)
            )
        ),
        "muon_gram": lambda: sizes(
            lambda size: pair(muon(optim.Muon, THREE, size), muon(optim.Muon, through_gram, size))
        ),
        "muon_gram_noise": gram_noise,
        "muon_gram_loss": lambda: learn((THREE, {}), (through_gram, {})),
        "muon_by_head_loss": lambda: learn((THREE, {}), (by_head(4), {})),
        "muon_two_rounds_loss": lambda: learn((THREE, {}), (TWO, {})),
        "muon_three_rounds_loss": lambda: learn((five, {}), (THREE, {})),
        "muon_three_of_ours_loss": lambda: learn((THREE, {}), (JORDAN * 3, {})),
        "attention_explicit_bf16": lambda: contexts(bf16, (64, 128, 256, 512, 1024)),
        "attention_explicit_fp32": lambda: contexts(fp32, (64, 256, 1024)),
        "bf16": lambda: sizes(lambda size: pair(step(size), step(size, dtype="bf16"))),
        "bf16_loss": lambda: learn((THREE, {"train.dtype": "fp32"}), (THREE, {})),
        "compile_bf16": lambda: sizes(
            lambda size: pair(step(size, dtype="bf16"), step(size, **fast))
        ),
        "batch_of_four": lambda: sizes(
            lambda size: per_token(pair(step(size, **fast), step(size, 4, **fast)), 4)
        ),
        "logits_in_bf16": lambda: sizes(logits_pair),
        "gate_and_up_together": lambda: sizes(together),
        "freed_memory": lambda: sizes(freed_memory),
        "evaluation_graph": lambda: sizes(evaluation_graph),
        "smaller_passes": smaller_passes,
        "waiting": waiting,
    }


PASSES_STEP = """
import sys, ideas, torch
torch.set_num_threads(2)
ms = ideas.turns(ideas.step("width 384", passes=int(sys.argv[1]), dtype="bf16", compile=True))[0]
print(ms, ideas.peak_mb())
"""


def peak_mb() -> int:
    """The most memory this process has had, in MB; getrusage would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]


def smaller_passes() -> list[dict[str, Any]]:
    """A step of 2,048 tokens at width 384 in one pass or several, each in a process of its own."""
    rows = []
    for passes in (1, 2, 4):
        ms, peak = said_by(PASSES_STEP, {}, str(passes)).split()
        tokens = f"{2048 // passes} tokens"
        rows.append({"where": tokens, "step_ms": float(ms), "peak_mb": int(peak)})
    return rows


def said_by(program: str, environment: dict[str, str], *arguments: str) -> str:
    """What a program that imports this file prints, in a process with this environment."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=inherited | environment | {"PYTHONPATH": str(ROOT / "benchmarks")},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


FREED_STEP = """
import resource, sys, ideas, torch
from x1 import hardware
torch.set_num_threads(2)
if sys.argv[2] == "kept":
    hardware.keep_freed_memory()
step = ideas.step(sys.argv[1], passes=int(sys.argv[3]), dtype="bf16", compile=True)
ideas.turns(step)
for _ in sys.stdin:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ms = ideas.turns(step)[0]
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(ms, pages / (ideas.TIMES + 2), ideas.peak_mb(), flush=True)
"""


def freed_memory(size: str) -> dict[str, float]:
    """A step of a process that gives what it frees to the kernel, and of one that keeps it; both
    take turns. Pages are those that the kernel had to fill with zeros, for each step.
    """
    passes = "2" if size == "width 384" else "1"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FREED_STEP, size, way, passes],
            env=os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        for way in ("given", "kept")
    ]  # fmt: skip
    said: list[list[list[float]]] = [[], []]
    for _ in range(5):
        for process, list_of in zip(both, said, strict=True):
            assert process.stdin and process.stdout
            process.stdin.write("\n")
            list_of.append([float(value) for value in process.stdout.readline().split()])
    for process in both:
        process.communicate()
    (given, pages, peak), (kept, kept_pages, kept_peak) = (
        [median(row[i] for row in rows) for i in range(3)] for rows in said
    )
    return {
        "before_ms": given,
        "after_ms": kept,
        "gain": round(given / kept, 2),
        "pages_before": round(pages),
        "pages_after": round(kept_pages),
        "peak_mb_before": round(peak),
        "peak_mb_after": round(kept_peak),
    }


EVALUATION = """
import sys, time, ideas, torch
from x1 import config, train
from x1.ranks import Ranks
torch.set_num_threads(2)
layers, d, ff, heads, context, _ = ideas.SIZES[sys.argv[1]]
shape = {"n_layers": layers, "n_heads": heads, "d_model": d, "d_ff": ff, "context": context}
chosen = config.build("shakespeare-bytes", model=shape, train={"dtype": "bf16", "compile": True})
_, network, _ = train.assemble(chosen, Ranks(0, 1, ideas.CPU))
ids = torch.randint(257, (2048 // context, context))
def compiled():
    with torch.no_grad():
        network(ids)
def eager():
    with torch.no_grad(), train.uncompiled(chosen):
        network(ids)
started = time.perf_counter()
compiled()
print(time.perf_counter() - started, *ideas.turns(compiled, eager))
"""


def evaluation_graph(size: str) -> dict[str, float]:
    """2,048 held-out tokens with a graph of their own, which was not in torch's cache, and without
    one.
    """
    with tempfile.TemporaryDirectory() as cache:
        said = said_by(EVALUATION, {"TORCHINDUCTOR_CACHE_DIR": cache}, size)
    seconds, compiled, eager = (float(value) for value in said.split())
    return {"compile_s": round(seconds, 1), "compiled_ms": compiled, "eager_ms": eager}


WAYS_TO_WAIT = {
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "OMP_WAIT_POLICY=ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
}
TIMED_STEP = """
import ideas, torch
torch.set_num_threads(2)
print(ideas.turns(ideas.step("width 128", dtype="bf16"))[0])
"""
BURN = [sys.executable, "-c", "while True: pass"]


def waiting() -> list[dict[str, Any]]:
    """A training step at width 128, eager bf16, for each way OpenMP's threads can wait for each
    other: on a quiet machine, and beside two programs that never rest.
    """
    rows: list[dict[str, Any]] = [
        {"where": name, "quiet_ms": float(said_by(TIMED_STEP, way))}
        for name, way in WAYS_TO_WAIT.items()
    ]
    burners = [subprocess.Popen(BURN) for _ in range(2)]
    try:
        for row, way in zip(rows, WAYS_TO_WAIT.values(), strict=True):
            row["busy_ms"] = float(said_by(TIMED_STEP, way))
    finally:
        for burner in burners:
            burner.kill()
    return rows


def per_token(found: dict[str, float], times: int) -> dict[str, float]:
    """The gain in tokens/s of a step that does so many `times` the tokens."""
    return found | {"gain": round(times * found["gain"], 2)}


def logits_pair(size: str) -> dict[str, float]:
    """The loss of bf16 logits, with and without a copy of them in fp32, forward and backward."""
    tokens = SIZES[size][4] * SIZES[size][5]
    logits = torch.randn(tokens, 257, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(257, (tokens,))
    return pair(
        lambda: F.cross_entropy(logits.float(), targets).backward(),
        lambda: F.cross_entropy(logits, targets).backward(),
    )


def main() -> None:
    arguments = sys.argv[1:]
    out = None
    if "--out" in arguments:
        at = arguments.index("--out")
        out = Path(arguments[at + 1]).resolve()
        del arguments[at : at + 2]
    text, *names = arguments
    settings = config.build("shakespeare-bytes").train
    hardware.prepare(settings)
    record: dict[str, Any] = {
        "format": "x1-measured-1",
        "what": "ideas for a faster loop on a CPU: time or loss before and after each",
        "what_es": "ideas para un bucle más rápido en una CPU: tiempo o pérdida antes y después",
        **provenance(settings.threads),
    }
    known = ideas(Path(text).resolve())
    if out and out.exists():
        before = json.loads(out.read_text())
        record |= {name: before[name] for name in known if name in before}
    scratch = ROOT / "runs" / "ideas"
    scratch.mkdir(parents=True, exist_ok=True)
    os.chdir(scratch)
    for name in names or known:
        torch.manual_seed(0)
        record[name] = known[name]()
        orthogonalise_by(THREE)
        print(name, json.dumps(record[name]), file=sys.stderr)
        if out:
            folder.write_json(out, record)


if __name__ == "__main__":
    main()
