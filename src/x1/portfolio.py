"""`x1 report RUN --as portfolio`: one page that stands behind one line of a CV.

What was predicted and what came of it, what it cost, the scaling law and on whose data it was
fitted, what broke, what ten times the money would buy, and what the page proves and what it does
not. Every number is computed from the run's folder; the line itself is printed only for the run it
is about, once `x1 verify` has found nothing against it.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from x1 import __version__, chart, flops, folder, record, report, report_tables, scaling
from x1.chart import Chart, Level
from x1.markup import (
    UNKNOWN,
    Html,
    Word,
    amount,
    count,
    dollars,
    duration,
    fixed,
    hourly,
    html,
    join,
    paragraph,
    plain,
    section,
    short,
    signed,
    table,
)
from x1.record import Record, dig, number
from x1.scaling import ScalingLaw
from x1.text import LANGUAGES, UserError, language, say

PORTFOLIO = "portfolio.html"
VERIFICATION = "verification.json"  # of `x1 verify`
LEVELS = ("done", "rehearsed", "incomplete", "refuted")
STATUS = {"done": "finished", "rehearsed": "running", "incomplete": "", "refuted": "stopped"}
CONSTANTS = ("E", "A", "B", "alpha", "beta")
TIMES = 10.0
WIDE, NARROW = (1056, 380), (360, 290)

Json = dict[str, Any]


def write_portfolio(run: Path, lang: str | None = None) -> Path:
    """Write the page of a run, in `lang` or the reader's language; returns its path.

    Raises UserError for another language, if `run` is not a run, or if it has not been trained to
    its end; OSError if the page cannot be written.
    """
    if lang not in (None, *LANGUAGES):
        raise UserError("text.unknown_language", language=lang, known=", ".join(LANGUAGES))
    told = record.read(run)
    if record.status(told)[0] != "finished":
        raise UserError("portfolio.unfinished", run=run)
    path = run / PORTFOLIO
    folder.write_atomically(path, page(told, lang or language()))
    return path


def page(run: Record, lang: str) -> str:
    """The whole page of a run."""
    word, own = partial(report.say_in, lang), partial(say_own, lang)
    verified = verification(run)
    sections = [
        header(run, own, word, verified),
        report.key_numbers(run, word),
        card_section(run, own, word),
        curve_section(run, own, word),
        report_tables.prediction_section(run, word, lang),
        money_section(run, own),
        law_section(run, own),
        spikes_section(run, own, word),
        more_section(run, own),
        proof_section(run, own, lang, verified),
        footer(run, own),
    ]
    template = Template(files("x1").joinpath("report.html").read_text("utf-8"))
    title = plain(own("title", run=run.name))
    return template.substitute(lang=lang, title=title, body=join(s for s in sections if s))


def say_own(lang: str, key: str, **values: Any) -> str:
    """A sentence of the portfolio's section, in the page's language."""
    return say(f"portfolio.{key}", lang, **values)


# ---- What it may be called


def verification(run: Record) -> Json:
    """What `x1 verify` found, if it was of this very plan; empty otherwise."""
    path = run.path / VERIFICATION
    try:
        found = folder.read_json(path) if path.exists() else {}
    except (UserError, OSError):
        return {}
    same_plan = found.get("plan_sha256") == folder.plan_digest(run.path)
    return found if found.get("level") in LEVELS and same_plan else {}


def standing(run: Record, verified: Json) -> str:
    """ "done", "rehearsed", "incomplete", "refuted" or "unverified".

    What verification.json says is not believed alone: the run must be the job it is said to be.
    """
    level = str(verified.get("level", "unverified"))
    if level != "done":
        return level
    from x1.verify import is_the_job  # torch: only here

    return "done" if is_the_job(run.config, run.manifest) else "rehearsed"


def header(run: Record, own: Word, word: Word, verified: Json) -> Html:
    """Name, what it is, how far it is verified, and the line, if this run stands behind it."""
    level = standing(run, verified)
    line = html("<blockquote><p>{line}</p></blockquote>", line=own("line"))
    return html(
        '<header>\n<p class="kicker">{kicker}</p>\n<h1><bdi>{name}</bdi></h1>\n<p>{what}</p>\n'
        '<p><span class="status {kind}">{status}</span> {told}</p>\n{line}</header>',
        kicker=own("kicker", preset=run.config.preset),
        name=run.name,
        what=report.what_it_is(run, word),
        kind=STATUS.get(level, ""),
        status=own(f"status.{level}"),
        told=own(f"told.{level}", run=short(run.path, 200)),
        line=line if level == "done" else Html(),
    )


# ---- The model


def card_section(run: Record, own: Word, word: Word) -> Html:
    """The model card: what it is made of, on what it was trained, what it is not for."""
    config, model = run.config, run.config.model
    groups = flops.parameter_groups(model)
    machine = dig(run.manifest, "hardware") or {}
    versions = dig(run.manifest, "versions") or {}
    seals = {
        "plan.json": folder.plan_digest(run.path),
        "prediction.json": folder.prediction_digest(run.path),
        "data": dig(run.manifest, "data", "fingerprint"),
    }
    rows = [
        (own("card.parameters"), own("card.counted", total=count(groups.total),
                                     body=count(groups.non_embedding))),
        (own("card.shape"), own(
            "card.shaped", layers=model.n_layers, width=count(model.d_model), heads=model.n_heads,
            hidden=count(model.d_ff), context=count(model.context),
            vocabulary=count(model.vocab_size),
        )),
        (own("card.data"), own("card.trained_on", what=data_of(run, word),
                               tokens=amount(config.tokens), tokenizer=config.data.tokenizer)),
        (own("card.optimizer"), own(
            "card.optimized", name="Muon + AdamW" if config.optim.name == "muon" else "AdamW",
            lr=f"{config.optim.lr:g}", schedule=config.optim.schedule,
            batch=count(config.batch_tokens), dtype=config.train.dtype,
        )),
        (own("card.machine"), ", ".join(
            short(part, 80) for part in (machine.get("gpu") or machine.get("cpu"),
                                         f"torch {versions.get('torch', UNKNOWN)}",
                                         str(run.manifest.get("git_commit"))[:12]) if part
        )),
        (own("card.seals"), "; ".join(
            f"{name} {str(seal)[:16]}…" for name, seal in seals.items() if seal) or UNKNOWN),
        (own("card.use"), own("card.not_for")),
    ]  # fmt: skip
    head = [(own("column.field"), "nowrap"), (own("column.value"), "text")]
    return section("card", own("card.title"), table(own("card.caption"), head, rows))


def data_of(run: Record, word: Word) -> str:
    data = run.config.data
    names = ", ".join(Path(name).name for name in data.files) or data.name
    return word(f"source.{data.source}", setting=data.corpus_setting, files=names,
                dataset=f"{data.dataset} {data.subset}".strip())  # fmt: skip


# ---- The curve and the money


def curve_section(run: Record, own: Word, word: Word) -> Html:
    """The loss with the predicted end and its interval drawn across it."""
    if len(run.training) < 2:
        return Html()
    loss, basis = predicted_loss(run)
    levels = []
    if math.isfinite(number(loss.get("value"))):
        value, low, high = (number(loss.get(part)) for part in ("value", "low", "high"))
        name = own(f"curve.{basis}", value=fixed(value), low=fixed(low), high=fixed(high))
        levels = [Level(value, name, "floor", at=0.0)]
        levels += [Level(edge, "", "muted", at=0.0) for edge in (low, high)]
    drawing = Chart(
        curve=run.training.curve("loss"),
        earlier=run.training.earlier("loss"),
        points=run.held_out.curve("val_loss"),
        levels=tuple(levels),
        marks=tuple(report.event_marks(run, word)),
        median=True,
        off_scale=True,
        x_name=word("step_axis", tokens=count(run.config.batch_tokens)),
    ).after(run.steps_done // 20)
    label = report.loss_label(replace(drawing, levels=()), run, word)
    figure = html(
        '<figure><div class="chart wide">{wide}</div><div class="chart narrow">{narrow}</div>'
        "</figure>",
        wide=Html(chart.draw(drawing, "portfolio", label, *WIDE)),
        narrow=Html(chart.draw(drawing, "portfolio-narrow", label, *NARROW)),
    )
    note = own("curve.note", step=count(run.steps_done // 20))
    return section(
        "curve", own("curve.title"), key(bool(levels), own, word), figure, paragraph(note, "note")
    )


def key(predicted: bool, own: Word, word: Word) -> Html:
    """What each line and sign of the chart means."""
    signs = [("faint", word("key.step")), ("", word("key.median")), ("dot", word("key.held_out"))]
    signs += [("floor", own("key.value")), ("start", own("key.edges"))] if predicted else []
    signs.append(("event", word("key.event")))
    items = (html('<li><i class="{sign}"></i>{name}</li>', sign=s, name=n) for s, n in signs)
    return html('<ul class="key" aria-hidden="true">{items}</ul>', items=join(items))


def predicted_loss(run: Record) -> tuple[Json, str]:
    """The final loss that was predicted, and by what: "ladder" or "plan"."""
    own = dig(run.prediction, "predictions", "loss_nats_per_token")
    found = own or dig(run.plan, "predictions", "loss_nats_per_token") or {}
    return found, "ladder" if own else "plan"


def money_section(run: Record, own: Word) -> Html:
    """The ledger told apart: before the first step, with the ladder; training; after it."""
    ledger = run.spending
    if ledger is None:
        return section("money", own("money.title"), paragraph(own("money.none")))
    costs = record.costs(run, ledger)
    rows = []
    if costs is not None:
        trained = sum(phase.usd for phase in costs.phases)
        before = "money.before_ladder" if run.prediction else "money.before"
        rows = [(own(before), dollars(costs.before_usd)), (own("money.training"), dollars(trained)),
                (own("money.after"), dollars(costs.after_usd))]  # fmt: skip
    plan, ceiling = (number(dig(run.plan, "money", n)) for n in ("plan_usd", "ceiling_usd"))
    said = own("money.spent", usd=dollars(ledger.total_usd), hours=duration(ledger.seconds),
               price=hourly(ledger.usd_per_hour), source=short(ledger.source, 120))  # fmt: skip
    if math.isfinite(plan):
        side = own("money.under" if ledger.total_usd <= plan else "money.over")
        said += " " + own("money.planned", plan=dollars(plan), ceiling=dollars(ceiling),
                          difference=dollars(abs(ledger.total_usd - plan)), side=side)  # fmt: skip
    head = [(own("column.part"), "text"), (own("column.usd"), "figure")]
    foot = (own("money.total"), dollars(ledger.total_usd))
    listed = table(own("money.caption"), head, rows, foot) if rows else Html()
    return section("money", own("money.title"), paragraph(said), listed)


# ---- The law, and what it says of ten times as much


@dataclass(frozen=True)
class Fit:
    """A law that speaks about this run, and whose it is: "own" or "borrowed"."""

    law: ScalingLaw
    whose: str
    name: str


def fits(run: Record) -> list[Fit]:
    """The run's own law if it climbed a ladder; else the published ones, for web text under BPE."""
    found = run.prediction.get("law")
    E, A, B, alpha, beta = (number(dig(found, name)) for name in CONSTANTS)
    if all(0 < value < math.inf for value in (E, A, B, alpha, beta)):
        law = ScalingLaw(E=E, A=A, B=B, alpha=alpha, beta=beta)
        return [Fit(law, "own", str(run.prediction.get("ladder")))]
    if run.config.data.source != "dataset" or run.config.data.tokenizer != "bpe":
        return []
    return [Fit(law, "borrowed", law.source) for law in scaling.PUBLISHED]


