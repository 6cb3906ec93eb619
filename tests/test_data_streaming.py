"""Streaming a dataset: from local files, and from a hub on this machine that fails now and then.

`datasets` reads its environment when it is imported, so everything runs in child processes: most
are forked from one that has done its importing (`Worker`), so that they start at once.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from x1 import config, data, folder, prepare
from x1.text import say

X1 = Path(sys.executable).with_name("x1")
CHILD = """
import json, os, sys, time
from pathlib import Path
from x1 import config, data, prepare, prepare_page, sources
from x1.text import UserError

prepare.SHARD_TOKENS, prepare.COMMIT_S = 10_000, 0.0
prepare_page.ANNOUNCED_TOKENS, prepare_page.TOLD_EVERY_S = 1, 0.0
sources.CHUNK_BYTES, sources.PIECE_BYTES = 3000, 1000
sleep = time.sleep  # neither we nor the libraries need wait for a hub on this machine
time.sleep = lambda seconds: sleep(min(seconds, 0.001))

def job(file, root):
    try:
        data.prepare(config.validate(config.read_toml(Path(file))), Path(root))
    except UserError as fault:
        print(json.dumps([fault.key, {k: str(v) for k, v in fault.values.items()}]))
        return 2
    print("torch" in sys.modules)
    return 0

if len(sys.argv) > 1:
    sys.exit(job(*sys.argv[1:]))
sources._hugging_face()
import pyarrow.parquet
for line in sys.stdin:
    file, root, out = json.loads(line)
    pid = os.fork()
    if pid == 0:
        written = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1), os.dup2(written, 2)
        code = job(file, root)
        sys.stdout.flush()
        os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    """Ours without proxies and tokens; nothing leaves this machine."""
    left_out = {"HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "X1_LANG": "en"}
    return kept | quiet | {"HF_HOME": str(home)} | more


class Worker:
    """A process that has imported everything and prepares what it is told in forks of itself."""

    def __init__(self, home: Path, hub: str) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment(home, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0"),
        )  # fmt: skip

    def start(self, chosen: config.RunConfig, root: Path) -> int:
        """Begin to prepare `chosen` in `root`; the process id."""
        job = [str(written(chosen, root)), str(root), str(self.home / "out")]
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> tuple[int, str]:
        """Exit status and output of what was started, once it has ended."""
        assert self.process.stdout
        return int(self.process.stdout.readline()), (self.home / "out").read_text()

    def run(self, chosen: config.RunConfig, root: Path) -> tuple[Path, str]:
        """Prepare to the end; the folder and what was printed."""
        self.start(chosen, root)
        status, out = self.wait()
        assert status == 0, out
        assert out.endswith("False\n")  # no torch
        return data.path_of(chosen, root), out

    def fault(self, chosen: config.RunConfig, root: Path) -> tuple[str, dict[str, str]]:
        """Prepare and be refused; key and values of the sentence."""
        self.start(chosen, root)
        status, out = self.wait()
        assert status == 2, out
        key, values = json.loads(out.splitlines()[-1])
        return key, values


def alone(chosen: config.RunConfig, root: Path, **more: str) -> tuple[int, str]:
    """Exit status and output of a process of its own, with its own environment."""
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, written(chosen, root), root], capture_output=True, text=True,
        env=environment(root.with_suffix(".home"), **more),
    )  # fmt: skip
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout


def written(chosen: config.RunConfig, root: Path) -> Path:
    file = root.with_suffix(".toml")
    file.write_text(config.to_toml(chosen), "utf-8")
    return file


# Rows without text, a row long enough to be cut in pieces, and accents.
ROWS = [f"Documento {k}: " + "ñandú y más " * (k * 37 % 23) for k in range(1200)]
ROWS[3], ROWS[700], ROWS[1100] = "", None, ""
ROWS[600] = " ".join(f"palabra{k}" for k in range(900))
DOCUMENTS = [row for row in ROWS if row]
HELD_OUT = 25
SHA = "0123456789abcdef0123456789abcdef01234567"


