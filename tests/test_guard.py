import math
from dataclasses import fields, replace
from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from x1 import guard
from x1.guard import GuardState, decide
from x1.text import LANGUAGES, catalogue

CALM = GuardState(
    spent_usd=10.0,
    ceiling_usd=50.0,
    alert_line_usd=30.0,
    price_usd_per_hour=1.10,
    price_age_s=10.0,
    stopping_s=70.0,
    running_s=7200.0,
    tokens_done=1_000_000_000,
    tokens_total=5_000_000_000,
    tokens_per_s=100_000.0,
    over_alert_s=0.0,
    progress_age_s=1.0,
    progress_limit_s=300.0,
    ledger_damaged=False,
    policy="ask",
    attended=False,
)
# 4e9 tokens at 40,000 a second are 27.8 h, $30.6: $40.6 in the end.
SLOW = replace(CALM, tokens_per_s=40_000.0, over_alert_s=900.0)
QUANTITIES = [
    name for name, kind in get_type_hints(GuardState).items() if kind in (int, float, float | None)
]
SEVERITY = {"go": 0, "alert": 1, "stop": 2}

RULES = [
    ("damaged-ledger", {"ledger_damaged": True}),
    ("not-a-number", {"stopping_s": math.nan}),
    ("not-a-number", {"progress_limit_s": math.inf}),
    ("negative", {"running_s": -1.0}),
    ("price", {"price_usd_per_hour": 0.0}),
    ("unread-price", {"price_age_s": 3600.1}),
    ("ceiling", {"ceiling_usd": 10.02}),
    ("hung-trainer", {"progress_age_s": 300.1}),
    ("alert-line", {"tokens_per_s": 40_000.0, "over_alert_s": 900.0}),
]


def test_a_calm_run_goes_on() -> None:
    assert decide(CALM) == guard.Decision("go", "go")


@pytest.mark.parametrize(("rule", "changes"), RULES)
def test_each_rule_stops_and_names_itself(rule: str, changes: dict[str, Any]) -> None:
    assert decide(replace(CALM, **changes)) == guard.Decision("stop", rule)


def test_rules_are_tried_in_the_order_of_the_table() -> None:
    """With everything wrong at once, mending the first leaves the next."""
    state = CALM
    for _, changes in reversed(RULES):
        state = replace(state, **changes)
    seen = []
    for rule, changes in RULES:
        if rule not in seen:
            assert decide(state).rule == rule
            seen.append(rule)
        state = replace(state, **{name: getattr(CALM, name) for name in changes})
    table = [line.split("|")[1].strip() for line in str(guard.__doc__).splitlines() if "|" in line]
    assert [row for row in table[2:] if row] == [*seen, "go"]


def test_every_rule_has_its_sentence() -> None:
    for code in LANGUAGES:
        # "superseded" is the supervisor's own: another start has claimed the run's mirror.
        assert {rule for rule, _ in RULES} | {"superseded"} == {
            key.removeprefix("guard.") for key in catalogue(code) if key.startswith("guard.")
        }


@pytest.mark.parametrize("name", QUANTITIES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nothing_but_numbers_is_believed(name: str, value: float) -> None:
    assert decide(replace(CALM, **{name: value})) == guard.Decision("stop", "not-a-number")


@pytest.mark.parametrize("name", QUANTITIES)
def test_nothing_negative_is_believed(name: str) -> None:
    assert decide(replace(CALM, **{name: -1})) == guard.Decision("stop", "negative")


def test_quantities_are_all_fields_but_the_three_choices() -> None:
    assert {field.name for field in fields(GuardState)} - set(QUANTITIES) == {
        "ledger_damaged",
        "policy",
        "attended",
    }


@pytest.mark.parametrize(
    ("policy", "attended", "action"),
    [
        ("ask", False, "stop"),
        ("ask", True, "alert"),
        ("stop", False, "stop"),
        ("stop", True, "stop"),
        ("continue", False, "alert"),
        ("continue", True, "alert"),
    ],
)
def test_policy_of_the_alert_line(policy: Any, attended: bool, action: str) -> None:
    decision = decide(replace(SLOW, policy=policy, attended=attended))
    assert decision == guard.Decision(action, "alert-line")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"over_alert_s": 899.9},  # not for long enough
        {"running_s": 599.9},  # no projection is believed yet
        {"alert_line_usd": None},  # no plan
        {"alert_line_usd": 40.6},  # below the line
        {"tokens_per_s": None},  # no rate yet
        {"tokens_done": 5_000_000_000},  # nothing left to train
    ],
)
def test_the_alert_line_needs_all_its_conditions(changes: dict[str, Any]) -> None:
    assert decide(SLOW).action == "stop"
    assert decide(replace(SLOW, **changes)).action == "go"


