"""`x1 launch RUN --on local | ssh://user@host[:port] | sky`: where it runs, and what comes first.

    gate       plan.json, a price of the last 14 days, the cost sentence typed back
    reserve    the first lines of ledger.jsonl; the dead-man's timer of a rented machine
    hand-over  the ledger is closed here: from now on the machine's supervisor is its only writer
    start      one command wherever it runs, `x1 train --out RUN`, under its supervisor

Whatever the target, what comes back is the run's folder. `launch.json` in it says where the run
went; it stays here.
"""

import hashlib
import re
import sys
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

from x1 import clock, deadman, folder, ledger, money, plan, price, supervise
from x1.config import RunConfig
from x1.money import CostSentence
from x1.text import UserError, language, say

FORMAT = "x1-launch-1"
RECORD = "launch.json"
STATUS = "launch-status.json"  # how the job stood when a machine was last heard
MOST_USD = 50.0  # whatever a configuration says: nothing above this is launched
LOCAL, SSH, SKY = "local", "ssh", "sky"
# Reasons of a plan against its launch that are looked at again, on the day and with the person.
ASKED_AGAIN = ("stale_price", "future_price", "over_budget", "over_ceiling")

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; paths and words as they were typed."""

    on: str | None = None
    confirm: str | None = None
    over_budget: str | None = None
    accept_old_price: bool = False
    i_will_watch: bool = False
    attach: bool = False
    detach: bool = False
    stop: bool = False
    dry_run: bool = False
    directory: str | None = None
    python: str | None = None
    ssh_config: Path | None = None
    secrets: tuple[str, ...] = ()


def launch(run: Path, asked: Asked, today: date) -> int:
    """Launch `run`, or go back to where it was launched; returns the exit code for the shell.

    Raises UserError, with nothing reserved and nothing started, for whatever the gate refuses.
    """
    config = folder.open_run(run)
    record = read_record(run)
    target = asked.on or (record or {}).get("target")
    if target is None:
        raise UserError("launch.no_target")
    kind = kind_of(target)
    if kind != LOCAL and record and record["handed_over"] and record["on"] != kind:
        raise UserError("launch.elsewhere", target=record["target"], run=run)
    if kind == SSH:
        from x1 import launch_ssh

        return launch_ssh.launch_on(run, config, asked, today)
    if asked.attach or asked.detach or (asked.stop and kind == LOCAL):
        raise UserError("launch.only_ssh", target=target)
    if kind == SKY:
        from x1 import launch_sky

        return launch_sky.launch_on(run, config, asked, today)
    return here(run, config, asked, today)


def kind_of(target: str) -> str:
    """local, ssh or sky. Raises UserError for anything else."""
    if target in (LOCAL, SKY):
        return target
    if target.startswith("ssh://"):
        return SSH
    raise UserError("launch.unknown_target", target=target.partition("@")[2] or target)


def here(run: Path, config: RunConfig, asked: Asked, today: date) -> int:
    """On this machine, in this terminal."""
    from x1 import data

    require_here(run)
    rented = not money.hardware(config.money.hardware).own
    sentence = gate(run, config, today, asked.accept_old_price)
    if rented and not (
        config.money.max_lifetime_hours or asked.i_will_watch or deadman.read_state(run)
    ):
        raise UserError("deadman.none", run=run)
    if asked.dry_run:
        print(say("launch.would_run", command=f"x1 train --out {run}"))
        return 0
    confirm(sentence, asked)
    data.prepare(config)  # before the meter of one's own machine runs
    at = clock.instant()
    began = deadman.machine_started(at, [b for _, b in deadman.spent_before(config)])
    reserve(run, config, sentence, began if rented else at)
    write_record(run, LOCAL, LOCAL, handed_over=False)
    return train(run, asked.i_will_watch)


def train(run: Path, i_will_watch: bool) -> int:
    """What `x1 train --out RUN` does wherever it runs: the ladder if there is one, then the run."""
    from x1 import first_ladder

    code = first_ladder.ladder_first(run, i_will_watch)
    return code or supervise.supervise(run, i_will_watch=i_will_watch)


# ---- The gate


def gate(run: Path, config: RunConfig, today: date, accept_old_price: bool) -> CostSentence:
    """The sentence to be typed back, if this run may be launched today; writes nothing.

    Raises UserError, with every reason there is, if it may not.
    """
    if not (run / folder.PLAN).exists():
        raise UserError("launch.no_plan", run=run, preset=config.preset)
    written = read_written(run)
    if written.config_sha256 != hashlib.sha256((run / folder.CONFIG).read_bytes()).hexdigest():
        raise UserError("launch.other_config", run=run)
    if folder.events(run, "finish"):
        raise UserError("launch.finished", run=run)
    if written.sentence is None or written.reasons:
        raise UserError("launch.refused", run=run, reasons=" ".join(written.reasons))
    sentence = money.parse_cost_sentence(written.sentence)
    if sentence.faults() or sentence.cost_usd != money.round_usd(written.plan_usd):
        raise UserError("launch.wrong_sentence", run=run)
    ceiling_usd = min(config.money.ceiling_usd, MOST_USD)
    if config.money.ceiling_usd > MOST_USD:
        raise UserError("launch.ceiling", ceiling=money.usd(config.money.ceiling_usd),
                        most=money.usd(MOST_USD))  # fmt: skip
    if not all(usd <= ceiling_usd for usd in (sentence.cost_usd, written.reserve_usd)):  # NaN too
        raise UserError("launch.over_ceiling", plan=money.usd(sentence.cost_usd),
                        ceiling=money.usd(ceiling_usd))  # fmt: skip
    if not sentence.own:
        sentence = dated(sentence, written.price_date, today, accept_old_price)
    check_ledger(run)
    return sentence


@dataclass(frozen=True)
class Written:
    """What the gate goes by in plan.json; `reasons` are those against a launch, in words."""

    config_sha256: str
    reasons: list[str]
    sentence: str | None
    plan_usd: float
    reserve_usd: float
    price_date: date | None


def read_written(run: Path) -> Written:
    """Raises UserError if plan.json is not as `x1 plan` writes it: a person may have edited it."""
    record = plan.read_plan(run)
    try:
        sentence, dated_price = record["sentence"]["en"], record["price"]
        return Written(
            str(record["config_sha256"]),
            [str(r[language()]) for r in record["reasons"] if r["reason"] not in ASKED_AGAIN],
            None if sentence is None else str(sentence),
            float(record["money"]["plan_usd"] or 0.0),
            float(record["money"]["reserve_usd"] or 0.0),
            date.fromisoformat(dated_price["date"]) if dated_price else None,
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        raise UserError("folder.damaged", path=run / folder.PLAN) from None


def dated(
    sentence: CostSentence, price_date: date | None, today: date, accept_old_price: bool
) -> CostSentence:
    """The sentence with the age its price has today. Raises UserError if that is too old."""
    if price_date is None:
        raise UserError("launch.no_price_date")
    age_days = (today - price_date).days
    if age_days < 0:
        raise UserError("launch.future_price", date=price_date.isoformat())
    if age_days <= money.STALE_AFTER_DAYS:
        return replace(sentence, stale_days=0)
    if not accept_old_price:
        raise UserError("launch.stale_price", days=age_days, limit=money.STALE_AFTER_DAYS)
    return replace(sentence, stale_days=age_days)


def check_ledger(run: Path) -> None:
    """A ledger that is there already is this plan's, whole, and leaves something to spend."""
    if not ledger.exists(run):
        if (run / folder.METRICS).exists():
            raise UserError("ledger.missing", path=run / folder.LEDGER)
        return
    book = ledger.read_ledger(run)
    if book.plan_sha256 != plan.plan_digest(run):
        raise UserError("supervise.other_plan", path=run / folder.PLAN)
    supervise.check_witnesses(run)
    if ledger.left_usd(book) <= 0:
        raise UserError("launch.nothing_left", spent=money.usd(float(book.spent_usd)),
                        ceiling=money.usd(book.ceiling_usd))  # fmt: skip


