"""Lines of metrics.jsonl sent elsewhere too: each of them, with its numbers, and no run without."""

import sys

import pytest

from x1 import folder, track, train
from x1.text import LANGUAGES, say, set_language

STAND_IN = """
import json
from pathlib import Path

def write(**fields):
    with Path("told.jsonl").open("a") as file:
        file.write(json.dumps(fields) + "\\n")

def init(project, name, config):
    write(kind="init", project=project, name=name, seed=config["train"]["seed"])

def log(values, step):
    write(kind="log", step=step, **values)

def finish():
    write(kind="finish")
"""


@pytest.fixture
def other(here, monkeypatch):
    """A package of trackio's interface that writes down what it is told."""
    (here / "told_to.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setitem(track.PACKAGES, "trackio", "told_to")
    return here / "told.jsonl"


def test_every_line_is_sent_with_its_numbers(make_run, other):
    run = make_run("r", "train.steps=12", "track.to=trackio")
    assert train.train(run) == 0
    told = folder.read_lines(other)
    assert told[0] == {"kind": "init", "project": "x1", "name": "r", "seed": 0}
    assert told[-1] == {"kind": "finish"}
    lines = folder.read_lines(run / folder.METRICS)
    assert len(told) == len(lines) + 2
    for sent, line in zip(told[1:-1], lines, strict=True):
        assert sent["step"] == line["step"]
        for name in ("loss", "grad_norm", "lr", "tokens", "val_loss"):
            assert sent.get(name) == line.get(name)
        assert sent.get("tokens_per_s") == line["clock"].get("tokens_per_s")
        assert not {"attempt", "time"} & sent.keys()


def test_it_is_closed_when_the_run_fails(make_run, other, monkeypatch):
    run = make_run("r", "train.steps=12", "track.to=trackio")

    def broken(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr(train, "loop", broken)
    with pytest.raises(RuntimeError, match="broken"):
        train.train(run)
    assert folder.read_lines(other)[-1] == {"kind": "finish"}


@pytest.mark.parametrize("package", ["tensorboard", "trackio"])
def test_without_the_package_the_run_is_refused_in_one_sentence(
    make_run, package, monkeypatch, capsys
):
    monkeypatch.setitem(track.PACKAGES, package, "no_package_of_this_name")
    run = make_run("r", f"track.to={package}")
    for lang in LANGUAGES:
        set_language(lang)
        monkeypatch.setattr(sys, "argv", ["x1.train", str(run)])
        assert train.main() == 2
        assert capsys.readouterr().err == say("track.missing", lang, package=package) + "\n"
    assert not folder.events(run) and not (run / folder.METRICS).exists()


def test_nothing_is_sent_unless_asked(make_run, other):
    run = make_run("r", "train.steps=12")
    assert train.train(run) == 0
    assert not other.exists() and not (run / "tensorboard").exists()
