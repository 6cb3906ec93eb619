"""The tables of a run's report: prediction, floor, cost, events, samples, provenance."""

import hashlib
import math
import re
import shlex
from collections.abc import Iterable
from functools import partial
from typing import Any

from x1 import diagnosis, folder, money, record, report_next
from x1.markup import (
    UNKNOWN,
    Html,
    Word,
    count,
    dollars,
    duration,
    fixed,
    hourly,
    html,
    join,
    paragraph,
    percent,
    section,
    short,
    signed,
    table,
)
from x1.record import Record, dig, number
from x1.text import catalogue

MOST_ROWS = 120
MOST_SAMPLES = 60
GRAVE = ("spike", "rollback", "kill", "alert")
NOT_FINAL = ("tokens_per_s", "mfu", "micro_batch")  # results that do not wait for the last step


def prediction_section(run: Record, word: Word, lang: str) -> Html:
    """The plan, sealed before the run, beside what the run came to."""
    predictions = predictions_of(run, word, lang)
    if not predictions:
        return Html()
    finished = record.status(run)[0] == "finished"
    measured = record.results(run)
    rows, unanswered = [], []
    for name, title, prediction in predictions:
        value, low, high = (number(dig(prediction, part)) for part in ("value", "low", "high"))
        result = measured.get(name, math.nan)
        if not math.isfinite(result):
            unanswered.append(title)
            continue
        show = partial(prediction_figure, name)
        if not math.isfinite(value):
            verdict: Any = word("not_predicted")
        elif not finished and name not in NOT_FINAL:
            verdict = word("so_far")
        elif low <= result <= high:
            verdict = word("inside")
        else:
            verdict = html('<span class="alarm">{text}</span>', text=word("outside"))
        known = math.isfinite(value) and value != 0
        miss = f"{signed(100 * (result / value - 1), 1)}%" if known else UNKNOWN
        interval = f"{show(low)} – {show(high)}" if low < high else show(low)
        basis = dig(prediction, "basis")
        basis = dig(basis, lang) if isinstance(basis, dict) else basis
        note = short(basis, 400) if isinstance(basis, str) else ""
        cell = html("{title}<br><small>{basis}</small>", title=title, basis=note)
        rows.append((cell, show(value), interval, show(result), miss, verdict))
    head = [
        (word("column.prediction"), "text"),
        (word("column.predicted"), "figure"),
        (word("column.interval"), "figure"),
        (word("column.result"), "figure"),
        (word("column.miss"), "figure"),
        (word("column.verdict"), "nowrap"),
    ]
    written = word("prediction_text", date=short(run.plan.get("date", UNKNOWN), 40))
    rest = paragraph(word("unanswered", names=", ".join(unanswered)), "note")
    return section(
        "prediction",
        word("prediction"),
        paragraph(" ".join(s for s in (written, word(seal(run)), ladder_seal(run, word)) if s)),
        table(word("prediction_caption"), head, rows) if rows else Html(),
        rest if unanswered else Html(),
    )


def predictions_of(run: Record, word: Word, lang: str) -> list[tuple[str, str, Any]]:
    """(name, title, prediction): the plan's, and before each the one of the run's own ladder."""
    plan, own = (found.get("predictions") for found in (run.plan, run.prediction))
    plan, own = (found if isinstance(found, dict) else {} for found in (plan, own))
    rows = []
    for name in [*plan, *(name for name in own if name not in plan)]:
        title = prediction_title(name, lang)
        if name in own:
            rows.append((name, word("by_ladder", title=title), own[name]))
        if name in plan:
            rows.append((name, word("by_plan", title=title) if name in own else title, plan[name]))
    return rows


def ladder_seal(run: Record, word: Word) -> str:
    """Whether prediction.json is the one the ledger sealed before the run; "" without one."""
    if not run.prediction:
        return ""
    sealed = run.spending.prediction_sha256 if run.spending else None
    if sealed is None:
        return word("ladder_seal_none")
    kept = sealed == folder.prediction_digest(run.path)
    return word("ladder_seal_kept" if kept else "ladder_seal_broken")


