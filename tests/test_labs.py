"""Every lab there is runs from top to bottom, its references and the author's predictions in it."""

from pathlib import Path

import pytest

from x1.course import execute
from x1.course.source import lab_folders, read_lab

LABS = Path(__file__).parents[1] / "labs"
FOLDERS = lab_folders(LABS)


def test_there_are_labs() -> None:
    written = {"00-motivation", "01-scaling-laws", "02-compute-and-cost", "04-loss-spikes"}
    assert written | {"11-the-x1-run"} <= {folder.name for folder in FOLDERS}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_lab_runs_in_its_small_setting(folder: Path) -> None:
    done = execute.run(read_lab(folder), small=True)
    assert done.code == 0, done.output[-3000:]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_run_is_of_the_references_and_has_every_prediction(folder: Path) -> None:
    lab = read_lab(folder)
    program = execute.script(lab)
    assert "raise NotImplementedError" not in program and "value=None" not in program
    for exercise in lab.exercises.values():
        assert exercise.solution in program
    for name, said in lab.predictions.items():
        assert f"predict('{name}', value={said.value!r}" in program
