"""Dated prices, cost arithmetic and the cost sentence. Pure: no clock, no network.

Every dollar printed anywhere comes from here. Amounts are US dollars, energy is kWh, time is
hours; "today" is always passed in, so that the same question has the same answer.
"""

import math
import re
import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from x1.config import RunConfig
from x1.flops import Gpu, gpu
from x1.text import UserError, say

PRICES_FORMAT = "x1-prices-1"
STALE_AFTER_DAYS = 14
ALERT_FRACTION = 0.20


def positive(name: str, value: float) -> float:
    """`value` if it is a finite number above zero; otherwise UserError naming it."""
    if not (math.isfinite(value) and value > 0):
        raise UserError("money.positive", name=name, value=value)
    return value


def parse_number(text: str) -> float:
    """A number with a decimal point or a decimal comma: "1.10", "1,10", "1,234.50", "5e9".

    One comma before exactly three digits ("1,234") could be either, so it is refused.
    Raises UserError.
    """
    plain = text.strip().replace(" ", "").replace("\u202f", "")
    comma, point = plain.rfind(","), plain.rfind(".")
    if comma >= 0 and point >= 0:
        thousands = "," if comma < point else "."
        plain = plain.replace(thousands, "")
    elif plain.count(",") > 1 or plain.count(".") > 1:
        plain = plain.replace(",", "").replace(".", "")
    elif re.fullmatch(r"[1-9]\d{0,2},\d{3}", plain):
        raise UserError("money.ambiguous", text=text, point=plain.replace(",", "."))
    try:
        value = float(plain.replace(",", "."))
    except ValueError:
        raise UserError("money.not_a_number", text=text) from None
    if not math.isfinite(value):
        raise UserError("money.not_a_number", text=text)
    return value


def parse_count(text: str) -> int:
    """A whole number of things, with k, M or B for thousand, million, 10^9: "5B", "131072"."""
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text.strip()[-1:].lower())
    return round(parse_number(text.strip()[:-1]) * scale) if scale else round(parse_number(text))


def significant(value: float, digits: int = 3) -> float:
    """`value` rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


def round_usd(amount: float) -> float:
    """To the cent; below one cent, to two significant digits, so that nothing real is $0.00."""
    return significant(amount, 2) if 0 < abs(amount) < 0.01 else round(amount, 2)


def usd(amount: float) -> str:
    """ "$26.40", "$0.00065", "-$3.20": no thousands separator, so either reader can parse it."""
    rounded = round_usd(amount)
    small = 0 < abs(rounded) < 0.01
    digits = f"{abs(rounded):.12f}".rstrip("0") if small else f"{abs(rounded):.2f}"
    return f"{'-' if rounded < 0 else ''}${digits}"


def rate(value: float) -> str:
    """A price per hour or kWh: "1.10", "1.3875". Never three decimals, which a comma confuses."""
    return f"{value:.2f}" if round(value, 2) == round(value, 4) else f"{value:.4f}"


def hours_text(value: float) -> str:
    """Hours to the hundredth; below one hour, to three significant digits."""
    return f"{value:.2f}" if value >= 1 else f"{significant(value):.12f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Price:
    """Dollars for one hour of one machine, and the day and place that price was read."""

    hardware: str
    usd_per_hour: float
    day: date
    provider: str
    kind: str
    source: str

    def age_days(self, today: date) -> int:
        return (today - self.day).days

    def is_stale(self, today: date) -> bool:
        """Older than 14 days: launching on it is refused."""
        return self.age_days(today) > STALE_AFTER_DAYS


@dataclass(frozen=True)
class Prices:
    """The price file: offers in its order, and what storage costs."""

    offers: tuple[Price, ...]
    storage_usd_per_gb_month: float
    storage_source: str

    def offers_for(self, hardware_name: str) -> list[Price]:
        return [offer for offer in self.offers if offer.hardware == hardware_name]


def read_prices(text: str) -> Prices:
    """The content of a price file. Raises UserError for a price undated or not above zero."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise UserError("money.price_file", fault=fault) from None
    if raw.get("format") != PRICES_FORMAT:
        raise UserError("money.price_file", fault=f'format = "{PRICES_FORMAT}"')
    storage = raw.get("storage", {})
    return Prices(
        offers=tuple(_offer(entry) for entry in raw.get("offer", [])),
        storage_usd_per_gb_month=float(storage.get("usd_per_gb_month", 0.0)),
        storage_source=f"{storage.get('provider', '')}, {storage.get('date', '')}",
    )