def seal(run: Record) -> str:
    """The sentence that says whether plan.json is the one this run's ledger was opened with."""
    digest = folder.plan_digest(run.path)
    config = hashlib.sha256((run.path / folder.CONFIG).read_bytes()).hexdigest()
    if run.plan.get("config_sha256") not in (None, config):
        return "seal_config"
    if run.spending is None or run.spending.plan_sha256 is None:
        return "seal_none"
    return "seal_kept" if run.spending.plan_sha256 == digest else "seal_broken"


def prediction_title(name: str, lang: str) -> str:
    key = f"plan.row.{name}"
    return catalogue(lang)[key] if key in catalogue(lang) else short(name, 80)


def prediction_figure(name: str, value: float) -> str:
    if name == "dollars":
        return dollars(value)
    if name == "mfu":
        return percent(value)
    if name in ("tokens_per_s", "micro_batch", "checkpoints_written"):
        return count(value)
    return fixed(value, 3 if name in ("loss_nats_per_token", "bits_per_byte") or value < 1 else 2)


def floor_section(run: Record, word: Word) -> Html:
    """Held-out loss against what no model can beat, whole and on the English halves."""
    whole = run.evaluation.get("floor")
    if not math.isfinite(record.floor(run)):
        return Html()
    unigram = number(run.evaluation.get("unigram_nats_per_token"))
    rows = []
    for name, part in (("whole", whole), ("english", dig(whole, "english"))):
        least, loss = (number(dig(part, f)) for f in ("nats_per_token", "loss_nats_per_token"))
        if name == "whole" and not math.isfinite(loss):
            loss = record.held_out(run)[0]
        exact = record.exact_floor(run, *(() if name == "whole" else (name,)))
        excess = loss - exact
        rows.append(
            (
                word(f"floor_row.{name}"),
                fixed(loss),
                fixed(least),
                fixed(exact),
                signed(excess),
                percent(excess, exact),
                percent(excess, unigram - exact) if name == "whole" else UNKNOWN,
            )
        )
    head = [
        ("", ""),
        (word("column.loss"), "figure"),
        (word("column.floor"), "figure"),
        (word("column.exact"), "figure"),
        (word("column.excess"), "figure"),
        (word("column.of_floor"), "figure"),
        (word("column.of_learnable"), "figure"),
    ]
    return section(
        "floor",
        word("floor"),
        paragraph(word("floor_text", unigram=fixed(unigram))),
        table(word("floor_caption"), head, rows),
    )


def cost_section(run: Record, word: Word) -> Html:
    """Dollars per nat gained, phase by phase; they add up to the ledger."""
    spent = record.costs(run, run.spending) if run.spending else None
    if spent is None or run.spending is None:
        return Html()
    rows = [
        (
            word("phase", first=count(phase.first), last=count(phase.last)),
            duration(phase.seconds),
            dollars(phase.usd),
            fixed(phase.loss_before),
            fixed(phase.loss_after),
            fixed(phase.gain_nats),
            price_of_gain(phase),
        )
        for phase in spent.phases
    ]
    blank = ("",) * 4
    rows.insert(0, (word("phase_before"), "", dollars(spent.before_usd), *blank))
    rows.append((word("phase_after"), "", dollars(spent.after_usd), *blank))
    ledger = run.spending
    total = (word("phase_total"), duration(ledger.seconds), dollars(ledger.total_usd), *blank)
    columns = ("phase", "time", "usd", "before", "after", "gain", "usd_per_nat")
    price = hourly(ledger.usd_per_hour)
    head = [(word(f"column.{c}"), "figure" if i else "nowrap") for i, c in enumerate(columns)]
    return section(
        "cost",
        word("cost"),
        paragraph(word("cost_text", price=price, source=short(ledger.source, 120))),
        table(word("cost_caption"), head, rows, total),
        report_next.next_paragraphs(run, word),
    )


def price_of_gain(phase: record.Phase) -> str:
    if not phase.gain_nats > 0:
        return UNKNOWN
    return dollars(money.usd_per_loss_point(phase.usd, phase.loss_before, phase.loss_after))