def write_parquet(folder: Path, files: int = 3) -> Path:
    folder.mkdir(parents=True)
    size = len(ROWS) // files
    for k in range(files):
        rows = ROWS[k * size : (k + 1) * size]
        table = pa.table({"id": list(range(len(rows))), "text": pa.array(rows, pa.string())})
        pq.write_table(table, folder / f"part-{k:02d}.parquet", row_group_size=50)
    return folder


def dataset_config(name: str, **fields) -> config.RunConfig:
    chosen = {"source": "dataset", "dataset": name, "held_out_documents": HELD_OUT, **fields}
    size = 257 if fields.get("tokenizer", "bytes") == "bytes" else 350
    chosen.setdefault("tokenizer", "bytes")
    return config.build(model={"vocab_size": size, "context": 16}, data=chosen)


def content(path: Path) -> dict[str, bytes]:
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    index = json.loads(files["index.json"])
    del index["preparation"]
    return {**files, "index.json": json.dumps(index).encode()}


def texts(stream: data.TokenStream | object) -> list[str]:
    ids = stream.read(0, len(stream)) if isinstance(stream, data.TokenStream) else stream
    raw = bytes(i if i < 256 else 0 for i in ids.tolist())
    return raw.decode("utf-8").split("\0")[:-1]


def assert_complete(path: Path) -> None:
    """Every document once, in order: the first ones held out, the others to train on."""
    prepared = data.open_data(path)
    assert texts(prepared.held_out) == DOCUMENTS[:HELD_OUT]
    assert texts(prepared.train) == DOCUMENTS[HELD_OUT:]
    assert prepared.index["train"]["empty_documents"] == 2
    assert prepared.index["held_out"]["empty_documents"] == 1


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "txt"])
def test_local_files_give_every_document_once(kind, worker, tmp_path):
    folder = tmp_path / "folder"
    if kind == "parquet":
        write_parquet(folder)
    else:
        folder.mkdir()
    if kind == "jsonl":
        for k in range(2):
            lines = [json.dumps({"text": row}) + "\n" for row in ROWS[k * 600 : (k + 1) * 600]]
            (folder / f"{k}.jsonl").write_text("".join(lines), "utf-8")
    if kind == "txt":
        for k, row in enumerate(ROWS):
            (folder / f"{k:04d}.txt").write_text(row or "", "utf-8")
    path, _ = worker.run(dataset_config(str(folder)), tmp_path / "data")
    assert_complete(path)


def test_local_bpe_and_an_exact_number_of_tokens(tmp_path):
    folder = write_parquet(tmp_path / "folder")
    chosen = dataset_config(str(folder), tokenizer="bpe", train_tokens=12_000)
    status, out = alone(chosen, tmp_path / "data", HF_HUB_OFFLINE="1")
    assert status == 0, out
    prepared = data.open_data(data.path_of(chosen, tmp_path / "data"))
    assert len(prepared.train) == 12_000 and prepared.vocab_size == 350
    written = prepared.tokenizer.decode(prepared.train.read(0, 12_000)).split("<|endoftext|>")
    whole = len(written) - 2  # the last one is cut short
    assert written[:whole] == DOCUMENTS[HELD_OUT : HELD_OUT + whole] and written[-1] == ""
    assert DOCUMENTS[HELD_OUT + whole].startswith(written[whole].rstrip("\ufffd"))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_sigkill_while_streaming_local_files(kind, worker, tmp_path):
    folder = tmp_path / "folder"
    if kind == "parquet":
        write_parquet(folder)
    else:
        folder.mkdir()
        lines = [json.dumps({"text": row}) + "\n" for row in ROWS]
        (folder / "all.jsonl").write_text("".join(lines), "utf-8")
    chosen = dataset_config(str(folder))
    clean, _ = worker.run(chosen, tmp_path / "clean")
    kills = kill_while_writing(worker, chosen, tmp_path / "killed")
    path, out = worker.run(chosen, tmp_path / "killed")
    assert kills >= 2 and "Going on with this preparation" in out
    assert content(path) == content(clean)
    assert_complete(path)


