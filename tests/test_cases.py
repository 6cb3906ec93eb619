"""The audit of the field reports: every verdict the curriculum argues from, and bad files refused.

The expected figures are worked out by hand from the reports' own numbers, not by the package.
"""

import html
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from x1 import cases
from x1.cases import INPUTS, QUANTITIES, RULES, Finding, audit, read_cases, shipped_cases
from x1.text import LANGUAGES, UserError, catalogue, say

SHIPPED = {case.id: case for case in shipped_cases()}
ROOT = Path(__file__).parents[1]


def findings(case: str, phase: str, quantity: str) -> list[Finding]:
    found = [
        finding
        for finding in audit(SHIPPED[case])
        if (finding.phase, finding.quantity) == (phase, quantity)
    ]
    assert found
    return found


def aside(finding: Finding, quantity: str, rule: str = "") -> float:
    """The figure beside a claim, by its quantity (and rule, where there are two)."""
    (value,) = [
        also.value
        for also in finding.asides
        if also.also.quantity == quantity and rule in ("", also.steps[0].rule)
    ]
    assert value is not None
    return value


# ---- What the reports say


STEP = 131_072
HOUR = (22 + 94) / (15 + 63)  # dollars, as phases 2 and 3 paid it

FOLLOWS = [
    ("gpuburnout-1b", "whole", "tokens", 90_000 * STEP),
    ("gpuburnout-1b", "whole", "tokens_per_step", 11.8e9 / 90_000),
    ("gpuburnout-1b", "whole", "dollars", 175),
    ("gpuburnout-1b", "whole", "throughput_gain", 0.176),
    ("gpuburnout-1b", "whole", "budget_fraction", 0.59),
    ("gpuburnout-1b", "phase-1", "initial_loss_nats", 10.37),
    ("gpuburnout-1b", "phase-2", "hours", 14.83),
    ("gpuburnout-1b", "phase-3", "hours", 64.33),
    ("gpuburnout-1b", "phase-2", "dollars", 15 * 94 / 63),
    ("gpuburnout-1b", "phase-3", "dollars", 63 * 22 / 15),
    ("gpuburnout-1b", "phase-2", "usd_per_loss_point", 22 / 3.503),
    ("gpuburnout-1b", "phase-3", "usd_per_loss_point", 94 / 0.334),
    ("gpuburnout-1b", "phase-4", "usd_per_loss_point", 44 / 0.079),
    ("gpuburnout-1b", "phase-2", "mfu", 6e9 * 24_066 / 312e12),
    ("gpuburnout-1b", "phase-3", "mfu", 6e9 * 28_300 / 312e12),
    ("gpuburnout-1b", "finish-estimate", "dollars", 119.7),
    ("tmlm", "sonnet", "hours", 480),
    ("tmlm", "sonnet", "kwh", 384),
    ("tmlm", "opus", "hours", 960),
    ("tmlm", "opus", "kwh", 768),
    ("163m-3090", "163m", "parameters", 162.15e6),
    ("163m-3090", "nanochat-d20", "dollars", 96),
    ("x1-brief", "run", "dollars", 26.40),
    ("x1-brief", "run", "buffer_usd", 8.60),
    ("fmn-baby-7m", "search", "loss_gain_nats", 0.01),
]


@pytest.mark.parametrize(("case", "phase", "quantity", "implied"), FOLLOWS)
def test_what_follows(case: str, phase: str, quantity: str, implied: float) -> None:
    (finding,) = findings(case, phase, quantity)
    assert finding.verdict == "follows"
    assert finding.implied == pytest.approx(implied, rel=2e-3)
    if finding.claim.plus_or_minus is None:
        assert finding.factor is not None and 0.95 <= finding.factor <= 1.05


# Quantity: stated, implied.
DOES_NOT = [
    ("gpuburnout-1b", "phase-1", "dollars", 4, 0.3099 * HOUR),
    ("gpuburnout-1b", "phase-4", "dollars", 44, 38.6 * HOUR),
    ("gpuburnout-1b", "finish", "dollars", 68, 80.49 * HOUR),
    ("gpuburnout-1b", "chinchilla", "steps", 228_000, 152_588),
    ("x1-brief", "run", "hours", 24, 3.55),
]