def events_section(run: Record, word: Word) -> Html:
    """Everything on record but the checkpoints, which are counted."""
    told = [item for item in record.happenings(run) if item[0] != "checkpoint"]
    saved = [e for e in run.events if e["event"] == "checkpoint"]
    if not told and not saved:
        return section("events", word("events"), paragraph(word("no_events")))
    shown = ends_of(told, MOST_ROWS)
    rows = [
        (
            count(step),
            event_title(kind, word),
            html(
                "{detail}<br><small><time>{time}</time></small>",
                detail=event_detail(kind, event, word),
                time=record.utc(record.unix_time(event.get("time"))) or UNKNOWN,
            ),
        )
        for kind, event, step in shown
    ]
    columns = (("step", "figure"), ("event", "nowrap"), ("detail", "text"))
    head = [(word(f"column.{name}"), kind) for name, kind in columns]
    newest = number(saved[-1].get("step")) if saved else math.nan
    checkpoints = paragraph(word("checkpoints", n=count(len(saved)), step=count(newest)))
    return section(
        "events",
        word("events"),
        checkpoints if saved else Html(),
        cut_short(len(shown), len(told), folder.EVENTS, word),
        table(word("events_caption"), head, rows) if rows else Html(),
    )


def diagnosis_section(run: Record, word: Word, lang: str) -> Html:
    """Settings that may have cost it loss, each with the experiment that would tell."""
    lines = [{"loss": float(loss)} for loss in run.training.curve("loss")[1]]
    found = diagnosis.diagnose(run.config, lines, run.events)
    if not found:
        return Html()
    head = [(word(f"column.{name}"), "text") for name in ("candidate", "reason", "experiment")]
    rows = [(c.title(lang), c.reason(lang), c.experiment(lang)) for c in found]
    caption = word("diagnosis_caption")
    return section(
        "diagnosis",
        word("diagnosis"),
        paragraph(word("diagnosis_text")),
        table(caption, head, rows),
    )


def ends_of(items: list[Any], most: int) -> list[Any]:
    """The first and last items of a list longer than `most`; otherwise all of them."""
    return items if len(items) <= most else items[: most // 2] + items[-most // 2 :]


def cut_short(shown: int, in_all: int, file: str, word: Word) -> Html:
    """The sentence that owns up to a list shortened; nothing if it was not."""
    told = word("cut", shown=count(shown), all=count(in_all), file=file)
    return paragraph(told) if shown < in_all else Html()


def event_name(kind: str, word: Word) -> str:
    known = f"report.event.{kind}" in catalogue("en")
    return word(f"event.{kind}") if known else short(kind, 40)


def event_title(kind: str, word: Word) -> Html:
    title = event_name(kind, word)
    template = '<span class="alarm">{title}</span>' if kind in GRAVE else "{title}"
    return html(template, title=title)


def event_detail(kind: str, event: dict[str, Any], word: Word) -> str:
    """One sentence for a known event; the bare fields of an unknown one."""
    if f"report.detail.{kind}" not in catalogue("en"):
        rest = {name: v for name, v in event.items() if name not in ("event", "time", "step")}
        return short(rest, 300) if rest else ""
    channel = str(event.get("channel", UNKNOWN))
    said = {
        "attempt": event.get("attempt", UNKNOWN),
        "step": event.get("step", UNKNOWN),
        "data_index": event.get("data_index", UNKNOWN),
        "from_step": event.get("from_step", UNKNOWN),
        "to_step": event.get("to_step", UNKNOWN),
        "batches": spans(event.get("skipped")),
        "reason": record.why(event),
        "path": event.get("path", UNKNOWN),
        "kind": event.get("kind", event.get("kinds", UNKNOWN)),
        "channel": channel,
        "value": event.get("value", event.get(channel, UNKNOWN)),
        "val_loss": event.get("val_loss", UNKNOWN),
        "best_val_loss": event.get("best_val_loss", UNKNOWN),
        "low": event.get("low", UNKNOWN),
        "high": event.get("high", UNKNOWN),
        "sha256": str(event.get("sha256", UNKNOWN))[:16],
        "tokens_per_s": count(number(dig(event, "clock", "tokens_per_s"))),
        "usual_tokens_per_s": count(number(dig(event, "clock", "usual_tokens_per_s"))),
    }
    brief = {name: short(readable(value), 200) for name, value in said.items()}
    return word(f"detail.{kind}", **brief)


def readable(value: Any) -> Any:
    """Numbers to four digits, lists without brackets."""
    if isinstance(value, list):
        return ", ".join(str(readable(part)) for part in value[:20])
    return f"{value:.4g}" if isinstance(value, float) else value


def spans(numbers: Any) -> str:
    """ "300–302, 310" for [300, 301, 302, 310]."""
    if not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers) or not numbers:
        return UNKNOWN
    ordered = sorted(set(numbers))
    starts = [n for n in ordered if n - 1 not in set(ordered)]
    ends = [n for n in ordered if n + 1 not in set(ordered)]
    return ", ".join(f"{a}–{b}" if a < b else str(a) for a, b in zip(starts, ends, strict=True))


