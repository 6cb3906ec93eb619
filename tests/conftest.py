"""One torch thread per test worker, English unless a test asks otherwise, and tiny real runs."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["X1_LANG"] = "en"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from x1 import config, data, folder
from x1.text import prefer_language, set_language

torch.set_num_threads(1)

TINY = (
    "model.n_layers=2",
    "model.n_heads=2",
    "model.d_model=32",
    "model.d_ff=48",
    "model.context=16",
    "optim.warmup_steps=5",
    "train.batch_sequences=8",
    "train.threads=1",
    "checkpoint.every_steps=10",
    "checkpoint.keep=2",
    "evaluate.every_steps=10",
    "evaluate.tokens=400",
    "sample.milestones=[0, 20]",
    "sample.max_tokens=8",
    "stability.window=16",
)


@pytest.fixture(autouse=True)
def english():
    set_language("en")
    yield
    set_language(None)
    prefer_language(None)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with `words.txt`, some learnable text."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    words = ["one", "small", "model", "learns", "the", "words", "of", "a", "tiny", "text"]
    text = " ".join(draw.choice(words) + draw.choice(["", "", ".\n"]) for _ in range(4000))
    (tmp_path / "words.txt").write_text(text)
    return tmp_path


def make_toy(root):
    """A repository with one small lab, number 2, in `root`; the lab's folder."""
    lab = root / "labs" / "02-toy"
    shutil.copytree(Path(__file__).with_name("toy_lab"), lab)
    (lab / "grader.py").rename(lab / "test_lab.py")
    return lab


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy lab's folder, in a repository of its own that is the current folder."""
    monkeypatch.chdir(tmp_path)
    return make_toy(tmp_path)


@pytest.fixture(scope="session")
def shared_toy(tmp_path_factory):
    """The toy lab's folder for tests that write nothing beside it."""
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def tiny():
    """The settings of a tiny run, as options of the command line."""
    return [part for setting in TINY for part in ("--set", setting)]


@pytest.fixture
def make_run(here):
    """make_run(name, *settings): a tiny run on words.txt, its data prepared, not trained yet."""

    def make(name, *settings):
        chosen = config.build(
            "shakespeare-bytes",
            settings=(*TINY, *settings),
            data={"source": "text", "files": ["words.txt"]},
        )
        data.prepare(chosen, quiet=True)
        run = here / name
        folder.claim(run, chosen)
        return run

    return make


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The built site; whoever asks a proxy for another host gets none."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def trainer(here):
    """trainer(run, ranks=1): start the training process (under torchrun for several ranks)."""
    started = []

    def start(run, ranks=1):
        launcher = [sys.executable, "-m"]
        if ranks > 1:
            launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
        process = subprocess.Popen(
            [*launcher, "x1.train", str(run)],
            cwd=here,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
