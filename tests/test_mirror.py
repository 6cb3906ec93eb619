"""The mirror: never half a checkpoint, one writer at a time, and enough to go on from alone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from x1 import checkpoint, cli, config, folder, ledger, mirror, saved
from x1.text import UserError

SECRET = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """An S3-protocol server on loopback; returns the environment its client needs."""
    place = tmp_path_factory.mktemp("s3")
    (place / "bucket").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rclone = Path(sys.executable).with_name("rclone")
    server = subprocess.Popen(
        [rclone, "serve", "s3", place, "--addr", f"127.0.0.1:{port}",
         "--auth-key", f"testing,{SECRET}", "--config", os.devnull],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert server.poll() is None
            time.sleep(0.05)
    yield {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
    }
    server.kill()
    server.wait()


@pytest.fixture(params=["file", "s3"])
def uri(request, tmp_path, monkeypatch):
    if request.param == "file":
        return f"file://{tmp_path}/mirror"
    for name, value in request.getfixturevalue("s3_server").items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{tmp_path.name}/mirror"


@pytest.fixture
def local(tmp_path):
    return f"file://{tmp_path}/mirror"


def save(run, step):
    weights = {"weight": torch.full((40, 50), float(step))}
    moments = {"weight|momentum_buffer": weights["weight"] + 1}
    return checkpoint.write(run, step, weights, moments, {"attempt": 1})


def make_run(path, *settings):
    chosen = config.build("shakespeare-bytes", settings=("data.files=['words.txt']", *settings))
    folder.claim(path, chosen)
    for step in (10, 20):
        live_on(path, step)
    return path


def live_on(run, step):
    """What ten more steps leave in a run's folder."""
    save(run, step)
    folder.append_line(run / folder.METRICS, {"step": step, "attempt": 1, "loss": 1.0})
    folder.record_event(run, "checkpoint", step=step, attempt=1)
    folder.append_line(run / folder.LEDGER, {"entry": "charge", "step": step})


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def content(run):
    """Every mirrored file there is, by path."""
    return {
        str(p.relative_to(run)): p.read_bytes()
        for p in run.rglob("*")
        if p.is_file() and p.name != mirror.RECORD and not p.name.startswith(".")
    }


def test_what_is_published_comes_back_whole_on_a_fresh_machine(run, uri, tmp_path):
    ours = mirror.take(run, uri)
    mirror.publish(ours)
    live_on(run, 30)
    mirror.publish(ours)
    mirror.restore(uri, tmp_path / "fresh")
    assert content(tmp_path / "fresh") == content(run)
    assert checkpoint.newest(tmp_path / "fresh")[0].step == 30
    # Nothing changed: nothing is published. The ledger alone: no checkpoint goes again.
    mirror.restore(uri, tmp_path / "again")
    fresh = mirror.take(tmp_path / "again", uri)
    before = fresh.store.names("attempts")
    folder.append_line(tmp_path / "again" / folder.LEDGER, {"entry": "gap"})
    mirror.publish(fresh)
    added = set(fresh.store.names("attempts")) - set(before)
    assert len(added) == 1 and fresh.number == 1
    mirror.publish(fresh)
    assert fresh.number == 1


class Killed(BaseException):
    """Nothing that runs in the process comes after it, as after SIGKILL."""


