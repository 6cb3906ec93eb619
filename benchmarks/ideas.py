"""Every idea for a faster loop, measured: python benchmarks/ideas.py TEXT [NAME...] [--out FILE]

Each idea is a pair of forms of the same computation, run in turns in one process; the gain is the
ratio of their median times, or, for what changes the result, the held-out losses of both on TEXT
(tiny Shakespeare) after the same tokens. Predictions were written before the measurement; the
losers stay. With --out, results are added to those in the file.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from provenance import provenance
from torch import Tensor

from x1 import config, data, folder, optim, train
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


def muon(kind: type[torch.optim.Muon], rounds: Any, size: str) -> Form:
    rule = kind(matrices(size), lr=1e-3, adjust_lr_fn="match_rms_adamw")

    def step() -> None:
        optim.ROUNDS = rounds
        rule.step()

    return step


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


def step(size: str, batch: int = 1, **settings: Any) -> Form:
    """One training step of the package; `batch` times the sequences of the shape."""
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
        train.forward_backward(network, ids, len(ids), 0.0)
        float(train.clip_gradients(network_of, 1.0))
        train.update(optimizers, 1e-3)

    return one


def losses(text: Path, *variants: tuple[Any, dict[str, Any]]) -> list[float]:
    """Held-out losses after 1.536M tokens in batches of 24, each with (rounds, settings)."""
    found = []
    for rounds, settings in variants:
        chosen = config.build(
            "shakespeare-bytes",
            settings=tuple(f"{name}={value}" for name, value in settings.items()),
            train={"steps": 1000, "batch_sequences": 24},
            data={"source": "text", "files": [str(text)], "tokenizer": "bytes"},
        )
        data.prepare(chosen, quiet=True)
        dataset = data.open_data(data.path_of(chosen))
        optim.ROUNDS = rounds
        network, _, optimizers = train.assemble(chosen, Ranks(0, 1, CPU))
        for index in range(chosen.train.steps):
            ids = torch.from_numpy(data.batch(dataset.train, 0, index, 24, 64, 0, 1))
            train.forward_backward(network, ids, 24, 0.0)
            train.clip_gradients(network, 1.0)
            train.update(optimizers, optim.learning_rate(chosen.optim, index, 1000))
        found.append(round(held_out_loss(network, dataset, chosen, CPU).nats_per_token, 4))
    return found


THREE = optim.ROUNDS


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

    return {
        "muon_batched": lambda: sizes(
            lambda size: pair(muon(torch.optim.Muon, five, size), muon(optim.Muon, five, size))
        ),
        "muon_three_rounds": lambda: sizes(
            lambda size: pair(muon(optim.Muon, five, size), muon(optim.Muon, THREE, size))
        ),
        "muon_three_rounds_loss": lambda: learn((five, {}), (THREE, {})),
        "muon_three_of_torchs_rounds_loss": lambda: learn((five, {}), (JORDAN * 3, {})),
        "attention_explicit_bf16": lambda: contexts(bf16, (64, 128, 256, 512, 1024)),
        "attention_explicit_fp32": lambda: contexts(fp32, (64, 256, 1024)),
        "bf16": lambda: sizes(lambda size: pair(step(size), step(size, dtype="bf16"))),
        "bf16_loss": lambda: learn((THREE, {}), (THREE, {"train.dtype": "bf16"})),
        "compile_bf16": lambda: sizes(
            lambda size: pair(step(size, dtype="bf16"), step(size, **fast))
        ),
        "batch_of_four": lambda: sizes(
            lambda size: per_token(pair(step(size, **fast), step(size, 4, **fast)), 4)
        ),
        "logits_in_bf16": lambda: sizes(logits_pair),
        "waiting": waiting,
    }


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

    def step_ms(environment: dict[str, str]) -> float:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        done = subprocess.run(
            [sys.executable, "-c", TIMED_STEP],
            env=inherited | environment | {"PYTHONPATH": str(ROOT / "benchmarks")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return float(done.stdout)

    rows = [{"where": name, "quiet_ms": step_ms(way)} for name, way in WAYS_TO_WAIT.items()]
    burners = [subprocess.Popen(BURN) for _ in range(2)]
    try:
        for row, way in zip(rows, WAYS_TO_WAIT.values(), strict=True):
            row["busy_ms"] = step_ms(way)
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
    threads = config.build("shakespeare-bytes").train.threads
    torch.set_num_threads(threads)
    record: dict[str, Any] = {
        "format": "x1-measured-1",
        "what": "ideas for a faster loop on a CPU: time or loss before and after each",
        "what_es": "ideas para un bucle más rápido en una CPU: tiempo o pérdida antes y después",
        **provenance(threads),
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
        optim.ROUNDS = THREE
        print(name, json.dumps(record[name]), file=sys.stderr)
        if out:
            folder.write_json(out, record)


if __name__ == "__main__":
    main()
