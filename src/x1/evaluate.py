"""What a model has learnt: held-out loss, bits per byte, distance from the floor, samples.

Two ways to score held-out text. *Documents*: each from its first token, end of document included,
which is what the entropy floor speaks of; used when every held-out document fits in one context.
*Windows*: consecutive windows of one context over the held-out stream; used otherwise.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x1 import checkpoint, corpus, data, folder
from x1.config import RunConfig
from x1.model import Transformer
from x1.text import UserError, say

FORMAT = "x1-evaluation-1"
BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}  # scored at once; it does not change a result
UNSCORED = -100


@dataclass(frozen=True)
class Score:
    """A loss over held-out tokens and what it is a loss of."""

    nats: float
    tokens: int
    mode: str

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens


def held_out_mode(dataset: data.Data, context: int) -> str:
    """ "documents" if every held-out document fits in a context with its end, else "windows"."""
    return "documents" if _lengths(dataset).max() <= context else "windows"


def held_out_batches(
    dataset: data.Data, context: int, max_tokens: int, at_once: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets), each (B, T) int64, over the first `max_tokens` held-out tokens or so, some
    `at_once` of them in a batch.

    B and T are the same for every batch, so a compiled model is compiled once; what is padding
    has the target UNSCORED.
    """
    tokens = dataset.held_out
    if held_out_mode(dataset, context) == "documents":
        ends = dataset.held_out_starts + _lengths(dataset)
        pieces = [
            (np.concatenate(([dataset.end_of_document], tokens[a : b - 1])), tokens[a:b])
            for a, b in zip(dataset.held_out_starts, ends, strict=True)
            if b <= max_tokens or a == 0
        ]
    else:
        last = min(len(tokens) - 1, max_tokens)
        pieces = [
            (tokens[a : min(a + context, last)], tokens[a + 1 : min(a + context, last) + 1])
            for a in range(0, last, context)
        ]
    width = max(len(target) for _, target in pieces)
    rows = max(1, at_once // width)
    for first in range(0, len(pieces), rows):
        inputs = np.full((rows, width), dataset.end_of_document, dtype=np.int64)
        targets = np.full((rows, width), UNSCORED, dtype=np.int64)
        for row, (source, target) in enumerate(pieces[first : first + rows]):
            inputs[row, : len(source)] = source
            targets[row, : len(target)] = target
        yield inputs, targets


@torch.no_grad()
def held_out_losses(
    network: nn.Module, dataset: data.Data, config: RunConfig, device: torch.device, max_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(losses, targets) of each batch, each (B, T) on the CPU; losses in nats, 0 where unscored."""
    network.eval()
    at_once = BATCH_TOKENS[device.type]
    for inputs, targets in held_out_batches(dataset, config.model.context, max_tokens, at_once):
        logits = network(torch.from_numpy(inputs).to(device)).float()
        wanted = torch.from_numpy(targets).to(device)
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        yield losses.view(wanted.shape).cpu(), torch.from_numpy(targets)
    network.train()


def held_out_loss(
    network: nn.Module,
    dataset: data.Data,
    config: RunConfig,
    device: torch.device,
    max_tokens: int = 0,
) -> Score:
    """Mean loss over `max_tokens` held-out tokens (default: evaluate.tokens)."""
    nats, tokens = 0.0, 0
    limit = max_tokens or config.evaluate.tokens
    for losses, targets in held_out_losses(network, dataset, config, device, limit):
        nats += float(losses.double().sum())
        tokens += int((targets != UNSCORED).sum())
    return Score(nats, tokens, held_out_mode(dataset, config.model.context))


@torch.no_grad()
def generate(
    network: nn.Module, ids: list[int], n_tokens: int, context: int, device: torch.device,
    temperature: float = 0.0, seed: int = 0, stop: int | None = None,
) -> list[int]:  # fmt: skip
    """`ids` continued by up to `n_tokens`, ending before the token `stop`. Temperature 0 is greedy.

    The input is padded to the whole context (later positions cannot be seen), so that a compiled
    model keeps one shape; the past is computed anew for each token, which is cheap at this length.
    """
    generator = torch.Generator().manual_seed(seed)
    new: list[int] = []
    network.eval()
    for _ in range(n_tokens):
        window = (ids + new)[-context:]
        padded = torch.zeros((1, context), dtype=torch.long)
        padded[0, : len(window)] = torch.tensor(window)
        logits = network(padded.to(device))[0, len(window) - 1].float().cpu()
        if temperature:
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        else:
            chosen = logits.argmax(-1, keepdim=True)
        if int(chosen) == stop:
            break
        new.append(int(chosen))
    network.train()
    return new


def samples(
    network: nn.Module, dataset: data.Data, config: RunConfig, device: torch.device, step: int
) -> list[dict[str, str]]:
    """A continuation of each configured prompt, a function of (weights, seed, step) alone."""
    rules = config.sample
    results = []
    for prompt in rules.prompts:
        ids = [dataset.end_of_document, *dataset.tokenizer.encode(prompt)]
        new = generate(
            network, ids, rules.max_tokens, config.model.context, device,
            rules.temperature, config.train.seed + step, dataset.end_of_document,
        )  # fmt: skip
        results.append({"prompt": prompt, "text": dataset.tokenizer.decode(new)})
    return results


def load(run: Path, step: int | None = None) -> tuple[Transformer, RunConfig, int]:
    """The model of a run's newest sound checkpoint, or of the one at `step`."""
    config = folder.open_run(run)
    if step is None:
        found, refused = checkpoint.newest(run)
        for path in refused:
            print(checkpoint.refusal(path), file=sys.stderr)
    else:
        found = checkpoint.read(checkpoint.path_of(run, step))
    if found is None:
        raise UserError("evaluate.no_checkpoint", path=run)
    dtype = torch.bfloat16 if config.train.dtype == "bf16" else torch.float32
    model = Transformer(config.model, dtype)
    checkpoint.restore(run, found.step, model, [])
    return model, config, found.step


def evaluate(run: Path, step: int | None = None) -> dict[str, Any]:
    """Score a run on its whole held-out part and write evaluation.json; returns its content.

    On the generated corpus the loss of each half stands beside its floor, and beside the exact
    -log p of the very documents that were scored (the floor without sampling noise).
    """
    model, config, at = load(run, step)
    dataset = data.open_data(data.path_of(config))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    torch.set_num_threads(config.train.threads)

    # Only documents scored from their first token may be held against the floor.
    whole = held_out_mode(dataset, config.model.context) == "documents"
    generated = dataset.index["source"]["kind"] == "verbs"
    english = english_tokens(dataset) if generated and whole else None
    nats = english_nats = 0.0
    tokens = 0
    scored = []
    everything = len(dataset.held_out)
    for losses, targets in held_out_losses(model, dataset, config, device, everything):
        counted = targets != UNSCORED
        nats += float(losses.double().sum())
        tokens += int(counted.sum())
        scored.append(losses[counted])
    byte_count = dataset.held_out_bytes
    result: dict[str, Any] = {
        "format": FORMAT,
        "step": at,
        "held_out": {
            "loss_nats_per_token": nats / tokens,
            "tokens": tokens,
            "bytes": byte_count,
            "bits_per_byte": nats / math.log(2) / byte_count,
            "mode": held_out_mode(dataset, config.model.context),
        },
        "unigram_nats_per_token": unigram_loss(dataset),
        "floor": None,
    }
    if english is not None:
        per_token = torch.cat(scored).double().numpy()  # in the order of dataset.held_out
        english_nats = float(per_token[english].sum())
        result["floor"] = floors(dataset, english, nats, english_nats)
    folder.write_json(run / folder.EVALUATION, result)
    return result


def describe(result: dict[str, Any]) -> str:
    """evaluation.json in a sentence or two."""
    held_out, floor = result["held_out"], result["floor"]
    text = say(
        "evaluate.summary",
        step=result["step"],
        loss=held_out["loss_nats_per_token"],
        tokens=held_out["tokens"],
        bits=held_out["bits_per_byte"],
        unigram=result["unigram_nats_per_token"],
    )
    if floor is None:
        return text
    return f"{text}\n" + say(
        "evaluate.floor",
        entropy=floor["nats_per_token"],
        floor=floor["these_documents_nats_per_token"],
        excess=floor["loss_nats_per_token"] / floor["these_documents_nats_per_token"] - 1,
        english=floor["english"]["loss_nats_per_token"],
        english_floor=floor["english"]["these_documents_nats_per_token"],
    )


def floors(
    dataset: data.Data, english: np.ndarray, nats: float, english_nats: float
) -> dict[str, Any]:
    """The corpus's entropy floor per token, whole and for the English halves, beside the loss."""
    setting = corpus.SETTINGS[dataset.index["source"]["setting"]]
    floor = corpus.floor(setting)
    documents = len(dataset.held_out_starts)
    tokens, english_count = len(dataset.held_out), int(english.sum())
    texts = held_out_texts(dataset)
    halves = np.array([corpus.half_log_probabilities(text, setting) for text in texts])
    return {
        "nats_per_token": floor.nats_per_document * documents / tokens,
        "these_documents_nats_per_token": float(-halves.sum()) / tokens,
        "loss_nats_per_token": nats / tokens,
        "english": {
            "nats_per_token": floor.english_nats * documents / english_count,
            "these_documents_nats_per_token": float(-halves[:, 1].sum()) / english_count,
            "loss_nats_per_token": english_nats / english_count,
        },
    }


def held_out_texts(dataset: data.Data) -> list[str]:
    """The held-out documents as text, without their end-of-document tokens."""
    ends = dataset.held_out_starts + _lengths(dataset) - 1
    return [
        dataset.tokenizer.decode(dataset.held_out[a:b].tolist())
        for a, b in zip(dataset.held_out_starts, ends, strict=True)
    ]


def english_tokens(dataset: data.Data) -> np.ndarray:
    """For each held-out token, whether it belongs to an English half (by its first byte)."""
    marks: list[bool] = []
    for text, length in zip(held_out_texts(dataset), _lengths(dataset), strict=True):
        of_bytes = corpus.english_bytes(text)
        ids = dataset.held_out[len(marks) : len(marks) + int(length) - 1].tolist()
        sizes = [len(dataset.tokenizer.token_bytes(token)) for token in ids]
        starts = np.cumsum([0, *sizes[:-1]])
        marks += [*of_bytes[starts].tolist(), False]  # the end of a document is Spanish's to decide
    return np.array(marks)


def unigram_loss(dataset: data.Data) -> float:
    """Held-out loss of the best model that knows token frequencies only, in nats per token.

    Frequencies are the training stream's (its first 2^24 tokens), one added to each count.
    """
    sample = dataset.train.read(0, min(len(dataset.train), 1 << 24))
    counts = np.bincount(sample, minlength=dataset.vocab_size) + 1.0
    log_p = np.log(counts / counts.sum())
    return float(-log_p[dataset.held_out].mean())


def _lengths(dataset: data.Data) -> np.ndarray:
    return np.diff(np.append(dataset.held_out_starts, len(dataset.held_out)))
