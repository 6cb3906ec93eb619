"""What the next dollar is predicted to buy: by the run's own slope, and by a scaling law if one is
at hand.

The run's slope is that of its training loss over the logarithm of its tokens, over the last half of
them. A straight line there is what a power law looks like from near by; it is trusted for as many
tokens again and no further.
"""

import math
from dataclasses import dataclass

import numpy as np

from x1 import flops, record, scaling
from x1.config import RunConfig
from x1.markup import Html, Word, amount, count, dollars, fixed, join, paragraph
from x1.record import Record

BINS = 16  # medians of the loss, at equal distances in ln(tokens)
LEAST_STEPS = 4 * BINS
STUDENT = 2.145  # 97.5% point of Student's t for BINS - 2 degrees of freedom


@dataclass(frozen=True)
class Slope:
    """Nats gained for each factor e in tokens, with a 95% interval; fitted from a step on."""

    nats: float
    low: float
    high: float
    first_step: int


@dataclass(frozen=True)
class Purchase:
    """More training at the run's pace and price: its dollars, its tokens, the tokens so far."""

    usd: float
    tokens: float
    tokens_so_far: float

    def gain(self, nats_per_efold: float) -> float:
        return nats_per_efold * math.log1p(self.tokens / self.tokens_so_far)


def own_slope(run: Record) -> Slope | None:
    """The line through the medians of the last half of the curve; None if that is too short."""
    steps, losses = run.training.curve("loss")
    last_half = (2 * (steps + 1) > run.steps_done) & np.isfinite(losses)
    steps, losses = steps[last_half], losses[last_half]
    if len(steps) < LEAST_STEPS:
        return None
    x = np.log(steps + 1)
    edges = np.linspace(x[0], x[-1], BINS + 1)[1:-1]
    bins = np.digitize(x, edges)
    points = [(x[bins == b].mean(), np.median(losses[bins == b])) for b in np.unique(bins)]
    if len(points) < BINS:
        return None
    at, value = np.array(points).T
    away = at - at.mean()
    slope = float((away * value).sum() / (away**2).sum())
    rest = value - value.mean() - slope * away
    error = STUDENT * math.sqrt(float((rest**2).sum()) / (BINS - 2) / float((away**2).sum()))
    return Slope(-slope, -slope - error, -slope + error, int(steps[0]))


def next_purchase(run: Record) -> Purchase | None:
    """One dollar, or what as many tokens again cost, whichever is less; None if it is not known."""
    so_far = run.steps_done * run.config.batch_tokens
    rate = record.throughput(run)[0]
    if run.spending is None or not (so_far > 0 and rate > 0 and run.spending.usd_per_hour > 0):
        return None
    tokens_per_usd = rate * 3600 / run.spending.usd_per_hour
    usd = min(1.0, so_far / tokens_per_usd)
    return Purchase(usd, usd * tokens_per_usd, so_far)


def law_gains(config: RunConfig, bought: Purchase) -> list[float]:
    """What the published laws say it gains, for web text under BPE; others have no law."""
    if config.data.source != "dataset" or config.data.tokenizer != "bpe":
        return []
    N, D = flops.parameters(config.model), bought.tokens_so_far
    return [law.predict(N, D) - law.predict(N, D + bought.tokens) for law in scaling.PUBLISHED]


def next_paragraphs(run: Record, word: Word) -> Html:
    """The prediction in words, each figure with what it rests on."""
    slope, bought = own_slope(run), next_purchase(run)
    if slope is None or bought is None:
        return Html()
    said = {"usd": dollars(bought.usd), "tokens": amount(bought.tokens)}
    parts = [word("next" if bought.usd == 1 else "next_double", **said)]
    gain, low, high = (bought.gain(n) for n in (slope.nats, slope.low, slope.high))
    price = dollars(bought.usd / gain) if low > 0 else ""
    parts.append(word(
        "next_slope" if price else "next_flat",
        gain=fixed(gain, 4), low=fixed(low, 4), high=fixed(high, 4),
        first=count(slope.first_step), last=count(run.steps_done),
    ))  # fmt: skip
    if price:
        parts.append(word("next_price", price=price))
    gains = law_gains(run.config, bought)
    if gains:
        parts.append(word("next_law", hoffmann=fixed(gains[0], 4), besiroglu=fixed(gains[1], 4)))
    if run.config.optim.schedule != "constant":
        parts.append(word("next_schedule"))
    return join([paragraph(" ".join(parts))])
