"""The price in force, from the source a configuration names, read again while the run goes on.

`money.price_source` names it:

    (empty)           the price typed in the configuration, else the price file X1 comes with
    file:PATH         a price file that a person edits: every offer dated, as in the one X1 has
    command:PROGRAM   what a command prints, a provider's own for instance: one number
    query:URL#FIELD   a provider's public prices as JSON, and where in them the number stands

One's own machine costs its electricity: measured watts where NVML can say, else stated ones.

A provider that wants a key is asked through its own command, which has it: X1 reads none. What is
read is handed on as it is, zero and NaN too: a source that says something impossible stops a run,
one that says nothing for an hour does as well, and the guard must tell the two apart.
"""

import json
import math
import shlex
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from x1 import money, power
from x1.config import RunConfig
from x1.ledger import Instant, Price
from x1.text import UserError, say

TIMEOUT_S = 10.0  # a source that has not answered by then is unreadable this time
ANSWER_BYTES = 1_000_000
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass
class Reader:
    """Reads the price of one run's machine, and remembers what a measurement starts from."""

    config: RunConfig
    energy: power.Energy | None = None
    watts: float = 0.0
    how: str = ""

    def read(self, at: Instant) -> Price:
        """The price now. Raises UserError when the source cannot be read, OSError never."""
        asked = self.config.money
        machine = money.hardware(asked.hardware)
        if machine.own:
            return self._electricity(machine, at)
        scheme, _, where = asked.price_source.partition(":")
        today = datetime.fromtimestamp(at.wall_ms / 1000, UTC).date().isoformat()
        if scheme == "file":
            return from_file(Path(where), machine.name)
        if scheme == "command":
            return Price(from_command(where), f"command: {where}", today)
        if scheme == "query":
            return Price(from_query(where), where, today)
        offer = money.configured_price(self.config, _shipped())
        if offer is None:
            raise UserError("supervise.no_price", hardware=machine.name)
        source = offer.source or offer.provider or offer.kind
        return Price(offer.usd_per_hour, source, offer.day.isoformat())

    def _electricity(self, machine: money.Hardware, at: Instant) -> Price:
        asked = self.config.money
        if asked.price_source:
            raise UserError("price.of_own", hardware=machine.name)
        self.watts, self.how = asked.watts or machine.watts, "stated" if asked.watts else "assumed"
        measured = None
        if machine.gpu and not asked.watts:
            measured = power.read(self.energy, at.boot_ms / 1000)
        if measured:
            (self.watts, self.energy), self.how = measured, "measured"
        usd_per_hour = round(money.electricity_usd(1.0, self.watts, asked.tariff_usd_per_kwh), 9)
        return Price(usd_per_hour, self.source(None, "en"), asked.price_date)

    def source(self, read: Price | None, lang: str) -> str:
        """Where the price comes from, in words; those of electricity in the reader's language."""
        if not self.how:
            return read.source if read else ""
        tariff = f"{self.config.money.tariff_usd_per_kwh:g}"
        return say(f"price.watts_{self.how}", lang, watts=f"{self.watts:.4g}", tariff=tariff)


def is_possible(usd_per_hour: float) -> bool:
    """Whether it can be a price at all: a finite number above zero."""
    return math.isfinite(usd_per_hour) and usd_per_hour > 0


def from_file(path: Path, hardware: str) -> Price:
    """The newest offer of a machine in a price file. Raises UserError when there is none."""
    try:
        offer = money.price_for(hardware, money.read_prices(path.read_text("utf-8")))
    except UserError as fault:
        amount, name = fault.values.get("value"), fault.values.get("name")
        if isinstance(amount, int | float) and name == f"usd_per_hour ({hardware})":
            return Price(float(amount), str(path), "")
        raise
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        raise unreadable(path, fault) from None
    if offer is None:
        raise UserError("supervise.no_price", hardware=hardware)
    return Price(offer.usd_per_hour, f"{path}: {offer.provider}", offer.day.isoformat())


def from_command(command: str) -> float:
    """The number a command prints. Raises UserError if it fails, hangs, or prints anything else."""
    try:
        done = subprocess.run(
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=TIMEOUT_S, check=True, start_new_session=True,
        )  # fmt: skip
        return float(done.stdout[:ANSWER_BYTES].decode("ascii").strip().removeprefix("$"))
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as fault:
        raise unreadable(command, fault) from None


def from_query(where: str) -> float:
    """The number at a dotted field of the JSON at a URL: "https://HOST/PATH#Items.0.retailPrice".

    Raises UserError without an answer within `TIMEOUT_S`, or without a number there.
    """
    url, _, field = where.rpartition("#")
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise unreadable(where, say("price.not_https"))
    try:
        value = within(TIMEOUT_S, lambda: _json(url))
        for part in filter(None, field.split(".")):
            value = value[int(part)] if isinstance(value, list) else value[part]
        if isinstance(value, bool):
            raise TypeError(field)
        return float(value)
    except (OSError, ValueError, LookupError, TypeError, HTTPException) as fault:
        raise unreadable(where, fault) from None


def within(seconds: float, ask: Callable[[], Any]) -> Any:
    """What `ask` returns or raises, or TimeoutError: neither a name server nor a slow answer may
    hold up whoever counts the dollars.
    """
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(ask())
        except Exception as fault:
            answer.append(fault)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise TimeoutError
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def unreadable(where: Any, fault: Any) -> UserError:
    return UserError("price.unreadable", where=where, fault=str(fault) or type(fault).__name__)


def _json(url: str) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "x1", "Accept": "*/*"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.loads(answer.read(ANSWER_BYTES))


def _shipped() -> money.Prices:
    """The price file X1 comes with, as it is on the disk now."""
    return money.read_prices(files("x1").joinpath("prices.toml").read_text("utf-8"))
