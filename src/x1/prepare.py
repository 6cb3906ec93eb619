"""Preparing data: a source's documents become `data/NAME/`, whatever interrupts the work.

It is done in `data/.NAME.partial/`. What counts is the last progress.json: the cursor in the
source and the number of tokens written by then; what was written after it is cut off and made
again. index.json comes last, then the folder takes its name.
"""

import math
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tokenizers

from x1 import flops, folder, predict, sources
from x1 import tokenizer as tokenization
from x1.config import RunConfig
from x1.data import (
    DATA_ROOT,
    FORMAT,
    HELD_OUT,
    INDEX,
    TOKENIZER,
    path_of,
    read_index,
    require_length,
    settings_of,
    sha256_of,
)
from x1.prepare_page import NOTHING, Display, display
from x1.text import UserError, say
from x1.tokenizer import Tokenizer

PROGRESS_FORMAT = "x1-data-progress-1"
PROGRESS = "progress.json"
LOCK = "prepare"
SHARD_TOKENS = 1 << 26  # 128 MiB at two bytes a token
COMMIT_S = 5.0  # seconds of work a kill can cost
HELD_OUT_TOKENS = 2000  # of a held-out document of web text, at most on average
BESIDES_BYTES = 4_000_000  # tokenizer.json, index.json, progress.json
NO_IDS = np.empty(0, np.uint32)


def prepare(config: RunConfig, root: Path = DATA_ROOT, quiet: bool = False) -> Path:
    """Make `root/NAME`, finish it, or find it made. Returns its path.

    The same configuration and source give the same bytes, however often the work was killed.
    Raises UserError for an unfit source, a folder of other settings, a disk without the room, or a
    preparation already running; OSError (disk full, read-only folder) with no final file torn.
    """
    settings, final = settings_of(config), path_of(config, root)
    partial = root / f".{final.name}.partial"
    if final.exists():
        return _reuse(final, settings, config)
    facts, done = None, 0
    if (partial / PROGRESS).is_file():
        progress = _read_progress(partial, settings)
        facts, done = progress["source"], progress["train"]["tokens"]
    with display(quiet) as show:
        foresee(final, config, settings, done, show)
        source = sources.open_source(config.data, facts, show.tell)
        partial.mkdir(parents=True, exist_ok=True)
        with folder.locked(partial, LOCK):
            if final.exists():  # another process finished it just now
                shutil.rmtree(partial)
                return _reuse(final, settings, config)
            for torn in partial.glob(".*.tmp"):
                torn.unlink()
            try:
                _make(partial, final.name, config, settings, source, show)
            except UserError:
                if not any(partial.glob("train-*.bin")):  # nothing worth going on from
                    shutil.rmtree(partial, ignore_errors=True)
                    with suppress(OSError):  # other data is there
                        root.rmdir()
                raise
            except OSError as fault:
                fault.filename = fault.filename or str(partial)  # a full disk does not say where
                raise
            (partial / PROGRESS).unlink(missing_ok=True)
            partial.rename(final)
            folder.sync(root)
            # Only now: while the folder could still be prepared, the lock had to be in it.
            (final / f".{LOCK}.lock").unlink(missing_ok=True)
        show.finished(final, settings)
    return final


def foresee(
    final: Path, config: RunConfig, settings: dict[str, Any], done: int, show: Display
) -> None:
    """Say what is about to be done after `done` tokens, and refuse what the disk cannot take."""
    need = still_needed_bytes(config, settings, done)
    if need is None:
        return
    wanted, free = settings["data.train_tokens"], free_bytes(final)
    if need > free:
        raise UserError(
            "data.no_space", path=final, tokens=f"{wanted:,}", need=f"{need / flops.GIGA:.2f}",
            free=f"{free / flops.GIGA:.2f}",
            missing=f"{math.ceil((need - free) / 1e7) / 100:.2f}",
        )  # fmt: skip
    hours = predict.data_hours(config, predict.shipped_measurements())
    show.announce(final, wanted - done, need, free, hours.scaled((wanted - done) / wanted))


def still_needed_bytes(config: RunConfig, settings: dict[str, Any], done: int) -> int | None:
    """What the disk must still take after `done` training tokens; None where the source alone knows
    how many there will be.
    """
    tokens = settings["data.train_tokens"]
    if not tokens:
        return None
    held_out = 0
    if config.data.source == "dataset":
        held_out = HELD_OUT_TOKENS * config.data.held_out_documents
    each = 2 if config.model.vocab_size <= 1 << 16 else 4
    return each * (tokens - done + held_out) + BESIDES_BYTES


