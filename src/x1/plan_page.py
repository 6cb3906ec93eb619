"""`x1 plan`: a plan computed, written and shown as a page for the terminal."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from x1 import flops, ladder_page, money, predict
from x1.config import RunConfig
from x1.plan import Plan, make_plan, write_plan
from x1.predict import Json
from x1.text import language, say


def render(record: Json, lang: str | None = None) -> Group:
    """A plan as tables and sentences for the terminal, in the reader's language or in `lang`."""
    code = lang or language()

    def word(key: str, **values: Any) -> str:
        return say(f"plan.{key}", code, **values)

    model, price, amounts = record["model"], record["price"], record["money"]
    heading = word(
        "heading",
        preset=record["preset"], hardware=record["hardware"]["label"], date=record["date"],
        parameters=_short(model["parameters"], "B"), tokens=_short(record["tokens"], "B"),
        ratio=f"{record['tokens_per_parameter']:.0f}",
        causal=_short(model["flops_per_token"]["causal"]),
        full=_short(model["flops_per_token"]["full"]),
        six_n=_short(model["six_n_flops_per_token"]),
        total=f"{record['flops']:.2e}",
    )  # fmt: skip

    expected = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    for column in ("what", "value", "interval", "basis"):
        number = column in ("value", "interval")
        expected.add_column(
            word(f"column.{column}"), justify="right" if number else "left", no_wrap=number
        )
    for name, prediction in record["predictions"].items():
        low, high = prediction["low"], prediction["high"]
        interval = "" if low == high else f"{_figure(name, low)} – {_figure(name, high)}"
        expected.add_row(
            word(f"row.{name}"),
            _figure(name, prediction["value"]),
            interval,
            prediction["basis"][code],
        )

    costs = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    for column in ("line", "hours", "usd", "basis"):
        number = column in ("hours", "usd")
        costs.add_column(
            word(f"column.{column}"), justify="right" if number else "left", no_wrap=number
        )
    for entry in record["lines"]:
        bases = [entry["hours"]["basis"][code], entry["usd"]["basis"][code]]
        if not entry["usd"]["value"]:
            bases = bases[:1]
        costs.add_row(
            word(f"line.{entry['item']}"),
            _figure("hours", entry["hours"]["value"]),
            _figure("dollars", entry["usd"]["value"]),
            "; ".join(dict.fromkeys(bases)),
        )

    parts: list[Any] = [heading, "", expected, "", costs, ""]
    if price:
        parts.append(
            word(
                "price_line" if price["kind"] != "typed" else "typed_price_line",
                price=money.rate(price["usd_per_hour"]), date=price["date"], days=price["age_days"],
                provider=price["provider"], kind=price["kind"], source=price["source"],
            )
        )  # fmt: skip
    parts.append(
        word(
            "amounts",
            **{
                name.removesuffix("_usd"): _figure("dollars", amount)
                for name, amount in amounts.items()
            },
        )
    )
    if record["sentence"][code]:
        parts += ["", record["sentence"][code]]
    parts.append("")
    if record["launchable"]:
        parts.append(word("launchable"))
    else:
        parts.append(word("not_launchable"))
        parts += [f"  - {reason[code]}" for reason in record["reasons"]]
    return Group(*parts)


def _short(number: float, giga: str = "G") -> str:
    """Three significant digits and a letter: "46.9M", FLOPs in "G", tokens in "B"."""
    for unit, letter in ((1e12, "T"), (1e9, giga), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "dollars":
        return money.usd(value)
    if name.endswith("bytes"):
        return f"{value / flops.GIGA:.2f} GB"
    if name in ("tokens_per_s", "micro_batch") or name.startswith("checkpoints"):
        return f"{value:,.0f}"
    if name in ("mfu", "loss_nats_per_token", "bits_per_byte"):
        return f"{value:.3f}"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def run_plan_command(
    config: RunConfig,
    *,
    today: date,
    gpu: str | None = None,
    price_usd_per_hour: str | None = None,
    tokens: str | None = None,
    mfu: str | None = None,
    tokens_per_s: str | None = None,
    measured: Path | None = None,
    as_json: bool = False,
    out: Path | None = None,
    calibrate: Callable[[RunConfig], float | None] | None = None,
    console: Console | None = None,
) -> Plan:
    """`x1 plan`: compute, write with `out`, print as text or JSON. Numbers as people type them.

    Raises UserError as `make_plan` and `write_plan` do.
    """
    plan = make_plan(
        config,
        today=today,
        hardware=gpu,
        price=None if price_usd_per_hour is None else money.parse_number(price_usd_per_hour),
        tokens=None if tokens is None else money.parse_count(tokens),
        mfu=None if mfu is None else money.parse_number(mfu),
        tokens_per_s=None if tokens_per_s is None else money.parse_number(tokens_per_s),
        two_terms=None if measured is None else predict.read_two_terms(measured),
        calibrate=calibrate,
    )
    if out is not None:
        write_plan(out, plan)
    console = console or Console()
    if as_json:
        console.file.write(json.dumps(plan.record, indent=1, ensure_ascii=False) + "\n")
        return plan
    console.print(render(plan.record), highlight=False, markup=False)
    if out is not None:
        console.print("", say("plan.written", path=out), sep="\n", highlight=False, markup=False)
    return plan


def measure(config: RunConfig) -> float | None:
    """Training tokens/s on this machine, in a child process, with a line while it lasts.

    None when a few steps take longer than a minute.
    """
    with Console(stderr=True).status(say("plan.measuring", limit=ladder_page.CALIBRATION_S)):
        return ladder_page.tokens_per_s(config)