@pytest.mark.parametrize(("case", "phase", "quantity", "stated", "implied"), DOES_NOT)
def test_what_does_not_follow(
    case: str, phase: str, quantity: str, stated: float, implied: float
) -> None:
    (finding,) = findings(case, phase, quantity)
    assert (finding.verdict, finding.stated) == ("does_not_follow", stated)
    assert finding.implied == pytest.approx(implied, rel=2e-3)
    assert finding.factor == pytest.approx(stated / implied, rel=2e-3)
    shown = cases._row(finding, "en")
    assert shown["factor"] == f"{finding.factor:.2f}" and shown["implied"] != shown["stated"]


def test_nothing_else_fails_to_follow() -> None:
    listed = {(case, phase, quantity) for case, phase, quantity, *_ in DOES_NOT}
    found = {
        (case, finding.phase, finding.quantity)
        for case in SHIPPED
        for finding in audit(SHIPPED[case])
        if finding.verdict == "does_not_follow"
    }
    assert found == listed | {("x1-brief", "run", "loss_nats")}


def test_what_would_have_to_be_true() -> None:
    """The figures that make a false claim true, each by hand."""
    (phase_4,) = findings("gpuburnout-1b", "phase-4", "dollars")
    assert aside(phase_4, "price_usd_per_hour") == pytest.approx(1.14, abs=0.005)
    assert aside(phase_4, "tokens_per_s") == pytest.approx(36_700, rel=0.01)
    (finish,) = findings("gpuburnout-1b", "finish", "dollars")
    assert aside(finish, "price_usd_per_hour") == pytest.approx(0.84, abs=0.005)
    (steps,) = findings("gpuburnout-1b", "chinchilla", "steps")
    assert aside(steps, "tokens") == pytest.approx(29.9e9, rel=2e-3)
    (hours,) = findings("x1-brief", "run", "hours")
    assert aside(hours, "hours", "hours_6n") == pytest.approx(1.5e18 / 0.4 / 312e12 / 3600)
    assert aside(hours, "mfu") == pytest.approx(0.06, abs=0.002)
    assert aside(hours, "tokens") == pytest.approx(36e9, rel=5e-3)
    (dollars,) = findings("x1-brief", "run", "dollars")
    assert aside(dollars, "dollars") == pytest.approx(3.91, abs=0.01)  # about $4
    (per_point,) = findings("gpuburnout-1b", "phase-2", "usd_per_loss_point")
    assert aside(per_point, "usd_per_loss_point") == pytest.approx(22 / 7.723)  # $2.85
    (size,) = findings("163m-3090", "163m", "parameters")
    assert aside(size, "parameters") == pytest.approx(124e6, rel=5e-3)


def test_an_mfu_says_how_it_was_counted() -> None:
    for phase, exact in (("phase-2", 0.493), ("phase-3", 0.580)):
        (finding,) = findings("gpuburnout-1b", phase, "mfu")
        assert "6N" in cases.reason(finding, "en") and "6N" in cases.reason(finding, "es")
        assert aside(finding, "mfu") == pytest.approx(exact, abs=5e-4)
        told = [cases.describe(also, finding, "en") for also in finding.asides]
        assert "FLOPs counted on gpuburnout-1b" in told[0]
    (with_recompute,) = findings("gpuburnout-1b", "phase-2", "mfu")
    assert aside(with_recompute, "hfu") > aside(with_recompute, "mfu")


def test_a_price_says_which_phases_it_is_from() -> None:
    (phase_1,) = findings("gpuburnout-1b", "phase-1", "dollars")
    assert phase_1.steps[0].inputs["price_usd_per_hour"] == pytest.approx(HOUR)
    assert phase_1.price_from == ("phase-2", "phase-3")
    for code in LANGUAGES:
        assert "phase-2, phase-3" in cases.reason(phase_1, code)
    # A phase is not held against its own price.
    for phase, other in (("phase-2", "phase-3"), ("phase-3", "phase-2")):
        assert findings("gpuburnout-1b", phase, "dollars")[0].price_from == (other,)


def test_a_phase_is_never_priced_by_its_own_bill() -> None:
    own = changed(('id = "all"', 'id = "all"\nprice_from = ["all"]'))
    dear = own.replace("price_usd_per_hour = 1.50\n", "")
    assert verdicts(dear)["dollars"] == "cannot_be_computed"


