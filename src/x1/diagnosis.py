"""What in a run's configuration may have cost it loss: candidates, never a verdict.

A fault of the configuration has no onset: no step to point at, no spike, and no roll-back that
cures it. Its loss curve looks like that of a slower run. So a candidate is named by the setting
that is known to do harm, with the run's own figures beside it, and with the one experiment that
would tell: the same run without that setting.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from x1.config import RunConfig
from x1.record import number
from x1.text import say

# Peak learning rate, on AdamW's scale, from which small models lose without QK-norm (2309.14322,
# section 3.1), and from which the first updates need a warm-up.
RISKY_LR, WARM_LR = 0.01, 1e-3
LEAST_WARM_UP = 5  # steps: fewer are as good as none
HALF_ULP = 2.0**-9  # the smallest relative change that surely moves a bf16 number
LAST = 20  # lines whose median is the run's loss at its end


@dataclass(frozen=True)
class Candidate:
    """One possible cause. `name` is its id; `evidence` holds the figures its sentence quotes;
    `settings` are the "section.field=value"s of the experiment, for `x1 train --set`.
    """

    name: str
    evidence: dict[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()

    def title(self, lang: str | None = None) -> str:
        """What it is, in a few words."""
        return say(f"diagnosis.title.{self.name}", lang)

    def reason(self, lang: str | None = None) -> str:
        """What in the run's own figures speaks for it."""
        return say(f"diagnosis.reason.{self.name}", lang, **self.evidence)

    def experiment(self, lang: str | None = None) -> str:
        """What to run, and what its outcome would mean."""
        said = " ".join(f"--set {setting}" for setting in self.settings)
        return say(f"diagnosis.experiment.{self.name}", lang, settings=said)


def diagnose(
    config: RunConfig, lines: Iterable[dict[str, Any]], events: Iterable[dict[str, Any]]
) -> list[Candidate]:
    """The candidates, the best supported first; none if no setting is known to do harm.

    `lines` are those of metrics.jsonl, `events` those of events.jsonl, in any state: what is
    damaged or missing in them is passed over. Raises nothing.
    """
    losses = [loss for loss in (number(line.get("loss")) for line in lines) if math.isfinite(loss)]
    seen = list(events)
    loss = f"{median(losses[-LAST:]):.3f}" if losses else "?"
    found = [
        without_clipping(config, seen),
        without_warm_up(config, loss),
        without_qk_norm(config, loss),
        rounded_weights(config, loss),
        parted(config, seen),
    ]
    return [candidate for candidate in found if candidate]


def without_qk_norm(config: RunConfig, loss: str) -> Candidate | None:
    """A high learning rate and attention logits that nothing bounds (2302.05442, 2309.14322)."""
    if config.model.qk_norm or config.optim.lr < RISKY_LR:
        return None
    return Candidate("no-qk-norm", {"lr": config.optim.lr, "loss": loss}, ("model.qk_norm=true",))


def without_warm_up(config: RunConfig, loss: str) -> Candidate | None:
    """Full-sized updates from a second moment that has seen a handful of gradients (1910.04209)."""
    steps, memory = config.optim.warmup_steps, 1 / (1 - config.optim.beta2)
    if steps >= LEAST_WARM_UP or config.optim.lr < WARM_LR:
        return None
    enough = max(LEAST_WARM_UP, min(round(memory), config.train.steps // 10))
    evidence = {"steps": steps, "lr": config.optim.lr, "memory": round(memory), "loss": loss}
    return Candidate("no-warm-up", evidence, (f"optim.warmup_steps={enough}",))


def rounded_weights(config: RunConfig, loss: str) -> Candidate | None:
    """Weights without an fp32 copy: an update too small for bf16's 8 bits is lost (2010.06192).

    AdamW moves a weight by about the learning rate; a weight is about 1 / sqrt(d_model).
    """
    if config.optim.weight_dtype == "fp32":
        return None
    share = config.optim.lr * math.sqrt(config.model.d_model)
    # Under linear decay the relative update falls below the limit for the last part of the run.
    lost = (
        min(1.0, HALF_ULP / share) if config.optim.schedule == "linear" else float(share < HALF_ULP)
    )
    evidence = {"update": share, "limit": HALF_ULP, "lost": lost, "loss": loss}
    return Candidate("bf16-weights", evidence, ("optim.weight_dtype=fp32",))


def without_clipping(config: RunConfig, events: list[dict[str, Any]]) -> Candidate | None:
    """Gradients that were skipped or did harm while nothing limited their norm."""
    norms = [number(e.get("grad_norm")) for e in events if e.get("event") == "spike"]
    norms = [norm for norm in norms if math.isfinite(norm)]
    if config.optim.clip or not norms:
        return None
    return Candidate("no-clipping", {"norm": max(norms), "spikes": len(norms)}, ("optim.clip=1",))


def parted(config: RunConfig, events: list[dict[str, Any]]) -> Candidate | None:
    """Validation loss rising while training loss falls: the data is being learnt by heart."""
    for event in reversed(events):
        if event.get("event") == "overfitting":
            names = ("step", "val_loss", "best_val_loss", "loss", "loss_then")
            evidence = {name: number(event.get(name)) for name in names}
            fewer = f"train.steps={max(1, config.train.steps // 2)}"
            return Candidate("overfitting", evidence, (fewer,))
    return None
