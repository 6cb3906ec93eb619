"""Faults that can be planted in a run: which there are, and at which batches. Needs no torch.

What each of them does to a batch, a gradient or a learning rate is in `x1.stability`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from x1.config import nearest
from x1.text import UserError


@dataclass(frozen=True)
class Injection:
    """A fault planted at one batch, for drills and for measuring the detector."""

    kind: str
    data_index: int


INJECTIONS = {
    "nan-gradient": 1,  # NaN in one gradient element
    "gradient-x1e4": 1,  # the gradient times 10,000, and not clipped
    "lr-x100": 3,  # the learning rate times 100
    "constant-batch": 3,  # every token the same: a benign spike
}  # and for how many batches each one lasts


def parse_injections(texts: Iterable[str], last_index: int) -> list[Injection]:
    """Injections from "kind@data_index".

    Raises UserError for an unknown kind or a batch beyond the run.
    """
    injections = []
    for text in texts:
        kind, _, index = text.partition("@")
        if kind not in INJECTIONS:
            raise UserError(
                "stability.unknown_injection", text=text, nearest=nearest(kind, list(INJECTIONS))
            )
        if not index.isdigit() or int(index) > last_index:
            raise UserError("stability.injection_index", text=text, last=last_index)
        injections.append(Injection(kind, int(index)))
    return injections


def active(injections: Iterable[Injection], data_index: int) -> set[str]:
    """The kinds of fault that are planted at this batch."""
    return {i.kind for i in injections if 0 <= data_index - i.data_index < INJECTIONS[i.kind]}
