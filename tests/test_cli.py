"""The command `x1` as a user has it: real processes, each in a folder of its own."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from x1 import cli, config, data, folder
from x1.config import PRESETS
from x1.text import LANGUAGES, catalogue, say

X1 = Path(sys.executable).with_name("x1")
READ_ONLY = Path("/sys")  # not even root can make a file there
NO_TORCH = "raise AssertionError('torch was imported')\n"
SHAKESPEARE = ["--preset", "shakespeare-bytes"]


def environment(**more):
    unset = ("X1_LANG", "HF_HUB_OFFLINE", "HF_ENDPOINT", "COLUMNS", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"X1_LANG": "en", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"} | more


@pytest.fixture
def no_torch(tmp_path_factory):
    """Environment in which importing torch is a failure."""
    where = tmp_path_factory.mktemp("path")
    (where / "torch.py").write_text(NO_TORCH)
    return {"PYTHONPATH": str(where)}


def x1_(*arguments, cwd=None, **more):
    """Run x1 to its end."""
    return subprocess.run(
        [X1, *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def listing(path="."):
    """Every file with its content, every folder: what must not change."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(Path(path).rglob("*"))}


# ---- Help


@pytest.mark.parametrize("code", LANGUAGES)
def test_help_is_in_the_readers_language_with_its_panels(tmp_path, no_torch, code):
    sentences = catalogue(code)
    for arguments in (["--lang", code, "--help"], ["-h"]):
        done = x1_(*arguments, cwd=tmp_path, X1_LANG=code, **no_torch)
        assert (done.returncode, done.stderr) == (0, "")
        for key in ("help", "panel_learn", "panel_plan", "panel_run", "panel_after"):
            assert sentences[f"cli.{key}"] in done.stdout
        for verb in (
            "start",
            "grade",
            "status",
            "plan",
            "data",
            "train",
            "rehearse",
            "eval",
            "export",
            "report",
        ):
            assert re.search(rf"{verb} +{re.escape(sentences[f'cli.{verb}'][:30])}", done.stdout)


@pytest.mark.parametrize(
    "arguments", [["--lang", "es", "train", "-h"], ["train", "-h", "--lang=es"]]
)
def test_a_verbs_help_takes_the_language_before_it_and_after(tmp_path, arguments):
    shown = " ".join(x1_(*arguments, cwd=tmp_path).stdout.replace("│", " ").split())
    for key in ("train", "config", "text", "dataset"):
        assert catalogue("es")[f"cli.{key}"] in shown
    assert all(name in shown for name in PRESETS)


def test_no_arguments_is_help(tmp_path, no_torch):
    done = x1_(cwd=tmp_path, **no_torch)
    assert (
        catalogue("en")["cli.help"] in done.stdout + done.stderr and "Traceback" not in done.stderr
    )


# ---- Bad input: one sentence, exit code 2, nothing left behind


def write(name, content):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content)


def another_run():
    folder.claim(Path("other"), config.build("shakespeare-bytes", settings=("train.steps=7",)))


def text(*arguments):
    return ["train", *SHAKESPEARE, "--text", "a.txt", "--out", "r", *arguments]


WORDS = b"one small model learns the words of a tiny text. " * 40
NOT_A_RUN = ("folder.not_a_run", {"path": "notes", "file": "config.toml"})
ALL_PRESETS = ", ".join(PRESETS)

