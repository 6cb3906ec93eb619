"""The gate before every launch, and a launch on this machine."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from x1 import cli, clock, deadman, folder, launch, ledger, money, plan
from x1 import config as configuration
from x1.launch import Asked
from x1.text import UserError, set_language

TODAY = date(2026, 11, 21)
RENTED = ("money.hardware='a100-80gb'", "money.price_usd_per_hour=1.39")
SMALL = (
    "train.steps=30", "train.threads=1", "train.batch_sequences=8", "checkpoint.every_steps=10",
    "stability.window=16", "stability.inject=[]", "sample.milestones=[0]", "evaluate.tokens=2000",
)  # fmt: skip


def planned(
    path: Path, *settings: str, preset: str = "x1-50m", day: date = TODAY, **more: Any
) -> Path:
    """A run's folder as `x1 plan --out` leaves it."""
    priced = () if any("price_date" in s for s in settings) else (f"money.price_date='{day}'",)
    rented = (*RENTED, *priced) if preset == "x1-50m" else ()
    config = configuration.build(preset, settings=(*rented, *settings))
    plan.write_plan(path, plan.make_plan(config, today=day, **{"mfu": 0.4, **more}))
    return path


def rehearsal(path: Path, *settings: str) -> Path:
    """A planned run for the CPU at hand, the rehearsal cut to a few steps."""
    return planned(path, *SMALL, *settings, preset="rehearsal", mfu=None, tokens_per_s=4000.0,
                   day=date.today())  # fmt: skip


def gate(run: Path, today: date = TODAY, accept_old_price: bool = False) -> money.CostSentence:
    return launch.gate(run, folder.open_run(run), today, accept_old_price)


def refusal(run: Path, **more: Any) -> UserError:
    before = sorted(p.name for p in run.iterdir())
    with pytest.raises(UserError) as caught:
        gate(run, **more)
    assert sorted(p.name for p in run.iterdir()) == before  # nothing was written
    assert str(caught.value)
    return caught.value


def edit(run: Path, change: Any) -> None:
    record = json.loads((run / folder.PLAN).read_text())
    change(record)
    folder.write_json(run / folder.PLAN, record)


# ---- The gate


