"""The draft of a post-mortem: what is on record about a step, and what is left to a person.

Timeline and evidence are read off the run's folder. Candidates are listed with the experiment that
would tell them apart; which of them it was is not for a program to say, so the verdict is blank.
"""

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from x1 import diagnosis, folder, history, record, report, report_tables, stability
from x1.history import Attempt, Moment
from x1.markup import UNKNOWN, count, dollars, duration, short
from x1.record import Record, number
from x1.text import UserError, language, say

Json = dict[str, Any]

LINES_BEFORE, LINES_AFTER = 5, 2
WORST_TOKENS = 5


@dataclass(frozen=True)
class Incident:
    """What went wrong around a step: where it was noticed, in which attempt, and by which events.

    `events` are those of the attempt from one window of the detector before the step up to it,
    `trend` the training lines that led to it, `undone` those that were trained for nothing.
    """

    moment: Moment
    events: tuple[Json, ...]
    trend: tuple[Json, ...]
    undone: tuple[Json, ...]

    @property
    def step(self) -> int:
        return self.moment.step

    @property
    def attempt(self) -> int:
        return self.moment.attempt.number

    def first(self, *kinds: str) -> Json:
        """The first event of these kinds at the step itself; an empty one if there is none."""
        here = (event for event in self.events if step_of(event) == self.step)
        return next((event for event in here if event["event"] in kinds), {})

    @property
    def rollback(self) -> Json:
        return self.first("rollback")


def write_postmortem(run: Path, step: int, replayed: Path | None = None) -> Path:
    """Write postmortem-STEP.md in the reader's language; returns its path.

    `replayed` is what `x1 replay --json` printed. Raises UserError as `history.find` does, if the
    file is there already and is not this draft (it may hold a verdict), and if `replayed` is not a
    replay of this run.
    """
    path = run / f"postmortem-{step}.md"
    text = draft(run, step, language(), replayed)
    if path.exists() and path.read_text("utf-8", "replace") != text:
        raise UserError("postmortem.exists", path=path)
    folder.write_atomically(path, text)
    return path


def draft(run: Path, step: int, lang: str, replayed: Path | None = None) -> str:
    """The whole draft, in Markdown. Raises as `write_postmortem` does."""
    told = record.read(run)
    incident = find(run, step)
    again = read_replay(replayed, run) if replayed else {}
    parts = [
        "# " + say("postmortem.title", lang, run=cell(told.name), step=step),
        say("postmortem.drafted", lang),
        "## " + say("postmortem.summary", lang),
        *summary(told, incident, lang),
        "## " + say("postmortem.timeline", lang),
        timeline(told, incident, lang),
        "## " + say("postmortem.evidence", lang),
        *evidence(told, incident, lang),
        *(inside(again, lang) if again else [how_to_replay(incident, lang)]),
        "## " + say("postmortem.candidates", lang),
        say("postmortem.candidates_text", lang),
        *candidates(told, incident, again, lang),
        "## " + say("postmortem.verdict", lang),
        *(
            f"- {say(f'postmortem.blank_{blank}', lang)}"
            for blank in ("cause", "proof", "change", "author")
        ),
    ]
    return "\n\n".join(parts) + "\n"


def find(run: Path, step: int) -> Incident:
    """What was noticed at `step`, or nearest to it within the detector's window; or nothing."""
    asked = history.find(run, step)
    known = history.attempts(run, asked.config, list(asked.lines))
    window = asked.config.stability.window
    near = [
        (abs(at - step), attempt.number, at)
        for attempt, later in zip(known, [*known[1:], None], strict=True)
        for event in events_of(attempt, later)
        if is_trouble(event)
        for at in [step_of(event)]
        if abs(at - step) <= window
    ]
    moment = asked
    if near:
        _, number_, at = min(near)
        moment = history.find(run, at, number_)
    place = next(i for i, a in enumerate(known) if a.number == moment.attempt.number)
    events = events_of(known[place], known[place + 1] if place + 1 < len(known) else None)
    close = tuple(event for event in events if -window <= step_of(event) - moment.step <= 0)
    way = [line for _, line in sorted(history.way_to(moment).items()) if line["step"] < moment.step]
    back = next((e["to_step"] for e in close if e["event"] == "rollback"), math.inf)
    undone = [line for line in way if line["step"] >= back]
    return Incident(moment, close, tuple(way[-window:]), tuple(undone))


def events_of(attempt: Attempt, later: Attempt | None) -> tuple[Json, ...]:
    """What happened in an attempt after it began, with the roll-back that ended it if one did."""
    ended = later.own_events[:1] if later else ()
    return (*attempt.own_events[1:], *(e for e in ended if e["event"] == "rollback"))


