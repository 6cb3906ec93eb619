"""A run on a terminal: `x1 watch` draws what `x1.watch` has seen, as wide and as high as it may.

The curve takes the rows that the figures and the newest events leave. Everything is drawn from one
snapshot, so a run on another machine is drawn here.
"""

import math
import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from x1 import report_tables
from x1.markup import UNKNOWN, count, dollars, duration, fixed, percent
from x1.record import dig, number, unix_time
from x1.text import language, say

CURVE, HELD_OUT, BAND, ALARM, MUTED = "cyan", "yellow", "green", "bold red", "dim"
STATES = {"running": "bold green", "finished": "bold green", "stopped": ALARM, "interrupted": ALARM}
LABEL = 11  # columns of a figure's name
SCALE = 8  # columns of the loss at the chart's left edge
LEAST_ROWS, MOST_ROWS = 5, 20  # of the chart
EVENT_ROWS = 3  # kept free for the newest, at least
SILENT_S = 120.0  # a meter that has said nothing for so long is an alarm; it speaks every 10 s
STALE_S = 30.0  # a picture that is older says so

Json = dict[str, Any]


@dataclass
class View:
    """A snapshot on the screen, when it came, and what is the matter with what should follow."""

    seen: Json
    trouble: str = ""
    received_s: float = field(default_factory=time.monotonic)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or console.size.height
        yield from page(self.seen, options.max_width, height, self.age_s, self.trouble)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.received_s


def page(seen: Json, width: int, height: int, age_s: float = 0.0, trouble: str = "") -> list[Text]:
    """The whole picture, at most `height` lines of at most `width` columns."""
    figures = rows(seen, width, age_s)
    head = heading(seen, width, age_s, trouble)
    events = event_lines(seen["events"], width)
    free = height - len(head) - len(figures)
    drawing: list[Text] = []
    if len(dig(seen, "curve", "loss") or ()) > 1:
        most = min(MOST_ROWS, free - min(EVENT_ROWS, len(events)) - 1)
        drawing = chart(seen, width, most) if most >= LEAST_ROWS else []
    room = max(height - len(head) - len(figures) - len(drawing), 0)
    shown = events[len(events) - min(room, len(events)) :]
    return [*head, *drawing, *figures, *shown][:height]


def heading(seen: Json, width: int, age_s: float, trouble: str) -> list[Text]:
    """Name, state and step; below it how old the picture is, where that is not obvious."""
    state = str(seen["state"])
    title = Text(f"{seen['run']} ", "bold", overflow="ellipsis", no_wrap=True)
    title.append(f"● {say(f'watch.state_{state}')} ", STATES.get(state, "bold"))
    step, steps = number(seen["step"]), number(seen["steps"])
    title.append(
        say("watch.step", step=count(step), steps=count(steps), share=percent(step, steps))
    )
    title.truncate(width, overflow="ellipsis")
    lines = [title]
    if seen["reason"]:
        lines += wrapped(Text(say("watch.reason", reason=seen["reason"]), ALARM), width)
    fetched = number(dig(seen, "away", "age_s"))
    old_s = age_s + (fetched if math.isfinite(fetched) else 0.0)
    if trouble or old_s > STALE_S:
        old = say("watch.as_of", age=duration(old_s))
        lines += wrapped(Text(f"{old} {trouble}".strip(), ALARM), width)
    for file in seen["damaged"]:
        lines += wrapped(Text(say("report.gap.damaged", file=file), ALARM), width)
    return lines


def rows(seen: Json, width: int, age_s: float) -> list[Text]:
    """The figures, each under its name; what is older by now is shown older."""
    found = {
        "ladder": ladder_row(seen),
        "loss": loss_row(seen),
        "predicted": predicted_row(seen),
        "speed": speed_row(seen),
        "money": money_row(seen),
        "time": time_row(seen, age_s),
        "saved": saved_row(seen, age_s),
        "guard": guard_row(seen, age_s),
    }
    lines = []
    for name, value in found.items():
        if not value:
            continue
        title = say(f"watch.row_{name}")
        parts = wrapped(value, width - LABEL)
        for number_of, part in enumerate(parts):
            label = Text((title if not number_of else "").ljust(LABEL), MUTED)
            lines.append(label + part)
    return lines


def ladder_row(seen: Json) -> Text:
    ladder = seen.get("ladder")
    if not ladder:
        return Text()
    done, total = number(ladder["tokens"]), number(ladder["tokens_total"])
    said = say("ladder.tokens_done", done=f"{done / 1e6:,.1f}", total=f"{total / 1e6:,.1f}")
    share = percent(number(ladder["share"]))
    return Text(f"{share} · {said} · {ladder['at']}".removesuffix(" · "))


