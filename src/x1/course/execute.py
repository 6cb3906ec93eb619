"""Run a lab's notebook from top to bottom with the reference solutions and the author's
predictions in it: what `make test` does in the small setting and `make labs-full` in the learner's.
"""

import ast
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from x1.course.labels import called
from x1.course.source import Lab

BEGIN = "import x1.course\nx1.course.check = lambda *_: None  # grading is tested by itself\n"


@dataclass(frozen=True)
class Run:
    """How a run ended. `cpu_s` counts all its threads and processes."""

    code: int
    output: str
    seconds: float
    cpu_s: float


def script(lab: Lab) -> str:
    """The lab's code cells in order, as one program."""
    cells = [BEGIN]
    for cell in lab.cells:
        if cell.exercise is not None:
            cells.append(lab.exercises[cell.exercise].solution)
        elif cell.kind == "code":
            cells.append(with_predictions(lab, cell.en))
    return "\n\n".join(cells) + "\n"


def with_predictions(lab: Lab, text: str) -> str:
    """A cell with the author's numbers where the learner predicts."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        match node:
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if called(node) == "predict":
                said = lab.predictions[name]
                node.args = node.args[:1]
                node.keywords = [
                    ast.keyword("value", ast.Constant(said.value)),
                    ast.keyword("plus_or_minus", ast.Constant(said.plus_or_minus)),
                ]
    return ast.unparse(tree)


def run(lab: Lab, small: bool, threads: int = 1, timeout_s: float = 900) -> Run:
    """Run the lab in a work folder of its own, so that nothing of the reader's is touched."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "labs").symlink_to(lab.folder.resolve().parent)
        here = Path(place) / "work" / lab.name
        here.mkdir(parents=True)
        settings = {
            "X1_LAB_SMALL": "1" if small else "0",
            "OMP_NUM_THREADS": str(threads),
            "MPLBACKEND": "Agg",
        }
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", script(lab)],
            cwd=here,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(done.returncode, done.stdout, time.monotonic() - began, cpu_s)