def kill_while_writing(worker: Worker, chosen: config.RunConfig, root: Path, times: int = 3) -> int:
    """Start preparing and kill it after some new progress is on the disk, several times."""
    progress = root / f".{data.path_of(chosen, root).name}.partial" / "progress.json"
    kills, moments = 0, random.Random(0)
    for _ in range(times):
        before = tokens_in(progress)
        pid = worker.start(chosen, root)
        deadline = time.monotonic() + 60
        while tokens_in(progress) <= before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        kills += worker.wait()[0] == -signal.SIGKILL
    return kills


def tokens_in(progress: Path) -> int:
    return json.loads(progress.read_text())["train"]["tokens"] if progress.exists() else 0


@pytest.mark.parametrize(
    ("fields", "key", "values"),
    [
        ({"column": "body"}, "data.no_column", {"columns": "id, text"}),
        ({"column": "id"}, "data.not_text", {"kind": "int"}),
        ({"held_out_documents": 5000}, "data.all_held_out", {"held_out": "5000"}),
    ],
)
def test_an_unfit_local_dataset_is_refused(fields, key, values, worker, tmp_path):
    folder = write_parquet(tmp_path / "folder")
    found, said = worker.fault(dataset_config(str(folder), **fields), tmp_path / "data")
    assert found == key and {name: said[name] for name in values} == values
    assert not list((tmp_path / "data").glob("*"))


def test_a_damaged_local_file_or_a_mixed_folder_is_refused(worker, tmp_path):
    folder = write_parquet(tmp_path / "folder")
    (folder / "part-01.parquet").write_bytes(b"PAR1 nothing of the sort")
    assert worker.fault(dataset_config(str(folder)), tmp_path / "data")[0] == "data.unreadable"
    (folder / "notes.txt").write_text("text")
    assert worker.fault(dataset_config(str(folder)), tmp_path / "data2")[0] == "data.local_kinds"


# A hub on this machine, with what `datasets` and `huggingface_hub` ask of the real one.

README = """---
configs:
- config_name: sample
  data_files:
  - split: train
    path: sample/*.parquet
---
"""


