"""What a run's first loss tells, and what it does not: python benchmarks/first_loss.py [PART...]

starts           the untrained x1-50m at several initial standard deviations, tied and untied, with
                 the blocks' outputs at zero as they ship, and with ordinary ones
sees the future  the rehearsal with attention whose mask was forgotten
floor_nats       the least loss any model can have on the rehearsal's held-out documents

Writes docs/measured/first-loss.json; without names, every part that the file does not have.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from provenance import provenance

from x1 import config, corpus, data, evaluate, folder, model, train
from x1.config import RunConfig
from x1.optim import learning_rate
from x1.ranks import Ranks, device_of

RESULT = Path(__file__).resolve().parent.parent / "docs/measured/first-loss.json"
STDS = (0.0025, 0.005, 0.01, 0.014, 0.02, 0.028)


@torch.no_grad()
def start(settings: tuple[str, ...], zero_outputs: bool, sequences: int = 2) -> float:
    """The first loss of x1-50m on random tokens, in nats."""
    shape = config.build("x1-50m", settings=settings).model
    network = model.Transformer(shape)
    model.initialise(network, 0)
    generator = torch.Generator().manual_seed(1)
    if not zero_outputs:
        for name, parameter in network.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                ordinary = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(ordinary / math.sqrt(parameter.shape[1]))
    ids = torch.randint(shape.vocab_size, (sequences, shape.context + 1), generator=generator)
    losses = []
    for row in ids.split(1):
        logits = network(row[:, :-1]).flatten(0, 1)
        losses.append(float(F.cross_entropy(logits, row[:, 1:].flatten())))
    return sum(losses) / len(losses)


def starts() -> list[dict[str, Any]]:
    rows = []
    for std in STDS:
        for tied, zero_outputs in ((True, True), (False, True), (True, False)):
            settings = (f"model.embedding_std={std}", f"model.tied={str(tied).lower()}")
            loss = start(settings, zero_outputs)
            row = {"embedding_std": std, "tied": tied, "zero_outputs": zero_outputs}
            rows.append(row | {"loss_nats": round(loss, 4)})
            print(rows[-1], flush=True)
    return rows


def all_positions(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention whose mask was forgotten."""
    return F.scaled_dot_product_attention(q, k, v)


def curve(chosen: RunConfig) -> dict[str, Any]:
    """Every step's loss, and the loss on held-out documents at the end."""
    ranks = Ranks(0, 1, device_of(chosen.train))
    network, _, optimizers = train.assemble(chosen, ranks)
    dataset = data.open_data(data.prepare(chosen, quiet=True))
    losses = []
    for step in range(chosen.train.steps):
        rows = data.batch(
            dataset.train,
            chosen.data.seed,
            step,
            chosen.train.batch_sequences,
            chosen.model.context,
        )
        loss = train.forward_backward(
            network, torch.from_numpy(rows), len(rows), chosen.optim.z_loss
        )
        train.clip_gradients(network, chosen.optim.clip)
        train.update(optimizers, learning_rate(chosen.optim, step, chosen.train.steps))
        losses.append(round(float(loss), 4))
    score = evaluate.held_out_loss(network, dataset, chosen, ranks.device)
    return {"losses_nats": losses, "held_out_nats": round(score.nats_per_token, 4)}


def sees_the_future() -> dict[str, Any]:
    """The rehearsal without its mask: two thirds of its steps, a quarter of its batch."""
    settings = ["stability.inject=[]", "train.steps=160", "train.batch_sequences=8"]
    chosen = config.build("rehearsal", settings=tuple(settings))
    with mock.patch.object(model, "attend", all_positions):
        return {"set": settings, **curve(chosen)}


def floor_nats() -> float:
    """Minus the logarithm of the probability of the held-out documents, per token."""
    chosen = config.build("rehearsal")
    dataset = data.open_data(data.prepare(chosen, quiet=True))
    setting = corpus.SETTINGS[chosen.data.corpus_setting]
    texts = evaluate.held_out_texts(dataset)
    nats = -sum(corpus.log_probability(text, setting) for text in texts)
    return round(nats / len(dataset.held_out), 4)


PARTS: dict[str, Callable[[], Any]] = {
    "starts": starts,
    "sees the future": sees_the_future,
    "floor_nats": floor_nats,
}


def main() -> None:
    known = kept()
    for name in sys.argv[1:] or [name for name in PARTS if name not in known]:
        made = PARTS[name]()
        record = {
            "format": "x1-measured-1",
            "what": "first losses and what follows them: x1-50m untrained, the rehearsal trained",
            "what_es": "primeras pérdidas y lo que viene después: x1-50m sin entrenar y el ensayo"
            " entrenado",
            **provenance(config.build("rehearsal").train.threads),
            "command": "python benchmarks/first_loss.py",
            **{part: value for part, value in kept().items() if part in PARTS},
            name: made,
        }
        folder.write_json(RESULT, record)
        print(name, flush=True)


def kept() -> dict[str, Any]:
    """What the file has by now: parts may be measured side by side."""
    known: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    return known


if __name__ == "__main__":
    main()
