"""X1 beside nanoGPT: python benchmarks/peers.py PEER TEXT [--out FILE] [--part speed|loss|ours]

PEER is a checkout of github.com/karpathy/nanoGPT, TEXT is tiny Shakespeare. Both trainers run as
they are, as commands. Speed: all are started, and then take turns, all but one stopped by the
system at any moment, so that a machine that slows down slows them all; a setting's figure is the
median over the steps it was awake for. Loss: each is trained to the end of its own schedule.

nanoGPT computes in fp32 on a CPU; for bf16 its train.py runs inside torch's autocast. Its loss is
its own estimate over random windows of the held-out tenth, ours the mean over all of it; its
vocabulary is the text's 65 characters, ours the 256 bytes and an end of document.
"""

import argparse
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
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from provenance import provenance

from x1 import config, data, folder, hardware

SLICE_S = 3.0
ROUNDS = 6
TRAIN_TOKENS = 1_536_000
EVAL_TOKENS = 230_400  # twice the held-out tenth
PEER_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
OUR_RATES = (3e-3, 6e-3)
LARGER = 4  # times the peer's batch: Muon's rounds cost the same at any
MODES = (("eager", False), ("compiled", True))
PARTS = (3 / 16, 1 / 4, 3 / 8)
IN_BF16 = (
    "import runpy, sys, torch; torch.autocast('cpu', dtype=torch.bfloat16).__enter__();"
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass(frozen=True)
class Size:
    """A shape both can have, the peer's batch, and the one that ours learns with."""

    n_layers: int
    n_heads: int
    d_model: int
    d_ff: int  # SwiGLU's width at (nearly) the parameters of a GELU MLP of four times d_model
    context: int
    batch: int
    our_batch: int

    def settings(self) -> tuple[str, ...]:
        fields = ("n_layers", "n_heads", "d_model", "d_ff", "context")
        return tuple(f"model.{name}={getattr(self, name)}" for name in fields)


SIZES = {
    "4 layers, width 128, context 64": Size(4, 4, 128, 320, 64, 12, 48),
    "6 layers, width 384, context 256": Size(6, 6, 384, 1024, 256, 8, 16),
}
TINY = {"1 layer, width 32, context 16": Size(1, 2, 32, 80, 16, 8, 32)}


@dataclass
class Trainer:
    """A trainer as a process: its log of step times, and how many sequences a step has."""

    process: subprocess.Popen[bytes]
    log: Path
    batch: int
    peer: bool

    def seconds(self) -> list[float]:
        """Seconds of each step so far."""
        if not self.log.exists():
            return []
        if self.peer:
            found = re.findall(r"^iter \d+: .* time ([\d.]+)ms", self.log.read_text(), re.M)
            return [float(value) / 1000 for value in found]
        lines = folder.read_lines(self.log)
        return [line["clock"]["seconds"] for line in lines if "loss" in line]

    def awake(self, go_on: bool) -> None:
        os.killpg(self.process.pid, signal.SIGCONT if go_on else signal.SIGSTOP)

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_peer(
    peer: Path, size: Size, name: str, bf16: bool, compiled: bool, **rest: Any
) -> Trainer:
    options = {
        "device": "cpu",
        "compile": compiled,
        "dataset": "shakespeare_char",
        "gradient_accumulation_steps": 1,
        "n_layer": size.n_layers,
        "n_head": size.n_heads,
        "n_embd": size.d_model,
        "block_size": size.context,
        "batch_size": size.batch,
        "dropout": 0.0,
        "beta2": 0.99,
        "warmup_iters": 100,
        "log_interval": 1,
        "out_dir": f"out-{name}",
    } | rest
    arguments = [f"--{key}={value}" for key, value in options.items()]
    program = [sys.executable, "-c", IN_BF16] if bf16 else [sys.executable]
    log = Path(f"{name}.log").resolve()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*program, "train.py", *arguments],
            cwd=peer,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"},
        )
    return Trainer(process, log, size.batch, peer=True)


def start_ours(text: Path, size: Size, name: str, settings: tuple[str, ...]) -> Trainer:
    source = {"source": "text", "files": [text.name]}
    chosen = config.build("shakespeare-bytes", settings=(*size.settings(), *settings), data=source)
    data.prepare(chosen, quiet=True)
    run = Path(name)
    folder.claim(run, chosen)
    with Path(f"{name}.log").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "x1.train", name],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    return Trainer(process, run / folder.METRICS, chosen.train.batch_sequences, peer=False)


