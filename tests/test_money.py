import math
import re
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x1 import flops, money
from x1.config import build
from x1.money import CostSentence, parse_cost_sentence, parse_number, write_cost_sentence
from x1.text import LANGUAGES, UserError

TODAY = date(2026, 11, 20)

HEAD = 'format = "x1-prices-1"\n'


def offer(**fields: str) -> str:
    lines = {"hardware": '"l4"', "usd_per_hour": "0.80", "date": "2026-11-01", **fields}
    return "[[offer]]\n" + "".join(f"{k} = {v}\n" for k, v in lines.items() if v)


# ---- Numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.10", 1.10),
        ("1,10", 1.10),
        (" 26,40 ", 26.40),
        ("1,234.50", 1234.50),
        ("1.234,50", 1234.50),
        ("1,234,567", 1_234_567),
        ("1.234", 1.234),
        ("0,125", 0.125),
        ("5e9", 5e9),
        ("24", 24),
        ("-3,2", -3.2),
    ],
)
def test_numbers_with_either_decimal_mark(text: str, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "abc", "1.1.1,1,1", "nan", "inf", "1e999", "$1.10"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(UserError):
        parse_number(text)


def test_a_lone_comma_before_three_digits_is_refused() -> None:
    with pytest.raises(UserError) as fault:
        parse_number("1,234")
    assert fault.value.key == "money.ambiguous"
    assert "1.234" in str(fault.value)


@pytest.mark.parametrize(
    ("text", "count"), [("5B", 5 * 10**9), ("1,5M", 1_500_000), ("131072", 131_072), ("2k", 2000)]
)
def test_counts(text: str, count: int) -> None:
    assert money.parse_count(text) == count


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (26.4, "$26.40"),
        (0, "$0.00"),
        (0.000651, "$0.00065"),
        (-3.2, "-$3.20"),
        (1234.5, "$1234.50"),
    ],
)
def test_dollars(amount: float, text: str) -> None:
    assert money.usd(amount) == text


@given(st.floats(1e-6, 1e6))
def test_printed_dollars_are_read_back(amount: float) -> None:
    assert parse_number(money.usd(amount).removeprefix("$")) == money.round_usd(amount)


# ---- Prices


def test_every_shipped_price_is_dated_positive_and_of_known_hardware() -> None:
    offers = money.shipped_prices().offers
    assert len(offers) >= 9
    for price in offers:
        assert price.usd_per_hour > 0 and price.source.startswith("https://")
        assert price.hardware in flops.PEAKS
        assert price.day <= TODAY


def test_the_newest_offer_wins_then_the_first() -> None:
    text = HEAD + offer(usd_per_hour="0.9", date="2026-11-02") + offer(usd_per_hour="0.5")
    text += offer(usd_per_hour="0.7", date="2026-11-02")
    price = money.price_for("l4", money.read_prices(text))
    assert price is not None and price.usd_per_hour == 0.9
    assert money.price_for("h200", money.read_prices(text)) is None


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"usd_per_hour": "0.0"}, "money.positive"),
        ({"usd_per_hour": "-1.1"}, "money.positive"),
        ({"usd_per_hour": "nan"}, "money.positive"),
        ({"usd_per_hour": "inf"}, "money.positive"),
        ({"usd_per_hour": '"1.10"'}, "money.positive"),
        ({"usd_per_hour": ""}, "money.positive"),
        ({"date": ""}, "money.no_date"),
        ({"date": '"last week"'}, "money.no_date"),
        ({"date": "2026"}, "money.no_date"),
    ],
)
def test_bad_prices_are_refused_by_name(fields: dict[str, str], key: str) -> None:
    with pytest.raises(UserError) as fault:
        money.read_prices(HEAD + offer(**fields))
    assert fault.value.key == key and "l4" in str(fault.value)


@pytest.mark.parametrize("text", ["format = ", "", 'format = "x1-prices-9"'])
def test_a_file_that_is_no_price_file(text: str) -> None:
    with pytest.raises(UserError) as fault:
        money.read_prices(text)
    assert fault.value.key == "money.price_file"


def test_stale_after_fourteen_days() -> None:
    price = money.typed_price("l4", 0.8, date(2026, 11, 1))
    assert not price.is_stale(date(2026, 11, 15))
    assert price.is_stale(date(2026, 11, 16))


def test_a_configured_price_needs_its_date() -> None:
    config = build("x1-50m", None, ("money.price_usd_per_hour=1.1",))
    with pytest.raises(UserError) as fault:
        money.configured_price(config)
    assert fault.value.key == "money.no_date"
    dated = build("x1-50m", None, ("money.price_usd_per_hour=1.1", 'money.price_date="2026-11-19"'))
    price = money.configured_price(dated)
    assert price is not None and (price.usd_per_hour, price.day) == (1.1, date(2026, 11, 19))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_typed_price_above_zero(value: float) -> None:
    with pytest.raises(UserError):
        money.typed_price("l4", value, TODAY)


# ---- Machines and arithmetic


def test_own_machines() -> None:
    cpu, card = money.hardware("own-cpu"), money.hardware("own-RTX-4090")
    assert cpu.own and cpu.gpu is None and cpu.watts == money.OWN_CPU_WATTS
    assert card.own and card.gpu is flops.PEAKS["rtx-4090"] and card.name == "own-rtx-4090"
    assert not money.hardware("a100-80gb").own
    with pytest.raises(UserError):
        money.hardware("own-tpu")