def break_off(store, at, half):
    """A store that is killed at its at-th write; of that one, half the bytes arrive if `half`."""
    writes = []

    class Broken(mirror.Store):
        def put(self, name, content):
            writes.append(name)
            if len(writes) == at:
                if half:
                    super().put(name, content[: len(content) // 2])
                raise Killed
            super().put(name, content)

        def put_file(self, path, name):
            self.put(name, path.read_bytes())

    return Broken(store.uri, store.fs, store.root), writes


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_at_any_write_leaves_the_last_publication_as_it_was(run, local, tmp_path, half):
    first = mirror.take(run, local)
    mirror.publish(first)
    expected = content(run)
    live_on(run, 30)
    later = content(run)
    attempts = 0
    while True:
        attempts += 1
        ours = mirror.take(run, local)
        ours.store, writes = break_off(ours.store, attempts, half)
        try:
            mirror.publish(ours)
            break
        except Killed:
            pass
        mirror.restore(local, tmp_path / f"fresh-{attempts}")
        assert content(tmp_path / f"fresh-{attempts}") == expected
        record = folder.read_json(tmp_path / f"fresh-{attempts}" / mirror.RECORD)
        folder.write_json(run / mirror.RECORD, record)  # as if this were that machine
    # three files of a checkpoint, metrics, events, ledger, and the manifest that comes last
    assert attempts == 8 and writes[-1].startswith("manifests/")
    mirror.restore(local, tmp_path / "fresh")
    assert content(tmp_path / "fresh") == later


def test_an_older_start_may_no_longer_publish(run, uri, tmp_path):
    old = mirror.take(run, uri)
    mirror.publish(old)
    published = content(run)
    mirror.restore(uri, tmp_path / "fresh")
    live_on(run, 30)
    with pytest.raises(mirror.Superseded):
        mirror.publish(old)
    mirror.attempt_publish(old)
    assert old.superseded
    # Even a manifest that was on its way when the newer start claimed is never read.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror, "_still_ours", lambda mirror: None)
        mirror.publish(old)
    mirror.restore(uri, tmp_path / "another")
    assert content(tmp_path / "another") == published
    with pytest.raises(UserError, match="goes on elsewhere: attempt 3"):
        mirror.take(run, uri)
    # Each start of the machine that took over claims the next attempt.
    numbers = [int(mirror.take(tmp_path / "another", uri).claim[:8]) for _ in range(2)]
    assert numbers == [4, 5]


def test_an_old_starts_clearing_spares_what_the_new_one_has_uploaded(run, local, tmp_path):
    old = mirror.take(run, local)
    mirror.publish(old)
    mirror.restore(local, tmp_path / "fresh")
    live_on(tmp_path / "fresh", 30)
    new = mirror.take(tmp_path / "fresh", local)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror, "_still_ours", lambda mirror: None)
        for step in (30, 40, 50):
            live_on(run, step)
            mirror.publish(old)
            mirror.publish(new)
    mirror.restore(local, tmp_path / "third")
    assert content(tmp_path / "third") == content(tmp_path / "fresh")


def test_claims_made_at_one_moment_are_told_apart(local):
    store = mirror.open_store(local)
    names, start = [], threading.Barrier(4)

    def claim():
        start.wait()
        names.append(mirror.claim(store, "run", None))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({name[:8] for name in names}) == 4
    assert mirror.claims(store)[-1] == max(names)


def test_a_kill_between_claim_and_note_locks_nobody_out(run, local):
    with pytest.MonkeyPatch.context() as patch:
        put = mirror.Store.put

        def kill(store, name, content):
            put(store, name, content)
            raise Killed

        patch.setattr(mirror.Store, "put", kill)
        with pytest.raises(Killed):
            mirror.take(run, local)
    assert int(mirror.take(run, local).claim[:8]) == 2


def test_another_runs_mirror_is_refused(run, local, tmp_path):
    mirror.publish(mirror.take(run, local))
    other = make_run(tmp_path / "other", "train.seed=1")
    with pytest.raises(UserError, match="holds another run"):
        mirror.take(other, local)
    copy = make_run(tmp_path / "copy")  # the same run, begun anew on another machine
    with pytest.raises(UserError, match="goes on elsewhere: attempt 1"):
        mirror.take(copy, local)


def objects(uri):
    return sorted(p for p in Path(uri[7:]).joinpath("attempts").rglob("*") if p.is_file())


def test_only_what_the_two_newest_manifests_name_is_kept(run, local, tmp_path):
    ours = mirror.take(run, local)
    for step in range(30, 90, 10):
        live_on(run, step)
        saved.prune(run, 2, set())
        mirror.publish(ours)
    assert len(ours.store.names("manifests")) == 2
    # 3 checkpoints in the two together, 2 versions of metrics, events and ledger, one config.toml
    assert len(objects(local)) == 3 * 3 + 2 * 3 + 1
    mirror.restore(local, tmp_path / "fresh")
    assert content(tmp_path / "fresh") == content(run)
    assert checkpoint.steps(tmp_path / "fresh") == [70, 80]


def test_a_damaged_checkpoint_is_never_published(run, local, tmp_path):
    (saved.path_of(run, 20) / saved.MODEL).write_bytes(b"torn")
    mirror.publish(mirror.take(run, local))
    mirror.restore(local, tmp_path / "fresh")
    assert checkpoint.steps(tmp_path / "fresh") == [10]


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "torn manifest", "other's"])
def test_what_is_damaged_up_there_is_named_and_the_one_before_used(
    run, local, tmp_path, capfd, harm
):
    ours = mirror.take(run, local)
    mirror.publish(ours)
    before = content(run)
    live_on(run, 30)
    mirror.publish(ours)
    newest = ours.files[f"checkpoints/step-00000030/{saved.MODEL}"]["object"]
    path = Path(local[7:]) / newest
    if harm == "flip":
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif harm == "truncate":
        os.truncate(path, 100)
    elif harm == "delete":
        path.unlink()
    elif harm == "other's":
        older = ours.files[f"checkpoints/step-00000020/{saved.MODEL}"]["object"]
        shutil.copyfile(Path(local[7:]) / older, path)
    else:
        manifest = max((Path(local[7:]) / "manifests").iterdir())
        os.truncate(manifest, manifest.stat().st_size // 2)
    mirror.restore(local, tmp_path / "fresh")
    assert content(tmp_path / "fresh") == before
    if harm != "torn manifest":  # a torn manifest was never published
        assert "is damaged or not complete; the one before it is used" in capfd.readouterr().err


@pytest.mark.parametrize(
    "name", ["../../escaped", "/etc/escaped", "checkpoints/../../escaped", "work.py", "mirror.json"]
)
def test_a_strangers_manifest_writes_nowhere_else(run, local, tmp_path, name):
    ours = mirror.take(run, local)
    mirror.publish(ours)
    (manifest,) = (Path(local[7:]) / "manifests").iterdir()
    record = json.loads(manifest.read_text())
    del record["checksum"]
    record["files"][name] = record["files"]["config.toml"]
    record["checksum"] = saved.digest(record)
    folder.write_json(manifest, record)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="no run at"):
        mirror.restore(local, tmp_path / "fresh")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "setting", ["money.price_source=command:touch ran", "money.stop_command=touch ran"]
)
def test_a_strangers_commands_are_shown_and_not_executed_unasked(local, tmp_path, setting):
    run = make_run(tmp_path / "stranger", setting)
    mirror.publish(mirror.take(run, local))
    with pytest.raises(UserError, match=r"executed here: touch ran\."):
        mirror.restore(local, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists() and not Path("ran").exists()
    assert len(mirror.claims(mirror.open_store(local))) == 1  # nor was the run taken over
    mirror.restore(local, tmp_path / "fresh", allow_commands=True)
    assert content(tmp_path / "fresh") == content(run)


def test_a_folder_in_use_and_an_empty_mirror_are_refused(run, local, tmp_path):
    with pytest.raises(UserError, match="no run at"):
        mirror.restore(local, tmp_path / "fresh")
    mirror.publish(mirror.take(run, local))
    with pytest.raises(UserError, match="not empty"):
        mirror.restore(local, run)
    assert not (tmp_path / "fresh").exists()


SECRETS = (
    f"s3://AKIAABCDEFGHIJKLMNOP:{SECRET}@bucket/run",
    f"s3://{SECRET}@bucket/run",
    f"s3://bucket/run?X-Amz-Signature={SECRET}",
    f"s3://bucket/run#{SECRET}",
    f"hf://datasets/me/run/hf_{SECRET}",
    f"https://me:{SECRET}@host/run",
    f"filecache::s3://bucket/{SECRET}",
    f"['s3://id:{SECRET}@bucket']",
)


@pytest.mark.parametrize("uri", SECRETS)
@pytest.mark.parametrize("lang", ["en", "es"])
def test_a_uri_with_a_secret_is_refused_and_nothing_of_it_repeated(
    here, uri, lang, capfd, monkeypatch
):
    for options in (
        ["--preset", "shakespeare-bytes", "--text", "words.txt", "--set",
         f"checkpoint.mirror={uri}", "--out", "run"],
        ["--resume-from", uri, "--out", "run"],
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["x1", "train", *options, "--lang", lang])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        words = "".join(capfd.readouterr())
        assert ended.value.code == 2
        assert SECRET not in words and "AKIA" not in words and "Traceback" not in words
        assert len(words.strip().splitlines()) == 1
    assert [path.name for path in here.iterdir()] == ["words.txt"]


@pytest.mark.parametrize("uri", ["gs://bucket/run", "s3://", "mirror", "file://mirror"])
def test_a_uri_of_another_kind_is_refused(uri):
    with pytest.raises(UserError, match="mirror"):
        config.build("shakespeare-bytes", settings=(f"checkpoint.mirror={uri}",))


def test_a_store_out_of_reach_is_one_sentence_and_training_goes_on(run, local, capfd):
    ours = mirror.take(run, local)
    mirror.publish(ours)
    away = Path(local[7:]).rename(local[7:] + "-away")  # as an unmounted disk
    live_on(run, 30)
    for _ in range(3):
        mirror.attempt_publish(ours)
    assert ours.behind and not ours.superseded
    said = capfd.readouterr().err
    assert said.count("could not be used") == said.count("Training goes on") == 1
    shutil.rmtree(local[7:], ignore_errors=True)
    away.rename(local[7:])
    mirror.attempt_publish(ours)
    assert not ours.behind


def test_a_server_that_does_not_answer_or_refuses_is_one_sentence(run, s3_server, monkeypatch):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"not-{SECRET}")
    with pytest.raises(UserError, match="could not be used") as refused:
        mirror.take(run, f"s3://bucket/{run.parent.name}/refused")
    assert SECRET not in str(refused.value) and "127.0.0.1" not in str(refused.value)
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(UserError, match="could not be used"):
            mirror.take(run, f"s3://elsewhere/{run.parent.name}/silent")
    assert not (run / mirror.RECORD).exists()


