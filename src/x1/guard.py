"""May the run go on? One pure function: no clock, no file, no memory. It fails closed.

`decide` reads a `GuardState` and applies these rules in order; the first that holds decides.

| rule             | holds when                                                          | action |
|------------------|---------------------------------------------------------------------|--------|
| damaged-ledger   | the ledger cannot be read, written, or trusted                      | stop   |
| not-a-number     | any quantity is NaN or infinite                                     | stop   |
| negative         | any quantity is below zero                                          | stop   |
| price            | the price in force is zero                                          | stop   |
| unread-price     | no reading of the price has succeeded for an hour                   | stop   |
| ceiling          | spent + what may be spent until all has stopped >= ceiling          | stop   |
| hung-trainer     | no progress for longer than its limit                               | stop   |
| alert-line       | projection above the alert line for 15 minutes running, after the   | policy |
|                  | first 10 minutes                                                    |        |
| go               | none of the above                                                   | go     |

The policy of the alert line: `stop` stops, `continue` alerts, and `ask` alerts if somebody is
there to answer and stops if nobody is, or if nobody has for 15 minutes.

Projection = spent + remaining tokens / median tokens/s of the last 30 minutes x price in force.
The ceiling rule leaves room for the checkpoint, the shutdown and the wait until the next
decision, and for a price that has trebled since it was last read: what is spent in the end stays
below the ceiling. Just above that point it pays to read the price again before stopping.
"""

import math
from dataclasses import dataclass
from typing import Literal

ALERT_AFTER_S = 600  # no projection is believed before
ALERT_FOR_S = 900  # how long it must stay above the alert line
RATE_WINDOW_S = 1800  # the median tokens/s is that of the last 30 minutes
PRICE_EVERY_S = 900  # the price is read again at least this often
PRICE_UNREAD_S = 3600
ANSWER_S = 900  # how long a question at the terminal may stand before nobody counts as there
PRICE_RISE = 3.0  # how many times dearer a price may turn out to be than when it was last read

Action = Literal["go", "alert", "stop"]


@dataclass(frozen=True)
class GuardState:
    """All a decision depends on. Dollars, seconds and tokens, each said in its name.

    Without a plan there is no `alert_line_usd`; before the first training step there is no
    `tokens_per_s`.
    """

    spent_usd: float
    ceiling_usd: float
    alert_line_usd: float | None
    price_usd_per_hour: float
    price_age_s: float  # since the last reading of the price that succeeded
    stopping_s: float  # until the next decision, plus one checkpoint and a shutdown
    running_s: float  # since this start of the trainer
    tokens_done: int
    tokens_total: int
    tokens_per_s: float | None
    over_alert_s: float  # how long `over_alert_line` has held without a break
    progress_age_s: float  # since the trainer last showed a sign of life
    progress_limit_s: float
    ledger_damaged: bool
    policy: Literal["ask", "stop", "continue"]
    attended: bool


@dataclass(frozen=True)
class Decision:
    """What to do, and the rule that says so."""

    action: Action
    rule: str


def decide(state: GuardState) -> Decision:
    """Go on, alert, or stop with a checkpoint. Total: an answer for every state, never an error."""
    quantities = [v for v in vars(state).values() if isinstance(v, int | float)]
    if state.ledger_damaged:
        return Decision("stop", "damaged-ledger")
    if not all(math.isfinite(quantity) for quantity in quantities):
        return Decision("stop", "not-a-number")
    if any(quantity < 0 for quantity in quantities):
        return Decision("stop", "negative")
    if state.price_usd_per_hour == 0:
        return Decision("stop", "price")
    if state.price_age_s > PRICE_UNREAD_S:
        return Decision("stop", "unread-price")
    if state.spent_usd + stopping_usd(state) >= state.ceiling_usd:
        return Decision("stop", "ceiling")
    if state.progress_age_s > state.progress_limit_s:
        return Decision("stop", "hung-trainer")
    if over_alert_line(state) and state.over_alert_s >= ALERT_FOR_S:
        goes_on = state.policy == "continue" or (state.policy == "ask" and state.attended)
        return Decision("alert" if goes_on else "stop", "alert-line")
    return Decision("go", "go")


def stopping_usd(state: GuardState) -> float:
    """The most that may be spent on top of what the ledger says until all has stopped."""
    return at_risk_usd(state.price_usd_per_hour, state.stopping_s, state.price_age_s)


def at_risk_usd(usd_per_hour: float, stopping_s: float, price_age_s: float) -> float:
    """Dollars not yet counted when a stop is decided: those of stopping, at a price that may have
    risen `PRICE_RISE`-fold, and that rise on what has been charged since the price was read.
    """
    seconds = PRICE_RISE * stopping_s + (PRICE_RISE - 1) * price_age_s
    return usd_per_hour * seconds / 3600


def projection_usd(state: GuardState) -> float:
    """Dollars spent when the last token is trained, if all goes on as in the last 30 minutes.

    What is spent already while there is no rate yet; infinite at a standstill.
    """
    remaining_tokens = max(state.tokens_total - state.tokens_done, 0)
    if state.tokens_per_s is None or remaining_tokens == 0:
        return state.spent_usd
    if state.tokens_per_s == 0:
        return math.inf
    remaining_s = remaining_tokens / state.tokens_per_s
    return state.spent_usd + remaining_s * state.price_usd_per_hour / 3600


def over_alert_line(state: GuardState) -> bool:
    """Whether the projection is above the alert line now; never without one, nor in the first 10
    minutes, when no projection is believed.
    """
    if state.alert_line_usd is None or state.running_s < ALERT_AFTER_S:
        return False
    return projection_usd(state) > state.alert_line_usd