@cache
def shipped_prices() -> Prices:
    """The dated prices this version comes with (`prices.toml`)."""
    return read_prices(files("x1").joinpath("prices.toml").read_text("utf-8"))


def _offer(entry: dict[str, Any]) -> Price:
    name = str(entry.get("hardware", "?"))
    if not isinstance(entry.get("date"), date):
        raise UserError("money.no_date", hardware=name)
    amount = entry.get("usd_per_hour", 0.0)
    if not isinstance(amount, int | float):
        raise UserError("money.positive", name=f"usd_per_hour ({name})", value=amount)
    return Price(
        hardware=name,
        usd_per_hour=positive(f"usd_per_hour ({name})", float(amount)),
        day=entry["date"],
        provider=str(entry.get("provider", "")),
        kind=str(entry.get("kind", "on-demand")),
        source=str(entry.get("source", "")),
    )


def price_for(hardware_name: str, prices: Prices | None = None) -> Price | None:
    """The newest offer of a machine, the first in the file of those of that day; None if none."""
    offers = (prices or shipped_prices()).offers_for(hardware_name)
    return max(offers, key=lambda offer: offer.day, default=None)


def typed_price(hardware_name: str, usd_per_hour: float, day: date) -> Price:
    """A price someone typed, dated the day it was typed. Raises UserError unless above zero."""
    positive("price_usd_per_hour", usd_per_hour)
    return Price(hardware_name, usd_per_hour, day, "", "typed", "")


def configured_price(config: RunConfig, prices: Prices | None = None) -> Price | None:
    """The price a run is billed at: the config's own, else the price file's.

    Raises UserError when the config has a price without a valid date.
    """
    money = config.money
    if money.price_usd_per_hour is None:
        return price_for(money.hardware, prices)
    try:
        day = date.fromisoformat(money.price_date)
    except ValueError:
        raise UserError("money.no_date", hardware="money.price_date") from None
    return typed_price(money.hardware, money.price_usd_per_hour, day)


OWN = "own-"
OWN_CPU = "own-cpu"
OWN_CPU_WATTS = 65.0  # assumed draw of a computer under load; `money.watts` states the real one


@dataclass(frozen=True)
class Hardware:
    """A machine: rented by the hour, or one's own, which costs electricity.

    `watts` is the GPU maker's rating (the card alone), or for a CPU an assumption.
    """

    name: str
    label: str
    own: bool
    gpu: Gpu | None
    watts: float


def hardware(name: str) -> Hardware:
    """ "a100-80gb" is rented, "own-rtx-4090" and "own-cpu" are one's own.

    Raises UserError with the nearest names.
    """
    plain = name.strip().lower()
    if plain == OWN_CPU:
        return Hardware(OWN_CPU, OWN_CPU, own=True, gpu=None, watts=OWN_CPU_WATTS)
    card = gpu(plain.removeprefix(OWN))
    own = plain.startswith(OWN)
    return Hardware((OWN if own else "") + card.name, card.label, own, card, card.watts)


def run_hours(tokens: float, tokens_per_s: float) -> float:
    """Hours to process `tokens`. Raises UserError unless both are above zero."""
    return positive("tokens", tokens) / positive("tokens_per_s", tokens_per_s) / 3600


def rental_usd(hours: float, usd_per_hour: float, count: int = 1) -> float:
    """Rented time. Raises UserError for a price that is not above zero."""
    return hours * positive("usd_per_hour", usd_per_hour) * count


def usd_per_hour(spent_usd: float, hours: float) -> float:
    """What an hour cost, going by the bill. Raises UserError unless the hours are above zero."""
    return spent_usd / positive("hours", hours)


def rented_hours(spent_usd: float, usd_per_hour: float) -> float:
    """The hours a bill pays for. Raises UserError for a price that is not above zero."""
    return spent_usd / positive("usd_per_hour", usd_per_hour)