X1 = Path(sys.executable).with_name("x1")


def x1(cwd, env, *arguments):
    return subprocess.Popen(
        [X1, "train", *map(str, arguments)], cwd=cwd, env=os.environ | env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def until(true, process, limit_s=150):
    deadline = time.monotonic() + limit_s
    while not true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def kill_all(run, process):
    """The machine is gone: supervisor, trainer and keeper at once."""
    pids = [process.pid, folder.events(run, "start")[-1]["pid"]]
    for pid in pids:
        with suppress(ProcessLookupError):  # it may have seen that the supervisor is gone
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def final_bytes(run, step):
    path = checkpoint.path_of(run, step)
    return [(path / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)]


def test_a_fresh_machine_goes_on_from_the_uri_alone_ledger_included(
    here, tiny, s3_server, trainer, make_run, tmp_path_factory, monkeypatch
):
    steps = 1500  # long enough for the first machine to be killed before it has finished
    uri = f"s3://bucket/{here.name}/mirror"
    settings = [f"train.steps={steps}", "checkpoint.every_steps=100", f"checkpoint.mirror={uri}"]
    whole = make_run("whole", *settings)
    assert trainer(whole).wait(200) == 0

    run = here / "run"
    options = [part for setting in settings for part in ("--set", setting)]
    first = x1(here, s3_server, "--preset", "shakespeare-bytes", "--text", "words.txt", *tiny,
               *options, "--out", run)  # fmt: skip
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    store = mirror.open_store(uri)
    until(lambda: any(c["files"] for _, c in mirror.published(store)
                      if any("step-" in name for name in c["files"])), first)  # fmt: skip
    kill_all(run, first)
    assert not folder.events(run, "finish")

    fresh = tmp_path_factory.mktemp("fresh")
    shutil.copyfile(here / "words.txt", fresh / "words.txt")
    _, newest = next(mirror.published(store))
    mirrored = store.get(newest["files"][folder.LEDGER]["object"])
    second = x1(fresh, s3_server, "--resume-from", uri, "--out", "again")
    said = second.communicate(timeout=200)[0]
    assert second.returncode == 0, said
    again = fresh / "again"
    assert "Resumed from" in said and "up to date" in said

    assert final_bytes(again, steps) == final_bytes(whole, steps)
    assert folder.curve(again, keep_clock=False) == folder.curve(whole, keep_clock=False)
    assert folder.events(again, "start")[-1]["step"] >= 100
    # The ledger goes on from the mirrored one, and the time between is charged at its price.
    assert (again / folder.LEDGER).read_bytes().startswith(mirrored)
    entries = ledger.read_entries(again)
    place = mirrored.count(b"\n")
    last, gap = entries[place - 1], entries[place]
    assert gap["entry"] == "gap"
    assert gap["seconds"] == pytest.approx((gap["boot_ms"] - last["boot_ms"]) / 1000, abs=1e-6)
    in_force = [e["price_usd_per_hour"] for e in entries[:place] if "price_usd_per_hour" in e][-1]
    assert gap["price_usd_per_hour"] == in_force
    expected_usd = gap["seconds"] / 3600 * in_force
    assert expected_usd <= float(gap["usd"]) <= expected_usd + 2e-9

    # The mirror has it all, to the ledger's last line; and the old machine's folder may not go on.
    _, newest = next(mirror.published(store))
    assert (
        store.get(newest["files"][folder.LEDGER]["object"]) == (again / folder.LEDGER).read_bytes()
    )
    third = x1(here, s3_server, "--out", run)
    said = third.communicate(timeout=100)[0]
    assert third.returncode == 2 and "goes on elsewhere" in said
    for path in (run, again):
        for file in path.rglob("*"):
            assert not file.is_file() or SECRET.encode() not in file.read_bytes()