def law_section(run: Record, own: Word) -> Html:
    """The fitted constants with their intervals, and on whose data they were fitted."""
    laws = fits(run)
    if not laws:
        return section("law", own("law.title"), paragraph(own("law.none")))
    whose, rows = laws[0].whose, []
    for fit in laws:
        loss = fit.law.predict(flops.parameters(run.config.model), run.config.tokens)
        cells = [f"{getattr(fit.law, name):.4g}" for name in CONSTANTS]
        rows.append((short(fit.name, 120), *cells, fixed(loss)))
    intervals, ends = dig(run.prediction, "law", "intervals"), predicted_loss(run)[0]
    if whose == "own" and intervals:
        for edge, part in enumerate(("low", "high")):
            cells = [f"{number((dig(intervals, n) or [None] * 2)[edge]):.3g}" for n in CONSTANTS]
            rows.append((own(f"law.{part}"), *cells, fixed(number(ends.get(part)))))
    head = [(own("column.law"), "text"), *((n, "figure") for n in ("E", "A", "B", "α", "β")),
            (own("column.predicts"), "figure")]  # fmt: skip
    points = run.prediction.get("points")
    said = own(f"law.{whose}", points=count(number(points)),
               rms=fixed(number(dig(run.prediction, "law", "residual_rms")), 4))  # fmt: skip
    met, _, _ = record.held_out(run)
    parts = [said, own("law.met", loss=fixed(met))]
    return section("law", own("law.title"), paragraph(" ".join(parts)),
                   table(own("law.caption"), head, rows))  # fmt: skip