def free_bytes(path: Path) -> int:
    """Free on the disk of `path`, or of the nearest folder above it that is there."""
    return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free


def _reuse(final: Path, settings: dict[str, Any], config: RunConfig) -> Path:
    index = read_index(final)
    _require_same(final, index["settings"], settings)
    sources.require_unchanged(index["source"], final, index["preparation"]["started"])
    require_length(index["train"]["tokens"], config.model.context)
    return final


def _require_same(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = [name for name in old | new if old.get(name) != new.get(name)]
    if changed:
        raise UserError("data.other_settings", path=path, fields=", ".join(changed))


def _read_progress(partial: Path, settings: dict[str, Any]) -> dict[str, Any]:
    progress = folder.read_json(partial / PROGRESS, PROGRESS_FORMAT)
    _require_same(partial, progress["settings"], settings)
    return progress


def _make(
    partial: Path,
    name: str,
    config: RunConfig,
    settings: dict[str, Any],
    source: sources.Source,
    show: Display,
) -> None:
    """Everything in `partial` up to index.json, from wherever an earlier process left it."""
    if (partial / INDEX).is_file():
        return
    started = folder.now()
    progress = _resume(partial, settings, source)
    show.stage(say("data.tokenizer"))
    tokenizer = _tokenizer(partial, config, source)
    if progress["held_out"] is None:
        show.stage(say("data.held_out"))
        progress["held_out"] = _write_held_out(partial, source, tokenizer)
        folder.write_json(partial / PROGRESS, progress)
    tokens_per_s = _write_train(partial, source, tokenizer, progress, show)
    tokens = progress["train"]["tokens"]
    if tokens < config.model.context:
        shutil.rmtree(partial)
        require_length(tokens, config.model.context)
    names = [_shard(k) for k in range(-(-tokens // SHARD_TOKENS))]
    known = progress["sha256"]
    index = {
        "format": FORMAT,
        "name": name,
        "settings": settings,
        "source": source.facts,
        "dtype": _dtype(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
        "train": progress["train"],
        "held_out": progress["held_out"],
        "files": {
            file: {
                "bytes": (partial / file).stat().st_size,
                "sha256": known.get(file) or sha256_of(partial / file),
            }
            for file in (*names, HELD_OUT, TOKENIZER)
        },
        "preparation": {
            "started": started,
            "finished": folder.now(),
            "tokens_per_s": round(tokens_per_s),
            "tokenizers": tokenizers.__version__,
        },
    }
    folder.write_json(partial / INDEX, index)


def _resume(partial: Path, settings: dict[str, Any], source: sources.Source) -> dict[str, Any]:
    """The last durable progress, or that of a preparation which has not begun."""
    if (partial / PROGRESS).is_file():
        progress = _read_progress(partial, settings)
        if progress["source"] | {"date": ""} != source.facts | {"date": ""}:
            raise UserError("data.other_source", path=partial)
        return progress
    progress = {
        "format": PROGRESS_FORMAT,
        "settings": settings,
        "source": source.facts,
        "held_out": None,
        "train": dict(NOTHING),
        "cursor": None,
        "sha256": {},
    }
    folder.write_json(partial / PROGRESS, progress)
    return progress


def _tokenizer(partial: Path, config: RunConfig, source: sources.Source) -> Tokenizer:
    path, size = partial / TOKENIZER, config.model.vocab_size
    if not path.is_file():
        plain = config.data.tokenizer == "bytes"
        new = (
            tokenization.byte_tokenizer(size)
            if plain
            else tokenization.train_bpe(source.sample(), size)
        )
        folder.write_atomically(path, new.to_json())
    return tokenization.load(path)


def _dtype(tokenizer: Tokenizer) -> str:
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"


def _shard(number: int) -> str:
    return f"train-{number:05d}.bin"


def _write_held_out(partial: Path, source: sources.Source, tokenizer: Tokenizer) -> dict[str, int]:
    encode = _Encoder(tokenizer, NOTHING)
    ids = np.concatenate([NO_IDS, *(encode(chunk) for chunk in source.held_out())])
    folder.write_atomically(partial / HELD_OUT, ids.astype(_dtype(tokenizer)).tobytes())
    return encode.total


def _write_train(
    partial: Path,
    source: sources.Source,
    tokenizer: Tokenizer,
    progress: dict[str, Any],
    show: Display,
) -> float:
    """Append training tokens to the shards, from where `progress` stands to the end.

    The stream is cut to exactly data.train_tokens, the last of them an end of document. Returns
    this process's tokens/s.
    """
    limit = progress["settings"]["data.train_tokens"]
    encode = _Encoder(tokenizer, progress["train"], limit)
    total = progress["train"] = encode.total
    shards = _Shards(partial, _dtype(tokenizer), total["tokens"], progress["sha256"])
    show.stage(say("data.train"), total, tokens=limit, size_bytes=source.train_bytes)
    began, before = time.monotonic(), total["tokens"]
    committed_at = began
    chunks = source.train(progress["cursor"])
    while not limit or total["tokens"] < limit:
        chunk = next(chunks, None)
        if chunk is None:
            break
        shards.append(encode(chunk))
        progress["cursor"] = chunk.cursor
        show.advance(total)
        if time.monotonic() - committed_at >= COMMIT_S:
            shards.flush()
            folder.write_json(partial / PROGRESS, progress)
            committed_at = time.monotonic()
    shards.close()
    folder.write_json(partial / PROGRESS, progress)
    return (total["tokens"] - before) / (time.monotonic() - began)


class _Encoder:
    """Turns chunks into ids, every document ended, and counts what went by."""

    def __init__(self, tokenizer: Tokenizer, total: dict[str, int], limit: int = 0) -> None:
        self.tokenizer, self.total, self.limit = tokenizer, dict(total), limit
        self.end = np.array([tokenizer.end_of_document], np.uint32)
        sizes = [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
        self.token_bytes = np.array(sizes, np.int64)

    def __call__(self, chunk: sources.Chunk) -> np.ndarray:
        """Ids of a chunk, (tokens,) uint32; the one that reaches the limit is cut there."""
        parts = [NO_IDS]
        encoded = self.tokenizer.encode_batch([piece.text for piece in chunk.pieces])
        for piece, ids in zip(chunk.pieces, encoded, strict=True):
            parts += [ids, self.end] if piece.ends_document else [ids]
        ids = np.concatenate(parts)
        room = self.limit - self.total["tokens"]
        if self.limit and len(ids) >= room:
            ids = np.append(ids[: room - 1], self.end)
        self.total["tokens"] += len(ids)
        self.total["documents"] += int((ids == self.end).sum())
        self.total["bytes"] += int(self.token_bytes[ids].sum())
        self.total["empty_documents"] += chunk.empty_documents
        return ids


class _Shards:
    """Files of SHARD_TOKENS tokens each, the last one open and growing.

    Opening cuts off what an interrupted process wrote after its last durable progress.
    """

    def __init__(self, partial: Path, dtype: str, tokens: int, sha256: dict[str, str]) -> None:
        self.partial, self.dtype, self.tokens, self.sha256 = partial, dtype, tokens, sha256
        self.file: BinaryIO | None = self._open() if tokens % SHARD_TOKENS else None

    def _open(self) -> BinaryIO:
        number, within = divmod(self.tokens, SHARD_TOKENS)
        path, size = self.partial / _shard(number), within * np.dtype(self.dtype).itemsize
        if within and (not path.is_file() or path.stat().st_size < size):
            raise UserError("data.partial_damaged", file=path, path=self.partial)
        file = path.open("r+b" if within else "wb")
        file.truncate(size)
        file.seek(size)
        return file

    def append(self, ids: np.ndarray) -> None:
        while len(ids):
            self.file = self.file or self._open()
            part, ids = np.split(ids, [SHARD_TOKENS - self.tokens % SHARD_TOKENS])
            self.file.write(part.astype(self.dtype).tobytes())
            self.tokens += len(part)
            if self.tokens % SHARD_TOKENS == 0:
                self.close()
                full = _shard(self.tokens // SHARD_TOKENS - 1)
                self.sha256[full] = sha256_of(self.partial / full)

    def flush(self) -> None:
        """Return once all that was appended is on the disk."""
        if self.file:
            self.file.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.flush()
        if self.file:
            self.file.close()
        self.file = None
