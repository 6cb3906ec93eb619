"""The batch as a pure function, and preparation that neither loses, doubles nor half-writes."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x1 import config, corpus, data, folder, prepare, sources, tokenizer
from x1.data import TokenStream, batch
from x1.text import UserError

TEXT = "".join(
    f"En la línea {k} no hay más que {random.Random(k).random()}: ¿ves? No.\n" for k in range(900)
)


def text_config(*files: Path, **fields):
    """Bytes of some files, context 8, unless told otherwise."""
    model = {"vocab_size": fields.pop("vocab_size", 257), "context": fields.pop("context", 8)}
    chosen = {"source": "text", "files": tuple(map(str, files)), "tokenizer": "bytes", **fields}
    return config.build(model=model, data=chosen)


def verbs_config(**fields):
    chosen = {"train_tokens": 20_000, "held_out_documents": 30, **fields}
    return config.build(model={"vocab_size": 400, "context": 64}, data=chosen)


def ready(chosen: config.RunConfig, root: Path) -> data.Data:
    return data.open_data(data.prepare(chosen, root, quiet=True))


def content(path: Path) -> dict[str, bytes]:
    """Everything in a prepared folder except when and how fast it was made."""
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    index = json.loads(files["index.json"])
    del index["preparation"]
    return {**files, "index.json": json.dumps(index).encode()}


@pytest.fixture(autouse=True)
def quick_tokenizer(monkeypatch):
    monkeypatch.setattr(sources, "VERBS_SAMPLE_BYTES", 200_000)


@pytest.fixture
def small(monkeypatch):
    """Shards, chunks and pieces small enough for a short text to have many; every chunk durable."""
    monkeypatch.setattr(prepare, "SHARD_TOKENS", 10_000)
    monkeypatch.setattr(prepare, "COMMIT_S", 0.0)
    monkeypatch.setattr(sources, "CHUNK_BYTES", 3000)
    monkeypatch.setattr(sources, "PIECE_BYTES", 700)


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    return path


# The batch. In these streams a token's id is its position, so targets name the positions covered.

STREAMS = st.integers(2, 400).flatmap(
    lambda tokens: st.tuples(st.just(tokens), st.integers(1, tokens), st.integers(1, 40))
)


def counting(tokens: int, shards: int = 1) -> TokenStream:
    return TokenStream(tuple(np.array_split(np.arange(tokens, dtype=np.uint16), shards)))


@settings(deadline=None)
@given(STREAMS, st.integers(0, 2**70), st.integers(1, 5))
def test_every_token_is_a_target_exactly_once_in_every_epoch(shape, seed, shards):
    tokens, context, sequences = shape
    train = counting(tokens, min(shards, tokens))
    batches = -(-3 * tokens // (context * sequences))
    rows = np.concatenate([batch(train, seed, i, sequences, context) for i in range(batches)])
    assert rows.dtype == np.int64 and rows.shape == (batches * sequences, context + 1)
    for epoch in rows[:, 1:].reshape(-1)[: 3 * tokens].reshape(3, tokens):
        assert sorted(epoch) == list(range(tokens))
    # the token before each target, the stream's last before its first
    assert (rows[:, :-1] == (rows[:, 1:] - 1) % tokens).all()


@settings(deadline=None)
@given(STREAMS, st.integers(0, 30), st.sampled_from([1, 2, 4]))
def test_ranks_share_the_one_global_batch(shape, data_index, world):
    tokens, context, sequences = shape
    sequences *= 4
    train = counting(tokens)
    whole = batch(train, 5, data_index, sequences, context)
    parts = [batch(train, 5, data_index, sequences, context, r, world) for r in range(world)]
    assert (np.concatenate(parts) == whole).all()


def test_a_batch_depends_on_its_arguments_alone():
    train = counting(1000)
    forward = [batch(train, 3, i, 4, 30) for i in range(40)]
    for i in reversed(range(40)):
        data._order.cache_clear()
        assert (batch(train, 3, i, 4, 30) == forward[i]).all()


def test_epochs_and_seeds_have_orders_of_their_own():
    train = counting(1000)
    orders = {
        tuple(batch(train, seed, epoch, 100, 10)[:, 1]) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9
    in_order = tuple(range(0, 1000, 10))
    assert in_order not in orders and all(sorted(order) == list(in_order) for order in orders)


def philox(key: tuple[int, int], words: int) -> list[int]:
    """Philox4x64-10 with a counter from 1, as published (Salmon et al. 2011, section 3.3)."""
    mask, out = 2**64 - 1, []
    for counter in range(1, 1 + -(-words // 4)):
        c, k = [counter, 0, 0, 0], list(key)
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(b >> 64) ^ c[1] ^ k[0], b & mask, (a >> 64) ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        out += c
    return out[:words]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (7, 3), (2**64 - 1, 1)])
def test_the_order_is_the_same_on_every_machine_and_numpy(seed, epoch):
    bits = philox((seed, epoch), 30)
    assert data._order(seed, epoch, 30, False).tolist() == sorted(range(30), key=bits.__getitem__)
    kept_last = data._order(seed, epoch, 30, True).tolist()
    assert kept_last == [*sorted(range(29), key=bits.__getitem__), 29]


def test_five_billion_tokens_are_no_burden():
    train = TokenStream((np.broadcast_to(np.uint16(7), (5_000_000_000,)),))
    began = time.process_time()
    assert batch(train, 0, 38_000, 128, 1024).shape == (128, 1025)
    assert time.process_time() - began < 5.0
    began = time.process_time()
    batch(train, 0, 100, 128, 1024)
    assert time.process_time() - began < 0.1  # the epoch's order is kept


def test_reading_across_shards():
    train = counting(1000, shards=7)
    for start, stop in [(0, 1000), (142, 144), (143, 500), (999, 1000), (5, 5)]:
        assert train.read(start, stop).tolist() == list(range(start, stop))
    assert len(train) == 1000


def test_impossible_batches_are_refused():
    for arguments, key in [
        ((counting(7), 0, 0, 4, 8), "data.too_short"),
        ((counting(99), 0, 0, 4, 8, 0, 3), "data.ranks"),
    ]:
        with pytest.raises(UserError) as caught:
            batch(*arguments)
        assert caught.value.key == key


# Text files.


def test_the_last_part_of_a_text_is_held_out(text, tmp_path):
    prepared = ready(text_config(text), tmp_path / "data")
    raw = TEXT.encode("utf-8")
    split = int(0.9 * len(raw))
    train = prepared.train.read(0, len(prepared.train))
    assert bytes(train[:-1].tolist()) == raw[:split] and train[-1] == 256
    assert bytes(prepared.held_out[:-1].tolist()) == raw[split:] and prepared.held_out[-1] == 256
    assert prepared.held_out_starts.tolist() == [0]
    assert prepared.held_out_bytes == len(raw) - split
    assert (prepared.vocab_size, prepared.end_of_document) == (257, 256)
    assert prepared.index["train"]["documents"] == 1


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5), st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=60)
def test_several_files_are_cut_at_a_character_and_none_is_lost(tmp_path_factory, texts, fraction):
    tmp_path = tmp_path_factory.mktemp("files")
    texts = [part.replace("\0", "") for part in texts] + ["0123456789 ñ"]
    files = [tmp_path / f"{k}.txt" for k in range(len(texts))]
    for file, part in zip(files, texts, strict=True):
        file.write_bytes(part.encode("utf-8"))
    chosen = text_config(*files, held_out_fraction=fraction, context=2)
    raw = "".join(texts).encode("utf-8")
    try:
        prepared = ready(chosen, tmp_path / "data")
    except UserError as fault:
        assert fault.key == "data.too_short" and int((1 - fraction) * len(raw)) < 5
        return
    train = prepared.train.read(0, len(prepared.train)).tolist()
    held_out = prepared.held_out.tolist()
    inside = [bytes(i for i in ids if i < 256) for ids in (train, held_out)]
    assert inside[0] + inside[1] == raw
    assert inside[0].decode("utf-8") + inside[1].decode("utf-8") == "".join(texts)
    assert 0 <= int((1 - fraction) * len(raw)) - len(inside[0]) < 4
    # every file ends with an end of document, and so does the part before the cut
    documents = train.count(256) + held_out.count(256)
    assert documents in (len([t for t in texts if t]), len([t for t in texts if t]) + 1)
    assert train[-1] == held_out[-1] == 256
    assert prepared.index["train"]["empty_documents"] == texts.count("")


def test_bpe_sees_the_training_part_only(text, tmp_path):
    chosen = text_config(text, tokenizer="bpe", vocab_size=500)
    prepared = ready(chosen, tmp_path / "data")
    raw = TEXT.encode("utf-8")
    split = int(0.9 * len(raw))
    own = tokenizer.train_bpe([raw[:split].decode("utf-8")], 500)
    assert own.to_json() == prepared.tokenizer.to_json()
    train = prepared.train.read(0, len(prepared.train)).tolist()
    assert train == [*own.encode(raw[:split].decode("utf-8")), own.end_of_document]


def test_a_sample_for_the_tokenizer_is_taken_from_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "TOKENIZER_SAMPLE_BYTES", 10_000)
    files = [tmp_path / f"{word}.txt" for word in ("uno", "dos", "tres")]
    for file in files:
        file.write_text(f"{file.stem} " * 10_000, "utf-8")
    chosen = text_config(*files).data
    texts = list(sources.open_source(chosen, None, print).sample())
    assert {text.split()[0] for text in texts} == {"uno", "dos", "tres"}
    assert 5_000 < sum(map(len, texts)) < 20_000


@settings(deadline=None)
@given(st.lists(st.sampled_from(["ab", " ", "\n", "'s", "ñ", "\u3000", "\t", "12", "!?", "\r"])))
def test_cutting_a_long_text_changes_no_token(parts):
    trained = tokenizer.train_bpe(["ab ab ab 's 's 12 12 !? !? ñ ñ \n \n\n \n\n ab12"] * 9, 264)
    text = "".join(parts)
    raw = text.encode("utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PIECE_BYTES", 3)
        cuts = list(sources.pieces_of(raw, 0, len(raw)))
    assert b"".join(raw[a:b] for a, b in cuts) == raw
    ids = [i for a, b in cuts for i in trained.encode(raw[a:b].decode("utf-8"))]
    assert ids == trained.encode(text)


def test_pieces_are_really_cut(monkeypatch):
    monkeypatch.setattr(sources, "PIECE_BYTES", 10)
    raw = b"one two three four five six\nseven eight nine"
    assert len(list(sources.pieces_of(raw, 0, len(raw)))) == 4


def test_train_tokens_cuts_exactly_and_ends_the_document(small, text, tmp_path):
    prepared = ready(text_config(text, train_tokens=12_345), tmp_path / "data")
    assert len(prepared.train) == 12_345 and len(prepared.train.shards) == 2
    assert prepared.train.read(12_343, 12_345).tolist() == [TEXT.encode()[12_343], 256]
    assert prepared.index["train"]["bytes"] == 12_344


def test_more_ids_than_two_bytes_hold_take_four(tmp_path, text, monkeypatch):
    sizes = {size: prepare._dtype(SimpleNamespace(vocab_size=size)) for size in (65_536, 65_537)}
    assert sizes == {65_536: "<u2", 65_537: "<u4"}
    monkeypatch.setattr(prepare, "_dtype", lambda _: "<u4")
    assert ready(text_config(text), tmp_path / "data").train.read(0, 1).dtype == np.uint32


# The generated corpus.


def test_verbs_hold_out_the_first_documents_and_train_on_the_next(tmp_path):
    prepared = ready(verbs_config(seed=3), tmp_path / "data")
    setting = corpus.SETTINGS["rehearsal"]
    ends = np.append(prepared.held_out_starts[1:], len(prepared.held_out)) - 1
    held_out = [
        prepared.tokenizer.decode(prepared.held_out[a:b])
        for a, b in zip(prepared.held_out_starts, ends, strict=True)
    ]
    assert held_out == corpus.documents(setting, 3, 0, 30)
    assert prepared.held_out_bytes == sum(len(text.encode("utf-8")) for text in held_out)
    assert len(prepared.train) == 20_000
    train = prepared.tokenizer.decode(prepared.train.read(0, 20_000)).split("<|endoftext|>")
    count = prepared.index["train"]["documents"]
    assert train[-1] == "" and len(train) == count + 1
    assert train[: count - 1] == corpus.documents(setting, 3, 30, count - 1)
    floor = corpus.floor(setting)
    assert prepared.index["source"]["floor"]["nats_per_document"] == floor.nats_per_document


def test_verbs_make_as_many_tokens_as_the_run_trains_on(tmp_path):
    chosen = config.build(
        model={"vocab_size": 300, "context": 16},
        train={"steps": 50, "batch_sequences": 4},
        data={"held_out_documents": 5},
    )
    assert len(ready(chosen, tmp_path).train) == chosen.tokens == 3200


def test_the_tokenizer_and_held_out_part_do_not_depend_on_the_amount(tmp_path):
    less, more = (ready(verbs_config(train_tokens=n), tmp_path) for n in (5000, 9000))
    assert less.tokenizer.to_json() == more.tokenizer.to_json()
    assert (less.held_out == more.held_out).all()
    assert (less.train.read(0, 4999) == more.train.read(0, 4999)).all()


# The folder: its name, its identity, its damage.


def test_the_same_configuration_gives_the_same_bytes(tmp_path):
    first, second = (ready(verbs_config(), tmp_path / name) for name in ("a", "b"))
    assert first.fingerprint == second.fingerprint
    chosen = data.path_of(verbs_config(), Path())
    assert content(tmp_path / "a" / chosen) == content(tmp_path / "b" / chosen)
    assert ready(verbs_config(seed=1), tmp_path / "a").fingerprint != first.fingerprint


def test_names_are_readable_and_differ_with_the_content(tmp_path):
    names = {data.path_of(verbs_config(seed=seed)).name for seed in range(4)}
    assert len(names) == 4 and all(name.startswith("verbs-rehearsal-400-") for name in names)
    longer = verbs_config().model_copy(update={"train": config.TrainConfig(seed=9, threads=1)})
    assert data.path_of(longer) == data.path_of(verbs_config())
    odd = text_config(Path("/x/Mi libro ñ.txt"))
    assert data.path_of(odd).name.startswith("Mi-libro-.txt"[:8])
    fineweb = data.path_of(config.build("x1-50m")).name
    assert fineweb.startswith("fineweb-edu-sample-10BT-16384-")


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "", " "])
def test_a_name_cannot_leave_the_data_folder(name, tmp_path):
    chosen = verbs_config(name=name)
    if not name:
        assert data.path_of(chosen, tmp_path).parent == tmp_path
        return
    with pytest.raises(UserError) as caught:
        data.prepare(chosen, tmp_path, quiet=True)
    assert caught.value.key == "data.bad_name" and not list(tmp_path.iterdir())


def test_prepared_data_is_found_again_without_its_source(text, tmp_path):
    path = data.prepare(text_config(text), tmp_path / "data", quiet=True)
    stamp = (path / "index.json").stat().st_mtime_ns
    text.unlink()
    assert data.prepare(text_config(text), tmp_path / "data", quiet=True) == path
    assert (path / "index.json").stat().st_mtime_ns == stamp
    assert sorted(f.name for f in path.iterdir()) == [
        "held_out.bin", "index.json", "tokenizer.json", "train-00000.bin"
    ]  # fmt: skip
    assert [f.name for f in (tmp_path / "data").iterdir()] == [path.name]


def refused(chosen: config.RunConfig, root: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        data.prepare(chosen, root, quiet=True)
    str(caught.value)  # its placeholders are all there
    return caught.value


def test_a_folder_of_other_settings_is_refused_naming_them(text, tmp_path):
    data.prepare(text_config(text, name="mine"), tmp_path, quiet=True)
    fault = refused(text_config(text, name="mine", held_out_fraction=0.2), tmp_path)
    assert fault.key == "data.other_settings"
    assert fault.values["fields"] == "data.held_out_fraction"
    longer = refused(text_config(text, name="mine", context=100_000), tmp_path)
    assert longer.key == "data.too_short"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "letter.txt").write_text("dear")
    assert refused(text_config(text, name="theirs"), tmp_path).key == "data.not_prepared"
    assert [f.name for f in (tmp_path / "theirs").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("change", [lambda t: t + "!", lambda t: "!" + t[1:]])
def test_a_changed_text_is_noticed(change, text, tmp_path):
    data.prepare(text_config(text), tmp_path / "data", quiet=True)
    text.write_text(change(TEXT), "utf-8")
    assert refused(text_config(text), tmp_path / "data").key == "data.source_changed"


@pytest.mark.parametrize("limit", [data.CHECKED_ON_OPEN_BYTES, 0])
@pytest.mark.parametrize("name", ["train-00000.bin", "held_out.bin", "tokenizer.json"])
def test_damage_is_refused(name, limit, text, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHECKED_ON_OPEN_BYTES", limit)
    path = data.prepare(text_config(text), tmp_path / "data", quiet=True)
    whole = (path / name).read_bytes()
    flipped = whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]
    for damaged in (whole[:-2], whole + b"\0\0", None, flipped):
        (path / name).unlink()
        if damaged is not None:
            (path / name).write_bytes(damaged)
        # For data too large to be hashed at every opening, that is what `verify` is for.
        check = data.verify if damaged == flipped else data.open_data
        with pytest.raises(UserError) as caught:
            check(path)
        assert caught.value.key == "data.damaged" and caught.value.values["file"] == path / name
        (path / name).write_bytes(whole)
    data.open_data(path)
    data.verify(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda index: index.pop("files"),
        lambda index: index.update(dtype="O"),
        lambda index: index.update(train=[]),
        lambda index: index["files"].update({"../train-00000.bin": index["files"]["held_out.bin"]}),
        lambda index: index["files"]["held_out.bin"].update(bytes="many"),
    ],
)
def test_a_strangers_index_is_checked(spoil, text, tmp_path):
    path = data.prepare(text_config(text), tmp_path / "data", quiet=True)
    index = json.loads((path / "index.json").read_text())
    spoil(index)
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError) as caught:
        data.open_data(path)
    assert caught.value.key == "data.damaged"


def test_a_folder_that_is_not_data_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        data.open_data(tmp_path / "nowhere")
    assert caught.value.key == "data.not_prepared"


# Bad input.


@pytest.mark.parametrize(
    ("raw", "key", "values"),
    [
        (None, "data.no_file", {}),
        (b"", "data.empty", {}),
        (b"plain text, then \xff and more", "data.not_utf8", {"offset": 17, "byte": "0xff"}),
        (b"ends within a character \xc3", "data.not_utf8", {"offset": 24, "byte": "0xc3"}),
        (b"x" * (1 << 20) + b"y" * 5 + b"\xc3(", "data.not_utf8", {"offset": (1 << 20) + 5}),
        (b"x" * ((1 << 20) - 1) + b"\xe2\x82(", "data.not_utf8", {"offset": (1 << 20) - 1}),
        ("año".encode("utf-16-le"), "data.binary", {"offset": 1}),
        (b"GIF89a\x01\x00\x01", "data.binary", {"offset": 7}),
        (b"short", "data.too_short", {"tokens": 5, "context": 8}),
    ],
)
def test_unfit_text_is_refused_and_leaves_nothing(raw, key, values, tmp_path):
    path, root = tmp_path / "text.txt", tmp_path / "data"
    if raw is not None:
        path.write_bytes(raw)
    fault = refused(text_config(path), root)
    assert fault.key == key
    assert {name: fault.values[name] for name in values} == values
    assert not list(root.glob("*"))


def test_a_character_torn_between_two_blocks_is_whole(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"x" * ((1 << 20) - 1) + "€uro".encode())
    assert sources._check_text(path)["bytes"] == (1 << 20) + 5


def test_too_little_text_for_the_vocabulary_leaves_nothing(text, tmp_path):
    chosen = text_config(text, tokenizer="bpe", vocab_size=60_000)
    fault = refused(chosen, tmp_path / "data")
    assert fault.key == "tokenizer.too_little_text" and fault.values["reached"] > 300
    assert not list((tmp_path / "data").glob("*"))


@pytest.mark.parametrize(
    ("source", "key"), [("text", "data.no_files"), ("dataset", "data.no_dataset")]
)
def test_a_source_without_a_name_is_refused(source, key, tmp_path):
    assert refused(config.build(data={"source": source}), tmp_path).key == key


def test_a_read_only_folder_passes_up_as_an_error_of_the_system(text, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    user = os.geteuid()
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    root.chmod(0o555)
    try:
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(PermissionError):
            data.prepare(text_config(text), root, quiet=True)
    finally:
        os.seteuid(user)
    assert not list(root.glob("*"))


def test_a_disk_that_fills_up_leaves_nothing_final_and_the_work_goes_on_later(
    small, text, tmp_path
):
    clean = content(data.prepare(text_config(text), tmp_path / "clean", quiet=True))
    root = tmp_path / "data"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            data.prepare(text_config(text), root, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename
    assert not data.path_of(text_config(text), root).exists()
    assert content(data.prepare(text_config(text), root, quiet=True)) == clean


# Interruptions.


def killed_at(action: int, chosen: config.RunConfig, root: Path) -> bool:
    """Prepare in a child that is killed just before its `action`-th fsync, rename or unlink."""
    child = os.fork()
    if child == 0:
        left = iter(range(action))

        def counted(function):
            def call(*arguments, **named):
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **named)

            return call

        os.fsync = counted(os.fsync)
        Path.rename, Path.unlink = counted(Path.rename), counted(Path.unlink)
        try:
            data.prepare(chosen, root, quiet=True)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_between_any_two_durable_steps_changes_nothing(small, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_TOKENS", 5000)
    text = tmp_path / "text.txt"
    text.write_text(TEXT[:15_000], "utf-8")
    chosen = text_config(text)
    clean = content(data.prepare(chosen, tmp_path / "clean", quiet=True))
    assert len(clean) == 6  # three shards
    action = 0
    while killed_at(action, chosen, tmp_path / f"killed-{action}"):
        path = data.prepare(chosen, tmp_path / f"killed-{action}", quiet=True)
        left = {".prepare.lock"} & {file.name for file in path.iterdir()}  # the very last unlink
        assert {name: raw for name, raw in content(path).items() if name not in left} == clean
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        action += 1
    assert action > 30


CHILD = """
import sys
from pathlib import Path
from x1 import config, data, prepare, sources
prepare.SHARD_TOKENS, prepare.COMMIT_S = 10_000, 0.0
sources.CHUNK_BYTES, sources.PIECE_BYTES = 6000, 2000
sources.VERBS_SAMPLE_BYTES = 200_000
chosen = config.validate(config.read_toml(Path(sys.argv[1])))
print("go", flush=True)
data.prepare(chosen, Path(sys.argv[2]), quiet=True)
"""


def child(chosen: config.RunConfig, root: Path) -> subprocess.Popen[str]:
    file = root.with_suffix(".toml")
    file.write_text(config.to_toml(chosen), "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, file, root], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "go\n"
    return process


def tokens_in(progress: Path) -> int:
    return json.loads(progress.read_text())["train"]["tokens"] if progress.exists() else 0


@pytest.mark.parametrize("source", ["text", "verbs"])
def test_sigkill_at_random_moments_changes_nothing(source, tmp_path):
    book = tmp_path / "text.txt"
    book.write_text(TEXT * 12, "utf-8")
    text = text_config(book, tokenizer="bpe", vocab_size=600)
    chosen = {"text": text, "verbs": verbs_config(train_tokens=150_000)}[source]
    with child(chosen, tmp_path / "clean") as process:
        assert process.wait() == 0
    root, moments, kills = tmp_path / "killed", random.Random(source), 0
    progress = root / f".{data.path_of(chosen, root).name}.partial" / "progress.json"
    for attempt in range(5):
        before = tokens_in(progress)
        with child(chosen, root) as process:
            while attempt and tokens_in(progress) == before and process.poll() is None:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.03))
            process.kill()
        kills += process.returncode == -signal.SIGKILL
    with child(chosen, tmp_path / "killed") as process:
        assert process.wait() == 0
    assert kills >= 4
    path = data.path_of(chosen, tmp_path / "killed")
    assert content(path) == content(data.path_of(chosen, tmp_path / "clean"))


def begun(chosen: config.RunConfig, root: Path) -> Path:
    """A preparation killed after some durable progress; the folder it works in."""
    assert killed_at(30, chosen, root)
    return root / f".{data.path_of(chosen, root).name}.partial"


def test_a_begun_preparation_goes_on_only_with_its_own_settings_and_source(small, text, tmp_path):
    chosen = text_config(text, name="mine")
    partial = begun(chosen, tmp_path / "data")
    assert partial.is_dir()
    fault = refused(text_config(text, name="mine", held_out_fraction=0.5), tmp_path / "data")
    assert fault.key == "data.other_settings" and fault.values["path"] == partial
    text.write_text("!" + TEXT[1:], "utf-8")
    assert refused(chosen, tmp_path / "data").key == "data.other_source"


def test_a_source_with_another_date_and_the_same_content_is_the_same(small, text, tmp_path):
    begun(text_config(text), tmp_path / "data")
    os.utime(text, (1e9, 1e9))
    assert (
        ready(text_config(text), tmp_path / "data").index["source"]["date"]
        == "2001-09-09T01:46:40+00:00"
    )


def test_a_shard_shorter_than_its_record_is_refused(small, text, tmp_path):
    partial = begun(text_config(text), tmp_path / "data")
    shard = max(partial.glob("train-*.bin"))
    shard.write_bytes(b"")
    assert refused(text_config(text), tmp_path / "data").key == "data.partial_damaged"


def test_two_processes_do_not_prepare_the_same_folder(text, tmp_path):
    chosen = text_config(text, name="mine")
    partial = tmp_path / ".mine.partial"
    partial.mkdir()
    with folder.locked(partial, "prepare"):
        fault = refused(chosen, tmp_path)
    assert fault.key == "folder.locked" and str(os.getpid()) in fault.values["holder"]
    assert len(ready(chosen, tmp_path).train) > 8


def test_preparing_says_what_it_did(text, tmp_path, capsys):
    chosen = text_config(text, train_tokens=10_000_000)
    path = data.prepare(chosen, tmp_path / "data")
    printed = capsys.readouterr().out
    tokens = ready(chosen, tmp_path / "data").index["train"]["tokens"]
    assert str(path) in printed and f"{tokens:,}" in printed and "10,000,000" in printed
    data.prepare(text_config(text, name="still"), tmp_path / "data", quiet=True)
    assert capsys.readouterr().out == ""


def test_preparing_needs_no_torch(text, tmp_path):
    code = "import sys; from x1 import data, prepare, sources; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"
