"""Spikes: noticed, judged, injected, decided upon.

A step looks *suspicious* when its loss or the log of its gradient norm stands `threshold` robust
standard deviations above the running trend, the norm also 30 times above it. That alone says
nothing about the weights: a batch of constant tokens does it too. So the suspicion is *judged* by
a probe, the loss of the current weights on the last batch that was quiet when it was trained on.
If that batch got worse, the weights are damaged and the run rolls back; if it did not, the spike
was in the data: benign. One thing is told before it does harm: a gradient that is about to reach
the optimizer, whatever clipping has left of it, far larger than the usual ones. Its batch is
skipped.

Everything that decides is a pure function of what training has seen, so a run that was killed and
resumed notices, judges and decides exactly as one that was not. `Pace` alone reads a clock, and
decides nothing.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from x1 import folder
from x1.config import RunConfig, StabilityConfig
from x1.injections import INJECTIONS as INJECTIONS
from x1.injections import Injection, parse_injections
from x1.injections import active as active
from x1.ranks import local

LEVEL_STEPS = 16  # the trend's level is the median of this many latest values
MAD_TO_STD = 1.4826  # of a normal distribution
STREAK_LIMIT = 5  # batches skipped in a row after which the weights themselves are suspected
SURGE = 30  # times the usual gradient norm: a healthy run has quadrupled it, a rough one had 12
BURST = 100  # times the usual gradient norm: what AdamW's second moment needs long to forget
OVERFIT = 0.01  # rise of the validation loss, and fall of the training loss, as shares
OVERFIT_EVALUATIONS = 3  # in a row


@dataclass
class Detector:
    """What the detector remembers; the whole of it is saved in every checkpoint.

    `losses` and `grad_norms` (natural logarithms) hold the last `window` quiet steps.
    `quiet_index` and `quiet_loss` name the batch of the latest quiet step: the probe.
    `best` is the lowest validation loss and the training loss at that time, `worse` for how many
    evaluations in a row the two have parted since.
    """

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    quiet_index: int = -1
    quiet_loss: float = math.nan
    best: tuple[float, float] | None = None
    worse: int = 0

    @property
    def level(self) -> float:
        """The training loss of the latest quiet steps, a median; NaN before there are any."""
        return median(self.losses) if self.losses else math.nan

    def suspicious(self, loss: float, grad_norm: float, config: StabilityConfig) -> str | None:
        """The channel that stands out ("loss" or "grad_norm"), or None. Both are finite."""
        if len(self.losses) < LEVEL_STEPS:
            return None
        if deviation(loss, self.losses) > config.threshold:
            return "loss"
        far = deviation(log_norm(grad_norm), self.grad_norms) > config.threshold
        return "grad_norm" if far and self.surge(grad_norm) > SURGE else None

    def surge(self, grad_norm: float) -> float:
        """How many times the usual gradient norm this one is."""
        return math.exp(log_norm(grad_norm) - median(self.grad_norms[-LEVEL_STEPS:]))

    def damaged(self, probe_loss: float, config: StabilityConfig) -> bool:
        """Whether the weights got worse on the batch that was quiet: `probe_loss` is now's."""
        if not math.isfinite(probe_loss):
            return True
        return probe_loss - self.quiet_loss > config.threshold / 2 * spread(self.losses)

    def overfits(self, val_loss: float) -> bool:
        """Whether this evaluation completes a parting: validation rising, training falling.

        True once, at the third evaluation in a row at which the validation loss is above its
        lowest, and the training loss below what it was then, both by more than 1%.
        """
        if not (self.losses and math.isfinite(val_loss)):
            return False
        if self.best is None or val_loss < self.best[0]:
            self.best, self.worse = (val_loss, self.level), 0
        best_val, level_then = self.best
        rising, falling = (
            val_loss > (1 + OVERFIT) * best_val,
            self.level < (1 - OVERFIT) * level_then,
        )
        parted = rising and falling
        self.worse = self.worse + 1 if parted else 0
        return self.worse == OVERFIT_EVALUATIONS

    def accept(self, data_index: int, loss: float, grad_norm: float, window: int) -> None:
        """Remember a quiet step."""
        self.losses = [*self.losses, loss][-window:]
        self.grad_norms = [*self.grad_norms, log_norm(grad_norm)][-window:]
        self.quiet_index, self.quiet_loss = data_index, loss

    def state(self) -> dict[str, Any]:
        """As plain JSON values (NaN, which JSON lacks, as None)."""
        state = asdict(self)
        return state | {"quiet_loss": None if math.isnan(self.quiet_loss) else self.quiet_loss}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Detector":
        quiet_loss = math.nan if state["quiet_loss"] is None else state["quiet_loss"]
        best = state.get("best")
        return cls(**state | {"quiet_loss": quiet_loss, "best": tuple(best) if best else None})