def energy_kwh(hours: float, watts: float) -> float:
    return hours * positive("watts", watts) / 1000


def electricity_usd(hours: float, watts: float, tariff_usd_per_kwh: float) -> float:
    """What one's own machine costs to run."""
    return energy_kwh(hours, watts) * positive("tariff_usd_per_kwh", tariff_usd_per_kwh)


def storage_usd(gigabytes: float, days: float, usd_per_gb_month: float) -> float:
    """Storage, at 30 days a month."""
    return gigabytes * days / 30 * usd_per_gb_month


def alert_line_usd(plan_usd: float) -> float:
    """Spending above this is more than 20% over the plan."""
    return plan_usd * (1 + ALERT_FRACTION)


def reserve_usd(plan_usd: float, high_usd: float, ceiling_usd: float) -> float:
    """The maximum set aside before launch: the dearest the plan expects, never past the ceiling."""
    return min(ceiling_usd, max(alert_line_usd(plan_usd), high_usd))


def usd_per_loss_point(spent_usd: float, loss_before_nats: float, loss_after_nats: float) -> float:
    """Dollars per nat of loss gained. Raises UserError when nothing was gained."""
    return spent_usd / positive("loss", loss_before_nats - loss_after_nats)


@dataclass(frozen=True)
class CostSentence:
    """What the sentence before a launch says, as numbers.

    Rented: hours × price × count + other = cost. Own machine: hours × watts × tariff = cost, and
    the price is None. `buffer_usd` is negative when the cost is over the lab's budget.
    """

    hardware: str
    hours: float
    cost_usd: float
    budget_usd: float
    buffer_usd: float
    count: int = 1
    price_usd_per_hour: float | None = None
    other_usd: float = 0.0
    watts: float | None = None
    tariff_usd_per_kwh: float | None = None
    stale_days: int = 0

    @property
    def own(self) -> bool:
        return self.price_usd_per_hour is None

    @property
    def acceptable(self) -> bool:
        return self.buffer_usd >= 0

    def expected_cost_usd(self) -> float:
        """The cost computed again from the other numbers of the sentence."""
        if self.price_usd_per_hour is not None:
            return self.hours * self.price_usd_per_hour * self.count + self.other_usd
        return self.hours * (self.watts or 0.0) / 1000 * (self.tariff_usd_per_kwh or 0.0)

    def faults(self) -> list[str]:
        """What does not follow: "cost" and "buffer", each to within its rounding."""
        cost, wrong = self.expected_cost_usd(), []
        # An own machine's hours and dollars are rounded to 3 and 2 significant digits.
        if abs(cost - self.cost_usd) > (
            0.06 * cost if cost < 0.01 else 0.0051 + 0.005 * cost * self.own
        ):
            wrong.append("cost")
        if abs(self.budget_usd - self.cost_usd - self.buffer_usd) > 0.0051:
            wrong.append("buffer")
        return wrong


def rented_sentence(
    hardware_label: str,
    hours: float,
    usd_per_hour: float,
    budget_usd: float,
    other_usd: float = 0.0,
    count: int = 1,
    stale_days: int = 0,
) -> CostSentence:
    """The sentence of a rented machine; hours are rounded up to the hundredth."""
    hours = ceil_hours(hours)
    price = round(positive("usd_per_hour", usd_per_hour), 4)
    other = round(other_usd, 2)
    cost = round_usd(rental_usd(hours, price, count) + other)
    budget = round(budget_usd, 2)
    return CostSentence(
        hardware_label, hours, cost, budget, round(budget - cost, 2),
        count=count, price_usd_per_hour=price, other_usd=other, stale_days=stale_days,
    )  # fmt: skip


def own_sentence(
    hardware_label: str,
    hours: float,
    watts: float,
    tariff_usd_per_kwh: float,
    budget_usd: float,
) -> CostSentence:
    """The sentence of one's own machine: its dollars are electricity."""
    hours = round(hours, 2) if hours >= 1 else significant(positive("hours", hours))
    watts = round(watts) if watts >= 100 else significant(watts)
    tariff = round(tariff_usd_per_kwh, 4)
    cost = round_usd(electricity_usd(hours, watts, tariff))
    budget = round(budget_usd, 2)
    return CostSentence(
        hardware_label, hours, cost, budget, round(budget - cost, 2),
        watts=watts, tariff_usd_per_kwh=tariff,
    )  # fmt: skip