def samples_section(run: Record, word: Word) -> Html:
    """What the model wrote at each milestone: the last attempt's text for each prompt."""
    latest: dict[tuple[float, str], str] = {}
    for sample in run.samples:
        prompt, text = sample.get("prompt"), sample.get("text")
        if isinstance(prompt, str) and isinstance(text, str) and number(sample.get("step")) >= 0:
            latest[number(sample["step"]), prompt] = text
    if not latest:
        return section("samples", word("samples"), paragraph(word("no_samples")))
    ordered = sorted(latest.items(), key=lambda item: item[0][0])
    shown = ends_of(ordered, MOST_SAMPLES)
    groups: dict[float, list[Html]] = {}
    for (step, prompt), text in shown:
        quote = '<blockquote translate="no" dir="auto"><b>{prompt}</b>{text}</blockquote>'
        groups.setdefault(step, []).append(html(quote, prompt=short(prompt), text=short(text)))
    blocks = (
        html(
            '<div class="sample"><h3>{title}</h3><div>{quotes}</div></div>',
            title=word("sample_step", step=count(step)),
            quotes=join(quotes),
        )
        for step, quotes in groups.items()
    )
    temperature = f"{run.config.sample.temperature:g}"
    return section(
        "samples",
        word("samples"),
        paragraph(word("samples_text", temperature=temperature)),
        cut_short(len(shown), len(ordered), folder.SAMPLES, word),
        join(blocks),
    )


def reproduce_section(run: Record, word: Word, lang: str) -> Html:
    """The commands that make this run, and this page, again."""
    where = shlex.quote(f"runs/{run.name}")
    again = shlex.quote(f"runs/{run.name}-again")
    commit = str(run.manifest.get("git_commit"))
    known = re.fullmatch(r"([0-9a-f]{7,64})(\+changes)?", commit)
    commands = [
        *([f"git checkout {known[1]}"] if known else []),
        f"x1 train --config {where}/{folder.CONFIG} --out {again}",
        f"x1 eval {again}",
        f"x1 export {again}",
        f"x1 --lang {lang} report {again}",
    ]
    return section(
        "reproduce",
        word("reproduce"),
        paragraph(word("reproduce_text")),
        paragraph(word("reproduce_changes")) if known and known[2] else Html(),
        html("<pre>{commands}</pre>", commands="\n".join(commands)),
    )


def configuration_section(run: Record, word: Word) -> Html:
    """Versions, hardware and the whole of config.toml."""
    rows = list(flattened({k: v for k, v in run.manifest.items() if k != "format"}))[:MOST_ROWS]
    head = [(word("column.field"), "nowrap"), (word("column.value"), "text")]
    return section(
        "configuration",
        word("configuration"),
        html(
            "<details><summary>{title}</summary>{table}</details>",
            title=word("manifest"),
            table=table(word("manifest_caption"), head, rows),
        )
        if rows
        else Html(),
        html(
            "<details><summary>{title}</summary><pre>{text}</pre></details>",
            title=word("config_file"),
            text=run.config_text,
        ),
    )


def flattened(tree: dict[str, Any], prefix: str = "", depth: int = 4) -> Iterable[tuple[str, str]]:
    """("hardware.cpu", "...") for every leaf of nested objects."""
    for name, value in tree.items():
        if isinstance(value, dict) and depth:
            yield from flattened(value, f"{prefix}{name}.", depth - 1)
        else:
            yield short(prefix + name, 120), short(value, 300)