def prepare_peer(peer: Path, text: Path) -> Path:
    """A copy of the peer with the text encoded as its own prepare.py would."""
    copy = Path("peer").resolve()
    copy.mkdir()
    for name in ("train.py", "model.py", "configurator.py"):
        shutil.copyfile(peer / name, copy / name)
    place = copy / "data" / "shakespeare_char"
    place.mkdir(parents=True)
    characters = text.read_text("utf-8")
    vocabulary = sorted(set(characters))
    ids = np.array([vocabulary.index(c) for c in characters], dtype=np.uint16)
    cut = int(0.9 * len(ids))
    ids[:cut].tofile(place / "train.bin")
    ids[cut:].tofile(place / "val.bin")
    (place / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(vocabulary)}))
    return copy


def quiet_settings(steps: int) -> tuple[str, ...]:
    """Ours without evaluations, samples and checkpoints on the way."""
    rare = ("evaluate.every_steps", "checkpoint.every_steps")
    return (f"train.steps={steps}", "sample.milestones=[]", *(f"{name}={steps}" for name in rare))


def speed(
    peer: Path, text: Path, size: Size, batches: tuple[int, ...], modes: str
) -> list[dict[str, Any]]:
    """tokens/s and peak memory of every setting of the `modes` asked for, taking turns."""
    trainers: dict[str, Trainer] = {}
    for dtype, bf16 in (("fp32", False), ("bf16", True)):
        for mode, compiled in MODES if modes == "both" else ((modes, modes == "compiled"),):
            name = f"nanoGPT {dtype} {mode}"
            trainers[name] = start_peer(
                peer, size, f"{name}-{size.d_model}".replace(" ", "-"), bf16, compiled,
                max_iters=10**6,
                eval_interval=10**7, eval_iters=1, learning_rate=1e-3,
            )  # fmt: skip
            for batch in batches if compiled and bf16 else (size.batch,):
                name = f"X1 {dtype} {mode}" + name_of(batch, size)
                settings: tuple[str, ...] = (
                    f"train.batch_sequences={batch}",
                    f"train.dtype={dtype}",
                    f"train.compile={str(compiled).lower()}",
                )
                slug = f"{name}-{size.d_model}".replace(" ", "-").replace(",", "")
                settings += (*quiet_settings(10**5), "evaluate.tokens=20000")
                trainers[name] = start_ours(text, size, slug, settings)
    try:
        for trainer in trainers.values():
            trainer.awake(False)
        for trainer in trainers.values():  # one after another to its first steady steps
            trainer.awake(True)
            deadline = time.monotonic() + 300
            while len(trainer.seconds()) < 4:
                if trainer.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{trainer.log} shows no steps")
                time.sleep(0.2)
            trainer.awake(False)
        skip = {name: len(trainer.seconds()) + 1 for name, trainer in trainers.items()}
        for _ in range(ROUNDS):
            for trainer in trainers.values():
                before = len(trainer.seconds())
                trainer.awake(True)
                time.sleep(SLICE_S)
                while len(trainer.seconds()) < before + 3:
                    time.sleep(0.2)
                trainer.awake(False)
        rows = []
        for name, trainer in trainers.items():
            step = median(trainer.seconds()[skip[name] :])
            rows.append(
                {
                    "setting": name,
                    "batch_sequences": trainer.batch,
                    "step_s": round(step, 5),
                    "tokens_per_s": round(trainer.batch * size.context / step),
                    "steps_timed": len(trainer.seconds()) - skip[name],
                    "peak_mb": round(trainer.peak_mb()),
                    "git_commit": hardware.git_commit(),
                }
            )
        return rows
    finally:
        for trainer in trainers.values():
            trainer.end()


def name_of(batch: int, size: Size) -> str:
    """What a setting's name says of its batch: nothing when it is the peer's."""
    return f", batch {batch}" if batch != size.batch else ""


