"""Where documents come from: the generated corpus, text files, or a Hugging Face dataset.

A source hands out its documents in chunks, each with a cursor: plain data from which a later
process goes on right after that chunk. What it hands out never depends on where it was resumed.
"""

import hashlib
import math
import mmap
import os
import re
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from x1.config import DataConfig
from x1.data import sha256_of
from x1.text import UserError, say

CHUNK_BYTES = 1 << 22  # text in memory at a time
PIECE_BYTES = 1 << 12  # longer documents are cut: short pieces tokenise a quarter faster
TOKENIZER_SAMPLE_BYTES = 100_000_000  # merges settle long before; 16 MB take 4 s on two cores
VERBS_SAMPLE_BYTES = 4_000_000
RETRY_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # after each, the connection is tried once more
LOCAL_KINDS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".txt": "text"}
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")

# Between visible ASCII characters, GPT-2's pre-tokenizer always splits before a lone space and
# after a lone newline; so tokens on either side are the same whether or not the text is cut.
SAFE_CUT = re.compile(rb"(?<=[!-~])(?= [!-~])|(?<=[!-~]\n)(?=[!-~])")

Tell = Callable[[str], None]


class Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    ends_document: bool


class Chunk(NamedTuple):
    pieces: list[Piece]
    cursor: Any  # JSON data; `Source.train(cursor)` goes on after this chunk
    empty_documents: int = 0  # left out


@dataclass(frozen=True)
class Source:
    """Documents to hold out, documents to train on, and facts for the index."""

    facts: dict[str, Any]
    held_out: Callable[[], Iterator[Chunk]]
    train: Callable[[Any], Iterator[Chunk]]  # from a cursor; None is the beginning
    sample: Callable[[], Iterator[str]]  # training text for the tokenizer
    train_bytes: int | None = None  # None: not known beforehand


def open_source(config: DataConfig, facts: dict[str, Any] | None, tell: Tell) -> Source:
    """The source a configuration names, checked as far as can be without reading all of it.

    `facts` are those of a preparation to be continued: a dataset stays at that revision. `tell`
    shows the user a sentence. Raises UserError for whatever is missing or unfit.
    """
    if config.source == "verbs":
        return _verbs(config)
    if config.source == "text":
        return _text(config)
    return _dataset(config, facts, tell)


def require_unchanged(facts: dict[str, Any], path: Path, prepared: str) -> None:
    """Raise UserError if a text file is no longer the one that `path` was prepared from.

    A file that is not here is no fault: prepared data may travel without its source.
    """
    for record in facts["files"] if facts["kind"] == "text" else ():
        file = Path(record["file"])
        if file.is_file():
            same_size = file.stat().st_size == record["bytes"]
            touched = _date_of(file) >= prepared
            if not same_size or (touched and sha256_of(file) != record["sha256"]):
                raise UserError("data.source_changed", file=file, path=path)