def log_norm(grad_norm: float) -> float:
    """A gradient norm as the detector remembers it: its spread grows with its size."""
    return math.log(grad_norm + 1e-12)


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


def tamper_batch(faults: set[str], ids: Tensor) -> Tensor:
    """The batch (B, T + 1), constant if that fault is planted."""
    return torch.zeros_like(ids) if "constant-batch" in faults else ids


def tamper_gradient(faults: set[str], model: nn.Module) -> None:
    """Plant NaN in one gradient element, or make the whole gradient 10,000 times too large."""
    gradients = [local(p.grad) for p in model.parameters() if p.grad is not None]
    if "nan-gradient" in faults:
        gradients[0].view(-1)[:1] = math.nan
    if "gradient-x1e4" in faults:
        torch._foreach_mul_(gradients, 1e4)


def tamper_clip(faults: set[str], clip: float) -> float:
    """The gradient norm to clip to: with clipping on, a gradient too large would do nothing."""
    return 0.0 if "gradient-x1e4" in faults else clip


def tamper_lr(faults: set[str], lr: float) -> float:
    """The learning rate to use."""
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
    clip: float,
    skipped: dict[int, str],
    probe_loss: Callable[[], float],
) -> Verdict:
    """Decide about one step before its update is applied.

    A step with a non-finite loss or gradient norm is never applied, whatever the policy. Only
    quiet steps enter the detector's memory, so a spike does not become its own trend.
    `grad_norm` is the one before clipping to `clip` (0: not at all). `probe_loss` computes the
    current weights' loss on the batch `detector.quiet_index`.
    """
    streak = skip_streak(skipped, data_index) + 1
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return Verdict("skip" if streak < STREAK_LIMIT else "rollback", "non-finite")
    channel = detector.suspicious(loss, grad_norm, config) if config.policy != "off" else None
    if channel is None:
        detector.accept(data_index, loss, grad_norm, config.window)
        return Verdict("go")
    damaged = detector.damaged(probe_loss(), config)
    burst = detector.surge(min(grad_norm, clip or math.inf)) > BURST
    event = {"channel": channel, "loss": loss, "grad_norm": grad_norm}
    event["benign"] = not (damaged or burst)
    if event["benign"]:
        return Verdict("go", event=event)
    if streak < STREAK_LIMIT and (config.policy == "skip" or not damaged):
        return Verdict("skip", "spike" if damaged else "gradient", event)
    return Verdict("rollback", "spike", event)


def skip_streak(skipped: dict[int, str], data_index: int) -> int:
    """How many batches directly before `data_index` are skipped."""
    streak = 0
    while data_index - 1 - streak in skipped:
        streak += 1
    return streak


class Pace:
    """How long this process's steps take; told apart from everything that decides, and not saved.

    The usual time is the median of a run's early steps, the first ones aside, which warm up.
    """

    WARM_UP, USUAL = 10, 100  # steps
    RECENT, RECENT_S = 20, 60.0  # what is compared: at least so many steps, and so many seconds
    SLOW, RECOVERED = 1.25, 1.1  # times the usual seconds

    def __init__(self, earlier_seconds: Iterable[float] = ()) -> None:
        self.early: list[float] = []
        self.recent: deque[float] = deque()
        self.recent_s = 0.0
        self.told = False
        for seconds in earlier_seconds:
            self._learn(seconds)

    def slowed(self, seconds: float) -> tuple[float, float] | None:
        """(recent, usual) seconds a step, when this step makes the last minute a slow one.

        Told once, and again only after the pace has recovered.
        """
        self._learn(seconds)
        self.recent.append(seconds)
        self.recent_s += seconds
        while len(self.recent) > self.RECENT and self.recent_s - self.recent[0] >= self.RECENT_S:
            self.recent_s -= self.recent.popleft()
        enough = len(self.recent) >= self.RECENT and self.recent_s >= self.RECENT_S
        if not enough or len(self.early) < self.WARM_UP + self.USUAL:
            return None
        usual = median(self.early[self.WARM_UP :])
        recent = self.recent_s / len(self.recent)
        if recent < self.RECOVERED * usual:
            self.told = False
        if self.told or recent < self.SLOW * usual:
            return None
        self.told = True
        return recent, usual

    def _learn(self, seconds: float) -> None:
        if len(self.early) < self.WARM_UP + self.USUAL:
            self.early.append(seconds)