def more_section(run: Record, own: Word) -> Html:
    """What ten times the money would buy at this run's price and speed, by each law."""
    laws, ledger = fits(run), run.spending
    N, D = float(flops.parameters(run.config.model)), float(run.config.tokens)
    if not laws or ledger is None:
        return section("more", own("more.title"), paragraph(own("more.none")))
    C, usd = scaling.FLOPS_PER_PARAMETER_TOKEN * N * D, ledger.total_usd
    rows = []
    for fit in laws:
        best = fit.law.optimal(TIMES * C)
        now = fit.law.predict(N, D)
        for name, (size, tokens) in (
            ("more.same_model", (N, TIMES * D)),
            ("more.optimal", best),
            ("more.now_optimal", fit.law.optimal(C)),
        ):
            loss = fit.law.predict(size, tokens)
            cost = usd * size * tokens / (N * D)
            rows.append((own(name), short(fit.name, 60), amount(size), amount(tokens),
                         dollars(cost), fixed(loss), signed(loss - now)))  # fmt: skip
    head = [(own("column.what"), "text"), (own("column.law"), "text"), ("N", "figure"),
            ("D", "figure"), (own("column.usd"), "figure"), (own("column.predicts"), "figure"),
            (own("column.change"), "figure")]  # fmt: skip
    largest = max(row_law.law.optimal(TIMES * C)[0] for row_law in laws)
    said = own("more.text", usd=dollars(TIMES * usd), times=f"{TIMES:g}")
    caution = own("more.caution", leap=f"{largest / N:.1f}")
    return section("more", own("more.title"), paragraph(said),
                   table(own("more.caption"), head, rows), paragraph(caution))  # fmt: skip


