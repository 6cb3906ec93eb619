"""The grader of lab 11: drawn facts, forged seals, ledgers and histories made on the spot."""

import hashlib
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_CEILING, Decimal

from x1.course.grading import exercise, expect


def number(value):
    """The learner's number, or NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def near(got, wanted, rel=1e-9, absolute=1e-9):
    return math.isclose(number(got), wanted, rel_tol=rel, abs_tol=absolute)


def digest(rng):
    return rng.bytes(32).hex()


def told(values):
    """A dictionary as one line, all of it, for a message."""
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "{}"


# --- preflight


def affordable(facts, usd):
    return usd <= facts["ceiling_usd"] and usd <= 50


def plus(facts, *names):
    return facts["spent_usd"] + math.prod(facts[name] for name in names)


# Each reason: the facts it rests on, and when it is absent, given all of them.
RULES = {
    "disk": (("free_gb", "needed_gb"), lambda f: f["free_gb"] - f["needed_gb"] >= 0),
    "price": (("price_age_days",), lambda f: f["price_age_days"] in range(15)),
    "sentence": (("confirmed_usd", "plan_usd"), lambda f: f["confirmed_usd"] == f["plan_usd"]),
    "resume": (("resume_differs_nats",), lambda f: not f["resume_differs_nats"]),
    "spike": (
        ("alarm_step", "spike_step"),
        lambda f: f["alarm_step"] in range(f["spike_step"], f["spike_step"] + 21),
    ),
    "seal": (
        ("published_sha256", "plan_sha256"),
        lambda f: f["published_sha256"] == f["plan_sha256"],
    ),
    "ceiling": (
        ("spent_usd", "reserve_usd", "ceiling_usd"),
        lambda f: affordable(f, plus(f, "reserve_usd")),
    ),
    "dead-man": (
        ("spent_usd", "dead_man_hours", "price_usd_per_hour", "ceiling_usd"),
        lambda f: affordable(f, plus(f, "dead_man_hours", "price_usd_per_hour")),
    ),
}


def is_known(facts, name):
    value = facts.get(name)
    return value is not None and value == value


def applying(facts):
    """The reasons of these facts."""
    spared = ("price", "dead-man") if facts.get("own") is True else ()
    return {
        reason
        for reason, (names, absent) in RULES.items()
        if reason not in spared
        and not (all(is_known(facts, name) for name in names) and absent(facts))
    }


def quarters(rng, low, high):
    """A number of quarters: sums and products of a few are exact in binary."""
    return int(rng.integers(4 * low, 4 * high)) / 4


def cleared(rng):
    """Facts of a run that may be launched, in random order."""
    needed, plan_usd, spike = quarters(rng, 1, 80), quarters(rng, 5, 12), int(rng.integers(0, 90))
    seal = digest(rng)
    facts = {
        "own": False,
        "free_gb": needed + quarters(rng, 1, 50), "needed_gb": needed,
        "price_age_days": int(rng.integers(1, 14)),
        "confirmed_usd": plan_usd, "plan_usd": plan_usd,
        "resume_differs_nats": 0.0,
        "spike_step": spike, "alarm_step": spike + int(rng.integers(1, 20)),
        "published_sha256": seal, "plan_sha256": seal,
        "spent_usd": quarters(rng, 0, 5), "reserve_usd": quarters(rng, 12, 20),
        "ceiling_usd": quarters(rng, 30, 49),
        "dead_man_hours": quarters(rng, 8, 12), "price_usd_per_hour": quarters(rng, 1, 2),
    }  # fmt: skip
    return {str(name): facts[name] for name in rng.permutation(list(facts))}


def spoilt(rng, facts, reason):
    """What to change so that this reason applies, and no other."""
    dear = facts["ceiling_usd"] - facts["spent_usd"]
    return {
        "disk": {"free_gb": facts["needed_gb"] - quarters(rng, 1, 9)},
        "price": {"price_age_days": int(rng.choice([-3, -1, 15, 16, 40]))},
        "sentence": {"confirmed_usd": facts["plan_usd"] + float(rng.choice([-1, 0.25, 1]))},
        "resume": {"resume_differs_nats": float(rng.choice([1e-9, 3e-4, 0.2]))},
        "spike": {"alarm_step": facts["spike_step"] + int(rng.choice([-9, -1, 21, 60]))},
        "seal": {"published_sha256": facts["plan_sha256"][:16] + digest(rng)[16:]},
        "ceiling": {"reserve_usd": dear + quarters(rng, 1, 9)},
        "dead-man": {"dead_man_hours": dear + quarters(rng, 1, 9), "price_usd_per_hour": 1.0},
    }[reason]


def held_preflight(preflight, facts):
    got = preflight(dict(facts))
    wanted = applying(facts)
    expect(isinstance(got, set | frozenset), "preflight_set", got=repr(got)[:60])
    case = {"got": ", ".join(sorted(map(str, got))) or "–", "facts": told(facts)}
    expect(got <= RULES.keys(), "preflight_unknown", **case)
    expect(wanted <= got, "preflight_missed", **case)
    expect(got <= wanted, "preflight_invented", **case)


@exercise("preflight")
def test_all_in_order_and_each_fault_alone(preflight, rng):
    for own in (False, True):
        facts = cleared(rng) | {"own": own}
        held_preflight(preflight, facts)
        for reason in RULES:
            held_preflight(preflight, facts | spoilt(rng, facts, reason))


@exercise("preflight")
def test_limits_may_be_met_exactly(preflight, rng):
    facts = cleared(rng)
    for days in (0, 13, 14, 15, -1):
        held_preflight(preflight, facts | {"price_age_days": days})
    for late in (0, 1, 19, 20, 21, -1):
        held_preflight(preflight, facts | {"alarm_step": facts["spike_step"] + late})
    for more in (-0.25, 0, 0.25):
        held_preflight(preflight, facts | {"free_gb": facts["needed_gb"] + more})
        left = facts["ceiling_usd"] - facts["spent_usd"] + more
        held_preflight(preflight, facts | {"reserve_usd": left})
        held_preflight(preflight, facts | {"price_usd_per_hour": 0.5, "dead_man_hours": 2 * left})


@exercise("preflight")
def test_nothing_above_fifty_dollars(preflight, rng):
    facts = cleared(rng) | {"ceiling_usd": 50 + quarters(rng, 10, 90)}
    for usd in (49, 49.75, 50, 50.25, 51, facts["ceiling_usd"]):
        left = usd - facts["spent_usd"]
        held_preflight(preflight, facts | {"reserve_usd": left})
        held_preflight(preflight, facts | {"price_usd_per_hour": 2.0, "dead_man_hours": left / 2})


@exercise("preflight")
def test_what_is_not_known_counts_against(preflight, rng):
    held_preflight(preflight, {})
    held_preflight(preflight, {"own": True})
    facts = cleared(rng)
    for name in facts:
        held_preflight(preflight, {key: value for key, value in facts.items() if key != name})
        for unknown in (None, math.nan):
            held_preflight(preflight, facts | {name: unknown})
    for unknown in (None, math.nan):
        stale = facts | spoilt(rng, facts, "price") | spoilt(rng, facts, "dead-man")
        held_preflight(preflight, stale | {"own": unknown})
    for unknown in (None, math.nan):  # two that are unknown do not agree with each other
        held_preflight(preflight, facts | dict.fromkeys(("confirmed_usd", "plan_usd"), unknown))
        seals = dict.fromkeys(("published_sha256", "plan_sha256"), unknown)
        held_preflight(preflight, facts | seals)


@exercise("preflight")
def test_several_faults_at_once(preflight, rng):
    for _ in range(12):
        facts = cleared(rng) | {"own": bool(rng.integers(2))}
        for reason in RULES:
            if rng.random() < 0.3:
                facts |= spoilt(rng, facts, reason)
        if rng.random() < 0.5:
            facts[str(rng.choice(list(facts)))] = None
        held_preflight(preflight, facts)


# --- seal_holds


def moment(rng, unix_s):
    """An ISO time at a drawn offset from UTC, to the millisecond."""
    zone = timezone(timedelta(minutes=30 * int(rng.integers(-20, 21))))
    when = datetime.fromtimestamp(unix_s, UTC).astimezone(zone)
    return when.isoformat(timespec="milliseconds")


def drawn_folder(rng):
    """The parts of a run whose seal holds: the arguments, by name."""
    config = f'preset = "x1-50m"\nseed = {int(rng.integers(1, 10**6))}\n'.encode()
    plan = {
        "predictions": {"loss_nats_per_token": {"value": round(float(rng.uniform(2, 4)), 3)}},
        "config_sha256": hashlib.sha256(config).hexdigest(),
    }
    text = json.dumps(plan, indent=int(rng.integers(1, 5))) + "\n" * int(rng.integers(0, 3))
    seal = hashlib.sha256(text.encode()).hexdigest()
    opened_s = 1.79e9 + float(rng.integers(10**7)) + 0.5
    after_s = rng.uniform(1, 40_000, int(rng.integers(3, 9)))
    ledger = [{"entry": "open", "time": moment(rng, opened_s), "plan_sha256": seal}]
    ledger += [{"entry": "charge", "time": moment(rng, opened_s + s)} for s in (5, 10)]
    return {
        "config_bytes": config,
        "plan_bytes": text.encode(),
        "ledger_lines": ledger,
        "metric_lines": [
            {"step": step, "loss": 3.0, "clock": {"time": moment(rng, opened_s + float(s))}}
            for step, s in enumerate(after_s)
        ],
        "states": [
            {"step": 10 * step, "plan_sha256": seal} for step in range(1, int(rng.integers(3, 6)))
        ],
    }


def opened_s(parts):
    return datetime.fromisoformat(parts["ledger_lines"][0]["time"]).timestamp()


def sizes(parts):
    return {"states": len(parts["states"]), "lines": len(parts["metric_lines"])}


def said_of(seal_holds, parts):
    got = seal_holds(**parts)
    expect(isinstance(got, bool), "seal_bool", got=repr(got)[:60])
    return got


def honest(seal_holds, parts):
    times = [line["clock"]["time"] for line in parts["metric_lines"]]
    expect(
        said_of(seal_holds, parts),
        "seal_honest",
        opened=parts["ledger_lines"][0]["time"],
        earliest=min(times, key=datetime.fromisoformat),
        size=len(parts["plan_bytes"]),
        **sizes(parts),
    )


def refused(seal_holds, parts, forgery):
    expect(not said_of(seal_holds, parts), "seal_forged", forgery=forgery, **sizes(parts))


def with_seal(rng, parts, place, change):
    """The parts with the seal of one drawn record changed: in the ledger or in a checkpoint."""
    records = [dict(record) for record in parts[place]]
    chosen = 0 if place == "ledger_lines" else int(rng.integers(len(records)))
    change(records[chosen])
    return parts | {place: records}


@exercise("seal_holds")
def test_an_honest_run_holds(seal_holds, rng):
    for _ in range(3):
        honest(seal_holds, drawn_folder(rng))


@exercise("seal_holds")
def test_a_file_changed_afterwards(seal_holds, rng):
    parts = drawn_folder(rng)
    plan = json.loads(parts["plan_bytes"])
    other = plan | {"predictions": {"loss_nats_per_token": {"value": 1.5}}}
    written = json.dumps(other, indent=1).encode()
    refused(seal_holds, parts | {"plan_bytes": written}, "plan.json: value")
    spaced = parts["plan_bytes"] + b" "
    refused(seal_holds, parts | {"plan_bytes": spaced}, "plan.json: + b' '")
    config = parts["config_bytes"] + b"steps = 9\n"
    refused(seal_holds, parts | {"config_bytes": config}, "config.toml: steps")


@exercise("seal_holds")
def test_every_seal_is_looked_at_and_all_of_it(seal_holds, rng):
    for place in ("ledger_lines", "states", "states"):
        parts = drawn_folder(rng)
        seal = parts["states"][0]["plan_sha256"]
        for other in (digest(rng), seal[:16] + digest(rng)[16:], None, ""):
            forged = with_seal(rng, parts, place, lambda r, o=other: r.update(plan_sha256=o))
            refused(seal_holds, forged, f"{place}: plan_sha256 = {str(other)[:20]}…")
        without = with_seal(rng, parts, place, lambda r: r.pop("plan_sha256"))
        refused(seal_holds, without, f"{place}: - plan_sha256")


@exercise("seal_holds")
def test_a_whole_folder_sealed_with_another_plan(seal_holds, rng):
    parts, other = drawn_folder(rng), drawn_folder(rng)
    mixed = parts | {"states": other["states"], "ledger_lines": other["ledger_lines"]}
    refused(seal_holds, mixed | {"metric_lines": other["metric_lines"]}, "plan.json ≠")
    config = {"config_bytes": other["config_bytes"]}
    refused(seal_holds, parts | config, "config.toml ≠")


@exercise("seal_holds")
def test_the_ledger_came_first(seal_holds, rng):
    for early_s in (0.001, 1.0, 3000.0) * 2:
        parts = drawn_folder(rng)
        lines = [dict(line) for line in parts["metric_lines"]]
        place = int(rng.integers(1, len(lines)))
        at = opened_s(parts)
        lines[place]["clock"] = {"time": moment(rng, at)}
        honest(seal_holds, parts | {"metric_lines": lines})
        lines[place]["clock"] = {"time": moment(rng, at - early_s)}
        forgery = f"metrics.jsonl: {place + 1}: {early_s:g} s < ledger.jsonl"
        refused(seal_holds, parts | {"metric_lines": lines}, forgery)


@exercise("seal_holds")
def test_where_nothing_is_sealed_nothing_holds(seal_holds, rng):
    parts = drawn_folder(rng)
    for place in ("states", "ledger_lines"):
        refused(seal_holds, parts | {place: []}, f"{place} = []")


# --- spent_usd

NANO = Decimal("0.000000001")


def cost(seconds, usd_per_hour):
    """Dollars, rounded up to a billionth; exact, from the digits that are printed."""
    exact = Decimal(str(seconds)) * Decimal(str(usd_per_hour)) / 3600
    return exact.quantize(NANO, ROUND_CEILING)


class Book:
    """A ledger under way, kept as the rules say."""

    def __init__(self, usd_per_hour):
        self.price, self.unread_s, self.spent = usd_per_hour, 0.0, Decimal(0)
        self.entries = [{"entry": "open", "price_usd_per_hour": usd_per_hour, "ceiling_usd": 50.0}]

    def add(self, entry, usd=None, **fields):
        if usd is not None:
            self.spent += usd
            fields |= {"usd": f"{usd:f}", "cumulative_usd": f"{self.spent:f}"}
        self.entries.append({"entry": entry} | fields)

    def charge(self, seconds, entry="charge"):
        self.unread_s = round(self.unread_s + seconds, 3)
        self.add(entry, cost(seconds, self.price), seconds=seconds, price_usd_per_hour=self.price)

    def reprice(self, usd_per_hour):
        rise = cost(self.unread_s, usd_per_hour) - cost(self.unread_s, self.price)
        self.price, self.unread_s = usd_per_hour, 0.0
        self.add("price", max(rise, Decimal("0.000000000")), price_usd_per_hour=usd_per_hour)


def drawn_price(rng):
    return round(float(rng.uniform(0.4, 4)), 2)


def drawn_s(rng):
    return round(float(rng.uniform(5, 4000)), 3)


def drawn_book(rng):
    """A ledger in which everything occurs: a gap, a rise, a fall, dollars carried, a reserve."""
    book = Book(drawn_price(rng))
    book.add("reserve")
    book.entries[-1]["usd"] = round(float(rng.uniform(5, 30)), 2)
    book.charge(0.0)
    if rng.random() < 0.5:
        book.add("carry", Decimal(int(rng.integers(1, 10**9))) * NANO, source="ladder")
    for _ in range(int(rng.integers(1, 4))):
        book.charge(drawn_s(rng))
    prices = [round(book.price * 1.5, 2), round(book.price * 0.7, 2), round(book.price * 2, 2)]
    for price in prices:
        book.reprice(price)
        for _ in range(int(rng.integers(1, 4))):
            book.charge(drawn_s(rng), "gap" if rng.random() < 0.4 else "charge")
    book.add("carry", Decimal(int(rng.integers(1, 10**9))) * NANO, source="first try")
    book.charge(drawn_s(rng), "gap")
    book.charge(drawn_s(rng))
    book.add("close", reason="exit 0")
    return book


def shown_lines(entries, most=14):
    fields = ("entry", "seconds", "price_usd_per_hour", "usd", "cumulative_usd")
    rows = [" ".join(str(entry.get(field, "–")) for field in fields) for entry in entries]
    return "; ".join(rows[:most]) + ("; …" if len(rows) > most else "")


def sum_of(spent_usd, entries):
    """(what it returned, whether it raised ValueError)."""
    try:
        return spent_usd([dict(entry) for entry in entries]), False
    except ValueError:
        return None, True


def adds_up(spent_usd, book):
    got, refused = sum_of(spent_usd, book.entries)
    expect(not refused, "spent_honest", lines=shown_lines(book.entries))
    right = near(got, float(book.spent))
    expect(right, "spent_sum", got=str(got)[:40], lines=shown_lines(book.entries))


def does_not(spent_usd, entries, place):
    got, refused = sum_of(spent_usd, entries)
    expect(
        refused,
        "spent_forged",
        line=place + 1,
        kind=entries[place]["entry"],
        got=str(got)[:40],
        lines=shown_lines(entries),
    )


def places(book, kind):
    """The lines of this kind whose charge is not zero."""
    return [
        place
        for place, entry in enumerate(book.entries)
        if entry["entry"] == kind and Decimal(str(entry.get("usd", 0))) > 0
    ]


def moved(entries, place, usd):
    """The lines with one `usd` other by so much, and all sums from there on."""
    changed = [dict(entry) for entry in entries]
    changed[place]["usd"] = f"{Decimal(changed[place]['usd']) + usd:f}"
    for entry in changed[place:]:
        if "cumulative_usd" in entry:
            entry["cumulative_usd"] = f"{Decimal(entry['cumulative_usd']) + usd:f}"
    return changed


@exercise("spent_usd")
def test_honest_ledgers_add_up(spent_usd, rng):
    plain = Book(drawn_price(rng))
    plain.charge(drawn_s(rng))
    adds_up(spent_usd, plain)
    for _ in range(3):
        adds_up(spent_usd, drawn_book(rng))


@exercise("spent_usd")
def test_a_long_ledger_adds_up_to_the_last_digit(spent_usd, rng):
    book = Book(drawn_price(rng))
    for _ in range(150):
        book.charge(round(float(rng.uniform(9.9, 10.3)), 3))
    adds_up(spent_usd, book)


@exercise("spent_usd")
def test_a_rise_is_charged_for_the_unread_seconds(spent_usd, rng):
    book = Book(1.0)
    for price in (float(rng.integers(2, 4)), 1.5, float(rng.integers(5, 9)), 10.0):
        book.charge(drawn_s(rng))
        book.charge(drawn_s(rng), "gap")
        book.reprice(price)
        adds_up(spent_usd, book)
    book.reprice(12.0)  # read twice in a moment: nothing is unread
    adds_up(spent_usd, book)


@exercise("spent_usd")
def test_an_amount_that_its_seconds_do_not_give(spent_usd, rng):
    """A millionth of a dollar, with all sums made to fit."""
    for kind in ("charge", "gap", "price"):
        book = drawn_book(rng)
        place = int(rng.choice(places(book, kind)))
        for usd in (Decimal("-0.000001"), Decimal("0.000001")):
            does_not(spent_usd, moved(book.entries, place, usd), place)


@exercise("spent_usd")
def test_a_sum_that_is_not_the_sum(spent_usd, rng):
    book = drawn_book(rng)
    drawn = [int(rng.choice(places(book, kind))) for kind in ("gap", "price", "carry")]
    for place in (*drawn, places(book, "charge")[-1]):
        for off in (NANO, -NANO):
            entries = [dict(entry) for entry in book.entries]
            said = Decimal(entries[place]["cumulative_usd"])
            entries[place]["cumulative_usd"] = f"{said + off:f}"
            does_not(spent_usd, entries, place)


@exercise("spent_usd")
def test_a_line_taken_out(spent_usd, rng):
    for kind in ("charge", "gap", "price", "carry"):
        book = drawn_book(rng)
        place = int(rng.choice(places(book, kind)[:-1] or places(book, kind)[:1]))
        entries = book.entries[:place] + book.entries[place + 1 :]
        does_not(spent_usd, entries, place)


@exercise("spent_usd")
def test_a_charge_at_a_price_that_is_not_in_force(spent_usd, rng):
    """With its amount and all sums made to fit."""
    for kind in ("charge", "gap"):
        book = Book(2.0)
        book.charge(drawn_s(rng))
        seconds, cheap = drawn_s(rng), float(rng.choice([0.5, 1.0, 3.0]))
        book.add(kind, cost(seconds, cheap), seconds=seconds, price_usd_per_hour=cheap)
        place = len(book.entries) - 1
        book.add("close", reason="exit 0")
        does_not(spent_usd, book.entries, place)


@exercise("spent_usd")
def test_nothing_is_given_back(spent_usd, rng):
    """Seconds below zero, dollars carried away, a refund for a price that fell."""
    book = Book(2.0)
    book.charge(5000.0)
    seconds = -drawn_s(rng)
    book.add("charge", cost(seconds, 2.0), seconds=seconds, price_usd_per_hour=2.0)
    does_not(spent_usd, book.entries, 2)
    book = Book(2.0)
    book.charge(5000.0)
    book.add("carry", -Decimal(int(rng.integers(10**6, 10**8))) * NANO, source="refund")
    does_not(spent_usd, book.entries, 2)
    book = Book(2.0)
    book.charge(5000.0)
    book.add("price", cost(5000.0, 1.0) - cost(5000.0, 2.0), price_usd_per_hour=1.0)
    does_not(spent_usd, book.entries, 2)


# --- curve


def drawn_history(rng, falls, far):
    """Lines of a run that falls so often; `far`: it ends before it is back where it fell.

    Returns the lines, the curve, the seconds off it, and the story in short.
    """
    lines, path, lost_s, step, attempt = [], [], 0.0, 0, 1
    story = []

    def live(until):
        nonlocal step
        while step < until:
            if step % 10 == 0:
                lines.append({"step": step, "attempt": attempt, "val_loss": 9.9,
                              "clock": {"seconds": 50.0}})  # fmt: skip
            loss, seconds = float(rng.uniform(2, 5)), float(rng.integers(1, 40)) / 8
            lines.append({"step": step, "attempt": attempt, "loss": loss,
                          "clock": {"seconds": seconds}})  # fmt: skip
            path.append((step, loss, seconds))
            step += 1

    live(int(rng.integers(15, 30)))
    for count in range(falls):
        back = int(rng.integers(1, len(path)))
        story.append(f"{step} → {step - back}")
        lost_s += sum(seconds for _, _, seconds in path[-back:])
        del path[-back:]
        fell, step, attempt = step, step - back, attempt + 1
        if far and count == falls - 1:
            live(step + int(rng.integers(1, back + 1)) if back > 1 else step + 1)
        else:
            live(fell + int(rng.integers(2, 12)))
    if rng.integers(2):
        lines.append({"step": step, "attempt": attempt, "val_loss": 9.9,
                      "clock": {"seconds": 50.0}})  # fmt: skip
    story.append(f"→ {step}")
    return lines, [(at, loss) for at, loss, _ in path], lost_s, ", ".join(story)


def held_curve(curve, drawn):
    lines, wanted, lost_s, story = drawn
    got = curve([dict(line) for line in lines])
    try:
        points, seconds = got
        points = [(step, loss) for step, loss in points]
    except (TypeError, ValueError):
        expect(False, "curve_pair", got=repr(got)[:80])
    steps = [step for step, _ in points]
    shown = f"{steps[:3]}…{steps[-3:]}" if len(steps) > 6 else str(steps)
    expect(steps == [step for step, _ in wanted], "curve_steps", story=story, got=shown)
    for (step, loss), (_, right) in zip(points, wanted, strict=True):
        expect(loss == right, "curve_loss", story=story, step=step, got=number(loss))
    expect(near(seconds, lost_s), "curve_lost", story=story, got=number(seconds))


@exercise("curve")
def test_a_run_that_never_fell(curve, rng):
    held_curve(curve, drawn_history(rng, 0, far=False))


@exercise("curve")
def test_the_last_attempt_counts(curve, rng):
    for falls in (1, 3):
        held_curve(curve, drawn_history(rng, falls, far=False))


@exercise("curve")
def test_up_to_where_the_run_stands(curve, rng):
    for falls in (1, 2, 3):
        held_curve(curve, drawn_history(rng, falls, far=True))


# --- hold_against


def drawn_prediction(rng):
    value = round(float(rng.uniform(-5, 40)), 2)
    low, high = value - float(rng.uniform(0.5, 9)), value + float(rng.uniform(0.5, 9))
    return {"value": value, "low": round(low, 2), "high": round(high, 2)}


def half_widths(said, found):
    """Where `found` lies between value (0) and the end of the interval on its side (±1)."""
    if found == said["value"]:
        return 0.0
    if found > said["value"]:
        width = said["high"] - said["value"]
        return (found - said["value"]) / width if width else math.inf
    width = said["value"] - said["low"]
    return -(said["value"] - found) / width if width else -math.inf


def held_verdicts(hold_against, predictions, measured):
    got = hold_against({name: dict(said) for name, said in predictions.items()}, dict(measured))
    same = isinstance(got, dict) and got.keys() == predictions.keys()
    shown = ", ".join(map(str, got)) if isinstance(got, dict) else repr(got)[:60]
    expect(same, "verdict_names", names=", ".join(predictions), got=shown)
    for name, said in predictions.items():
        verdict, found = got[name], measured.get(name)
        case = {"said": told(said), "found": str(found), "got": repr(verdict)[:60]}
        if said["value"] is None or found is None or math.isnan(found):
            expect(verdict is None, "verdict_none", **case)
            continue
        try:
            inside, miss = verdict
        except (TypeError, ValueError):
            expect(False, "verdict_pair", **case)
        right = bool(inside) is (said["low"] <= found <= said["high"])
        expect(right, "verdict_inside", **case | {"got": repr(inside)[:20]})
        right = near(miss, half_widths(said, found))
        expect(right, "verdict_miss", **case | {"got": f"{number(miss):.6g}"})


NAMES = ("hours", "dollars", "loss", "tokens_per_s", "mfu", "kwh", "checkpoints")
UNKNOWN = {"value": None, "low": None, "high": None}


@exercise("hold_against")
def test_inside_and_outside_on_both_sides(hold_against, rng):
    for _ in range(6):
        predictions = {name: drawn_prediction(rng) for name in NAMES}
        measured = {
            name: said["value"] + float(rng.choice([-1, 1])) * float(rng.uniform(0.01, 15))
            for name, said in predictions.items()
        }
        held_verdicts(hold_against, predictions, measured | {"watts": 300.0})


@exercise("hold_against")
def test_the_ends_belong_to_the_interval(hold_against, rng):
    for _ in range(2):
        said = drawn_prediction(rng)
        for found in (said["low"], said["value"], said["high"]):
            held_verdicts(hold_against, {"loss": said}, {"loss": found})
        for found in (math.nextafter(said["low"], -99), math.nextafter(said["high"], 99)):
            held_verdicts(hold_against, {"loss": said}, {"loss": found})


@exercise("hold_against")
def test_nothing_to_judge_is_none_and_stays(hold_against, rng):
    predictions = {name: drawn_prediction(rng) for name in NAMES}
    predictions["mfu"] = dict(UNKNOWN)
    measured = {name: 10.0 for name in NAMES if name != "kwh"} | {"hours": math.nan}
    held_verdicts(hold_against, predictions, measured)
    held_verdicts(hold_against, predictions, {})
    zero = {"value": 0.0, "low": 0.0, "high": 2.0}
    held_verdicts(hold_against, {"loss": zero}, {"loss": 0.0})


@exercise("hold_against")
def test_an_exact_prediction_has_no_width(hold_against, rng):
    value = float(rng.integers(1, 90))
    exact = {"value": value, "low": value, "high": value}
    for off in (0.0, 1.0, -1.0, float(rng.uniform(0.1, 9))):
        held_verdicts(hold_against, {"checkpoints": exact}, {"checkpoints": value + off})
    above = {"value": value, "low": value, "high": value + 4}
    for off in (-2.0, 0.0, 3.0, 5.0):
        held_verdicts(hold_against, {"checkpoints": above}, {"checkpoints": value + off})


# --- dollars_miss

PARTS = ("hours", "price", "other")
FIELDS = {"hours": "hours", "price": "usd_per_hour", "other": "other_usd"}


def drawn_bill(rng):
    return {
        "hours": round(float(rng.uniform(1, 30)), 2),
        "usd_per_hour": round(float(rng.uniform(0.3, 4)), 2),
        "other_usd": round(float(rng.uniform(0, 3)), 2),
    }


def bill_usd(bill):
    return bill["hours"] * bill["usd_per_hour"] + bill["other_usd"]


def parts_of(dollars_miss, planned, paid):
    got = dollars_miss(dict(planned), dict(paid))
    fits = isinstance(got, dict) and got.keys() == set(PARTS)
    fits = fits and all(math.isfinite(number(value)) for value in got.values())
    expect(fits, "parts_names", got=repr(got)[:80])
    return {name: number(got[name]) for name in PARTS}


def case_of(planned, paid):
    return {"planned": told(planned), "paid": told(paid)}


@exercise("dollars_miss")
def test_the_parts_are_the_whole(dollars_miss, rng):
    for _ in range(5):
        planned, paid = drawn_bill(rng), drawn_bill(rng)
        got = sum(parts_of(dollars_miss, planned, paid).values())
        whole = bill_usd(paid) - bill_usd(planned)
        expect(near(got, whole), "parts_sum", got=f"{got:.6f}", **case_of(planned, paid))


@exercise("dollars_miss")
def test_what_went_as_planned_has_no_part(dollars_miss, rng):
    for changed in PARTS:
        planned, other = drawn_bill(rng), drawn_bill(rng)
        paid = planned | {FIELDS[changed]: other[FIELDS[changed]]}
        got = parts_of(dollars_miss, planned, paid)
        for part in PARTS:
            values = {"part": part, "got": f"{got[part]:.6f}", "changed": changed}
            alone = part == changed or near(got[part], 0)
            expect(alone, "parts_alone", **values, **case_of(planned, paid))


@exercise("dollars_miss")
def test_told_backwards_only_the_signs_change(dollars_miss, rng):
    for _ in range(3):
        planned, paid = drawn_bill(rng), drawn_bill(rng)
        there, back = (
            parts_of(dollars_miss, one, other) for one, other in ((planned, paid), (paid, planned))
        )
        for part in PARTS:
            values = {"part": part, "got": f"{there[part]:.6f}", "back": f"{back[part]:.6f}"}
            turned = near(there[part], -back[part])
            expect(turned, "parts_backwards", **values, **case_of(planned, paid))


def walked(planned, paid, pieces=20):
    """Each part, summed over small steps from plan to bill in which everything moves together."""
    parts = dict.fromkeys(PARTS, 0.0)
    for piece in range(pieces):
        middle = (piece + 0.5) / pieces
        at = {f: planned[f] + middle * (paid[f] - planned[f]) for f in planned}
        moved_by = {f: (paid[f] - planned[f]) / pieces for f in planned}
        parts["hours"] += moved_by["hours"] * at["usd_per_hour"]
        parts["price"] += moved_by["usd_per_hour"] * at["hours"]
        parts["other"] += moved_by["other_usd"]
    return parts


@exercise("dollars_miss")
def test_what_both_did_is_shared(dollars_miss, rng):
    for _ in range(3):
        planned, paid = drawn_bill(rng), drawn_bill(rng)
        got, wanted = parts_of(dollars_miss, planned, paid), walked(planned, paid)
        for part in PARTS:
            right = near(got[part], wanted[part])
            values = {"part": part, "got": f"{got[part]:.6f}"}
            expect(right, "parts_path", **values, **case_of(planned, paid))