def test_a_planned_run_passes_with_the_plans_own_sentence(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    sentence = money.write_cost_sentence(gate(run))
    assert sentence == plan.read_plan(run)["sentence"]["en"]
    assert sorted(p.name for p in run.iterdir()) == ["config.toml", "plan.json"]


def test_no_plan(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder.claim(run, configuration.build("x1-50m"))
    assert refusal(run).key == "launch.no_plan"


def test_a_configuration_changed_after_planning(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    text = (run / folder.CONFIG).read_text()
    (run / folder.CONFIG).write_text(text.replace("seed = 0", "seed = 1", 1))
    assert refusal(run).key == "launch.other_config"


@pytest.mark.parametrize("days", [0, 14])
def test_a_price_of_two_weeks_still_holds(tmp_path: Path, days: int) -> None:
    run = planned(tmp_path / "run")
    assert gate(run, today=TODAY + timedelta(days)).stale_days == 0


def test_an_older_price_needs_to_be_accepted_and_the_sentence_says_so(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    later = TODAY + timedelta(15)
    assert refusal(run, today=later).key == "launch.stale_price"
    sentence = gate(run, today=later, accept_old_price=True)
    assert money.write_cost_sentence(sentence).startswith("STALE (the price is 15 days old)")


def test_a_price_that_was_stale_when_planned_is_fresh_to_nobody(tmp_path: Path) -> None:
    old = (TODAY - timedelta(20)).isoformat()
    run = planned(tmp_path / "run", f"money.price_date='{old}'")
    assert refusal(run).key == "launch.stale_price"
    assert gate(run, accept_old_price=True).stale_days == 20


def test_a_price_of_tomorrow(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    assert refusal(run, today=TODAY - timedelta(1)).key == "launch.future_price"


@pytest.mark.parametrize("code", ["en", "es"])
def test_every_reason_of_a_plan_is_given_in_the_readers_language(tmp_path: Path, code: str) -> None:
    """A GPU whose memory does not hold the model, at a price nobody knows."""
    config = configuration.build("gpuburnout-1b", settings=(
        "money.hardware='rtx-3090'", "model.n_layers=60", "model.context=8192"))  # fmt: skip
    run = tmp_path / "run"
    plan.write_plan(run, plan.make_plan(config, today=TODAY, mfu=0.4, price=0.24))
    reasons = [r for r in plan.read_plan(run)["reasons"] if r["reason"] == "no_memory"]
    assert reasons
    set_language(code)
    fault = refusal(run)
    assert fault.key == "launch.refused"
    assert all(reason[code] in str(fault) for reason in reasons)


def test_over_the_ceiling(tmp_path: Path) -> None:
    run = planned(tmp_path / "run", tokens=100_000_000_000)
    assert refusal(run).key == "launch.over_ceiling"


def test_a_ceiling_above_fifty_dollars_is_refused_whatever_the_plan_costs(tmp_path: Path) -> None:
    run = planned(tmp_path / "run", "money.ceiling_usd=50.01")
    assert refusal(run).key == "launch.ceiling"


def test_a_plan_whose_sentence_was_edited(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")

    def cheaper(record: Any) -> None:
        record["sentence"]["en"] = record["sentence"]["en"].replace("$1.39/h", "$1.19/h")

    edit(run, cheaper)
    assert refusal(run).key == "launch.wrong_sentence"


def test_a_plan_whose_dollars_were_edited(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    edit(run, lambda record: record["money"].update(plan_usd=1.0))
    assert refusal(run).key == "launch.wrong_sentence"


JUNK = (None, True, -1, 1e308, "", "x", [], {}, [1, 2], {"a": 1}, "2026-13-45")


def test_a_plan_in_another_form_is_one_sentence(tmp_path: Path) -> None:
    """Every value of plan.json, one in twelve replaced by something of another kind."""
    run = planned(tmp_path / "run")
    record, refused = json.loads((run / folder.PLAN).read_text()), 0
    for seed in range(200):
        draw = random.Random(seed)

        def spoil(value: Any, depth: int = 0, draw: random.Random = draw) -> Any:
            if draw.random() < 1 / 12 and depth:
                return draw.choice(JUNK)
            if isinstance(value, dict):
                return {name: spoil(part, depth + 1) for name, part in value.items()}
            return [spoil(part, depth + 1) for part in value] if isinstance(value, list) else value

        (run / folder.PLAN).write_text(json.dumps(spoil(record)))
        try:
            gate(run)
        except UserError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("field", ["reserve_usd", "plan_usd"])
def test_dollars_that_are_no_number_are_not_under_the_ceiling(tmp_path: Path, field: str) -> None:
    run = planned(tmp_path / "run")
    record = json.loads((run / folder.PLAN).read_text())
    record["money"][field] = math.nan
    (run / folder.PLAN).write_text(json.dumps(record))
    assert refusal(run).key in ("launch.over_ceiling", "launch.wrong_sentence")


def test_a_rented_machine_without_a_dated_price(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    edit(run, lambda record: record.update(price=None))
    assert refusal(run).key == "launch.no_price_date"


def test_a_finished_run(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    folder.record_event(run, "finish", step=1)
    assert refusal(run).key == "launch.finished"


def test_a_ledger_of_another_plan_or_with_nothing_left(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    price = ledger.Price(1.39, "typed", TODAY.isoformat())
    at = clock.instant()
    book = ledger.start(run, at, price, 50.0, 35.0, plan.plan_digest(run))
    gate(run)
    ledger.carry(run, book, at, Decimal("50"), "elsewhere")
    assert refusal(run).key == "launch.nothing_left"
    (run / folder.LEDGER).unlink()
    ledger.start(run, at, price, 50.0, 35.0, "0" * 64)
    assert refusal(run).key == "supervise.other_plan"
    (run / folder.LEDGER).unlink()
    (run / folder.METRICS).touch()
    assert refusal(run).key == "ledger.missing"


def test_a_price_that_has_risen_since(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    run = planned(tmp_path / "run", f"money.price_source='file:{prices}'")
    text = 'format = "x1-prices-1"\n[[offer]]\nhardware = "a100-80gb"\nusd_per_hour = {}\n'
    prices.write_text(text.format("1.39") + "date = 2026-11-21\n")
    config, sentence = folder.open_run(run), gate(run)
    assert launch.current_price(config, sentence, clock.instant()).usd_per_hour == 1.39
    prices.write_text(text.format("1.40") + "date = 2026-11-21\n")
    with pytest.raises(UserError) as caught:
        launch.reserve(run, config, sentence, clock.instant())
    assert caught.value.key == "launch.dearer"
    assert not (run / folder.LEDGER).exists()


# ---- The sentence, typed back


def typed(run: Path, text: str | None, over: str | None = None) -> UserError | None:
    try:
        launch.confirm(gate(run), Asked(confirm=text, over_budget=over))
    except UserError as fault:
        return fault
    return None


def test_the_sentence_in_either_language_with_either_decimal_mark(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    for sentence in plan.read_plan(run)["sentence"].values():
        assert typed(run, sentence) is None
        assert typed(run, sentence.replace(".39", ",39")) is None


def test_one_number_typed_otherwise_is_named(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    sentence = plan.read_plan(run)["sentence"]["en"]
    meant = money.parse_cost_sentence(sentence)
    for part, old in (
        ("price_usd_per_hour", f"${meant.price_usd_per_hour}/h"),
        ("hours", f"{meant.hours:.2f} h"),
        ("cost_usd", f"= ${meant.cost_usd:.2f}"),
        ("budget_usd", f"{meant.budget_usd:.2f}"),
        ("buffer_usd", f"{meant.buffer_usd:.2f} buffer"),
        ("count", "1×"),
        ("hardware", "A100-80GB"),
    ):
        assert sentence.count(old) == 1, old
        other = old.replace("A100", "A101") if part == "hardware" else bump(old)
        fault = typed(run, sentence.replace(old, other))
        assert fault is not None and fault.key == "launch.typed_otherwise", part
        assert fault.values["part"] == part


def bump(text: str) -> str:
    """The same with its first digit another."""
    place = next(i for i, c in enumerate(text) if c.isdigit())
    return text[:place] + str((int(text[place]) + 1) % 10 or 1) + text[place + 1 :]


@pytest.mark.parametrize("text", ["", "  ", "yes", "I agree"])
def test_anything_short_of_the_sentence_is_no(tmp_path: Path, text: str) -> None:
    fault = typed(planned(tmp_path / "run"), text)
    assert fault is not None
    assert text.strip() or fault.key == "launch.not_confirmed"


def test_nobody_at_the_terminal_and_no_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    fault = typed(planned(tmp_path / "run"), None)
    assert fault is not None and fault.key == "launch.not_confirmed"


def test_the_prompt_shows_the_sentence_and_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planned(tmp_path / "run")
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    answers = [plan.read_plan(run)["sentence"]["es"], "", "yes"]
    monkeypatch.setattr("builtins.input", lambda prompt: answers.pop(0))
    assert typed(run, None) is None
    assert plan.read_plan(run)["sentence"]["en"] in capsys.readouterr().out
    assert typed(run, None) is not None and typed(run, None) is not None


def test_over_the_lab_budget_takes_a_second_sentence(tmp_path: Path) -> None:
    run = planned(tmp_path / "run", "money.lab_budget_usd=5")
    sentence = gate(run)
    assert 5 < sentence.cost_usd < 50
    text = money.write_cost_sentence(sentence)
    fault = typed(run, text)
    assert fault is not None and "--over-budget" in str(fault)
    over = f"{-sentence.buffer_usd:.2f}"
    assert typed(run, text, f"I accept ${over} over the budget of $5.00.") is None
    assert typed(run, text, f"Acepto ${over.replace('.', ',')}, presupuesto 5,00") is None
    assert typed(run, text, "I accept $0.01 over the budget of $5.00.") is not None
    assert typed(run, text, "yes") is not None


# ---- The reserve and the dead-man's limit


def test_the_reserve_is_taken_and_the_ledger_handed_over(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    launch.reserve(run, folder.open_run(run), gate(run), clock.instant())
    book = ledger.read_ledger(run)
    entries = [entry["entry"] for entry in ledger.read_entries(run)]
    assert entries[0] == "open" and entries[-1] == "close" and "reserve" in entries
    assert book.closed and book.reserved_usd > 0
    assert book.plan_sha256 == plan.plan_digest(run)
    written = (run / folder.LEDGER).read_bytes()
    launch.reserve(run, folder.open_run(run), gate(run), clock.instant())
    assert (run / folder.LEDGER).read_bytes() == written  # it has had another writer since


def dead_man(run: Path, **asked: Any) -> str:
    return launch.dead_man(run, folder.open_run(run), Asked(**asked))


def test_a_rented_machine_needs_something_that_ends_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        dead_man(planned(tmp_path / "none"))
    assert caught.value.key == "launch.no_dead_man"
    assert "will watch" in dead_man(planned(tmp_path / "watch"), i_will_watch=True)
    assert "12 h" in dead_man(planned(tmp_path / "hours", "money.max_lifetime_hours=12"))
    assert "'true'" in dead_man(planned(tmp_path / "timer", "money.stop_command='true'"))
    assert dead_man(rehearsal(tmp_path / "own")) == ""


def test_the_timer_is_armed_once_from_the_machines_start(tmp_path: Path) -> None:
    run = planned(tmp_path / "run", "money.stop_command='true'")
    config = folder.open_run(run)
    launch.reserve(run, config, gate(run), clock.instant())
    at = clock.instant()
    try:
        launch.arm(run, config, at, 3600.0)
        first = deadman.read_state(run)
        assert first is not None and deadman.is_running(first)
        assert first["boot_ms"] == at.boot_ms - 3_600_000  # the hour before the launch is counted
        launch.arm(run, config, at, 3600.0)
        assert deadman.read_state(run) == first

        os.kill(first["pid"], signal.SIGKILL)  # what it had counted is not counted twice
        until_gone(first)
        launch.arm(run, config, at, 3600.0)
        second = deadman.read_state(run)
        assert second is not None and second["pid"] != first["pid"]
        assert second["boot_ms"] == at.boot_ms
        assert second["left_usd"] == pytest.approx(first["left_usd"] - 1.39, abs=0.01)
        deadman.disarm(run)
        launch.arm(run, config, at, 3600.0)
        third = deadman.read_state(run)
        assert third is not None and third["boot_ms"] == at.boot_ms
    finally:
        deadman.disarm(run)


def until_gone(state: dict[str, Any]) -> None:
    deadline_s = time.monotonic() + 20
    while deadman.is_running(state):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


# ---- The command line


def x1_(*words: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("x1"), *map(str, words)], cwd=cwd, text=True,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Say where"),
        (["--on", "moon"], "'moon' is no place"),
        (["--on", "root:secret@host"], "no place"),
        (["--on", "local"], "the sentence was not typed back"),
        (["--on", "local", "--confirm", "yes"], "lacks its"),
        (["--on", "local", "--stop"], "not for 'local'"),
        (["--on", "local", "--attach"], "not for 'local'"),
        (["--on", "ssh://host", "--stop"], "has not been launched over ssh"),
        (["--on", "ssh://host/path"], "not a machine"),
        (["--on", "ssh://user:secret@host"], "No password"),
        (["--on", "ssh://host", "--ssh-config", "none"], "no ssh configuration none"),
        (["--on", "sky"], "asked for one a100-80gb"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence_and_starts_nothing(
    tmp_path: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = rehearsal(tmp_path / "run")
    before = sorted(p.name for p in run.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "argv", ["x1", "launch", "run", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr()
    assert end.value.code == 2 and said in shown.err
    assert "secret" not in shown.out + shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert sorted(p.name for p in run.iterdir()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_dry_run_shows_and_starts_nothing(tmp_path: Path) -> None:
    run = rehearsal(tmp_path / "run")
    done = x1_("launch", run, "--on", "local", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and f"x1 train --out {run}" in done.stdout
    assert sorted(p.name for p in run.iterdir()) == ["config.toml", "plan.json"]


def test_a_launch_on_this_machine(tmp_path: Path) -> None:
    run = rehearsal(tmp_path / "run", "train.steps=4")
    sentence = plan.read_plan(run)["sentence"]["es"]
    done = x1_("launch", run, "--on", "local", "--confirm", sentence, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    entries = ledger.read_entries(run)
    kinds = [entry["entry"] for entry in entries]
    assert kinds.index("reserve") < kinds.index("close") < kinds.index("gap")
    assert entries[-1]["reason"] == "exit 0"
    assert entries[kinds.index("gap")]["seconds"] == 0.0  # one's own machine: nothing in between
    (event,) = folder.events(run, "finish")
    assert event["step"] == 4


def test_a_run_that_was_handed_over_is_not_trained_here_as_well(tmp_path: Path) -> None:
    run = rehearsal(tmp_path / "run")
    sentence = plan.read_plan(run)["sentence"]["en"]
    launch.reserve(run, folder.open_run(run), gate(run, today=date.today()), clock.instant())
    launch.write_record(run, launch.SSH, "ssh://host", handed_over=True)
    for words in (["launch", run, "--on", "local", "--confirm", sentence], ["train", "--out", run]):
        done = x1_(*words, cwd=tmp_path)
        assert done.returncode == 2 and "handed over to ssh://host" in done.stderr
    done = x1_("launch", run, "--on", "ssh://other", "--confirm", sentence, cwd=tmp_path)
    assert done.returncode == 2 and "launched on ssh://host" in done.stderr
    folder.write_json(run / launch.STATUS, {"format": "x1-launch-status-1", "running": False})
    launch.require_here(run)  # seen to end, and the ledger is closed