def test_two_predictions_that_exclude_each_other() -> None:
    point, interval = findings("x1-brief", "run", "loss_nats")
    for finding, factor in ((point, 3 / 3.443), (interval, 3.35 / 3.443)):
        assert finding.verdict == "does_not_follow"
        assert finding.implied == pytest.approx(3.443, abs=5e-4)  # Besiroglu at 46.9M, 5B
        assert finding.factor == pytest.approx(factor, abs=1e-3)
        assert aside(finding, "loss_nats") == pytest.approx(3.417, abs=1e-3)  # Hoffmann
    assert point.rivals == (interval.claim,) and interval.rivals == (point.claim,)
    assert "3.35 ± 0.2" in cases.reason(point) and "3.0" in cases.reason(interval)
    # Alone, the wide one would follow: the laws' figure is inside it. The narrow one would not.
    brief = SHIPPED["x1-brief"].model_dump()
    for kept, verdict in ((3.0, "does_not_follow"), (3.35, "follows")):
        raw = json.loads(json.dumps(brief))
        claims = raw["phase"][0]["claim"]
        claims[:] = [c for c in claims if c["quantity"] == "loss_nats" and c["stated"] == kept]
        (alone,) = audit(cases.Case.model_validate(raw))
        assert (alone.verdict, alone.rivals) == (verdict, ())


CANNOT = [
    ("163m-3090", "nanochat-d32", "dollars", ("hours",)),
    ("163m-3090", "163m", "hours", ("tokens", "tokens_per_s")),
    ("tmlm", "nan", "lost_fraction", ("steps",)),
    ("fmn-baby-7m", "search", "hours", ("tokens", "tokens_per_s")),
]


@pytest.mark.parametrize(("case", "phase", "quantity", "missing"), CANNOT)
def test_what_cannot_be_computed_names_the_missing_input(
    case: str, phase: str, quantity: str, missing: tuple[str, ...]
) -> None:
    (finding,) = findings(case, phase, quantity)
    assert finding.verdict == "cannot_be_computed"
    assert (finding.implied, finding.factor, finding.missing) == (None, None, missing)
    for code in LANGUAGES:
        names = ", ".join(missing)
        assert cases.reason(finding, code) == say("cases.missing_inputs", code, names=names)


def test_a_cited_assumption_stands_beside_the_verdict() -> None:
    (d32,) = findings("163m-3090", "nanochat-d32", "dollars")
    assert aside(d32, "dollars") == 33 * 24
    assert "github.com/karpathy/nanochat" in cases.describe(d32.asides[0], d32)
    (hours,) = findings("163m-3090", "163m", "hours")
    full_text, chinchilla = (also.value for also in hours.asides)
    assert full_text == pytest.approx(3.2e9 / 48 / 3600)
    assert chinchilla == pytest.approx(18_900, rel=2e-3)
    assert all(also.also.source for also in hours.asides)


def test_every_claim_names_its_rule_and_every_assumption_its_source() -> None:
    for case in SHIPPED.values():
        for phase in case.phase:
            for claim in phase.claim:
                assert claim.rule
                assert all(also.source for also in claim.also if also.given)


# ---- The audit itself

HONEST = """
format = "x1-cases-1"
[[case]]
id = "mine"
title = "Mine"
title_es = "Lo mío"
source = "my notes"
preset = "x1-50m"
hardware = "a100-80gb"
[case.stated]
tokens_per_step = 131_072
tokens_per_s = 100_000
price_usd_per_hour = 1.50
watts = 400
[[case.phase]]
id = "all"
[case.phase.stated]
steps = 1000
loss_before_nats = 9.7
loss_after_nats = 5.7
[[case.phase.claim]]
quantity = "tokens"
stated = 131e6
[[case.phase.claim]]
quantity = "hours"
stated = 0.364
[[case.phase.claim]]
quantity = "dollars"
stated = 0.55
[[case.phase.claim]]
quantity = "kwh"
stated = 0.146
[[case.phase.claim]]
quantity = "usd_per_loss_point"
stated = 0.1375
"""


