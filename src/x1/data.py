"""Prepared data: fixed-size shards of token ids on disk, and the batch as a pure function.

`data/NAME/` holds train-00000.bin, ... and held_out.bin (little-endian token ids, every document
followed by the end-of-document token), tokenizer.json, and index.json with counts, source and
checksums. `x1.prepare` makes it; here it is named, opened, checked and read.
"""

import hashlib
import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from x1 import folder
from x1 import tokenizer as tokenization
from x1.config import RunConfig
from x1.text import UserError
from x1.tokenizer import Tokenizer

FORMAT = "x1-data-1"
DATA_ROOT = Path("data")
INDEX = "index.json"
TOKENIZER = "tokenizer.json"
HELD_OUT = "held_out.bin"
CHECKED_ON_OPEN_BYTES = 1 << 27  # above this, opening compares sizes; `verify` hashes everything


@dataclass(frozen=True)
class TokenStream:
    """The training tokens, (N,) in all, as one sequence over memory-mapped shards."""

    shards: tuple[np.ndarray, ...]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(shard) for shard in self.shards))

    def __len__(self) -> int:
        return self._ends[-1] if self.shards else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start:stop, (stop - start,), in the shards' own integer type."""
        parts = []
        shard = bisect_right(self._ends, start)
        while start < stop and shard < len(self.shards):
            begin = self._ends[shard] - len(self.shards[shard])
            parts.append(self.shards[shard][start - begin : stop - begin])
            start, shard = self._ends[shard], shard + 1
        return np.concatenate(parts) if parts else np.empty(0, np.uint16)


@dataclass(frozen=True)
class Data:
    """A prepared dataset, opened."""

    name: str
    index: dict[str, Any]
    vocab_size: int
    end_of_document: int
    train: TokenStream
    held_out: np.ndarray  # (tokens,), each document followed by end_of_document
    held_out_starts: np.ndarray  # (documents,), where each begins
    held_out_bytes: int
    fingerprint: str  # SHA-256 over the checksums of all files: equal means the same bytes
    tokenizer: Tokenizer


def open_data(path: Path) -> Data:
    """Open `data/NAME`. Raises UserError if it is missing, or a file is damaged or cut short."""
    index = read_index(path)
    size_bytes = sum(record["bytes"] for record in index["files"].values())
    verify(path, sizes_only=size_bytes > CHECKED_ON_OPEN_BYTES)
    tokenizer = tokenization.load(path / TOKENIZER)
    shards = sorted(name for name in index["files"] if name not in (HELD_OUT, TOKENIZER))
    held_out = np.memmap(path / HELD_OUT, index["dtype"], "r")
    ends = np.flatnonzero(held_out == tokenizer.end_of_document)
    return Data(
        name=index["name"],
        index=index,
        vocab_size=tokenizer.vocab_size,
        end_of_document=tokenizer.end_of_document,
        train=TokenStream(tuple(np.memmap(path / name, index["dtype"], "r") for name in shards)),
        held_out=held_out,
        held_out_starts=np.concatenate(([0], ends[:-1] + 1)),
        held_out_bytes=index["held_out"]["bytes"],
        fingerprint=sha256_of_json(index["files"]),
        tokenizer=tokenizer,
    )


def verify(path: Path, sizes_only: bool = False) -> None:
    """Check every file of `data/NAME` against the index: its size, and its SHA-256.

    Hashing runs at about 1 GB/s: `open_data` does it for small data, a run's start for all.
    Raises UserError naming the first damaged file.
    """
    for name, record in read_index(path)["files"].items():
        file = path / name
        whole = file.is_file() and file.stat().st_size == record["bytes"]
        if not whole or not (sizes_only or sha256_of(file) == record["sha256"]):
            raise UserError("data.damaged", file=file, path=path)