def peer_loss(peer: Path, size: Size, rate: float, tokens: int) -> float:
    """nanoGPT's own estimate of its held-out loss after `tokens`, cosine decay to a tenth."""
    steps = tokens // (size.batch * size.context)
    trainer = start_peer(
        peer, size, f"loss-{size.d_model}-{rate}-{tokens}", True, True, max_iters=steps,
        lr_decay_iters=steps, eval_interval=steps, learning_rate=rate,
        eval_iters=EVAL_TOKENS // (size.batch * size.context),
        min_lr=rate / 10, always_save_checkpoint=False,
    )  # fmt: skip
    trainer.process.wait()
    said = trainer.log.read_text()
    found = re.findall(rf"step {steps}: train loss [\d.]+, val loss ([\d.]+)", said)
    return report("nanoGPT", size, tokens, rate, float(found[0]) if found else math.nan)


def our_loss(text: Path, size: Size, batch: int, rate: float, tokens: int) -> float:
    """Ours over the whole held-out part after `tokens`."""
    steps = tokens // (batch * size.context)
    name = f"ours-{size.d_model}-{batch}-{rate}-{tokens}"
    settings = (
        *quiet_settings(steps),
        f"train.batch_sequences={batch}",
        f"optim.lr={rate}",
        f"optim.warmup_steps={min(50, steps // 10)}",
        "train.dtype=bf16",
        "train.compile=true",
    )
    start_ours(text, size, name, settings).process.wait()
    lines = folder.read_lines(Path(name) / folder.METRICS)
    loss = next(line["val_loss"] for line in reversed(lines) if "val_loss" in line)
    return report("X1", size, tokens, rate, loss)


def report(who: str, size: Size, tokens: int, rate: float, loss: float) -> float:
    print(f"{who}, width {size.d_model}: {tokens} tokens at {rate}: {loss:.4f}", file=sys.stderr)
    return loss


def peer_losses(peer: Path, size: Size) -> dict[str, Any]:
    """The peer's after a third of the tokens, at every rate, and after all at the best two."""
    third = TRAIN_TOKENS // 3
    theirs = {rate: peer_loss(peer, size, rate, third) for rate in PEER_RATES}
    best = sorted(theirs, key=lambda rate: theirs[rate])[:2]
    final = {rate: peer_loss(peer, size, rate, TRAIN_TOKENS) for rate in best}
    return {
        "git_commit": hardware.git_commit(),
        "tokens": [third, TRAIN_TOKENS],
        "dtype": "bf16, compiled",
        "nanogpt": [{str(r): loss for r, loss in tried.items()} for tried in (theirs, final)],
    }


def our_losses(text: Path, size: Size, peers_best: float) -> dict[str, Any]:
    """Ours after as many tokens, and how soon it is as good as the peer at the end: the least part
    of the tokens, each a schedule of its own, that reaches `peers_best`.
    """
    third, batch = TRAIN_TOKENS // 3, size.our_batch
    found: dict[str, Any] = {"x1_git_commit": hardware.git_commit()}
    mine = {rate: our_loss(text, size, batch, rate, third) for rate in OUR_RATES}
    rate = min(mine, key=lambda rate: mine[rate])
    whole = our_loss(text, size, batch, rate, TRAIN_TOKENS)
    found["x1_batch_sequences"] = batch
    found["x1"] = [{str(r): loss for r, loss in mine.items()}, {str(rate): whole}]
    found["x1_sooner"] = []
    for part in PARTS:
        tokens = int(TRAIN_TOKENS * part)
        loss = our_loss(text, size, batch, rate, tokens)
        found["x1_sooner"].append({"tokens": tokens, "loss": loss})
        if loss <= peers_best:
            break
    return found


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("peer", type=Path)
    asked.add_argument("text", type=Path)
    asked.add_argument("--out", type=Path, help="results are added to what is in there")
    asked.add_argument("--part", choices=("speed", "loss", "ours", "both"), default="both")
    asked.add_argument("--size", type=int, choices=(0, 1), action="append", help="default: both")
    asked.add_argument("--modes", choices=("eager", "compiled", "both"), default="both")
    asked.add_argument("--tiny", action="store_true", help="a tiny shape, to see it all work")
    options = asked.parse_args()
    out = options.out.resolve() if options.out else None
    record: dict[str, Any] = {
        "format": "x1-measured-1",
        "what": "X1's trainer beside nanoGPT's on tiny Shakespeare, on a CPU",
        "what_es": "El entrenador de X1 junto al de nanoGPT con tiny Shakespeare, en una CPU",
        **provenance(2),
        "peer": commit_of(options.peer, "karpathy/nanoGPT"),
        "sizes": {},
    }
    if out and out.exists():
        record["sizes"] = json.loads(out.read_text())["sizes"]
    shapes = list((TINY if options.tiny else SIZES).items())
    peer, text = options.peer.resolve(), options.text.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        shutil.copyfile(text, text.name)
        copy, text = prepare_peer(peer, text), Path(text.name)
        for name, size in [shapes[i] for i in options.size or range(len(shapes))]:
            row = record["sizes"].setdefault(name, {})
            if options.part in ("speed", "both"):
                batches = (size.batch, 2 * size.batch, LARGER * size.batch)
                measured = speed(copy, text, size, batches, options.modes)
                known = {r["setting"]: r for r in (*row.get("speed", ()), *measured)}
                row["speed"] = list(known.values())
            if options.part in ("loss", "both"):
                row["loss"] = peer_losses(copy, size)
            if options.part != "speed":
                best = min(row["loss"]["nanogpt"][1].values())
                row["loss"] |= our_losses(text, size, best)
            if "speed" in row and "x1" in row.get("loss", {}):
                row["verdict"] = verdict(row, size)
            record |= flat(record["sizes"])
            if out:
                folder.write_json(out, record)
    print(json.dumps(record, indent=1))


