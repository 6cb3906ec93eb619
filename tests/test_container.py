"""The image is not built here; that all it is made of is there can be checked all the same."""

import re
import shlex
import tomllib
from pathlib import Path

from x1 import launch_send

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8")).splitlines()
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def given(instruction: str) -> list[str]:
    """What follows each of this instruction."""
    return [
        line.partition(" ")[2].strip() for line in INSTRUCTIONS if line.split(" ")[0] == instruction
    ]


def copied() -> set[str]:
    return {source for line in given("COPY") for source in line.split()[:-1]}


def test_every_file_it_copies_is_there_and_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    for source in copied():
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source


def test_what_it_copies_is_what_a_machine_over_ssh_gets_and_the_package_needs() -> None:
    assert copied() == set(launch_send.NEEDED)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    wanted = {project["project"]["readme"], *project["project"]["license-files"]}
    wanted |= {package.split("/")[0] for package in packages}
    assert wanted <= copied()


def test_every_target_and_variable_of_make_exists() -> None:
    words = [shlex.split(part) for line in given("RUN") for part in line.split("&&")]
    calls = [call[1:] for call in words if call[0] == "make"]
    assert calls
    for call in calls:
        for word in call:
            name, equals, _ = word.partition("=")
            pattern = rf"\$\({name}\)" if equals else rf"^{re.escape(name)}:"
            assert re.search(pattern, MAKEFILE, re.MULTILINE), word
            assert not equals or any(a.startswith(name) for a in given("ARG")), word


def test_what_make_installs_from_is_copied() -> None:
    rules = dict(re.findall(r"^(\.make/(?:venv|core)): (.*)$", MAKEFILE, re.MULTILINE))
    files = {word for rule in rules.values() for word in rule.split() if not word.startswith(".")}
    assert files and files <= copied()
    assert "-c constraints.txt" in MAKEFILE


def test_its_python_is_one_the_package_takes() -> None:
    (image,) = given("FROM")
    found = re.fullmatch(r"python:(\d+)\.(\d+)-slim-bookworm", image)
    assert found
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    assert tuple(map(int, found.groups())) >= least


def test_it_holds_no_secret_and_fetches_nothing_but_packages() -> None:
    text = "\n".join(INSTRUCTIONS)
    assert not re.search(r"(?im)^ADD |curl|wget|secret|token|password", text)
    installed = " ".join(given("RUN"))
    for package in ("g++", "make", "openssh-server"):
        assert package in installed