def changed(*pairs: tuple[str, str]) -> str:
    text = HONEST
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def verdicts(text: str) -> dict[str, str]:
    (case,) = read_cases(text, "mine.toml")
    return {finding.quantity: finding.verdict for finding in audit(case)}


def test_an_honest_report_follows_throughout() -> None:
    assert set(verdicts(HONEST).values()) == {"follows"}


@pytest.mark.parametrize(
    ("change", "fallen"),
    [
        (("steps = 1000", "steps = 1100"), {"tokens"}),
        (("tokens_per_s = 100_000", "tokens_per_s = 90_000"), {"hours"}),
        (("price_usd_per_hour = 1.50", "price_usd_per_hour = 1.70"), {"dollars"}),
        (("watts = 400", "watts = 500"), {"kwh"}),
        (("loss_after_nats = 5.7", "loss_after_nats = 5.0"), {"usd_per_loss_point"}),
        (("stated = 0.55", "stated = 0.65"), {"dollars", "usd_per_loss_point"}),
    ],
)
def test_a_changed_input_moves_the_verdict(change: tuple[str, str], fallen: set[str]) -> None:
    found = verdicts(changed(change))
    assert {name for name, verdict in found.items() if verdict == "does_not_follow"} == fallen


def test_the_verdict_turns_at_five_percent() -> None:
    for factor, verdict in (
        (0.9499, "does_not_follow"),
        (0.9501, "follows"),
        (1.0499, "follows"),
        (1.0501, "does_not_follow"),
    ):
        hours = factor * 131e6 / 100_000 / 3600
        assert verdicts(changed(("stated = 0.364", f"stated = {hours!r}")))["hours"] == verdict


def test_a_claim_is_never_an_input_of_its_own_audit() -> None:
    """Whatever a claim says of itself, its implied figure stays."""
    for case in SHIPPED.values():
        for at, phase in enumerate(case.phase):
            for number, claim in enumerate(phase.claim):
                raw = case.model_dump()
                raw["phase"][at]["claim"][number]["stated"] = claim.stated * 7
                before, after = (
                    [f for f in audit(c) if f.phase == phase.id][number].implied
                    for c in (case, cases.Case.model_validate(raw))
                )
                assert before == after, (case.id, phase.id, claim.quantity)


def test_inputs_that_are_not_there_are_derived_or_named() -> None:
    without_rate = changed(("tokens_per_s = 100_000\n", ""))
    (case,) = read_cases(without_rate, "mine.toml")
    by_quantity = {finding.quantity: finding for finding in audit(case)}
    # The hours now rest on the bill, and the bill on the hours: each on the other's statement.
    assert by_quantity["hours"].steps[0].rule == "bill_over_price"
    assert by_quantity["dollars"].verdict == "follows"
    nothing = without_rate.replace("price_usd_per_hour = 1.50\n", "")
    (case,) = read_cases(nothing, "mine.toml")
    by_quantity = {finding.quantity: finding for finding in audit(case)}
    assert by_quantity["hours"].missing == ("tokens_per_s",)
    assert by_quantity["dollars"].missing == ("price_usd_per_hour",)


# One number for every input; then each rule's value by hand.
A, B, C = 6.0, 3.0, 2.0


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("steps_times_batch", 18),
        ("rate_times_hours", 6 * 3 * 3600),
        ("ratio_times_parameters", 18),
        ("tokens_over_steps", 2),
        ("tokens_over_batch", 2),
        ("tokens_over_hours", 2 / 3600),
        ("rate_gained", -0.5),
        ("tokens_over_rate", 2 / 3600),
        ("progress", 2),
        ("larger_model", 6 * 2 / 3),
        ("bill_over_price", 2),
        ("rental", 18),
        ("bill_over_hours", 2),
        ("draw_times_hours", 0.018),
        ("ln_vocabulary", math.log(6)),
        ("loss_drop", 3),
        ("share_of_budget", 2),
        ("steps_lost", 2),
        ("spent_over_gain", 6),
    ],
)
def test_a_rule_computes_what_it_says(rule: str, expected: float) -> None:
    assert RULES[rule].compute(*(A, B, C)[: len(RULES[rule].needs)]) == pytest.approx(expected)


