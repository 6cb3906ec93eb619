"""`make stale` notices a result whose code has changed, and only that."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def stale(tmp_path, monkeypatch):
    """benchmarks/stale.py, looking at a small repository of its own."""
    spec = importlib.util.spec_from_file_location("stale", ROOT / "benchmarks/stale.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def git(place, *arguments):
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=place, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(place, **modules):
    (place / "src/x1").mkdir(parents=True, exist_ok=True)
    for name, content in modules.items():
        (place / f"src/x1/{name}.py").write_text(content)
    git(place, "add", "-A")
    git(place, "commit", "-qm", "x")
    return git(place, "rev-parse", "HEAD")


def result(place, commit, name="result"):
    path = place / f"{name}.json"
    path.write_text(json.dumps({"git_commit": commit}))
    return path


def test_a_result_is_stale_when_what_it_depends_on_changed(stale, tmp_path):
    git(tmp_path, "init", "-q")
    first = commit(tmp_path, train="1", report="1", scaling="1")
    second = commit(tmp_path, report="2", scaling="2")
    assert stale.verdict(result(tmp_path, first)) == "fresh"
    assert stale.verdict(result(tmp_path, first, "scaling-fit")).startswith("stale: scaling ")
    third = commit(tmp_path, train="2")
    assert stale.verdict(result(tmp_path, second)).startswith("stale: train ")
    assert stale.verdict(result(tmp_path, third)) == "fresh"
    (tmp_path / "src/x1/train.py").write_text("3")  # not committed yet
    assert stale.verdict(result(tmp_path, third)).startswith("stale: train ")


def test_a_result_without_a_known_commit_is_stale(stale, tmp_path):
    git(tmp_path, "init", "-q")
    known = commit(tmp_path, train="1")
    assert "no commit" in stale.verdict(result(tmp_path, None))
    assert "not in this repository" in stale.verdict(result(tmp_path, "0" * 40))
    assert "on top of" in stale.verdict(result(tmp_path, f"{known}+changes"))