def ceil_hours(hours: float) -> float:
    """Rented hours, rounded up to the hundredth (36 seconds): what a plan and its sentence bill."""
    return math.ceil(round(hours * 100, 6)) / 100


def write_cost_sentence(cost: CostSentence, lang: str | None = None) -> str:
    """The sentence itself, in the reader's language or in `lang`."""
    if cost.own:
        machine = say(
            "money.own", lang,
            hardware=cost.hardware, watts=f"{cost.watts:g}",
            tariff=rate(cost.tariff_usd_per_kwh or 0.0), hours=hours_text(cost.hours),
            cost=usd(cost.cost_usd),
        )  # fmt: skip
    else:
        other = say("money.other", lang, usd=usd(cost.other_usd)) if cost.other_usd else ""
        machine = say(
            "money.rented", lang,
            count=cost.count, hardware=cost.hardware, price=rate(cost.price_usd_per_hour or 0.0),
            hours=hours_text(cost.hours), other=other, cost=usd(cost.cost_usd),
        )  # fmt: skip
    stale = say("money.stale", lang, days=cost.stale_days) if cost.stale_days else ""
    verdict = say(
        "money.acceptable" if cost.acceptable else "money.not_acceptable",
        lang,
        buffer=usd(abs(cost.buffer_usd)),
    )
    budget = say("money.budget", lang, budget=usd(cost.budget_usd))
    return f"{stale}{machine} {budget} {verdict}"


_N = r"(\d(?:[\d.,]*\d)?)"
_USD = rf"(?:US)?\$?\s*{_N}\s*(?:\$|USD)?"
_PARTS = {
    "machine": r"(\d+)\s*[×x]\s*([A-Za-z][\w-]*(?: \d[\w-]*)?)",
    "price": rf"{_USD}\s*/\s*h(?:r|our|ora)?\b",
    "hours": rf"(?<![\d.,-]){_N}\s*(?:h|hours?|horas?)\b",
    "other": rf"\+\s*{_USD}",
    "cost": rf"=\s*{_USD}",
    "budget": rf"(?:[Bb]udget[^:.]*|[Pp]resupuesto[^:.]*):\s*{_USD}",
    "buffer": rf"(?:{_USD}\s*buffer|(?:margen|colchón) de\s*{_USD})",
    "over": rf"(?:{_USD}\s*over|se pasa (?:en|por)\s*{_USD})",
    "own": r"(?:own machine|propia máquina), ([\w-]+)",
    "watts": rf"{_N}\s*W\b",
    "tariff": rf"{_USD}\s*/\s*kWh",
    "stale": r"STALE \(\D*(\d+)",
}


def parse_cost_sentence(text: str) -> CostSentence:
    """The numbers of a cost sentence, in either language and with either decimal mark.

    Looser than the sentences we write: a person's own wording passes if its parts are there.
    Raises UserError naming the part that is missing. Whether the numbers follow from each other is
    another question: `CostSentence.faults`.
    """
    found = {name: re.search(pattern, text) for name, pattern in _PARTS.items()}

    def number(part: str) -> float:
        match = found[part]
        if match is None:
            raise UserError("money.sentence_lacks", part=part)
        return parse_number(next(group for group in match.groups() if group))

    own = found["own"]
    common: dict[str, Any] = {
        "hours": number("hours"),
        "cost_usd": number("cost"),
        "budget_usd": number("budget"),
        "buffer_usd": -number("over") if found["over"] else number("buffer"),
        "stale_days": int(number("stale")) if found["stale"] else 0,
    }
    if own:
        return CostSentence(
            hardware=own[1], watts=number("watts"), tariff_usd_per_kwh=number("tariff"), **common
        )
    machine = found["machine"]
    if machine is None:
        raise UserError("money.sentence_lacks", part="machine")
    return CostSentence(
        hardware=machine[2],
        count=int(machine[1]),
        price_usd_per_hour=number("price"),
        other_usd=number("other") if found["other"] else 0.0,
        **common,
    )