def current_price(config: RunConfig, sentence: CostSentence, at: ledger.Instant) -> ledger.Price:
    """The price in force, read again. Raises UserError if it is dearer than the sentence's."""
    read = price.Reader(config).read(at)
    money.positive("price_usd_per_hour", read.usd_per_hour)
    planned = sentence.price_usd_per_hour
    if planned is not None and round(read.usd_per_hour, 4) > planned:
        raise UserError("launch.dearer", price=money.rate(read.usd_per_hour),
                        planned=money.rate(planned))  # fmt: skip
    return read


# ---- The sentence, typed back


def confirm(sentence: CostSentence, asked: Asked) -> None:
    """Until this returns nobody has said yes. Raises UserError if what was typed is not it.

    Over the lab's budget a second sentence is asked for.
    """
    ask(say("launch.type_it"), money.write_cost_sentence(sentence), asked.confirm, "--confirm",
        lambda typed: difference(typed, sentence))  # fmt: skip
    if not sentence.acceptable:
        over, budget = -sentence.buffer_usd, sentence.budget_usd
        wanted = say("launch.over_budget", over=money.usd(over), budget=money.usd(budget))
        ask(say("launch.type_over_budget"), wanted, asked.over_budget, "--over-budget",
            lambda typed: other_amounts(typed, [over, budget]))  # fmt: skip


