"""One training step of other people's models beside ours: python benchmarks/peer_models.py

    python benchmarks/peer_models.py --nanogpt DIR --nanochat DIR --litgpt DIR [--out FILE]

Each DIR is a checkout of the project of that name on GitHub; litgpt needs what its pyproject names
installed besides. Their trainers need a GPU, a dataset or a framework, so what is compared here is
a step on random ids: batch in, loss, gradients, their clipping if they clip, their optimizer; all
in bf16, compiled, in turns in one process. Shapes are those of peers.py, every model with the
vocabulary of bytes; a peer that has more parameters at that shape has them by its own design.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# nanochat reads its dtype from here, before it is imported.
os.environ.setdefault("NANOCHAT_DTYPE", "bfloat16")

import torch
import torch.nn.functional as F
from ideas import turns
from peers import LARGER, SIZES, TINY, Size, commit_of
from provenance import provenance
from torch import Tensor, nn

from x1 import config, folder, hardware, train
from x1.model import count_parameters
from x1.ranks import Ranks

VOCABULARY = 257  # bytes and an end of document
CPU = torch.device("cpu")
Step = Callable[[Tensor], Any]


def ours(size: Size, batch: int) -> tuple[nn.Module, Step]:
    chosen = config.build(
        "shakespeare-bytes",
        settings=size.settings(),
        train={"batch_sequences": batch, "dtype": "bf16", "compile": True},
    )
    model, network, optimizers = train.assemble(chosen, Ranks(0, 1, CPU))
    micro_batch = hardware.automatic_micro_batch(chosen, CPU, batch)

    def step(ids: Tensor) -> None:
        train.forward_backward(network, ids, micro_batch, 0.0, compiled=True)
        float(train.clip_gradients(model, 1.0))
        train.update(optimizers, 1e-3)

    return model, step


def by_adamw(model: nn.Module, loss_of: Step, optimizer: torch.optim.Optimizer) -> Step:
    """A step as nanoGPT's and litgpt's trainers make it: autocast, clip at 1, AdamW."""

    def step(ids: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(ids)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def nanogpt(size: Size) -> tuple[nn.Module, Step]:
    theirs = import_module("model")
    chosen = theirs.GPTConfig(
        block_size=size.context, vocab_size=VOCABULARY, n_layer=size.n_layers,
        n_head=size.n_heads, n_embd=size.d_model, dropout=0.0, bias=False,
    )  # fmt: skip
    model = theirs.GPT(chosen)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    compiled = torch.compile(model)
    return model, by_adamw(
        model, lambda ids: compiled(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())[1], optimizer
    )


def litgpt(size: Size) -> tuple[nn.Module, Step]:
    theirs = import_module("litgpt.model")
    model = theirs.GPT(
        theirs.Config(
            block_size=size.context, vocab_size=VOCABULARY, padded_vocab_size=VOCABULARY,
            n_layer=size.n_layers, n_head=size.n_heads, n_embd=size.d_model,
            intermediate_size=size.d_ff, mlp_class_name="LLaMAMLP", norm_class_name="RMSNorm",
            norm_qk=True, parallel_residual=False, rotary_percentage=1.0, bias=False,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    compiled = torch.compile(model)

    def loss_of(ids: Tensor) -> Tensor:
        logits = compiled(ids[:, :-1].contiguous())
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return model, by_adamw(model, loss_of, optimizer)


def nanochat(size: Size) -> tuple[nn.Module, Step]:
    theirs = import_module("nanochat.gpt")
    model = theirs.GPT(
        theirs.GPTConfig(
            sequence_len=size.context, vocab_size=VOCABULARY, n_layer=size.n_layers,
            n_head=size.n_heads, n_kv_head=size.n_heads, n_embd=size.d_model, window_pattern="L",
        )
    )  # fmt: skip
    model.init_weights()
    optimizer = model.setup_optimizer()
    compiled = torch.compile(model, dynamic=False)

    def step(ids: Tensor) -> None:
        compiled(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)

    return model, step


def measure(size: Size, peers: dict[str, Callable[[Size], tuple[nn.Module, Step]]]) -> Any:
    """A row for each model: its parameters, milliseconds a step, tokens/s."""
    batches = {"X1": size.batch, f"X1, batch {LARGER * size.batch}": LARGER * size.batch}
    made = {name: (*ours(size, batch), batch) for name, batch in batches.items()}
    made |= {name: (*make(size), size.batch) for name, make in peers.items()}
    forms = []
    for _, step, batch in made.values():
        ids = torch.randint(VOCABULARY, (batch, size.context + 1))
        forms.append(lambda step=step, ids=ids: step(ids))
    times = turns(*forms)
    return [
        {
            "model": name,
            "parameters": count_parameters(model),
            "batch_sequences": batch,
            "step_ms": ms,
            "tokens_per_s": round(1000 * batch * size.context / ms),
        }
        for (name, (model, _, batch)), ms in zip(made.items(), times, strict=True)
    ]


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = {"nanoGPT": nanogpt, "nanochat": nanochat, "litgpt": litgpt}
    for name in known:
        asked.add_argument(f"--{name.lower()}", type=Path, metavar="DIR")
    asked.add_argument("--out", type=Path)
    asked.add_argument("--tiny", action="store_true", help="a tiny shape, to see it all work")
    options = asked.parse_args()
    places = {name: getattr(options, name.lower()) for name in known}
    places = {name: place for name, place in places.items() if place}
    sys.path[:0] = [str(place.resolve()) for place in places.values()]
    threads = config.build("shakespeare-bytes").train.threads
    torch.set_num_threads(threads)
    record: dict[str, Any] = {
        "format": "x1-measured-1",
        "what": "a training step of other projects' models beside X1's, bf16, compiled, on a CPU",
        "what_es": "un paso de entrenamiento de modelos de otros proyectos junto al de X1, en bf16,"
        " compilados, en una CPU",
        **provenance(threads),
        "peers": [commit_of(place, name) for name, place in places.items()],
        "rows": [],
    }
    for name, size in (TINY if options.tiny else SIZES).items():
        rows = measure(size, {peer: known[peer] for peer in places})
        record["rows"] += [{"size": name, **row} for row in rows]
        if options.out:
            folder.write_json(options.out, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