# name: what is in the folder (the content of a.txt, or a function), the command, the sentence.
REFUSALS = {
    "empty text": (b"", text(), "data.empty", {"files": "a.txt"}),
    "binary text": (b"\x7fELF\0\0", text(), "data.binary", {"file": "a.txt", "offset": 4}),
    "not UTF-8": (
        "año".encode("latin-1"),
        text(),
        "data.not_utf8",
        {"file": "a.txt", "offset": 1, "byte": "0xf1"},
    ),
    "short text": (b"To be or not", text(), "data.too_short", {"tokens": 11, "context": 64}),
    "missing text": (None, text(), "data.no_file", {"file": "a.txt"}),
    "missing text, data alone": (
        None,
        ["data", *SHAKESPEARE, "--text", "a.txt"],
        "data.no_file",
        {"file": "a.txt"},
    ),
    "a folder as text": (lambda: Path("a.txt").mkdir(), text(), "data.no_file", {"file": "a.txt"}),
    "no text": (None, ["train", *SHAKESPEARE], "data.no_files", {}),
    "train in a folder of other things": (
        lambda: write("notes/a", b"mine"),
        ["train", *SHAKESPEARE, "--text", "notes/a", "--out", "notes"],
        *NOT_A_RUN,
    ),
    "resume what is no run": (
        lambda: write("notes/a", b"mine"),
        ["train", "--out", "notes"],
        *NOT_A_RUN,
    ),
    "train in a file": (
        lambda: write("notes", b"mine"),
        ["train", *SHAKESPEARE, "--text", "notes", "--out", "notes"],
        *NOT_A_RUN,
    ),
    "report on no run": (lambda: write("notes/a", b"mine"), ["report", "notes"], *NOT_A_RUN),
    "eval of no run": (lambda: write("notes/a", b"mine"), ["eval", "notes"], *NOT_A_RUN),
    "export of no run": (lambda: write("notes/a", b"mine"), ["export", "notes"], *NOT_A_RUN),
    "report on nothing": (None, ["report", "notes"], *NOT_A_RUN),
    "a run of another configuration": (
        another_run,
        ["train", *SHAKESPEARE, "--out", "other", "--set", "optim.lr=0.5"],
        "folder.other_config",
        {"path": "other", "fields": "optim.lr, train.steps"},
    ),
    "unknown preset": (
        None,
        ["train", "--preset", "x1-5m"],
        "config.unknown_preset",
        {"name": "x1-5m", "nearest": "x1-50m"},
    ),
    "unknown field": (
        None,
        ["train", *SHAKESPEARE, "--set", "optim.lrr=1"],
        "config.unknown_field",
        {"field": "optim.lrr", "nearest": "optim.lr"},
    ),
    "a setting without =": (
        None,
        ["plan", *SHAKESPEARE, "--set", "optim.lr"],
        "config.setting",
        {"setting": "optim.lr"},
    ),
    "impossible value": (
        None,
        ["train", *SHAKESPEARE, "--set", "optim.schedule=cosine"],
        "config.choice",
        {
            "field": "optim.schedule",
            "value": "cosine",
            "choices": "linear, wsd, constant",
            "nearest": "linear",
        },
    ),
    "an injection beyond the run": (
        WORDS,
        text("--set", "train.steps=20", "--set", 'stability.inject=["lr-x100@20"]'),
        "stability.injection_index",
        {"text": "lr-x100@20", "last": 19},
    ),
    "an injection beyond the run, planned": (
        None,
        [
            "plan",
            "--preset",
            "rehearsal",
            "--set",
            'stability.inject=["lr-x100@240"]',
            "--out",
            "runs/planned",
        ],
        "stability.injection_index",
        {"text": "lr-x100@240", "last": 239},
    ),
    "a replay of a run that has not begun": (
        another_run,
        ["replay", "other", "--step", "0"],
        "replay.untouched",
        {"run": "other"},
    ),
    "a replay of no step": (another_run, ["replay", "other"], "replay.no_step", {}),
    "a replay of what is no run": (
        lambda: write("notes/a", b"mine"),
        ["replay", "notes", "--step", "3"],
        *NOT_A_RUN,
    ),
    "a post-mortem of no step": (
        another_run,
        ["report", "other", "--as", "postmortem"],
        "postmortem.no_step",
        {},
    ),
    "a report of no kind": (
        another_run,
        ["report", "other", "--as", "novel"],
        "cli.unknown_report",
        {"kind": "novel"},
    ),
    "missing configuration file": (
        None,
        ["train", "--config", "my.toml"],
        "config.no_file",
        {"path": "my.toml"},
    ),
    "two sources": (
        WORDS,
        text("--dataset", "nobody/nothing"),
        "cli.text_and_dataset",
        {},
    ),
    "no preset": (WORDS, ["train", "--text", "a.txt"], "cli.no_preset", {"presets": ALL_PRESETS}),
    "a dataset's name that cannot be": (
        None,
        ["train", *SHAKESPEARE, "--dataset", "nobody/no/thing"],
        "data.unknown_dataset",
        {"dataset": "nobody/no/thing"},
    ),
    "a folder nobody may write to": (
        WORDS,
        ["plan", *SHAKESPEARE, "--tokens-per-s", "1000", "--out", f"{READ_ONLY}/x1/run"],
        "folder.read_only",
        {"path": f"{READ_ONLY}/x1"},
    ),
}