def ask(request: str, wanted: str, given: str | None, option: str, fault: Any) -> None:
    """One sentence from the command line, or from whoever is at the terminal."""
    if given is None:
        if not (sys.stdin and sys.stdin.isatty()):
            raise UserError("launch.not_confirmed", option=option, sentence=wanted)
        print(request)
        print(f"\n  {wanted}\n", flush=True)
        try:
            given = input("> ")
        except EOFError:
            given = ""
    if not given.strip():
        raise UserError("launch.not_confirmed", option=option, sentence=wanted)
    wrong = fault(given)
    if wrong:
        raise UserError("launch.typed_otherwise", part=wrong, sentence=wanted)


def difference(typed: str, sentence: CostSentence) -> str | None:
    """The first part in which a typed sentence is not the plan's; None if it is the same.

    Words and language are free, every number counts.
    """
    said = money.parse_cost_sentence(typed)
    meant = money.parse_cost_sentence(money.write_cost_sentence(sentence))
    for field in fields(CostSentence):
        one, other = getattr(said, field.name), getattr(meant, field.name)
        if isinstance(one, str):
            one, other = one.casefold(), str(other).casefold()
        if one != other:
            return field.name
    return None


def other_amounts(typed: str, amounts: list[float]) -> str | None:
    """The amounts that should have been typed, if others were; None if they are the same."""
    said = [money.parse_number(number) for number in re.findall(r"\d(?:[\d.,]*\d)?", typed)]
    return None if said == amounts else ", ".join(money.usd(amount) for amount in amounts)


# ---- The reserve and the dead-man's limit


def reserve(run: Path, config: RunConfig, sentence: CostSentence, began: ledger.Instant) -> None:
    """Set aside in the ledger the most this run may cost, and hand the ledger over.

    A ledger that is there has had another writer since: it is not written to here, and whoever
    takes it up reserves what is left before anything starts.
    """
    from x1 import first_ladder

    with folder.locked(run, "supervise"):
        at = clock.instant()
        read = current_price(config, sentence, at)
        if ledger.exists(run):
            check_ledger(run)
            return
        if first_ladder.planned(run):  # its dollars are this ledger's, too
            first_ladder.begin(run)
        book = supervise.open_ledger(run, config, began, read, deadman.spent_before(config))
        book = supervise.reserve_most(run, config, book, at)
        ledger.close(run, book, at, "handed over")


def dead_man(run: Path, config: RunConfig, asked: Asked) -> str:
    """What ends a rented machine elsewhere if nobody else can, in words; "" for one's own.

    Raises UserError if nothing can and nobody promises to watch. Arms nothing.
    """
    if money.hardware(config.money.hardware).own:
        return ""
    if config.money.stop_command:
        return say("launch.will_arm", command=config.money.stop_command)
    if config.money.max_lifetime_hours:
        return say("deadman.provider", hours=f"{config.money.max_lifetime_hours:g}")
    if asked.i_will_watch:
        return say("deadman.watched")
    raise UserError("launch.no_dead_man", run=run)


def arm(run: Path, config: RunConfig, at: ledger.Instant, age_s: float = 0.0) -> None:
    """Arm the timer of a rented machine that has been up for `age_s`, unless one is counting.

    It counts from the machine's start, but for what a timer before it has counted already.
    """
    if money.hardware(config.money.hardware).own or not config.money.stop_command:
        return
    state = deadman.read_state(run)
    if state and state["status"] == "armed":
        if deadman.is_running(state):
            return
        age_s = 0.0  # it died counting, and all of the time since is taken off what it had left
    elif state:
        age_s = min(age_s, max(at.wall_ms - state["wall_ms"], 0) / 1000)
    age_ms = round(1000 * age_s)
    began = replace(at, wall_ms=at.wall_ms - age_ms, boot_ms=at.boot_ms - age_ms)
    state = deadman.arm(run, config, began)
    tell("deadman.is_armed", pid=state["pid"], until=state["until"], command=state["command"])


# ---- Where it went


def read_record(run: Path) -> Json | None:
    """Where the run was launched; None if it never was."""
    return folder.read_json(run / RECORD, FORMAT) if (run / RECORD).exists() else None


def write_record(run: Path, on: str, target: str, **more: Any) -> Json:
    record = {"format": FORMAT, "on": on, "target": target, "time": folder.now(), **more}
    folder.write_json(run / RECORD, record)
    return record


def require_here(run: Path) -> None:
    """Refuse a second writer: a run that was handed over is trained where it went, until it has
    been seen to end there and its ledger, closed, has come back.

    Raises UserError naming where that is.
    """
    record, status = read_record(run), run / STATUS
    if not (record and record["handed_over"]):
        return
    ended = status.exists() and not folder.read_json(status)["running"]
    if not (ended and is_closed(run)):
        raise UserError("launch.handed_over", target=record["target"], run=run,
                        path=run / RECORD)  # fmt: skip


def is_closed(run: Path) -> bool:
    """Whether the ledger here ends with its meter stopped."""
    return ledger.exists(run) and ledger.read_ledger(run).closed


def tell(key: str, **values: Any) -> None:
    print(say(key, **values), file=sys.stderr, flush=True)