def loss_row(seen: Json) -> Text:
    text = Text(fixed(number(seen["loss_nats_per_token"])), CURVE)
    held = seen["held_out"]
    if held["loss_nats_per_token"] is not None:
        text.append(" · ", "default")
        said = say("watch.held_out", loss=fixed(number(held["loss_nats_per_token"])),
                   step=count(number(held["step"])))  # fmt: skip
        text.append(said, HELD_OUT)
    return text


def predicted_row(seen: Json) -> Text:
    loss = seen["predicted"]["loss_nats_per_token"]
    if loss["value"] is None:
        return Text(say("watch.no_prediction"), MUTED)
    value, low, high = (fixed(number(loss[part])) for part in ("value", "low", "high"))
    basis = say(f"watch.basis_{seen['predicted']['basis']}")
    text = Text(say("watch.predicted", value=value, low=low, high=high, basis=basis), BAND)
    final = number(seen["held_out"]["loss_nats_per_token"])
    if seen["state"] == "finished" and math.isfinite(final):
        inside = loss["low"] <= final <= loss["high"]
        text.append(" · ")
        text.append(say(f"report.{'inside' if inside else 'outside'}"), "bold" if inside else ALARM)
    return text


def speed_row(seen: Json) -> Text:
    rate, share = number(seen["speed"]["tokens_per_s"]), number(seen["speed"]["mfu"])
    planned = number(seen["predicted"]["tokens_per_s"]["value"])
    text = Text(f"{count(rate)} tokens/s · MFU {percent(share)}")
    if math.isfinite(planned):
        text.append(f" · {say('watch.planned', value=count(planned))}", MUTED)
    return text


def money_row(seen: Json) -> Text:
    money = seen["money"]
    if not money:
        return Text(say("watch.no_ledger"), MUTED)
    text = Text(say("watch.spent", usd=dollars(number(money["spent_usd"]))))
    projected, line = number(money["projected_usd"]), number(money["alert_line_usd"])
    if math.isfinite(projected):
        style = ALARM if projected > line else ""
        text.append(" · ")
        text.append(say("watch.projected", usd=dollars(projected)), style)
    plan = number(money["plan_usd"])
    if math.isfinite(plan):
        text.append(f" · {say('watch.plan', usd=dollars(plan))}", MUTED)
    left, ceiling = (dollars(number(money[name])) for name in ("left_usd", "ceiling_usd"))
    text.append(f" · {say('watch.left', left=left, ceiling=ceiling)}")
    return text


def time_row(seen: Json, age_s: float) -> Text:
    left = number(seen["seconds_left"])
    if not math.isfinite(left):
        return Text()
    end_s = unix_time(seen["time"]) + left
    end = f"{datetime.fromtimestamp(end_s):%m-%d %H:%M}" if math.isfinite(end_s) else UNKNOWN
    return Text(say("watch.time", left=duration(max(left - age_s, 0.0)), end=end))


def saved_row(seen: Json, age_s: float) -> Text:
    saved = seen["checkpoint"]
    if not saved:
        return Text(say("watch.none_saved"), MUTED)
    age = duration(number(saved["age_s"]) + age_s)
    return Text(say("watch.saved", step=count(number(saved["step"])), age=age))


def guard_row(seen: Json, age_s: float) -> Text:
    """Who counts the dollars and what ends the machine; an alarm where nobody does."""
    text = Text()
    charged = number(dig(seen, "money", "charged_age_s")) + age_s
    if seen["supervisor"]:
        process = str(seen["supervisor"]).partition(",")[0]
        silent = charged > SILENT_S
        key = "watch.supervisor_silent" if silent else "watch.supervisor"
        text.append(say(key, process=process, age=duration(charged)), ALARM if silent else "")
    elif seen["away"]:
        text.append(say("watch.away", target=seen["away"]["target"], age=duration(charged)))
    elif seen["state"] == "running":
        text.append(say("watch.no_supervisor"), ALARM)
    else:
        text.append(say("watch.meter_closed" if dig(seen, "money", "closed") else "watch.idle"))
    limit = seen["deadman"]
    armed = limit["kind"] != "timer" or limit["status"] == "armed"
    style = ALARM if seen["state"] == "running" and (limit["kind"] == "none" or not armed) else ""
    values = {"status": "", "until": "", "host": "", "hours": ""} | limit
    text.append(" · ")
    text.append(say(f"watch.limit_{limit['kind']}", **values), style)
    return text