# ---- What broke, and what all of this proves


def spikes_section(run: Record, own: Word, word: Word) -> Html:
    """Each spike that did harm, what was done, and its post-mortem, if a person has written one."""
    rows = []
    for kind, event, step in record.happenings(run):
        if kind not in ("spike", "rollback", "skip", "kill"):
            continue
        path = run.path / f"postmortem-{step:.0f}.md" if math.isfinite(step) else None
        there = path is not None and path.is_file()
        note = own("spikes.written", file=path.name) if path is not None and there else ""
        detail = report_tables.event_detail(kind, event, word)
        rows.append(
            (count(step), report_tables.event_title(kind, word), f"{detail} {note}".strip())
        )
    if not rows:
        return section("spikes", own("spikes.title"), paragraph(own("spikes.none")))
    head = [(own("column.step"), "figure"), (own("column.event"), "nowrap"),
            (own("column.detail"), "text")]  # fmt: skip
    planted = any(event["event"] == "inject" for event in run.events)
    said = own("spikes.planted") if planted else own("spikes.text")
    return section("spikes", own("spikes.title"), paragraph(said),
                   table(own("spikes.caption"), head, report_tables.ends_of(rows, 20)))  # fmt: skip


def proof_section(run: Record, own: Word, lang: str, verified: Json) -> Html:
    """What was computed again, what a determined forger could still do, and what closes the gap."""
    parts = [paragraph(own("proof.unverified", run=short(run.path, 200)))]
    findings = verified.get("findings")
    if isinstance(findings, list) and findings:
        rows = [
            (say(f"verify.check.{f['check']}", lang), own(f"verdict.{f['verdict']}"),
             short(f["text"], 400))
            for f in findings
            if isinstance(f, dict) and f.get("verdict") in ("holds", "refuted", "unanswered")
            and f.get("check") in CHECKS
        ]  # fmt: skip
        head = [(own("column.check"), "nowrap"), (own("column.verdict"), "nowrap"),
                (own("column.detail"), "text")]  # fmt: skip
        parts = [paragraph(own("proof.verified", time=short(verified.get("time"), 40))),
                 table(own("proof.caption"), head, rows)]  # fmt: skip
    told = verified.get("level") in ("done", "rehearsed", "incomplete")
    parts.append(paragraph(say("verify.proves", lang) if told else own("proof.forger")))
    digest = folder.plan_digest(run.path)
    if digest:
        parts.append(paragraph(say("verify.publish", lang, digest=digest)))
    return section("proof", own("proof.title"), *parts)


CHECKS = ("seal", "ledger", "curve", "mfu", "weights", "held_out", "window")


def footer(run: Record, own: Word) -> Html:
    said = own("footer", version=__version__, moment=record.last_moment(run))
    return html("<footer>{text}</footer>", text=said)
