"""The run's curves for whoever is used to another tool: every line of metrics.jsonl, also sent to
TensorBoard or trackio by rank 0. Nothing reads them back; the run is its folder as before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from x1.config import RunConfig
from x1.text import UserError

LEFT_OUT = ("step", "attempt", "time")
PACKAGES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio"}

Line = dict[str, Any]


@contextmanager
def opened(run: Path, config: RunConfig) -> Iterator[Callable[[Line], None]]:
    """A function that is told each line. Raises UserError if the package is not installed."""
    if config.track.to == "none":
        yield lambda line: None
        return
    try:
        library = import_module(PACKAGES[config.track.to])
    except ImportError:
        raise UserError("track.missing", package=config.track.to) from None
    if config.track.to == "tensorboard":
        with library.SummaryWriter(str(run / "tensorboard"), flush_secs=10) as writer:

            def tell(line: Line) -> None:
                for name, value in numbers(line).items():
                    writer.add_scalar(name, value, line["step"])

            yield tell
        return
    library.init(project="x1", name=run.resolve().name, config=config.model_dump(mode="json"))
    try:
        yield lambda line: library.log(numbers(line), step=line["step"])
    finally:
        library.finish()


def numbers(line: Line) -> dict[str, float]:
    """What there is to draw: the line's numbers, and those of its clock."""
    flat = line | line.get("clock", {})
    return {k: v for k, v in flat.items() if k not in LEFT_OUT and isinstance(v, int | float)}