def flat(sizes: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The settings' rows, the losses and the verdicts, one below the other, for the site."""
    tables: dict[str, list[dict[str, Any]]] = {"rows": [], "losses": [], "verdicts": []}
    for name, found in sizes.items():
        tables["rows"] += [{"size": name, **row} for row in found.get("speed", ())]
        tables["losses"] += [{"size": name, **row} for row in best_losses(found.get("loss"))]
        if "verdict" in found:
            tables["verdicts"].append({"size": name, **found["verdict"]})
    return tables


def best_losses(found: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The best rate of each trainer at each number of tokens, and its loss."""
    if not found:
        return []
    rows = []
    for tokens, theirs, mine in zip(found["tokens"], found["nanogpt"], found["x1"], strict=True):
        for trainer, tried in (("nanoGPT", theirs), ("X1", mine)):
            rate = min(tried, key=lambda rate: tried[rate])
            row = {"trainer": trainer, "tokens": tokens, "rate": float(rate)}
            rows.append(row | {"loss": round(tried[rate], 4)})
    return rows


def verdict(row: dict[str, Any], size: Size) -> dict[str, float]:
    """The ratios that count: rate, memory, and the time to the peer's best final loss."""
    rows = {r["setting"]: r for r in row["speed"]}
    fastest = max((r for n, r in rows.items() if "nanoGPT" in n), key=lambda r: r["tokens_per_s"])
    same = rows["X1 bf16 compiled"]
    learning = rows["X1 bf16 compiled" + name_of(size.our_batch, size)]
    sooner = row["loss"]["x1_sooner"][-1]
    reached = sooner["loss"] <= min(row["loss"]["nanogpt"][1].values())
    seconds = sooner["tokens"] / learning["tokens_per_s"]
    found = {
        "learning_batch_sequences": size.our_batch,
        "tokens_per_s_at_the_same_batch": same["tokens_per_s"] / fastest["tokens_per_s"],
        "tokens_per_s_at_ours": learning["tokens_per_s"] / fastest["tokens_per_s"],
        "peak_memory_at_the_same_batch": same["peak_mb"] / fastest["peak_mb"],
        "peak_memory_at_ours": learning["peak_mb"] / fastest["peak_mb"],
        "time_to_its_best_loss": seconds / (TRAIN_TOKENS / fastest["tokens_per_s"]),
    }
    return {k: round(v, 3) for k, v in found.items() if reached or k != "time_to_its_best_loss"}


def commit_of(peer: Path, name: str) -> str:
    """The peer's name with the commit of its checkout."""
    done = subprocess.run(
        ["git", "-C", str(peer), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return f"{name} {done.stdout.strip() or 'of unknown commit'}"


if __name__ == "__main__":
    main()