def step_of(event: Json) -> int:
    """The step at which an event was noticed; -1 if it has none."""
    step = event.get("from_step", event.get("step"))
    return step if isinstance(step, int) else -1


def is_trouble(event: Json) -> bool:
    if event["event"] == "stop":
        return event.get("reason") in ("spike", "non-finite")
    return event["event"] in ("spike", "skip", "rollback")


# ---- What happened


def summary(told: Record, incident: Incident, lang: str) -> list[str]:
    """In a few sentences: what was noticed, what was done, what it cost, how the run stands."""
    spike, end = incident.first("spike"), incident.first("rollback", "stop", "skip")
    said: Json = {"step": incident.step, "attempt": incident.attempt}
    if spike:
        channel = "grad_norm" if spike.get("channel") == "grad_norm" else "loss"
        said |= {"batch": spike["data_index"], "channel": say(f"replay.{channel}", lang)}
        figures = {name: f"{spike[name]:.4g}" for name in ("loss", "grad_norm")}
        first = say("postmortem.noticed", lang, **said, **figures)
    elif end:
        first = say("postmortem.noticed_otherwise", lang, **said, reason=cell(record.why(end)))
    else:
        first = say("postmortem.nothing_noticed", lang, **said)
    parts = [first]
    if incident.rollback:
        undone_s = math.fsum(number(line["clock"].get("seconds")) for line in incident.undone)
        parts.append(say(
            "postmortem.undone", lang,
            to_step=incident.rollback["to_step"], steps=len(incident.undone),
            batches=len(incident.rollback["skipped"]), time=duration(undone_s),
            usd=dollars(cost_usd(told, incident.undone)),
        ))  # fmt: skip
    skips = [e for e in incident.events if e["event"] == "skip" and step_of(e) == incident.step]
    left_out = [event["data_index"] for event in skips]
    if left_out:
        batches = report_tables.spans(left_out)
        parts.append(say("postmortem.left_out", lang, batches=batches))
    kind, values = record.status(told)
    now = {name: count(v) if isinstance(v, int) else short(v, 80) for name, v in values.items()}
    state = f"{say(f'report.status.{kind}', lang)} {say(f'report.told.{kind}', lang, **now)}"
    return [*parts, say("postmortem.stands", lang, state=cell(state))]


def cost_usd(told: Record, lines: Sequence[Json]) -> float:
    """What these training lines cost, from the first one's beginning to the last one's end."""
    ends = [record.unix_time(line["clock"].get("time")) for line in lines]
    if told.spending is None or not ends or not all(map(math.isfinite, ends)):
        return math.nan
    began = ends[0] - number(lines[0]["clock"].get("seconds"))
    first, last = told.spending.by(np.array([began, max(ends)]))
    return float(last - first)


def timeline(told: Record, incident: Incident, lang: str) -> str:
    """What is on record around the step, with the line before it and the ones that passed it."""
    window = incident.moment.config.stability.window
    word = partial(report.say_in, lang)
    rows: list[tuple[int, int, int, str, str]] = []  # attempt, step, order, time, what
    attempt = 0
    for kind, event, at in record.happenings(told):
        begins = event["event"] in history.BEGINS
        attempt = event["attempt"] if event["event"] == "start" else attempt
        back_there = kind == "checkpoint" and at == incident.rollback.get("to_step")
        if back_there or incident.step - window <= at <= incident.step + window:
            detail = report_tables.event_detail(kind, event, word)
            what = f"**{cell(report_tables.event_name(kind, word))}.** {cell(detail)}"
            rows.append((attempt, int(at), 0, clock(event.get("time")), what))
        attempt = event["attempt"] if begins else attempt
    for line in incident.moment.lines:
        before = line == (incident.trend[-1] if incident.trend else None)
        if before or line["step"] == incident.step:
            figures = {name: f"{line[name]:.4f}" for name in ("loss", "grad_norm")}
            what = say("postmortem.trained", lang, batch=line["data_index"], **figures)
            time = clock(line["clock"].get("time"))
            rows.append((line["attempt"], line["step"], 1, time, what))
    rows.sort(key=lambda row: row[:3])
    head = [say(f"postmortem.column.{name}", lang) for name in ("time", "attempt", "step", "what")]
    return table(head, [(time, a, at, what) for a, at, _, time, what in rows])


def clock(time: Any) -> str:
    return record.utc(record.unix_time(time)) or UNKNOWN


# ---- Evidence