def test_projection() -> None:
    assert guard.projection_usd(SLOW) == pytest.approx(10 + 4e9 / 40_000 / 3600 * 1.10)
    assert guard.projection_usd(replace(SLOW, tokens_per_s=0.0)) == math.inf
    assert guard.projection_usd(replace(SLOW, tokens_per_s=None)) == 10.0


amounts = st.floats(0, 1e6) | st.sampled_from([0.0, math.nan, math.inf, -1.0])
states = st.builds(
    GuardState,
    spent_usd=amounts,
    ceiling_usd=amounts,
    alert_line_usd=st.none() | amounts,
    price_usd_per_hour=amounts,
    price_age_s=st.floats(0, 7200) | amounts,
    stopping_s=amounts,
    running_s=st.floats(0, 2000) | amounts,
    tokens_done=st.integers(0, 10**13),
    tokens_total=st.integers(0, 10**13),
    tokens_per_s=st.none() | amounts,
    over_alert_s=st.floats(0, 2000) | amounts,
    progress_age_s=st.floats(0, 2000) | amounts,
    progress_limit_s=amounts,
    ledger_damaged=st.booleans(),
    policy=st.sampled_from(["ask", "stop", "continue"]),
    attended=st.booleans(),
)
# Sound states near the borders, where monotony is at stake.
sound = st.builds(
    replace,
    st.just(CALM),
    spent_usd=st.floats(0, 60),
    price_usd_per_hour=st.floats(0.01, 1000),
    price_age_s=st.floats(0, 4000),
    stopping_s=st.floats(0, 600),
    tokens_per_s=st.none() | st.floats(1, 1e6),
    over_alert_s=st.floats(0, 2000),
    progress_age_s=st.floats(0, 400),
    attended=st.booleans(),
)


@given(states)
@settings(max_examples=500, deadline=None)
def test_always_an_answer_and_go_only_when_all_is_well(state: GuardState) -> None:
    decision = decide(state)
    numbers = [getattr(state, name) for name in QUANTITIES]
    if any(number is not None and not math.isfinite(number) for number in numbers):
        assert decision.action == "stop"
    if state.ledger_damaged or state.price_usd_per_hour <= 0:
        assert decision.action == "stop"
    if state.spent_usd + guard.stopping_usd(state) >= state.ceiling_usd:
        assert decision.action == "stop"
    assert (decision.action == "go") == (decision.rule == "go")


@given(state=sound, ceiling_usd=st.floats(0.01, 60))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_what_is_left_always_pays_for_stopping(state: GuardState, ceiling_usd: float) -> None:
    """Whatever goes on could still be stopped below the ceiling at the next decision, even at a
    price that has trebled since it was last read."""
    state = replace(state, ceiling_usd=ceiling_usd)
    assume(decide(state).action != "stop")
    trebled = 3 * state.price_usd_per_hour
    unseen_usd = (trebled - state.price_usd_per_hour) * state.price_age_s / 3600
    assert state.spent_usd + unseen_usd + trebled * state.stopping_s / 3600 < ceiling_usd


@given(state=sound, factor=st.floats(1, 100))
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize(
    "name", ["spent_usd", "price_usd_per_hour", "stopping_s", "price_age_s", "progress_age_s",
             "over_alert_s", "tokens_total"],
)  # fmt: skip
def test_worse_never_softens(name: str, state: GuardState, factor: float) -> None:
    worse = replace(state, **{name: getattr(state, name) * factor})
    assert SEVERITY[decide(worse).action] >= SEVERITY[decide(state).action]


@given(state=sound, factor=st.floats(0, 1))
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("name", ["ceiling_usd", "alert_line_usd", "tokens_per_s"])
def test_less_room_never_softens(name: str, state: GuardState, factor: float) -> None:
    assume(getattr(state, name) is not None)
    worse = replace(state, **{name: getattr(state, name) * factor})
    assert SEVERITY[decide(worse).action] >= SEVERITY[decide(state).action]