def here_(arguments, monkeypatch, capsys, code):
    """The same in this process, for a second language: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["x1", *arguments, "--lang", code])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_one_sentence_in_the_readers_language(
    tmp_path, monkeypatch, capsys, no_torch, name
):
    there, arguments, key, values = REFUSALS[name]
    monkeypatch.chdir(tmp_path)
    if isinstance(there, bytes):
        write("a.txt", there)
    elif there:
        there()
    before = listing()
    # In one language as a process of its own, in turn; starting one takes half a second.
    code, other = LANGUAGES if list(REFUSALS).index(name) % 2 else LANGUAGES[::-1]
    done = x1_(*arguments, X1_LANG=code, **no_torch)
    assert done.stderr == say(key, code, **values) + "\n"
    assert (done.returncode, done.stdout) == (2, "")
    assert listing() == before
    said = here_(arguments, monkeypatch, capsys, other)
    assert said == (2, "", say(key, other, **values) + "\n")
    assert listing() == before


@pytest.mark.parametrize(("network", "code"), [("offline", "en"), ("closed", "es")])
def test_without_a_network_the_dataset_is_named(tmp_path, monkeypatch, no_torch, code, network):
    monkeypatch.chdir(tmp_path)
    closed = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    home = {"HF_HOME": str(tmp_path.parent / "hf")}
    more = (closed if network == "closed" else {}) | home | no_torch
    arguments = [*SHAKESPEARE, "--dataset", "nobody/nothing", "--out", "r"]
    done = x1_("train", *arguments, X1_LANG=code, **more)
    begin, end = say("data.network", code, dataset="nobody/nothing", fault="|").split("|")
    assert done.stderr.startswith(begin) and done.stderr.endswith(end + "\n")
    assert done.stderr.count("\n") == 1 and (done.returncode, done.stdout) == (2, "")
    assert listing() == {}


@pytest.mark.parametrize("code", LANGUAGES)
def test_data_in_a_folder_nobody_may_write_to(tmp_path, code):
    write(tmp_path / "a.txt", WORDS)
    arguments = ["data", *SHAKESPEARE, "--text", tmp_path / "a.txt"]
    done = x1_(*arguments, cwd=READ_ONLY, X1_LANG=code)
    assert done.stderr == say("folder.read_only", code, path="data") + "\n"
    assert done.returncode == 2


@pytest.mark.parametrize("arguments", [["--lang", "fr", "train"], ["train", "--lang"]])
def test_an_unknown_language_is_refused(tmp_path, no_torch, arguments):
    done = x1_(*arguments, cwd=tmp_path, **no_torch)
    code = "fr" if "fr" in arguments else ""
    assert done.stderr == say("text.unknown_language", language=code, known="en, es") + "\n"
    assert done.returncode == 2


# ---- A run that somebody else is at


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_second_start_names_the_first(make_run, no_torch, code):
    run = make_run("run", "train.steps=20")
    before = listing(run)
    with folder.locked(run, "supervise"):
        done = x1_("train", "--out", "run", X1_LANG=code, **no_torch)
        holder = (run / ".supervise.lock").read_text()
    assert f"pid {os.getpid()}," in holder
    assert done.stderr == say("folder.locked", code, path="run", holder=holder) + "\n"
    assert done.returncode == 2
    (run / ".supervise.lock").unlink()
    assert listing(run) == before


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_trainer_that_lost_its_supervisor_is_waited_for_and_named(make_run, no_torch, code):
    run = make_run("run", "train.steps=20")
    with folder.locked(run):
        holder = (run / ".train.lock").read_text()
        process = subprocess.Popen(
            [X1, "train", "--out", "run"],
            env=environment(X1_LANG=code, **no_torch),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr.readline() == say("supervise.orphan", code, run="run") + "\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert said == say("folder.locked", code, path="run", holder=holder) + "\n"
    assert process.returncode == 2
    assert not (run / folder.METRICS).exists() and not (run / folder.CHECKPOINTS).exists()


# ---- A full disk


def refuse_writes(monkeypatch, number):
    """From here on the disk takes no file's content."""

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize(
    ("number", "key"), [(errno.ENOSPC, "folder.disk_full"), (errno.EROFS, "folder.read_only")]
)
def test_a_disk_that_takes_nothing_more_is_one_sentence(
    here, monkeypatch, capsys, code, number, key
):
    command = ["x1", "train", *SHAKESPEARE, "--text", "words.txt", "--out", "r", "--lang", code]
    chosen = config.build("shakespeare-bytes", data={"source": "text", "files": ["words.txt"]})
    monkeypatch.setattr(sys, "argv", list(command))
    monkeypatch.delenv("X1_LANG")
    with monkeypatch.context() as patch:
        refuse_writes(patch, number)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    partial = Path("data") / f".{data.path_of(chosen).name}.partial"
    assert ended.value.code == 2
    assert capsys.readouterr().err == say(key, code, path=partial / "progress.json") + "\n"
    assert not Path("r").exists() and not data.path_of(chosen).exists()
    assert list(Path().rglob("*.tmp")) == []

    data.prepare(chosen, quiet=True)
    monkeypatch.setattr(sys, "argv", list(command))
    with monkeypatch.context() as patch:
        refuse_writes(patch, number)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == say(key, code, path=Path("r/config.toml")) + "\n"
    assert listing("r") == {}