def pieces_of(buffer: bytes | mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut UTF-8 bytes start:stop at safe places into pieces of PIECE_BYTES or a little more."""
    while start < stop:
        far = stop - start > PIECE_BYTES
        cut = SAFE_CUT.search(buffer, start + PIECE_BYTES, stop) if far else None
        end = cut.start() if cut else stop
        yield start, end
        start = end


def _date_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _sample(chunks: Iterator[Chunk], size_bytes: int) -> Iterator[str]:
    for chunk in chunks:
        for piece in chunk.pieces:
            yield piece.text
            size_bytes -= len(piece.text.encode("utf-8"))
            if size_bytes <= 0:
                return


def _verbs(config: DataConfig) -> Source:
    from x1 import corpus

    setting, at_once = corpus.SETTINGS[config.corpus_setting], 2000

    def chunk(start: int, documents: int) -> Chunk:
        texts = corpus.documents(setting, config.seed, start, documents)
        return Chunk([Piece(text, True) for text in texts], start + documents)

    def held_out() -> Iterator[Chunk]:
        for start in range(0, config.held_out_documents, at_once):
            yield chunk(start, min(at_once, config.held_out_documents - start))

    def train(cursor: Any) -> Iterator[Chunk]:
        for start in count(config.held_out_documents if cursor is None else cursor, at_once):
            yield chunk(start, at_once)

    return Source(
        facts={
            "kind": "verbs",
            "setting": config.corpus_setting,
            "seed": config.seed,
            "floor": asdict(corpus.floor(setting)),
        },
        held_out=held_out,
        train=train,
        sample=lambda: _sample(train(None), VERBS_SAMPLE_BYTES),
    )


class _Span(NamedTuple):
    """A document or part of one: bytes start:stop of a file."""

    path: Path
    start: int
    stop: int


def _text(config: DataConfig) -> Source:
    if not config.files:
        raise UserError("data.no_files")
    files = [Path(name) for name in config.files]
    records = [_check_text(path) for path in files]
    sizes = [record["bytes"] for record in records]
    if not sum(sizes):
        raise UserError("data.empty", files=", ".join(config.files))
    split = _character_start(files, sizes, int((1 - config.held_out_fraction) * sum(sizes)))
    train_spans, held_out_spans = [], []
    begin = 0
    for path, size in zip(files, sizes, strict=True):
        cut = min(max(split - begin, 0), size)
        train_spans += [_Span(path, 0, cut)] if cut else []
        held_out_spans += [_Span(path, cut, size)] if cut < size else []
        begin += size
    empty = sizes.count(0)

    def train(cursor: Any) -> Iterator[Chunk]:
        return _text_chunks(train_spans, cursor or (0, 0), 0 if cursor else empty)

    def sample() -> Iterator[str]:
        # Every n-th piece, so that the last file counts as much as the first.
        every = math.ceil(split / TOKENIZER_SAMPLE_BYTES)
        pieces = (piece for chunk in train(None) for piece in chunk.pieces)
        return (piece.text for k, piece in enumerate(pieces) if k % every == 0)

    return Source(
        facts={
            "kind": "text",
            "files": records,
            "split_byte": split,
            "date": max(map(_date_of, files)),
        },
        held_out=lambda: _text_chunks(held_out_spans, (0, 0), 0),
        train=train,
        sample=sample,
        train_bytes=split,
    )


def _check_text(path: Path) -> dict[str, Any]:
    """Facts of one file. Raises UserError at the first byte that is not UTF-8 text."""
    if not path.is_file():
        raise UserError("data.no_file", file=path)
    digest, offset, rest = hashlib.sha256(), 0, b""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            block = rest + block
            if (nul := block.find(b"\0")) >= 0:
                raise UserError("data.binary", file=path, offset=offset + nul)
            try:
                block.decode("utf-8")
                rest = b""
            except UnicodeDecodeError as fault:
                # A character may be torn between two blocks; then its start waits for the rest.
                if fault.reason != "unexpected end of data":
                    raise _not_utf8(path, block, offset + fault.start) from None
                rest = block[fault.start :]
            offset += len(block) - len(rest)
    if rest:
        raise _not_utf8(path, rest, offset)
    size = path.stat().st_size
    return {"file": str(path), "bytes": size, "sha256": digest.hexdigest()}


def _not_utf8(path: Path, block: bytes, offset: int) -> UserError:
    with path.open("rb") as file:
        file.seek(offset)
        return UserError("data.not_utf8", file=path, offset=offset, byte=f"0x{file.read(1).hex()}")


def _character_start(files: list[Path], sizes: list[int], position: int) -> int:
    """`position` in the concatenation, moved back to where its UTF-8 character starts."""
    begin = 0
    for path, size in zip(files, sizes, strict=True):
        if begin <= position < begin + size:
            with path.open("rb") as file:
                file.seek(max(position - begin - 3, 0))
                before = file.read(min(position - begin, 3) + 1)
            while before and before[-1] & 0xC0 == 0x80:  # a continuation byte
                before, position = before[:-1], position - 1
        begin += size
    return position


def _text_chunks(spans: list[_Span], cursor: tuple[int, int], empty: int) -> Iterator[Chunk]:
    """Chunks from cursor (number of the span, position in its file)."""
    pieces: list[Piece] = []
    number, done = cursor
    size = 0
    for k, (path, start, stop) in enumerate(spans[number:], number):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            for a, b in pieces_of(text, max(start, done if k == number else 0), stop):
                pieces.append(Piece(text[a:b].decode("utf-8"), b == stop))
                size += b - a
                if size >= CHUNK_BYTES:
                    yield Chunk(pieces, (k, b), empty)
                    pieces, size, empty = [], 0, 0
    if pieces:
        yield Chunk(pieces, (len(spans), 0), empty)


def _dataset(config: DataConfig, facts: dict[str, Any] | None, tell: Tell) -> Source:
    if not config.dataset:
        raise UserError("data.no_dataset")
    local = Path(config.dataset)
    if local.exists():
        load, found = _local(local)
    else:
        load, found = _hub(config, facts)
    held_out = config.held_out_documents

    def train(cursor: Any) -> Iterator[Chunk]:
        nothing = cursor is None
        for chunk in _rows(load, config, tell, cursor, skip=held_out):
            yield chunk
            nothing = False
        if nothing:
            raise UserError("data.all_held_out", dataset=config.dataset, held_out=held_out)

    return Source(
        facts={"kind": "dataset", "dataset": config.dataset, "subset": config.subset} | found,
        held_out=lambda: _rows(load, config, tell, None, take=held_out),
        train=train,
        sample=lambda: _sample(train(None), TOKENIZER_SAMPLE_BYTES),
    )


def _hugging_face() -> Any:
    """The `datasets` module, quiet, without telemetry and without torch."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    import huggingface_hub

    datasets.utils.logging.set_verbosity_error()
    datasets.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
    if "torch" not in sys.modules:
        # Otherwise it imports torch, to share row counters with torch's data loader workers.
        datasets.config.TORCH_AVAILABLE = False
    return datasets


def _local(path: Path) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A file, or a folder's files by name, all of one kind; a text file is one document."""
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    of_kind: dict[str, list[Path]] = {}
    for file in files:
        name = file.with_suffix("") if file.suffix in COMPRESSED else file
        if kind := LOCAL_KINDS.get(name.suffix):
            of_kind.setdefault(kind, []).append(file)
    if len(of_kind) != 1:
        raise UserError("data.local_kinds", path=path, found=", ".join(of_kind) or "-")
    [(kind, chosen)] = of_kind.items()
    options = {"sample_by": "document"} if kind == "text" else {}
    names = {"train": [str(file.absolute()) for file in chosen]}
    facts = {
        "files": [
            {"file": str(f.relative_to(path.parent)), "bytes": f.stat().st_size} for f in chosen
        ],
        "date": max(_date_of(file) for file in chosen),
    }

    def load() -> Any:
        return _hugging_face().load_dataset(
            kind, data_files=names, split="train", streaming=True, **options
        )

    return load, facts


def _hub(
    config: DataConfig, facts: dict[str, Any] | None
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A dataset of the hub, fixed at one revision so that a resumed preparation reads the same."""
    datasets = _hugging_face()
    from huggingface_hub import HfApi, errors

    found = {name: facts[name] for name in ("revision", "date")} if facts else {}
    for wait_s in (*RETRY_WAITS_S[:2], None) if not found else ():
        try:
            info = HfApi().dataset_info(config.dataset)
            date = info.last_modified.isoformat(timespec="seconds") if info.last_modified else ""
            found = {"revision": info.sha, "date": date}
            break
        except (errors.RepositoryNotFoundError, errors.HFValidationError):
            raise UserError("data.unknown_dataset", dataset=config.dataset) from None
        except (OSError, errors.HTTPError) as fault:
            if wait_s is None or isinstance(fault, errors.OfflineModeIsEnabled):
                raise _no_network(config, fault) from None
            time.sleep(wait_s)

    def load() -> Any:
        return datasets.load_dataset(
            config.dataset,
            config.subset or None,
            split="train",
            streaming=True,
            revision=found["revision"],
        )

    return load, found


def _rows(
    load: Callable[[], Any],
    config: DataConfig,
    tell: Tell,
    state: Any,
    skip: int = 0,
    take: int | None = None,
) -> Iterator[Chunk]:
    """Chunks of a streamed dataset after `state`, or from its beginning without `skip` documents.

    When the connection fails, streaming starts again after the last chunk handed out, waiting
    longer each time; after the last of RETRY_WAITS_S in a row without a chunk, UserError.
    """
    datasets = _hugging_face()
    from huggingface_hub import errors

    local, waits = Path(config.dataset).exists(), iter(RETRY_WAITS_S)
    while True:
        try:
            rows = _read_rows(load(), config, state, 0 if state else skip, take)
            with closing(rows) as chunks:
                for chunk in chunks:
                    yield chunk
                    state, waits = chunk.cursor, iter(RETRY_WAITS_S)
                    if take is not None:
                        take -= sum(piece.ends_document for piece in chunk.pieces)
            return
        except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as fault:
            # An unknown subset or split, a damaged parquet file, a line that is not JSON.
            raise _unreadable(config, fault) from None
        except (OSError, errors.HTTPError) as fault:
            if local:
                raise _unreadable(config, fault) from None
            if (wait_s := next(waits, None)) is None:
                raise _no_network(config, fault) from None
            tell(say("data.retry", fault=_one_line(fault), seconds=wait_s))
            time.sleep(wait_s)


def _unreadable(config: DataConfig, fault: Exception) -> UserError:
    return UserError("data.unreadable", dataset=config.dataset, fault=_one_line(fault))


def _no_network(config: DataConfig, fault: Exception) -> UserError:
    return UserError("data.network", dataset=config.dataset, fault=_one_line(fault))


def _read_rows(
    dataset: Any, config: DataConfig, state: Any, skip: int, take: int | None
) -> Generator[Chunk, None, None]:
    if state:
        dataset.load_state_dict(state)
    pieces: list[Piece] = []
    size = empty = documents = 0
    for row in dataset:
        if config.column not in row:
            columns = ", ".join(row)
            raise UserError("data.no_column", column=config.column, columns=columns)
        text = row[config.column]
        if not text:
            empty += documents >= skip
            continue
        if not isinstance(text, str):
            raise UserError("data.not_text", column=config.column, kind=type(text).__name__)
        documents += 1
        if documents <= skip:
            continue
        pieces += _pieces_of_document(text)
        size += len(text)
        if documents - skip == take:
            break
        if size >= CHUNK_BYTES:
            yield Chunk(pieces, dataset.state_dict(), empty)
            pieces, size, empty = [], 0, 0
    if pieces or empty:
        yield Chunk(pieces, dataset.state_dict(), empty)


def _pieces_of_document(text: str) -> list[Piece]:
    if len(text) <= PIECE_BYTES:
        return [Piece(text, True)]
    raw = text.encode("utf-8")
    return [Piece(raw[a:b].decode("utf-8"), b == len(raw)) for a, b in pieces_of(raw, 0, len(raw))]


def _one_line(fault: Exception) -> str:
    return " ".join(str(fault).split())[:200] or type(fault).__name__