def read_index(path: Path) -> dict[str, Any]:
    """index.json of a prepared folder. Raises UserError if it is missing or not as written."""
    if not (path / INDEX).is_file():
        raise UserError("data.not_prepared", path=path)
    index = folder.read_json(path / INDEX, FORMAT)
    try:
        names = set(index["files"])
        sound = {HELD_OUT, TOKENIZER} < names and index["dtype"] in ("<u2", "<u4")
        for name in names - {HELD_OUT, TOKENIZER}:  # a name is never a way out of the folder
            sound &= re.fullmatch(r"train-\d{5,}\.bin", name) is not None
        for part in ("train", "held_out"):
            sound &= isinstance(index[part]["tokens"], int) and isinstance(
                index[part]["bytes"], int
            )
        for record in index["files"].values():
            sound &= isinstance(record["bytes"], int) and isinstance(record["sha256"], str)
        sound &= isinstance(index["name"], str) and isinstance(index["settings"], dict)
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError("data.damaged", file=path / INDEX, path=path)
    return index


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hexadecimal SHA-256 of plain data, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def batch(
    train: TokenStream,
    seed: int,
    data_index: int,
    batch_sequences: int,
    context: int,
    rank: int = 0,
    world: int = 1,
) -> np.ndarray:
    """This rank's rows of global batch `data_index`: int64, (batch_sequences / world, context + 1).

    Inputs are [:, :-1], targets [:, 1:]. A pure function of its arguments: the ranks' rows, one
    after the other, are the same for every `world`. The N tokens are an endless circle cut into
    windows of `context` targets; those that begin in the same epoch are shuffled among
    themselves, except that one reaching into the next epoch stays last. So every N consecutive
    targets from an epoch's beginning hold each token exactly once.

    Raises UserError if the stream is shorter than one context or `world` does not divide the
    batch.
    """
    if batch_sequences % world:
        raise UserError("data.ranks", batch_sequences=batch_sequences, world=world)
    require_length(len(train), context)
    share = batch_sequences // world
    first = data_index * batch_sequences + rank * share
    rows = [_window(train, seed, slot, context) for slot in range(first, first + share)]
    return np.stack(rows).astype(np.int64)


def _window(train: TokenStream, seed: int, slot: int, context: int) -> np.ndarray:
    """Window `slot` in training order: the token before it, then its targets, (context + 1,)."""
    length = len(train)
    epoch = slot * context // length
    first = -(
        -epoch * length // context
    )  # the windows that begin in this epoch: first ... last - 1
    last = -(-(epoch + 1) * length // context)
    fixed = (last * context) % length != 0
    window = first + int(_order(seed, epoch, last - first, fixed)[slot - first])
    start = (window * context - 1) % length
    tokens = train.read(start, min(start + context + 1, length))
    return np.concatenate([tokens, train.read(0, context + 1 - len(tokens))])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, windows: int, last_is_fixed: bool) -> np.ndarray:
    """The order of an epoch's windows, (windows,).

    Philox's raw bits are the same in every numpy release; a Generator's shuffle need not be.
    """
    bits = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)).random_raw(windows)
    if last_is_fixed:
        bits[-1] = np.iinfo(np.uint64).max
    return np.argsort(bits, kind="stable")


def settings_of(config: RunConfig) -> dict[str, Any]:
    """The configuration fields that decide the content of the data, and nothing else."""
    chosen = config.data
    fields: dict[str, Any] = {"data.source": chosen.source}
    if chosen.source == "verbs":
        fields["data.corpus_setting"] = chosen.corpus_setting
        fields["data.seed"] = chosen.seed
    elif chosen.source == "text":
        fields["data.files"] = list(chosen.files)
        fields["data.held_out_fraction"] = chosen.held_out_fraction
    else:
        fields["data.dataset"] = chosen.dataset
        fields["data.subset"] = chosen.subset
        fields["data.column"] = chosen.column
    if chosen.source != "text":
        fields["data.held_out_documents"] = chosen.held_out_documents
    # The generated corpus has no end: as much of it as the run trains on, so that nothing repeats.
    own = config.tokens if chosen.source == "verbs" else 0
    fields["data.train_tokens"] = chosen.train_tokens or own
    fields["data.tokenizer"] = chosen.tokenizer
    fields["model.vocab_size"] = config.model.vocab_size
    return fields


def path_of(config: RunConfig, root: Path = DATA_ROOT) -> Path:
    """The folder of this configuration's data, prepared or not.

    Without data.name it is readable and ends in a hash of `settings_of`, so other settings get
    another folder.
    """
    chosen = config.data
    if chosen.name:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", chosen.name):
            raise UserError("data.bad_name", name=chosen.name)
        return root / chosen.name
    settings = settings_of(config)
    if chosen.source == "verbs":
        what = f"verbs-{chosen.corpus_setting}"
    elif chosen.source == "text":
        more = f"-and-{len(chosen.files) - 1}-more" if len(chosen.files) > 1 else ""
        what = (Path(chosen.files[0]).stem if chosen.files else "text") + more
    else:
        what = f"{Path(chosen.dataset).name}-{chosen.subset}".strip("-")
    size = "bytes" if chosen.tokenizer == "bytes" else str(config.model.vocab_size)
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{what}-{size}").lstrip("-.")
    return root / f"{readable}-{sha256_of_json(settings)[:6]}"


def require_length(tokens: int, context: int) -> None:
    """Raise UserError if a stream of `tokens` tokens does not fill one context."""
    if tokens < context:
        raise UserError("data.too_short", tokens=tokens, context=context)


def prepare(config: RunConfig, root: Path = DATA_ROOT, quiet: bool = False) -> Path:
    """Make `root/NAME`, finish it, or find it made (see `x1.prepare`). Returns its path."""
    from x1 import prepare as preparation  # with its progress bar: opening data needs none of it

    return preparation.prepare(config, root, quiet)