def test_beside_one_of_two_claims_stands_what_that_one_comes_to() -> None:
    text = changed(
        (
            "stated = 0.55",
            'stated = 0.55\n[[case.phase.claim]]\nquantity = "dollars"\nstated = 3.64'
            '\nalso = [{ quantity = "price_usd_per_hour" }]',
        )
    )
    (case,) = read_cases(text, "mine.toml")
    first, second = (finding for finding in audit(case) if finding.quantity == "dollars")
    assert first.asides == () and second.rivals == (first.claim,)
    assert second.asides[0].value == pytest.approx(10)  # $3.64 for 0.364 h, not $0.55


def test_every_rule_is_described_in_both_languages() -> None:
    for code in LANGUAGES:
        sentences = catalogue(code)
        for name, rule in RULES.items():
            assert all(f"{{{need}}}" in sentences[f"cases.rule.{name}"] for need in rule.needs)
        assert all(f"cases.quantity.{quantity}" in sentences for quantity in QUANTITIES)


# ---- Files of one's own


def place(field: str = "") -> str:
    return f"mine, all, {field}" if field else "mine, all"


BAD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "another format": (
        changed(("x1-cases-1", "x1-plan-1")),
        "cases.format",
        {"path": "mine.toml", "expected": "x1-cases-1"},
    ),
    "no case": (
        'format = "x1-cases-1"',
        "cases.missing",
        {"where": "mine.toml", "field": "case"},
    ),
    "no phase": (
        HONEST.split("[[case.phase]]")[0],
        "cases.missing",
        {"where": "mine", "field": "phase"},
    ),
    "no title": (
        changed(('title = "Mine"\n', "")),
        "cases.missing",
        {"where": "mine", "field": "title"},
    ),
    "no stated value": (
        changed(("stated = 131e6\n", "")),
        "cases.missing",
        {"where": place("tokens"), "field": "stated"},
    ),
    "a misspelt field": (
        changed(('source = "my notes"', 'sorce = "my notes"')),
        "cases.missing",
        {"where": "mine", "field": "source"},
    ),
    "an unknown field": (
        changed(("stated = 131e6", 'stated = 131e6\nrules = "rental"')),
        "cases.unknown_field",
        {"where": place("tokens"), "field": "rules", "nearest": "rule"},
    ),
    "an unknown preset": (
        changed(("x1-50m", "x1-5m")),
        "cases.unknown",
        {"where": "mine", "field": "preset", "value": "x1-5m", "nearest": "x1-50m"},
    ),
    "unknown hardware": (
        changed(("a100-80gb", "a100-90gb")),
        "cases.unknown",
        {"where": "mine", "field": "hardware", "value": "a100-90gb", "nearest": "a100-80gb"},
    ),
    "an unknown input": (
        changed(("watts = 400", "wats = 400")),
        "cases.unknown",
        {"where": "mine", "field": "stated", "value": "wats", "nearest": "watts"},
    ),
    "an unknown quantity": (
        changed(('quantity = "kwh"', 'quantity = "kw"')),
        "cases.unknown",
        {"where": place("kw"), "field": "quantity", "value": "kw", "nearest": "kwh"},
    ),
    "a rule of another quantity": (
        changed(("stated = 0.55", 'stated = 0.55\nrule = "besiroglu"')),
        "cases.unknown",
        {
            "where": place("dollars"),
            "field": "rule",
            "value": "besiroglu",
            "nearest": cases.nearest("besiroglu", cases.rules_of("dollars")),
        },
    ),
    "a price from nowhere": (
        changed(('id = "all"', 'id = "all"\nprice_from = ["al"]')),
        "cases.unknown",
        {"where": place(), "field": "price_from", "value": "al", "nearest": "all"},
    ),
    "a list where one number is assumed": (
        changed(
            (
                "stated = 0.55",
                'stated = 0.55\nalso = [{ quantity = "dollars", given = { lines_usd = 3 } }]',
            )
        ),
        "cases.unknown",
        {
            "where": place("dollars"),
            "field": "given",
            "value": "lines_usd",
            "nearest": cases.nearest("lines_usd", [i for i in INPUTS if i != "lines_usd"]),
        },
    ),
    "a word for a number": (
        changed(("watts = 400", 'watts = "400"')),
        "cases.type",
        {"where": "mine", "field": "watts", "value": "400", "expected": "number"},
    ),
    "true for a number": (
        changed(("stated = 0.55", "stated = true")),
        "cases.type",
        {"where": place("dollars"), "field": "stated", "value": True, "expected": "number"},
    ),
    "a list for a number": (
        changed(("watts = 400", "watts = [400]")),
        "cases.type",
        {"where": "mine", "field": "watts", "value": [400.0], "expected": "number"},
    ),
    "zero": (
        changed(("watts = 400", "watts = 0")),
        "cases.bound",
        {"where": "mine", "field": "watts", "value": 0},
    ),
    "less than nothing": (
        changed(("stated = 0.55", "stated = -1.5")),
        "cases.bound",
        {"where": place("dollars"), "field": "stated", "value": -1.5},
    ),
    "infinity": (
        changed(("steps = 1000", "steps = inf")),
        "cases.bound",
        {"where": place(), "field": "steps", "value": math.inf},
    ),
    "a phase twice": (
        HONEST + HONEST[HONEST.index("[[case.phase]]") :],
        "cases.twice",
        {"where": "mine", "id": "all"},
    ),
    "a case twice": (
        HONEST + HONEST[HONEST.index("[[case]]") :],
        "cases.twice",
        {"where": "mine.toml", "id": "mine"},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_case_and_field(name: str) -> None:
    text, key, values = BAD[name]
    with pytest.raises(UserError) as refused:
        read_cases(text, "mine.toml")
    assert (refused.value.key, refused.value.values) == (key, values)


def test_a_loss_that_did_not_fall_is_refused_with_its_case() -> None:
    (case,) = read_cases(changed(("loss_after_nats = 5.7", "loss_after_nats = 9.8")), "mine.toml")
    with pytest.raises(UserError) as refused:
        audit(case)
    assert refused.value.key == "cases.fault"
    assert refused.value.values["where"] == place("usd_per_loss_point")


def test_no_expression_is_ever_evaluated() -> None:
    text = changed(("stated = 131e6", 'stated = "1000 * 131072"'))
    with pytest.raises(UserError, match="expected number"):
        read_cases(text, "mine.toml")


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_the_largest_and_smallest_inputs_overflow_nothing(quantity: str) -> None:
    for value in (1e24, 1e-12):
        text = f"""
format = "x1-cases-1"
[[case]]
id = "a"
title = "A"
source = "s"
preset = "x1-50m"
hardware = "l4"
[case.stated]
{chr(10).join(f"{i} = {value}" for i in INPUTS if i not in ("lines_usd", quantity))}
lines_usd = [{value}]
[[case.phase]]
id = "p"
[[case.phase.claim]]
quantity = "{quantity}"
stated = {value}
"""
        (case,) = read_cases(text, "mine.toml")
        try:
            (finding,) = audit(case)
        except UserError as fault:
            assert fault.key == "cases.fault"
            continue
        assert finding.implied is None or math.isfinite(finding.implied)
        assert cases.reason(finding)


# ---- The command


def x1_(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run x1 where importing torch is a failure."""
    (cwd / "path").mkdir(exist_ok=True)
    (cwd / "path" / "torch.py").write_text("raise AssertionError('torch was imported')\n")
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-c", "from x1.cli import main; main()", "cases", *arguments],
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(cwd / "path"), "X1_LANG": "en", **more},
        capture_output=True,
        text=True,
    )


def test_json_is_the_audit(tmp_path: Path) -> None:
    done = x1_("--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert record["format"] == "x1-audit-1"
    assert [case["id"] for case in record["cases"]] == list(SHIPPED)
    for said, case in zip(record["cases"], SHIPPED.values(), strict=True):
        flat = [finding for phase in said["phases"] for finding in phase["findings"]]
        for written, finding in zip(flat, audit(case), strict=True):
            assert written["verdict"] == finding.verdict
            assert written["stated"] == finding.stated
            assert written["missing"] == list(finding.missing)
            assert (written["implied"] is None) == (finding.implied is None)
            assert written["implied"] == pytest.approx(finding.implied or 0, rel=1e-5) or (
                finding.implied is None
            )
            assert written["text"]["es"]["reason"] == cases.reason(finding, "es")


def test_one_report_and_one_of_ones_own(tmp_path: Path) -> None:
    done = x1_("tmlm", cwd=tmp_path)
    assert done.returncode == 0 and "Sonnet" in done.stdout and "GPUburnout" not in done.stdout
    (tmp_path / "mine.toml").write_text(HONEST)
    done = x1_("--file", "mine.toml", "--lang", "es", cwd=tmp_path)
    assert done.returncode == 0 and "Lo mío" in done.stdout
    assert say("cases.tally", "es", follows=5, does_not_follow=0, cannot_be_computed=0) in (
        done.stdout
    )


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_row_fits_into_eighty_columns(code: str) -> None:
    for case in SHIPPED.values():
        stream = io.StringIO()
        Console(file=stream, width=80).print(
            cases.render(case, code), highlight=False, markup=False
        )
        shown = stream.getvalue()
        for finding in audit(case):
            row = cases._row(finding, code)
            (line, *_) = [
                line
                for line in shown.splitlines()
                if line.startswith(row["claim"])
                and line.endswith(row["verdict"])
                and row["stated"] in line
                and row["implied"] in line
            ]
            assert len(line) <= 80
            words = "".join(cases.reason(finding, code).split())
            assert words in "".join(shown.split())


REFUSED: dict[str, tuple[list[str], bytes | None, str, dict[str, Any]]] = {
    "an unknown report": (
        ["gpuburnout"],
        None,
        "cases.unknown_case",
        {"name": "gpuburnout", "nearest": "gpuburnout-1b"},
    ),
    "no file": (["--file", "no.toml"], None, "cases.no_file", {"path": "no.toml"}),
    "a folder": (["--file", "."], None, "cases.no_file", {"path": "."}),
    "a wrong field": (
        ["--file", "mine.toml"],
        changed(("watts = 400", "wats = 400")).encode(),
        "cases.unknown",
        {"where": "mine", "field": "stated", "value": "wats", "nearest": "watts"},
    ),
}


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_sentence(tmp_path: Path, name: str, code: str) -> None:
    arguments, content, key, values = REFUSED[name]
    if content is not None:
        (tmp_path / "mine.toml").write_bytes(content)
    done = x1_(*arguments, cwd=tmp_path, X1_LANG=code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == say(key, code, **values) + "\n"


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe", b"case = " + b"[" * 5000])
def test_what_is_not_toml_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(UserError) as refused:
        cases.read_file(tmp_path / "mine.toml")
    assert refused.value.key == "cases.not_toml"


# ---- The page


def test_the_pages_audit_is_the_codes() -> None:
    """If it is not: x1 cases --json > docs/cases.json"""
    record = json.loads((ROOT / "docs" / "cases.json").read_text("utf-8"))
    assert record == cases.audit_record(shipped_cases())


def test_every_report_has_its_table_on_both_pages() -> None:
    for page in ("cases.md", "cases.es.md"):
        text = (ROOT / "docs" / page).read_text("utf-8")
        for case in SHIPPED:
            assert text.count(f"<!-- audit of {case} -->") == 1


def test_the_pages_example_is_audited_as_it_stands() -> None:
    text = (ROOT / "docs" / "cases.md").read_text("utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    assert verdicts(example) == {"hours": "follows", "dollars": "does_not_follow"}


def test_a_change_of_the_audit_shows_on_both_pages() -> None:
    """The hook's table has every figure and reason, in the page's language."""
    folder = str(ROOT / "docs")
    sys.path.insert(0, folder)
    try:
        import hooks  # type: ignore[import-not-found]
    finally:
        sys.path.remove(folder)
    for code, name in (("en", "cases.md"), ("es", "cases.es.md")):
        page = SimpleNamespace(file=SimpleNamespace(src_uri=name))
        text = (ROOT / "docs" / name).read_text("utf-8").strip()  # as MkDocs hands it over
        shown = hooks.on_page_markdown(text, page, None, None)
        for rule in RULES:
            assert f"| `{rule}` |" in shown
        for case in SHIPPED.values():
            for finding in audit(case):
                row = cases._row(finding, code)
                wanted = "".join(f"<td>{row[name]}</td>" for name in cases.COLUMNS)
                assert f"<tr>{wanted}</tr>" in shown
                assert html.escape(cases.reason(finding, code)) in shown
                for also in finding.asides:
                    assert html.escape(cases.describe(also, finding, code)) in shown
