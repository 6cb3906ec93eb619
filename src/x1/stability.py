"""Spikes: noticed, judged, injected, decided upon.

A step looks *suspicious* when its loss or the log of its gradient norm stands `threshold` robust
standard deviations above the running trend. That alone says nothing about the weights: a batch
of constant tokens does it too. So the suspicion is *judged* by a probe, the loss of the current
weights on the last batch that was quiet when it was trained on. If that batch got worse, the
weights are damaged and the run rolls back; if it did not, the spike was in the data: benign.

Everything here is a pure function of what training has seen, so a run that was killed and
resumed notices, judges and decides exactly as one that was not.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from x1 import folder
from x1.config import RunConfig, StabilityConfig, nearest
from x1.ranks import local
from x1.text import UserError

LEVEL_STEPS = 16  # the trend's level is the median of this many latest values
MAD_TO_STD = 1.4826  # of a normal distribution
STREAK_LIMIT = 5  # batches skipped in a row after which the weights themselves are suspected


@dataclass
class Detector:
    """What the detector remembers; the whole of it is saved in every checkpoint.

    `losses` and `grad_norms` (natural logarithms) hold the last `window` quiet steps.
    `quiet_index` and `quiet_loss` name the batch of the latest quiet step: the probe.
    """

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    quiet_index: int = -1
    quiet_loss: float = math.nan

    def suspicious(self, loss: float, grad_norm: float, config: StabilityConfig) -> str | None:
        """The channel that stands out ("loss" or "grad_norm"), or None. Both are finite."""
        for name, value, history in (
            ("loss", loss, self.losses),
            ("grad_norm", math.log(grad_norm + 1e-12), self.grad_norms),
        ):
            if len(history) >= LEVEL_STEPS and deviation(value, history) > config.threshold:
                return name
        return None

    def damaged(self, probe_loss: float, config: StabilityConfig) -> bool:
        """Whether the weights got worse on the batch that was quiet: `probe_loss` is now's."""
        if not math.isfinite(probe_loss):
            return True
        return probe_loss - self.quiet_loss > config.threshold / 2 * spread(self.losses)

    def accept(self, data_index: int, loss: float, grad_norm: float, window: int) -> None:
        """Remember a quiet step."""
        self.losses = [*self.losses, loss][-window:]
        self.grad_norms = [*self.grad_norms, math.log(grad_norm + 1e-12)][-window:]
        self.quiet_index, self.quiet_loss = data_index, loss

    def state(self) -> dict[str, Any]:
        """As plain JSON values (NaN, which JSON lacks, as None)."""
        state = asdict(self)
        return state | {"quiet_loss": None if math.isnan(self.quiet_loss) else self.quiet_loss}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Detector":
        return cls(
            **(
                state
                | {"quiet_loss": math.nan if state["quiet_loss"] is None else state["quiet_loss"]}
            )
        )


def spread(history: list[float]) -> float:
    """Robust standard deviation of a series around its trend, from successive differences.

    Differencing removes the trend: for independent noise of deviation s around a slow curve,
    successive differences have deviation s * sqrt(2).
    """
    differences = [b - a for a, b in pairwise(history)]
    centre = median(differences)
    mad = median(abs(d - centre) for d in differences)
    return max(MAD_TO_STD * mad / math.sqrt(2), 1e-3 * (1 + abs(history[-1])))


def deviation(value: float, history: list[float]) -> float:
    """How many robust standard deviations `value` stands above the level of `history`."""
    return (value - median(history[-LEVEL_STEPS:])) / spread(history)


@dataclass(frozen=True)
class Injection:
    """A fault planted at one batch, for drills and for measuring the detector."""

    kind: str
    data_index: int


INJECTIONS = {
    "nan-gradient": 1,  # NaN in one gradient element
    "gradient-x1e4": 1,  # the clipped gradient times 10,000
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


def tamper_batch(faults: set[str], ids: Tensor) -> Tensor:
    """The batch (B, T + 1), constant if that fault is planted."""
    return torch.zeros_like(ids) if "constant-batch" in faults else ids


def tamper_gradient(faults: set[str], model: nn.Module) -> None:
    """Plant NaN in one gradient element."""
    if "nan-gradient" in faults:
        gradient = next(p.grad for p in model.parameters() if p.grad is not None)
        local(gradient).view(-1)[:1] = math.nan


def tamper_update(faults: set[str], model: nn.Module, lr: float) -> float:
    """Plant a gradient 10,000 times too large, after clipping; returns the learning rate to use."""
    if "gradient-x1e4" in faults:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(1e4)
    return lr * 100 if "lr-x100" in faults else lr


def planned(run: Path, config: RunConfig) -> list[Injection]:
    """The run's injections that a roll-back has not used up (a fault strikes once, as in life)."""
    used = {text for event in folder.events(run, "rollback") for text in event["fired"]}
    last = config.train.steps - 1
    return parse_injections([t for t in config.stability.inject if t not in used], last)


def fired(config: RunConfig, data_index: int) -> list[str]:
    """The injections whose batch has come by the time of batch `data_index`."""
    return [t for t in config.stability.inject if int(t.partition("@")[2]) <= data_index]


@dataclass(frozen=True)
class Verdict:
    """What to do with a step: "go", "skip" its batch, or "rollback"; and what to put on record."""

    action: str
    reason: str = ""
    event: dict[str, Any] | None = None


def judge(
    detector: Detector,
    config: StabilityConfig,
    data_index: int,
    loss: float,
    grad_norm: float,
    skipped: dict[int, str],
    probe_loss: Callable[[], float],
) -> Verdict:
    """Decide about one step before its update is applied.

    A step with a non-finite loss or gradient norm is never applied, whatever the policy. Only
    quiet steps enter the detector's memory, so a spike does not become its own trend.
    `probe_loss` computes the current weights' loss on the batch `detector.quiet_index`.
    """
    streak = skip_streak(skipped, data_index) + 1
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return Verdict("skip" if streak < STREAK_LIMIT else "rollback", "non-finite")
    channel = detector.suspicious(loss, grad_norm, config) if config.policy != "off" else None
    if channel is None:
        detector.accept(data_index, loss, grad_norm, config.window)
        return Verdict("go")
    harmful = detector.damaged(probe_loss(), config)
    event = {"channel": channel, "loss": loss, "grad_norm": grad_norm, "benign": not harmful}
    if not harmful:
        return Verdict("go", event=event)
    if config.policy == "skip" and streak < STREAK_LIMIT:
        return Verdict("skip", "spike", event)
    return Verdict("rollback", "spike", event)


def skip_streak(skipped: dict[int, str], data_index: int) -> int:
    """How many batches directly before `data_index` are skipped."""
    streak = 0
    while data_index - 1 - streak in skipped:
        streak += 1
    return streak