def private_mounts():
    """How to start a process that may mount a disk of its own, or None where nobody may."""
    for prefix in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        command = [*prefix, "mount", "-t", "tmpfs", "x1", "/tmp"]
        with contextlib.suppress(OSError):
            if subprocess.run(command, capture_output=True).returncode == 0:
                return prefix
    return None


# The mount is gone with the shell, so it shows what is there itself.
SMALL_DISK = """
mount -t tmpfs -o size=128k x1 "$1" && cd "$1" && shift || exit 99
x1() { "$@"; echo "code $?"; find . -name '.*.tmp' -o -name '*.tmp' -o -path '*/step-*' -type d; }
x1 "$@"
mount -o remount,size=2m . || exit 99
x1 "$1" train --out run
mount -o remount,ro . || exit 99
"$1" report run --lang es; echo "code $?"
"""


MOUNTS = private_mounts()
if MOUNTS:  # test_checkpoint.py has the same without a mount, inside one process

    def test_a_disk_filled_by_a_checkpoint_and_given_more_room(here, tiny):
        (here / "disk").mkdir()
        words = (here / "words.txt").read_bytes()[:20_000]
        (here / "a.txt").write_bytes(words)
        command = ["train", *SHAKESPEARE, "--text", here / "a.txt", *tiny, "--out", "run"]
        command += ["--set", "train.steps=20"]
        done = subprocess.run(
            [*MOUNTS, "sh", "-c", SMALL_DISK, "sh", here / "disk", X1, *map(str, command)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        _, full, freed, _ = re.split(r"code \d+\n", done.stdout)
        assert re.findall(r"code (\d+)", done.stdout) == ["2", "0", "2"], done.stderr
        path = "run/checkpoints/.step-00000010.tmp/model.safetensors"
        assert say("folder.disk_full", path=path) in done.stderr
        assert say("folder.read_only", "es", path="run/report.html") in done.stderr
        assert "Traceback" not in done.stderr
        # Nothing stands before it: no checkpoint, nothing half-written.
        assert full.startswith(say("cli.training", run="run"))
        assert sorted(freed.split()) == [f"./run/checkpoints/step-000000{n}" for n in (10, 20)]


# ---- The whole way, once


def test_a_run_from_its_first_command_to_its_report(here, tiny, monkeypatch, capsys):
    command = ["train", *SHAKESPEARE, "--text", "words.txt", *tiny, "--set", "train.steps=20"]
    first = x1_(*command)
    run = Path(f"runs/shakespeare-bytes-{date.today():%Y%m%d}-1")
    assert first.returncode == 0, first.stderr
    assert say("cli.training", run=run) in first.stdout
    assert folder.events(run, "finish")
    weights = listing(run / folder.CHECKPOINTS)
    assert cli.new_run("shakespeare-bytes").name.endswith("-2")

    again = x1_(*command, "--out", run, X1_LANG="es")
    assert again.returncode == 0 and say("train.resumed", "es", step=20) in again.stdout
    assert say("cli.training", "es", run=run) in again.stdout
    assert listing(run / folder.CHECKPOINTS) == weights

    code, out, err = here_(["eval", str(run)], monkeypatch, capsys, "en")
    assert (code, err) == (0, "") and out.startswith("Step 20: held-out loss ")
    assert folder.read_json(run / folder.EVALUATION, "x1-evaluation-1")["step"] == 20
    code, out, err = here_(["export", str(run), "--step", "10"], monkeypatch, capsys, "es")
    assert (code, out, err) == (0, say("cli.exported", "es", path=run / "model") + "\n", "")
    code, out, err = here_(["eval", str(run), "--step", "13"], monkeypatch, capsys, "es")
    assert (code, out, err) == (2, "", say("evaluate.no_checkpoint", "es", path=run) + "\n")
    for code in LANGUAGES:
        reported = x1_("report", run, "--lang", code)
        assert (reported.returncode, reported.stderr) == (0, "")
        page = (run / folder.REPORT).read_text("utf-8")
        assert f'lang="{code}"' in page and say("report.numbers", code) in page
