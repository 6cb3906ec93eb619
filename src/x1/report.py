"""A run's report: one self-contained HTML page, in English or Spanish, from its folder alone.

The page is a pure function of the folder and the language: every number on it is computed from
the run's files, and it asks for nothing from elsewhere, neither script nor font nor picture.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from x1 import __version__, chart, folder, record, report_tables
from x1.chart import Chart, Level, Mark
from x1.markup import (
    UNKNOWN,
    Html,
    Word,
    amount,
    count,
    dollars,
    duration,
    fixed,
    flops_rate,
    hourly,
    html,
    join,
    paragraph,
    percent,
    plain,
    section,
    short,
    signed,
)
from x1.record import Record, dig, number
from x1.report_tables import GRAVE
from x1.text import LANGUAGES, UserError, language, say

WIDE, WIDE_TAIL = (1056, 400), (1056, 320)  # px units of the drawings
NARROW, NARROW_TAIL, SMALL = (360, 290), (360, 260), (340, 190)

MARKED = ("spike", "benign", "skip", "rollback", "kill", "stop", "alert")


def write_report(run: Path, lang: str | None = None) -> Path:
    """Write the page of a run, in `lang` or the reader's language; returns its path.

    Raises UserError for another language or if `run` is not a run, OSError if the page cannot be
    written.
    """
    if lang not in (None, *LANGUAGES):
        raise UserError("text.unknown_language", language=lang, known=", ".join(LANGUAGES))
    path = run / folder.REPORT
    folder.write_atomically(path, page(record.read(run), lang or language()))
    return path


def page(run: Record, lang: str) -> str:
    """The whole page of a run."""
    word = partial(say_in, lang)
    sections = [
        header(run, word),
        key_numbers(run, word),
        loss_section(run, word),
        small_charts(run, word),
        report_tables.prediction_section(run, word, lang),
        report_tables.floor_section(run, word),
        report_tables.cost_section(run, word),
        report_tables.events_section(run, word),
        report_tables.diagnosis_section(run, word, lang),
        report_tables.samples_section(run, word),
        report_tables.reproduce_section(run, word, lang),
        report_tables.configuration_section(run, word),
        footer(run, word),
    ]
    template = Template(files("x1").joinpath("report.html").read_text("utf-8"))
    title = plain(word("title", run=run.name))
    return template.substitute(lang=lang, title=title, body=join(s for s in sections if s))


def say_in(lang: str, key: str, **values: Any) -> str:
    """A sentence of the report's own section, in the page's language."""
    return say(f"report.{key}", lang, **values)


def header(run: Record, word: Word) -> Html:
    """Name, what it is, how it stands, and what is missing from the folder."""
    kind, said = record.status(run)
    said = {name: count(v) if isinstance(v, int) else short(v, 80) for name, v in said.items()}
    gaps = [told_of_fault(fault, word) for fault in run.faults]
    return html(
        '<header>\n<p class="kicker">{kicker}</p>\n<h1><bdi>{name}</bdi></h1>\n<p>{what}</p>\n'
        '<p><span class="status {kind}">{status}</span> {told}</p>\n</header>{gaps}',
        kicker=word("kicker", preset=run.config.preset),
        name=run.name,
        what=what_it_is(run, word),
        kind=kind,
        status=word(f"status.{kind}", **said),
        told=word(f"told.{kind}", **said),
        gaps=html(
            '\n<aside class="gaps"><strong>{title}</strong><ul>{items}</ul></aside>',
            title=word("gaps"),
            items=join(html("<li>{text}</li>", text=gap) for gap in gaps),
        )
        if gaps
        else Html(),
    )


def told_of_fault(fault: record.Fault, word: Word) -> str:
    name = fault.file.partition(".")[0]
    if fault.kind == "lines":
        return word("gap.lines", file=fault.file, lines=count(fault.lines))
    return f"{word(f'gap.{fault.kind}', file=fault.file)} {word(f'lost.{name}')}"


def what_it_is(run: Record, word: Word) -> str:
    config = run.config
    data, model = config.data, config.model
    source = {
        "verbs": word("source.verbs", setting=data.corpus_setting),
        "text": word("source.text", files=", ".join(Path(f).name for f in data.files) or data.name),
        "dataset": word("source.dataset", dataset=f"{data.dataset} {data.subset}".strip()),
    }[data.source]
    parameters = number(run.manifest.get("parameters"))
    return word(
        "what" if math.isfinite(parameters) else "what_unsized",
        parameters=amount(parameters),
        layers=model.n_layers,
        width=count(model.d_model),
        heads=model.n_heads,
        context=count(model.context),
        vocabulary=count(model.vocab_size),
        source=source,
        optimizer="Muon + AdamW" if config.optim.name == "muon" else "AdamW",
        steps=count(config.train.steps),
        batch=count(config.batch_tokens),
        tokens=amount(config.tokens),
    )


def key_numbers(run: Record, word: Word) -> Html:
    """The ten numbers that a reader looks for first."""
    tiles = [
        held_out_tile(run, word),
        floor_tile(run, word),
        bits_tile(run, word),
        training_loss_tile(run, word),
        tokens_tile(run, word),
        throughput_tile(run, word),
        mfu_tile(run, word),
        cost_tile(run, word),
        time_tile(run, word),
        attempts_tile(run, word),
    ]
    template = '<h2 class="unseen">{name}</h2>\n<dl class="numbers">\n{tiles}\n</dl>'
    return html(template, name=word("numbers"), tiles=join(tiles))


def tile(word: Word, name: str, value: str, unit: str = "", note: str = "") -> Html:
    small = html(' <span class="unit">{unit}</span>', unit=unit)
    return html(
        '<div><dt>{title}</dt><dd class="value">{value}{unit}</dd>'
        '<dd class="note">{note}</dd></div>',
        title=word(f"tile.{name}"),
        value=value,
        unit=small if unit and value != UNKNOWN else Html(),
        note=note,
    )


def held_out_tile(run: Record, word: Word) -> Html:
    loss, mode, step = record.held_out(run)
    note = word(f"held_out.{mode}", step=count(step)) if math.isfinite(loss) else word("none_yet")
    return tile(word, "held_out", fixed(loss), word("nats"), note)


def floor_tile(run: Record, word: Word) -> Html:
    least, (loss, mode, _) = record.floor(run), record.held_out(run)
    if not math.isfinite(least):
        note = word("floor_later" if run.config.data.source == "verbs" else "floor_none")
        return tile(word, "floor", UNKNOWN, "", note)
    kind = "excess" if mode == "documents" else "excess_windows"
    exact = record.exact_floor(run)
    excess = loss - exact
    note = word(kind, exact=fixed(exact), excess=signed(excess), share=percent(excess, exact))
    return tile(word, "floor", fixed(least), word("nats"), note)


def bits_tile(run: Record, word: Word) -> Html:
    bits = record.bits_per_byte(run)
    size, tokens = (number(dig(run.evaluation, "held_out", name)) for name in ("bytes", "tokens"))
    note = word("bits_note", bytes=amount(size), tokens=amount(tokens))
    note = note if math.isfinite(bits) else word("none_yet")
    return tile(word, "bits", fixed(bits), word("bits"), note)


def training_loss_tile(run: Record, word: Word) -> Html:
    uniform, first = math.log(run.config.model.vocab_size), record.first_loss(run)
    note = word("training_note", first=fixed(first), uniform=fixed(uniform))
    return tile(word, "training", fixed(record.last_loss(run)), word("nats"), note)


def tokens_tile(run: Record, word: Word) -> Html:
    batch = run.config.batch_tokens
    repeated = len(run.training) - int(run.training.final.sum())
    planned = word("tokens_note", tokens=amount(run.config.tokens))
    again = word("tokens_again", tokens=amount(repeated * batch)) if repeated else ""
    return tile(word, "tokens", amount(run.steps_done * batch), "", f"{planned} {again}".strip())


def throughput_tile(run: Record, word: Word) -> Html:
    middle, low, high = record.throughput(run)
    note = word("throughput_note", low=count(low), high=count(high))
    note = note if math.isfinite(middle) else word("none_yet")
    return tile(word, "throughput", count(middle), "tokens/s", note)


def mfu_tile(run: Record, word: Word) -> Html:
    peak, share = run.manifest.get("peak_flops"), record.mfu(run)
    if not math.isfinite(share):
        return tile(word, "mfu", UNKNOWN, "", word("mfu_unknown"))
    on_cpu = dig(run.manifest, "hardware", "device") == "cpu"
    kind = "mfu_stated" if not dig(peak, "measured") else "mfu_cpu" if on_cpu else "mfu_measured"
    rate, name = flops_rate(number(dig(peak, "value"))), short(dig(peak, "name"), 80)
    return tile(word, "mfu", percent(share), "", word(kind, peak=rate, name=name))


def cost_tile(run: Record, word: Word) -> Html:
    spent = run.spending
    if spent is None:
        return tile(word, "cost", UNKNOWN, "", word("cost_unknown"))
    price = hourly(spent.usd_per_hour)
    note = word("cost_note", time=duration(spent.seconds), price=price)
    return tile(word, "cost", dollars(spent.total_usd), "", note)


def time_tile(run: Record, word: Word) -> Html:
    busy = duration(float(np.nansum(run.training.values["seconds"])))
    wall = duration(record.wall_seconds(run))
    return tile(word, "time", wall, "", word("time_note", busy=busy))


def attempts_tile(run: Record, word: Word) -> Html:
    rolled_back = sum(e["event"] == "rollback" for e in run.events)
    note = word("attempts_note", kills=len(record.kills(run)), rollbacks=rolled_back)
    return tile(word, "attempts", str(run.attempts), "", note)


def loss_section(run: Record, word: Word) -> Html:
    """Training and held-out loss against the floor and ln V, with what happened on the way."""
    if not len(run.training):
        return section("loss", word("loss"), paragraph(word("no_steps")))
    uniform, least = math.log(run.config.model.vocab_size), record.floor(run)
    levels = [Level(least, word("floor_line", floor=fixed(least)), "floor", at=0.0)]
    whole = Chart(
        curve=run.training.curve("loss"),
        earlier=run.training.earlier("loss"),
        points=run.held_out.curve("val_loss"),
        levels=tuple(level for level in levels if math.isfinite(least)),
        marks=tuple(event_marks(run, word)),
        ticks=checkpoint_steps(run),
        median=True,
        off_scale=True,
        x_name=word("step_axis", tokens=count(run.config.batch_tokens)),
    )
    start = Level(uniform, f"ln V = {uniform:.3f}", "muted", at=0.4)
    drawings = [("whole", replace(whole, levels=(*whole.levels, start), log_x=True), WIDE, NARROW)]
    border = run.steps_done // 10
    if border >= 10:
        drawings.append(("tail", whole.after(border), WIDE_TAIL, NARROW_TAIL))
    return section(
        "loss",
        word("loss"),
        loss_key(whole, word),
        *(
            html(
                '<figure><h3>{title}</h3><div class="chart wide">{wide}</div>'
                '<div class="chart narrow">{narrow}</div></figure>',
                title=word(f"loss_{name}", step=count(border)),
                wide=Html(chart.draw(drawing, name, loss_label(drawing, run, word), *wide)),
                narrow=Html(
                    chart.draw(drawing, f"{name}-narrow", loss_label(drawing, run, word), *narrow)
                ),
            )
            for name, drawing, wide, narrow in drawings
        ),
        paragraph(loss_caption(run, word), "note"),
    )


def loss_key(drawing: Chart, word: Word) -> Html:
    """What each line and sign of the loss charts means; read out by their labels instead."""
    key = {
        "step": ("faint", True),
        "median": ("", True),
        "held_out": ("dot", drawing.points and len(drawing.points[0])),
        "floor": ("floor", drawing.levels),
        "uniform": ("start", True),
        "earlier": ("earlier", drawing.earlier),
        "checkpoint": ("tick", drawing.ticks),
        "event": ("event", drawing.marks),
    }
    items = (
        html('<li><i class="{sign}"></i>{name}</li>', sign=sign, name=word(f"key.{name}"))
        for name, (sign, shown) in key.items()
        if shown
    )
    return html('<ul class="key" aria-hidden="true">{items}</ul>', items=join(items))


def loss_label(drawing: Chart, run: Record, word: Word) -> str:
    """A loss chart in words."""
    steps, least = drawing.curve[0], record.floor(run)
    said = [
        word(
            "label.loss",
            first=fixed(record.last_loss(run, steps[0] + 1)),
            last=fixed(record.last_loss(run)),
            from_step=count(steps[0]),
            to_step=count(steps[-1]),
        )
    ]
    if drawing.points and len(drawing.points[1]):
        said.append(word("label.held_out", last=fixed(drawing.points[1][-1])))
    if math.isfinite(least):
        said.append(word("label.floor", floor=fixed(least)))
    return " ".join([*said, word("label.marks", marks=len(drawing.marks))])


def loss_caption(run: Record, word: Word) -> str:
    _, losses = run.training.curve("loss")
    said = word("loss_caption")
    if math.isfinite(record.floor(run)):
        said += " " + word("loss_caption_floor")
    broken = int((~np.isfinite(losses)).sum())
    return said + (" " + word("loss_caption_broken", steps=count(broken)) if broken else "")


def event_marks(run: Record, word: Word) -> Iterable[Mark]:
    """What is marked on the loss curve: spikes, skips, roll-backs, kills, stops, alerts."""
    for kind, _, step in record.happenings(run):
        if kind in MARKED and 0 <= step <= run.config.train.steps:
            yield Mark(step, word(f"event.{kind}"), kind in GRAVE)


def checkpoint_steps(run: Record) -> tuple[float, ...]:
    steps = (number(e.get("step")) for e in run.events if e["event"] == "checkpoint")
    return tuple(step for step in steps if 0 <= step <= run.config.train.steps)


def small_charts(run: Record, word: Word) -> Html:
    """Learning rate, gradient norm and throughput, side by side."""
    if not len(run.training):
        return Html()
    figures = []
    for name in ("lr", "grad_norm", "tokens_per_s"):
        steps, values = run.training.curve(name)
        finite = values[np.isfinite(values)]
        spread = np.percentile(finite, [0, 50, 100]) if len(finite) else [math.nan] * 3
        low, median, high = (chart.short_number(float(value)) for value in spread)
        drawing = Chart(
            curve=(steps, values),
            earlier=run.training.earlier(name),
            median=name != "lr",
            log_y=name == "grad_norm",
            from_zero=name != "grad_norm",
            x_name=word("step"),
        )
        label = word(f"label.{name}", low=low, median=median, high=high)
        figures.append(
            html(
                '<figure><h3>{title}</h3><div class="chart">{svg}</div></figure>',
                title=word(f"small.{name}"),
                svg=Html(chart.draw(drawing, name, label, *SMALL)),
            )
        )
    return html('<div class="trio">\n{figures}\n</div>', figures=join(figures))


def footer(run: Record, word: Word) -> Html:
    moment = record.last_moment(run) or UNKNOWN
    text = word("footer", version=__version__, moment=moment, lines=count(len(run.training)))
    return html("<footer>{text}</footer>", text=text)