def evidence(told: Record, incident: Incident, lang: str) -> list[str]:
    """The lines around the step, the step against its trend, and how the run went on."""
    left_out = incident.first("skip", "rollback", "stop")
    judged = incident.first("spike") or ({} if left_out else line_at(incident))
    parts = [say("postmortem.lines", lang), lines_around(incident, lang)]
    rows = against_trend(incident, judged, lang)
    if rows:
        head = [say(f"postmortem.column.{n}", lang) for n in ("what", "usual", "here", "apart")]
        window, threshold = len(incident.trend), incident.moment.config.stability.threshold
        about = say("postmortem.trend", lang, steps=window, threshold=f"{threshold:g}")
        parts += [about, table(head, rows)]
    after = [x for x in incident.moment.lines if x["attempt"] > incident.attempt]
    again = next((x for x in after if x["step"] == incident.step), None)
    if again and incident.trend:
        level = median(line["loss"] for line in incident.trend[-stability.LEVEL_STEPS :])
        parts.append(say(
            "postmortem.passed", lang, step=incident.step, attempt=again["attempt"],
            loss=f"{again['loss']:.4f}", usual=f"{level:.4f}",
        ))  # fmt: skip
    loss, _, at = record.held_out(told)
    if math.isfinite(loss):
        parts.append(say("postmortem.held_out", lang, loss=f"{loss:.4f}", step=count(at)))
    return parts


def line_at(incident: Incident) -> Json:
    """The step's own training line; empty if it never got one."""
    place = (incident.attempt, incident.step)
    lines = incident.moment.lines
    return next((x for x in reversed(lines) if (x["attempt"], x["step"]) == place), {})


def lines_around(incident: Incident, lang: str) -> str:
    """Training lines near the step, as this attempt and the next one that passed it wrote them."""
    first, last = incident.step - LINES_BEFORE, incident.step + LINES_AFTER
    near = [x for x in incident.moment.lines if first <= x["step"] <= last]
    later = min((x["attempt"] for x in near if x["attempt"] > incident.attempt), default=None)
    way = history.way_to(incident.moment)
    shown = [x for x in near if way.get(x["step"]) is x or x["attempt"] == later]
    rows = [(x["attempt"], x["step"], x["data_index"], *figures_of(x)) for x in shown]
    for event in incident.events:
        if event["event"] == "spike":
            at, batch = event["step"], event["data_index"]
            rows.append((incident.attempt, at, batch, *figures_of(event)))
    names = ("attempt", "step", "batch", "loss", "grad_norm", "lr")
    return table([say(f"postmortem.column.{name}", lang) for name in names], sorted(set(rows)))


def figures_of(line: Json) -> tuple[str, str, str]:
    lr = number(line.get("lr"))
    return (
        f"{number(line['loss']):.4f}",
        f"{number(line['grad_norm']):.4f}",
        f"{lr:.4g}" if math.isfinite(lr) else "",
    )


def against_trend(incident: Incident, judged: Json, lang: str) -> list[tuple[str, ...]]:
    """Loss and gradient norm against the steps before, as the detector measures them."""
    rows: list[tuple[str, ...]] = []
    for name in ("loss", "grad_norm"):
        trend = [number(line[name]) for line in incident.trend]
        value = number(judged.get(name))
        if len(trend) < 3 or not all(map(math.isfinite, [*trend, value])) or min(trend) <= 0:
            continue
        usual = median(trend[-stability.LEVEL_STEPS :])
        if name == "grad_norm":  # the detector looks at its logarithm
            apart = stability.deviation(math.log(value), [math.log(x) for x in trend])
        else:
            apart = stability.deviation(value, trend)
        label = say(f"postmortem.column.{name}", lang)
        rows.append((label, f"{usual:.4f}", f"{value:.4f}", f"{apart:+.1f}"))
    return rows


# ---- From inside


def read_replay(path: Path, run: Path) -> Json:
    """What `x1 replay --json` printed. Raises UserError unless it is one, of a run of this name."""
    replayed = folder.read_json(path, "x1-replay-1")
    name = Path(str(replayed.get("run"))).resolve().name
    batches = replayed.get("batches")
    whole = isinstance(batches, list) and all(
        isinstance(batch, dict) and batch.keys() >= {"data_index", "layers", "loss"}
        for batch in batches
    )
    if name != run.resolve().name or not whole:
        raise UserError("postmortem.not_a_replay", path=path, run=run)
    return replayed


def replay_command(incident: Incident, *options: str) -> str:
    where = shlex.quote(str(incident.moment.run))
    place = ("--step", str(incident.step), "--attempt", str(incident.attempt))
    return " ".join(("x1 replay", where, *place, *options))


def how_to_replay(incident: Incident, lang: str) -> str:
    moment = incident.moment
    return say(
        "postmortem.replay", lang,
        command=replay_command(incident), save=replay_command(incident, "--json > replay.json"),
        steps=moment.steps, time=duration(moment.steps * moment.seconds_per_step),
    )  # fmt: skip