def event_lines(events: list[Json], width: int) -> list[Text]:
    """The newest events, oldest first, one line each: local time, what, and what of it."""
    word = partial(word_of_report, language())
    lines = []
    for item in events:
        kind, event = str(item["kind"]), dict(item["event"])
        line = Text(f"{clock_time(item['time'])}  ", MUTED)
        style = ALARM if kind in report_tables.GRAVE else ""
        line.append(report_tables.event_name(kind, word), style)
        if item["step"] is not None:
            line.append(f" {count(number(item['step']))}")
        detail = report_tables.event_detail(kind, event, word)
        line.append(f"  {' '.join(detail.split())}", MUTED)
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def word_of_report(lang: str, key: str, **values: Any) -> str:
    return say(f"report.{key}", lang, **values)


def clock_time(moment: str) -> str:
    """ "23:41:07" where the reader is; blanks for what is no time."""
    try:
        return f"{datetime.fromisoformat(moment).astimezone():%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return " " * 8


def wrapped(text: Text, width: int) -> list[Text]:
    return list(text.wrap(Console(width=max(width, 1), height=1), max(width, 1)))


# ---- The curve, in dots: a character of braille is two dots wide and four high


DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column, by row from above


def chart(seen: Json, width: int, height: int) -> list[Text]:
    """Loss over steps, the held-out points, and the predicted band of the end: `height` lines.

    The x axis is the whole run. The first steps are higher than the scale: they are left out.
    """
    points, held = seen["curve"]["loss"], seen["curve"]["held_out"]
    band = seen["predicted"]["loss_nats_per_token"]
    steps = max(number(seen["steps"]), 1.0)
    low, high = scale(points, held, band)
    columns, lines = max(width - SCALE, 2), max(height - 1, 1)
    canvas = Canvas(columns, lines)

    def place(step: float, loss: float) -> tuple[int, int]:
        x = round(step / steps * (2 * columns - 1))
        y = round((high - loss) / (high - low) * (4 * lines - 1))
        return x, y

    if band["value"] is not None:
        for part, stride in (("low", 6), ("value", 3), ("high", 6)):
            for x in range(0, 2 * columns, stride):
                canvas.dot(x, place(0, band[part])[1], BAND)
    before = None
    for step, loss in points:
        here = place(step, loss)
        canvas.line(before or here, here, CURVE)
        before = here
    for step, loss in held:
        canvas.sign(*place(step, loss), "•", HELD_OUT)
    marks = {0: (high, MUTED), lines - 1: (low, MUTED)}
    if band["value"] is not None:
        marks[place(0, band["value"])[1] // 4] = band["value"], BAND
    drawn = []
    for row, line in enumerate(canvas.rows()):
        value, style = marks.get(row, (math.nan, MUTED))
        said = fixed(value) if row in marks else ""
        drawn.append(Text(f"{said:>{SCALE - 2}}  ", style) + line)
    last = say("watch.axis", steps=count(steps))
    axis = Text(" " * SCALE + "0" + last.rjust(columns - 1), MUTED)
    return [*drawn, axis]


def scale(points: list[Any], held: list[Any], band: Json) -> tuple[float, float]:
    """The lowest and highest loss to draw: the band, and the curve without its steep beginning."""
    begin = 0.1 * points[-1][0]
    values = [loss for step, loss in [*points, *held] if step >= begin]
    values += [band[part] for part in ("low", "high") if band[part] is not None]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.1
    return low - margin, high + margin


class Canvas:
    """Dots in colours; where two meet in a character, the later colour has it."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.bits = [[0] * columns for _ in range(lines)]
        self.styles = [[""] * columns for _ in range(lines)]
        self.signs: dict[tuple[int, int], str] = {}

    def dot(self, x: int, y: int, style: str) -> None:
        """A dot at (x, y) from the upper left; nothing outside."""
        if 0 <= x < 2 * self.columns and 0 <= y < 4 * self.lines:
            self.bits[y // 4][x // 2] |= DOTS[x % 2][y % 4]
            self.styles[y // 4][x // 2] = style

    def line(self, start: tuple[int, int], end: tuple[int, int], style: str) -> None:
        (x0, y0), (x1, y1) = start, end
        count_of = max(abs(x1 - x0), abs(y1 - y0), 1)
        for k in range(count_of + 1):
            share = k / count_of
            self.dot(round(x0 + share * (x1 - x0)), round(y0 + share * (y1 - y0)), style)

    def sign(self, x: int, y: int, text: str, style: str) -> None:
        """A character of its own in place of the dots."""
        if 0 <= x < 2 * self.columns and 0 <= y < 4 * self.lines:
            self.signs[y // 4, x // 2] = text
            self.styles[y // 4][x // 2] = style

    def rows(self) -> list[Text]:
        drawn = []
        for row in range(self.lines):
            line = Text()
            for column in range(self.columns):
                bits = self.bits[row][column]
                sign = self.signs.get((row, column)) or (chr(0x2800 + bits) if bits else " ")
                line.append(sign, self.styles[row][column])
            drawn.append(line)
        return drawn