class Hub(ThreadingHTTPServer):
    """Serves one dataset, acme/books. `down(k)` says whether the k-th request for data fails."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.down: Callable[[int], object] = lambda request: False
        self.requests = 0
        self.failed = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def entry(self, path: str) -> dict[str, object]:
        raw = self.files[path]
        return {"type": "file", "path": path, "size": len(raw), "oid": f"{zlib.crc32(raw):040x}"}

    def listing(self, folder: str) -> list[dict[str, object]]:
        inside = [Path(path) for path in self.files if Path(folder) in Path(path).parents]
        names = {path.parts[len(Path(folder).parts)] for path in inside}
        paths = sorted((Path(folder) / name).as_posix() for name in names)
        return [
            self.entry(path)
            if path in self.files
            else {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            for path in paths
        ]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api, resolve = "/api/datasets/acme/books", f"/datasets/acme/books/resolve/{SHA}/"
        if path in (api, f"{api}/revision/{SHA}"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.send_json({"id": "acme/books", "sha": SHA, "siblings": siblings, "private": False,
                            "lastModified": "2024-05-31T10:00:00.000Z", "tags": []})  # fmt: skip
        elif path.startswith(f"{api}/tree/{SHA}"):
            under = path.removeprefix(f"{api}/tree/{SHA}").strip("/")
            self.send_json(self.server.listing(under))
        elif path == f"{api}/paths-info/{SHA}":
            wanted = json.loads(self.body)["paths"]
            self.send_json([self.server.entry(f) for f in wanted if f in self.server.files])
        elif path.startswith(resolve) and path.removeprefix(resolve) in self.server.files:
            self.send_file(path.removeprefix(resolve))
        else:
            missing = "EntryNotFound" if "acme/books" in path else "RepoNotFound"
            self.send(404, b"", {"X-Error-Code": missing})

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_file(self, name: str) -> None:
        raw = self.server.files[name]
        with self.server.lock:
            self.server.requests += 1
            down = self.server.down(self.server.requests)
            self.server.failed += bool(down)
        if down:
            return self.send(503, b"busy", {"Retry-After": "0"})
        headers = {"ETag": f'"{zlib.crc32(raw):x}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if wanted := self.headers["Range"]:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(raw)) + 1, len(raw))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(raw)}"
            return self.send(206, raw[start:stop], headers)
        return self.send(200, raw, headers)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def serving() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub(serving, tmp_path) -> Hub:
    folder = write_parquet(tmp_path / "on-the-hub", files=12)
    files = {f"sample/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())}
    serving.files = {"README.md": README.encode(), **files}
    serving.requests = serving.failed = 0
    serving.down = lambda request: False
    return serving


@pytest.fixture(scope="module")
def worker(serving, tmp_path_factory) -> Iterator[Worker]:
    started = Worker(tmp_path_factory.mktemp("home"), serving.address)
    yield started
    started.process.stdin.close()
    started.process.wait(10)


BOOKS = dataset_config("acme/books", subset="sample")


def test_streaming_from_a_hub_records_its_revision(hub, worker, tmp_path):
    path, _ = worker.run(BOOKS, tmp_path / "data")
    assert_complete(path)
    source = data.open_data(path).index["source"]
    assert source["revision"] == SHA and source["date"].startswith("2024-05-31")
    assert hub.failed == 0 and hub.requests >= 12


def flaky(request: int) -> bool:
    """Every third request fails, and for a while all, longer than the library itself retries."""
    return request % 3 == 0 or 20 <= request < 45


@pytest.mark.parametrize(("held_out", "outage"), [(HELD_OUT, range(20, 45)), (600, range(6, 30))])
def test_a_hub_that_answers_503_costs_no_document(held_out, outage, hub, worker, tmp_path):
    chosen = dataset_config("acme/books", subset="sample", held_out_documents=held_out)
    clean, _ = worker.run(chosen, tmp_path / "clean")
    hub.requests, hub.down = 0, lambda request: request % 3 == 0 or request in outage
    path, out = worker.run(chosen, tmp_path / "data")
    assert hub.failed > 20 and "trying again" in out
    assert content(path) == content(clean)
    assert texts(data.open_data(path).held_out) == DOCUMENTS[:held_out]


def test_sigkill_while_streaming_from_a_failing_hub(hub, worker, tmp_path):
    hub.down = flaky
    kills = kill_while_writing(worker, BOOKS, tmp_path / "killed", times=2)
    path, _ = worker.run(BOOKS, tmp_path / "killed")
    assert kills == 2
    assert_complete(path)


PLANNED = 24_000  # training tokens: what a plan asks for, less than there is


def test_planned_tokens_are_announced_resumed_and_exact(hub, worker, tmp_path):
    """The way of the real preset: BPE, so many tokens and no more, from a hub that fails and after
    a cut; disk and time said before, what is left said again, throughput and size at the end.
    """
    chosen = dataset_config("acme/books", subset="sample", tokenizer="bpe", train_tokens=PLANNED)
    clean, out = worker.run(chosen, tmp_path / "clean")
    need = prepare.still_needed_bytes(chosen, data.settings_of(chosen), 0)
    assert need == 2 * (PLANNED + 2000 * HELD_OUT) + 4_000_000
    assert f"{PLANNED:,} training tokens, {need / 1e9:.2f} GB of disk" in out
    speed = f"{850_000:,} tokens/s"
    assert "Expected: 0.0 s (0.0 s to 0.1 s)" in out and speed in out
    size = sum(record["bytes"] for record in data.read_index(clean)["files"].values())
    assert f"{size / 1e9:.2f} GB" in out and "held-out tokens" in out
    assert len([line for line in out.splitlines() if "MB/s" in line]) > 2  # without a terminal too

    hub.requests, hub.down = 0, flaky
    kills = kill_while_writing(worker, chosen, tmp_path / "data", times=1)
    partial = tmp_path / "data" / f".{data.path_of(chosen).name}.partial" / "progress.json"
    done = tokens_in(partial)
    path, out = worker.run(chosen, tmp_path / "data")
    assert kills == 1 and 0 < done < PLANNED and hub.failed > 0
    assert f"{PLANNED - done:,} training tokens" in out and "Going on with this preparation" in out
    assert content(path) == content(clean)
    assert len(data.open_data(path).train) == PLANNED


def test_a_disk_that_is_too_small_is_refused_before_anything_is_asked_of_the_hub(
    hub, worker, tmp_path
):
    chosen = dataset_config("acme/books", subset="sample", train_tokens=10**15)
    key, values = worker.fault(chosen, tmp_path / "data")
    assert key == "data.no_space" and hub.requests == 0 and not (tmp_path / "data").exists()
    free = shutil.disk_usage(tmp_path).free / 1e9
    assert float(values["free"]) == pytest.approx(free, abs=5)
    assert float(values["need"]) == pytest.approx(2e6, rel=1e-3)
    missing = float(values["need"]) - float(values["free"])
    assert float(values["missing"]) == pytest.approx(missing, abs=0.02)


def test_a_planned_runs_folder_names_its_data(tmp_path):
    files = write_parquet(tmp_path / "folder")
    chosen = dataset_config(str(files), train_tokens=12_000)
    folder.claim(tmp_path / "runs" / "r", chosen)
    more = environment(tmp_path / "home", HF_HUB_OFFLINE="1")
    done = subprocess.run([X1, "data", "runs/r"], cwd=tmp_path, env=more, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Data ready: {data.path_of(chosen)}" in done.stdout
    assert len(data.open_data(tmp_path / data.path_of(chosen)).train) == 12_000
    done = subprocess.run([X1, "data", "runs/r", "--preset", "rehearsal"], cwd=tmp_path, env=more,
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stderr) == (2, say("cli.data_run_alone") + "\n")


def test_a_hub_that_stays_away_is_reported_and_the_work_goes_on_later(hub, worker, tmp_path):
    hub.down = lambda request: request > 12
    key, values = worker.fault(BOOKS, tmp_path / "data")
    assert key == "data.network" and "503" in values["fault"]
    assert not data.path_of(BOOKS, tmp_path / "data").exists()
    hub.down = lambda request: False
    path, out = worker.run(BOOKS, tmp_path / "data")
    assert "Going on with this preparation" in out
    assert_complete(path)


def test_what_is_not_on_the_hub_is_refused_at_once(hub, worker, tmp_path):
    unknown = dataset_config("acme/nothing")
    assert worker.fault(unknown, tmp_path / "a")[0] == "data.unknown_dataset"
    key, values = worker.fault(dataset_config("acme/books", subset="x"), tmp_path / "b")
    assert key == "data.unreadable" and "sample" in values["fault"]
    assert not any(file for root in "ab" for file in (tmp_path / root).glob("*"))


@pytest.mark.parametrize(
    "reach", [{"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}]
)
def test_without_a_network_a_hub_dataset_is_refused(reach, tmp_path):
    status, out = alone(BOOKS, tmp_path / "data", **reach)
    assert status == 2 and json.loads(out.splitlines()[-1])[0] == "data.network"
    assert not (tmp_path / "data").exists()
