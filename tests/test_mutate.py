"""The wrong answers that rules make: each changes one thing, says which, and is Python."""

import ast

import pytest

from x1.course import mutate

CELL = '''\
# exercise: cost
from math import log

RATE = 1.5


def cost(hours: float, rate: float = RATE, *, gpus: int = 2) -> float:
    """Dollars."""
    if hours < 0 and not gpus:
        raise ValueError("hours below zero")
    total = 0.0
    for _ in range(gpus):
        total += hours * rate
    total -= min(total, -log(rate))
    return total if total > 1 else 0
'''

MADE = [
    ("RATE = 1.5", "RATE = 3.0"),
    ("if hours < 0 and (not gpus):", "if True:"),
    ("if hours < 0 and (not gpus):", "if False:"),
    ("if hours < 0 and (not gpus):", "if hours < 0 or not gpus:"),
    ("if hours < 0 and (not gpus):", "if hours <= 0 and (not gpus):"),
    ("if hours < 0 and (not gpus):", "if hours > 0 and (not gpus):"),
    ("if hours < 0 and (not gpus):", "if hours < 0 and gpus:"),
    ("total = 0.0", "total = 1.0"),
    ("total += hours * rate", "total -= hours * rate"),
    ("total += hours * rate", "total += hours / rate"),
    ("total += hours * rate", mutate.GONE),
    ("total -= min(total, -log(rate))", "total -= max(total, -log(rate))"),
    ("total -= min(total, -log(rate))", "total -= min(total, log(rate))"),
    ("return total if total > 1 else 0", "return total if total >= 1 else 0"),
    ("return total if total > 1 else 0", "return total if total > 2 else 0"),
    ("return total if total > 1 else 0", "return total"),
    ("return total if total > 1 else 0", "return 0"),
]


@pytest.mark.parametrize(("was", "now"), MADE)
def test_a_mutation_is_made_and_named(was, now):
    assert (was, now) in [(one.was, one.now) for one in mutate.mutations(CELL)]


def test_every_mutation_is_python_differs_and_keeps_its_first_line():
    made = mutate.mutations(CELL)
    plain = ast.dump(ast.parse(CELL))
    assert len({one.text for one in made}) == len(made) > len(MADE)
    for one in made:
        assert ast.dump(ast.parse(one.text)) != plain
        assert one.text.startswith("# exercise: cost\n")
        assert one.was != one.now
        assert "hours below zero" in one.text and "Dollars." in one.text  # words are not mutated


def test_a_default_is_mutated_too():
    defaults = [one.now for one in mutate.mutations(CELL) if one.was.startswith("def cost")]
    assert any("gpus: int=3" in said for said in defaults)


def run(text):
    made = {}
    exec(text, made)
    return made["cost"]


def test_the_wrapper_with_nothing_wrong_is_the_reference():
    wrapped, reference = run(mutate.control(CELL, "cost")), run(CELL)
    for given, named in (
        ((2.0,), {}),
        ((2.0, 3.0), {"gpus": 1}),
        ((), {"hours": 7.0, "rate": 2.0}),
    ):
        assert wrapped(*given, **named) == reference(*given, **named)
    with pytest.raises(ValueError):
        wrapped(-1.0, gpus=0)


def test_a_shortcut_is_wrong_as_it_says():
    made = {one.now: one.text for one in mutate.shortcuts(CELL, "cost")}
    reference = run(CELL)
    first = run(made["returns what the first case returns"])
    assert [first(2.0), first(9.0)] == [reference(2.0)] * 2
    deaf = run(made["ignores rate after the first case"])
    assert [deaf(2.0), deaf(9.0, 7.0)] == [reference(2.0), reference(9.0)]
    assert run(made["returns 1.0"])(2.0) == 1.0
    assert {f"ignores {name} after the first case" for name in ("hours", "rate", "gpus")} <= set(
        made
    )


def test_delegates_and_thefts_are_whole_cells():
    (cell,) = mutate.delegates("# exercise: cost", "cost", ["math.hypot"])
    assert cell.text.startswith("# exercise: cost\n") and run(cell.text)(3, 4) == 5
    for theft in mutate.thefts("# exercise: cost", "cost", ["oracle"]):
        assert "oracle" in theft.now and run(theft.text)