def inside(replayed: Json, lang: str) -> list[str]:
    """The statistics of a replay: every layer, the largest updates, the dearest tokens."""
    parts = [say("postmortem.inside", lang, step=replayed["step"], attempt=replayed["attempt"])]
    heads = ("activation_rms", "activation_max", "attention_logit_max", "gradient_norm")
    for batch in replayed["batches"]:
        exact = {True: "exact", False: "inexact", None: "unlogged"}[batch.get("bit_exact")]
        parts.append(say(f"postmortem.{exact}", lang, batch=batch["data_index"]))
        head = [say(f"replay.column.{name}", lang) for name in ("layer", *heads)]
        rows = [
            (f"layers.{order}", *(figure(layer.get(name)) for name in heads))
            for order, layer in enumerate(batch["layers"])
        ]
        parts.append(table(head, rows))
        ratios = batch.get("update_to_weight", {})
        known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        if known:
            largest = max(known, key=lambda name: number(known[name]))
            ratio = figure(known[largest])
            parts.append(say("postmortem.largest_update", lang, matrix=largest, ratio=ratio))
        worst = [
            f"`{token_text(token['token'])}` ({figure(token['loss'])})"
            for token in batch.get("worst_tokens", [])[:WORST_TOKENS]
        ]
        parts += [say("postmortem.worst", lang, tokens=", ".join(worst))] if worst else []
    return parts


def figure(value: Any) -> str:
    return f"{number(value):.3g}" if math.isfinite(number(value)) else UNKNOWN


def token_text(value: Any) -> str:
    """A token between backticks, on one line."""
    return cell(value).replace("`", "´") or " "


# ---- Candidates


def candidates(told: Record, incident: Incident, replayed: Json, lang: str) -> Iterable[str]:
    """What it may have been, each with what speaks for it and the experiment that would tell."""
    config = shlex.quote(str(incident.moment.run / folder.CONFIG))
    again = f"x1 train --config {config} --set 'stability.inject=[]'"
    found = []
    planted = [
        f"{kind} ({event['data_index']})"
        for event in incident.events
        if event["event"] == "inject"
        for kind in event.get("kinds", [])
    ]
    if planted:
        kinds = cell(", ".join(planted))
        found.append(("planted", {"kinds": kinds}, {"command": again}))
    alone = replay_command(incident, "--batch-only")
    other_weights = f"{again} --set train.seed={incident.moment.config.train.seed + 1}"
    found.append((probe_says(incident), {}, {"text": alone, "again": other_weights}))
    before = replay_command(incident).replace(
        f"--step {incident.step}", f"--step {max(incident.step - 1, incident.moment.attempt.first)}"
    )
    lr = incident.moment.config.optim.lr
    rate = number((incident.trend[-1] if incident.trend else {}).get("lr"))
    share = f"{rate / lr:.0%}" if math.isfinite(rate) else UNKNOWN
    slower = f"{again} --set optim.lr={lr / 2:g}"
    found.append(("update", {"share": share}, {"command": before, "again": slower}))
    found.append((replay_says(replayed), {}, {"command": replay_command(incident)}))
    for order, (name, said, commands) in enumerate(found, start=1):
        kind = name.partition("_")[0]
        yield entry(
            order,
            say(f"postmortem.candidate.{kind}", lang),
            say(f"postmortem.reason.{name}", lang, **said),
            say(f"postmortem.experiment.{kind}", lang, **commands),
            lang,
        )
    lines = folder.read_lines(told.path / folder.METRICS)
    suspects = diagnosis.diagnose(incident.moment.config, lines, told.events)
    for order, one in enumerate(suspects, start=len(found) + 1):
        yield entry(order, one.title(lang), one.reason(lang), one.experiment(lang), lang)


def probe_says(incident: Incident) -> str:
    """What speaks for or against the batch: what the detector's probe found."""
    spike = incident.first("spike")
    if "benign" not in spike:
        return "batch_none"
    if incident.first("skip").get("reason") == "gradient":
        return "batch_burst"
    return "batch_unharmed" if spike["benign"] else "batch_suffered"


def replay_says(replayed: Json) -> str:
    """What speaks for or against the machine: whether a replay gave what was logged."""
    exact = [batch.get("bit_exact") for batch in replayed.get("batches", [])]
    if not exact or None in exact:
        return "machine_unknown"
    return "machine_same" if all(exact) else "machine_other"


def entry(order: int, title: str, reason: str, experiment: str, lang: str) -> str:
    told = say("postmortem.reason_and_experiment", lang, reason=reason, experiment=experiment)
    return f"### {order}. {title}\n\n{told}"


# ---- Markdown


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def cell(value: Any) -> str:
    """Text from the folder, in a cell of a table or a sentence: never markup, never a break."""
    plain = "".join(c if c.isprintable() else " " for c in short(value, 300))
    return escape(plain, quote=False).replace("|", "\\|").strip()
