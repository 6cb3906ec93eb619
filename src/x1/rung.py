"""`python -m x1.rung LADDER NAME...`: train and score these runs of a ladder, one after another.

The child of `x1 ladder`. The runs it is given share a shape, so PyTorch is loaded, and a model
compiled, once for all of them. What is done already is not done again.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from x1 import checkpoint, evaluate, folder, hardware, ladder, ladder_law, train
from x1.ladder import Run
from x1.text import UserError

STOPPED = train.EXIT_CODES["stopped"]


def climb(place: Path, names: list[str]) -> int:
    """Train the runs called `names` of the ladder in `place`; 0, or the code of the first to stop.

    Raises UserError for a run that diverged, and for a held-back one that has no prediction.
    """
    definition = ladder.read(place / ladder.DEFINITION)
    runs = ladder.all_runs(definition)
    parent = os.getppid()
    for name in names:
        run = runs[name]
        if ladder.is_done(place, run):
            continue
        if run.rung == definition.held_back:
            ladder_law.start_held_back(place)
        begin(place, run, runs)
        code = train.train(ladder.folder_of(place, run))
        if code == train.EXIT_CODES["gave-up"] or skipped(place, run):
            raise UserError("ladder.diverged", run=run.name, lr=run.rung.lr)
        if code:
            return code
        for number in (signal.SIGINT, signal.SIGTERM):  # no step follows that would look at them
            signal.signal(number, signal.SIG_DFL)
        if run.point:
            evaluate.evaluate(ladder.folder_of(place, run))
        if os.getppid() != parent:  # nobody waits for the next one
            return STOPPED
    return 0


def begin(place: Path, run: Run, runs: dict[str, Run]) -> None:
    """Make the run's folder; a branch's holds its trunk's checkpoint from where they part.

    Up to there the learning rate, the batches and the seed are the same, so what follows is what
    a run from the first step would have done, bit for bit.
    """
    path = ladder.folder_of(place, run)
    folder.claim(path, run.config)
    if not run.trunk or checkpoint.steps(path):
        return
    trunk = ladder.folder_of(place, runs[run.trunk])
    source = checkpoint.path_of(trunk, run.leaves_at)
    found = checkpoint.read(source)
    if found is None:
        raise UserError("train.damaged", path=source)
    # The micro-batch that was found for the trunk: another one would round otherwise.
    folder.write_atomically(path / folder.MANIFEST, (trunk / folder.MANIFEST).read_bytes())
    checkpoint.hand_over(found, path)


def skipped(place: Path, run: Run) -> bool:
    """Whether a batch was left out: then the run has not trained on the tokens it is a point of."""
    return bool(folder.events(ladder.folder_of(place, run), "skip", "rollback"))


def main() -> int:
    """One sentence and exit code 2 for what the user can mend."""
    place, names = Path(sys.argv[1]), sys.argv[2:]
    try:
        return climb(place, names)
    except UserError as fault:
        print(fault, file=sys.stderr)
    except torch.OutOfMemoryError:
        latest = max((place / ladder.RUNS).iterdir(), key=lambda path: path.stat().st_mtime)
        print(hardware.out_of_memory(latest), file=sys.stderr)
    except OSError as fault:
        print(folder.disk_fault(fault), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