def test_the_briefs_money() -> None:
    assert money.rental_usd(24, 1.10) == pytest.approx(26.40)
    assert money.alert_line_usd(26.40) == pytest.approx(31.68)
    assert money.reserve_usd(26.40, 30.0, ceiling_usd=50.0) == pytest.approx(31.68)
    assert money.reserve_usd(26.40, 40.0, ceiling_usd=50.0) == 40.0
    assert money.reserve_usd(45.0, 90.0, ceiling_usd=50.0) == 50.0


def test_field_reports() -> None:
    """Kilowatt-hours of 480 h at 800 W, and dollars per nat of three phases."""
    assert money.energy_kwh(480, 800) == pytest.approx(384)
    assert money.usd_per_loss_point(22, 6.41, 2.907) == pytest.approx(6.27, rel=0.01)
    assert money.usd_per_loss_point(94, 2.907, 2.573) == pytest.approx(285, rel=0.02)
    assert money.usd_per_loss_point(44, 2.573, 2.494) == pytest.approx(550, rel=0.02)
    with pytest.raises(UserError):
        money.usd_per_loss_point(44, 2.4, 2.5)


# ---- The cost sentence


def test_the_briefs_sentence() -> None:
    sentence = money.rented_sentence("A100-80GB", 24, 1.10, budget_usd=35)
    assert (sentence.cost_usd, sentence.buffer_usd) == (26.40, 8.60)
    assert write_cost_sentence(sentence, "en") == (
        "This will spin up 1× A100-80GB at $1.10/h for 24.00 h = $26.40. "
        "Budget for this lab: $35.00. Confirmed acceptable, $8.60 buffer."
    )


def test_own_machine_pays_electricity_and_says_so() -> None:
    sentence = money.own_sentence("own-cpu", 0.05, 65, 0.20, budget_usd=35)
    assert sentence.cost_usd == 0.00065
    assert "electricity" in write_cost_sentence(sentence, "en")
    assert "electricidad" in write_cost_sentence(sentence, "es")


PEOPLES = (
    "This will spin up 2x A100-80GB (Lambda) at 1,10 $/h for 24 hours = 52,80 $. "
    "Budget for this lab: 35,00 $. Not acceptable: 17,80 $ over.",
    "Esto pondrá en marcha 2 × A100-80GB, a US$1.10/hora, 24 horas = US$52.80. "
    "Presupuesto para este lab: US$35. No es aceptable, se pasa por US$17.80",
)


@pytest.mark.parametrize("text", PEOPLES)
def test_peoples_own_wording(text: str) -> None:
    assert parse_cost_sentence(text) == CostSentence(
        "A100-80GB", 24, 52.80, 35, -17.80, count=2, price_usd_per_hour=1.10
    )
    assert parse_cost_sentence(text).faults() == []


@pytest.mark.parametrize(
    ("lost", "part"),
    [
        ("1× A100-80GB", "machine"),
        ("at $1.10/h ", "price"),
        ("for 24.00 h ", "hours"),
        ("= $26.40", "cost"),
        ("Budget for this lab: $35.00.", "budget"),
        ("$8.60 buffer", "buffer"),
    ],
)
def test_a_missing_part_is_named(lost: str, part: str) -> None:
    text = write_cost_sentence(money.rented_sentence("A100-80GB", 24, 1.10, 35), "en")
    assert lost in text
    with pytest.raises(UserError) as fault:
        parse_cost_sentence(text.replace(lost, ""))
    assert fault.value.values["part"] == part


def test_numbers_that_do_not_follow_are_found() -> None:
    text = write_cost_sentence(money.rented_sentence("A100-80GB", 24, 1.10, 35), "en")
    assert parse_cost_sentence(text.replace("$26.40", "$24.60")).faults() == ["cost", "buffer"]
    assert parse_cost_sentence(text.replace("$8.60", "$8.50")).faults() == ["buffer"]


rented = st.builds(
    money.rented_sentence,
    st.sampled_from([gpu.label for gpu in flops.PEAKS.values()]),
    st.floats(0.001, 2000),
    st.floats(0.01, 50),
    st.floats(1, 5000),
    other_usd=st.one_of(st.just(0.0), st.floats(0.01, 100)),
    count=st.integers(1, 64),
    stale_days=st.one_of(st.just(0), st.integers(15, 400)),
)
own = st.builds(
    money.own_sentence,
    st.sampled_from(["own-cpu", "RTX-4090"]),
    st.floats(1e-4, 5000),
    st.floats(1, 3000),
    st.floats(0.01, 2),
    st.floats(1, 5000),
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(rented, own), st.sampled_from(LANGUAGES), st.booleans())
def test_round_trip(sentence: CostSentence, lang: str, comma: bool) -> None:
    text = write_cost_sentence(sentence, lang)
    if comma:
        text = re.sub(r"(\d)\.(\d)", r"\1,\2", text)
    assert parse_cost_sentence(text) == sentence
    assert sentence.faults() == []
    assert text.startswith("STALE") == (sentence.stale_days > 0)
