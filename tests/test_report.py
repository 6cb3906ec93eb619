import json
import math
import re
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from x1 import (
    chart,
    config,
    flops,
    folder,
    ledger,
    markup,
    record,
    report,
    report_next,
    report_tables,
    scaling,
)
from x1.text import UserError

START_S = 1_900_000_000
STEP_S = 0.25
FLOOR = 1.214
SETTINGS = {
    "model.vocab_size": 1024,
    "model.context": 128,
    "train.batch_sequences": 32,
    "checkpoint.every_steps": 50,
    "evaluate.every_steps": 50,
    "sample.milestones": "[0, 100]",
}


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(START_S + seconds, UTC).isoformat(timespec="seconds")


def make_run(run: Path, steps: int = 500, eventful: bool = True, **changes: Any) -> Path:
    """A run's folder as the trainer, the evaluator and the ledger leave it behind.

    With `eventful`, at three fifths a spike is rolled back over a tenth, and at four fifths the
    process is killed.
    """
    spike = 3 * steps // 5
    settings = SETTINGS | {"train.steps": steps, "stability.inject": f'["lr-x100@{spike}"]'}
    settings |= changes
    made = config.build("rehearsal", None, tuple(f"{k}={v}" for k, v in settings.items()))
    folder.claim(run, made)
    generator = np.random.default_rng(0)
    uniform, batch = math.log(made.model.vocab_size), made.batch_tokens
    metrics: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    now = 2.0

    def happened(event: str, **fields: Any) -> None:
        events.append({"event": event, "time": iso(now), **fields})

    def stretch(first: int, last: int, attempt: int, shift: float = 0.0) -> None:
        nonlocal now
        for step in range(first, last):
            now += STEP_S
            trend = FLOOR + 0.12 + (uniform - FLOOR) * (1 + step / 12) ** -1.1
            clock = {"time": iso(now), "seconds": STEP_S, "tokens_per_s": batch / STEP_S}
            clock["tokens_per_s"] *= 1 + 0.04 * generator.standard_normal()
            if step % made.evaluate.every_steps == 0:
                point = {
                    "step": step,
                    "attempt": attempt,
                    "val_loss": trend + 0.01,
                    "val_tokens": 99,
                }
                metrics.append({**point, "clock": {"time": iso(now), "seconds": 0.5}})
            noise = 0.05 * generator.standard_normal() * min(1, (step + 1) / 20)
            line = {
                "step": step,
                "attempt": attempt,
                "data_index": step + shift,
                "loss": trend + noise,
                "grad_norm": 0.4 * math.exp(0.3 * generator.standard_normal()) + 4 / (step + 1),
                "lr": 6e-3 * min(1, (step + 1) / 50) * (1 - step / steps),
                "tokens": (step + 1) * batch,
                "clock": clock,
            }
            metrics.append(line)
            if (step + 1) % made.checkpoint.every_steps == 0:
                path = f"step-{step + 1:08d}"
                happened("checkpoint", step=step + 1, attempt=attempt, path=path, reason="regular")

    happened("start", attempt=1, step=0, pid=101)
    if eventful:
        back, killed = steps // 2, 4 * steps // 5
        stretch(0, spike, 1)
        for step in (1, 2):
            metrics.append({**metrics[-1], "step": spike - 1 + step, "loss": 7.5 + step})
        happened("inject", kinds=["lr-x100"], data_index=spike, step=spike)
        happened(
            "spike", step=spike + 2, data_index=spike + 2, channel="loss", loss=9.5, benign=False
        )
        skipped = [spike, spike + 1, spike + 2]
        happened(
            "rollback",
            from_step=spike + 2,
            to_step=back,
            attempt=2,
            skipped=skipped,
            reason="spike",
        )
        stretch(back, killed, 2, shift=3)
        now += 3.0
        happened("start", attempt=3, step=killed - steps // 50, pid=202)
        stretch(killed - steps // 50, steps, 3, shift=3)
    else:
        stretch(0, steps, 1)
    final = {"step": steps, "attempt": 3 if eventful else 1, "val_loss": 1.352, "val_tokens": 99}
    metrics.append({**final, "clock": {"time": iso(now), "seconds": 0.5}})
    happened("finish", step=steps)

    write_lines(run / folder.METRICS, metrics)
    write_lines(run / folder.EVENTS, events)
    texts = {0: " zr&e<kk", 100: " = I spoke", steps: " con el dapo = I speak with the dapo."}
    write_lines(run / folder.SAMPLES, [
        {"step": step, "attempt": 1, "prompt": "yo hablo", "text": text}
        for step, text in texts.items()
    ])  # fmt: skip
    folder.write_json(run / folder.MANIFEST, {
        "format": "x1-manifest-1",
        "git_commit": "0123456789abcdef0123456789abcdef01234567+changes",
        "versions": {"x1": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
        "hardware": {"device": "cpu", "cpu": "A Processor @ 2.6 GHz", "threads": 2},
        "micro_batch": 32,
        "data": {"name": "verbs", "fingerprint": "ab" * 32},
        "parameters": 983_552,
        "flops_per_token": 6_094_848,
        "peak_flops": {"value": 247e9, "name": "measured matmul ceiling, fp32", "measured": True},
        "seeds": {"model": 0, "data": 0},
    })  # fmt: skip
    folder.write_json(run / folder.EVALUATION, {
        "format": "x1-evaluation-1",
        "step": steps,
        "held_out": {
            "loss_nats_per_token": 1.3325, "tokens": 41_234, "bytes": 170_000,
            "bits_per_byte": 0.4663, "mode": "documents",
        },
        "unigram_nats_per_token": 5.4321,
        "floor": {
            "nats_per_token": FLOOR, "these_documents_nats_per_token": 1.2101,
            "loss_nats_per_token": 1.3325,
            "english": {"nats_per_token": 0.105, "these_documents_nats_per_token": 0.104,
                        "loss_nats_per_token": 0.191},
        },
    })  # fmt: skip
    both = {"en": "Five runs of this recipe.", "es": "Cinco ejecuciones de esta receta."}
    folder.write_json(run / folder.PLAN, {
        "format": "x1-plan-1", "date": "2030-03-17",
        "predictions": {
            "tokens_per_s": {"value": 16000, "low": 12800, "high": 19200, "basis": both},
            "loss_nats_per_token": {"value": 1.30, "low": 1.28, "high": 1.32, "basis": both},
            "dollars": {"value": 0.0005, "low": 0.0004, "high": 0.0006, "basis": both},
            "kwh": {"value": 0.002, "low": 0.001, "high": 0.003, "basis": both},
            "bits_per_byte": {"value": None, "low": None, "high": None, "basis": both},
        },
    })  # fmt: skip
    write_ledger(run, now)
    return run


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def write_ledger(run: Path, seconds: float, price: float = 0.013) -> None:
    """A meter that ran from two seconds before the first step to four after the last."""

    def at(moment: float) -> ledger.Instant:
        return ledger.Instant(int(1000 * (START_S + moment)), int(1000 * (moment + 60)), "boot")

    paid = ledger.Price(price, "electricity", "2030-03-17")
    book = ledger.start(run, at(0), paid, 50.0, 35.0, folder.plan_digest(run))
    for moment in np.linspace(0, seconds + 4, 20)[1:]:
        book = ledger.charge(run, book, at(float(moment)))
    ledger.close(run, book, at(seconds + 4), "done")


class Page(HTMLParser):
    """A page taken apart: tags, attributes, ids, and text as a reader sees it."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()
        self.text = re.sub(r"[ \n]+", " ", " ".join(self.texts))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.texts.append(data)

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


def page_of(run: Path, lang: str = "en", drawn: bool = False) -> Page:
    """The page of a run; its charts are left empty unless `drawn`, which takes most of the time."""

    def undrawn(drawing: chart.Chart, name: str, label: str, *size: int) -> str:
        return f'<svg role="img" aria-label="{escape(label)}"></svg>'

    with nullcontext() if drawn else patch.object(chart, "draw", undrawn):
        return Page(report.write_report(run, lang).read_text("utf-8"))


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "rehearsal-1")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "rehearsal-1", steps=120)


# ---- The page


@pytest.mark.parametrize("lang", ["en", "es"])
def test_page_is_whole_and_stands_alone(eventful: Path, lang: str) -> None:
    page = page_of(eventful, lang, drawn=True)
    assert page.open == []
    assert page.values("lang") == [lang]
    assert page.tags.count("h1") == 1
    assert not {"script", "img", "iframe", "object", "embed", "form"} & set(page.tags)
    assert "://" not in page.source
    assert all(
        value.startswith(("#", "data:")) for value in page.values("href") + page.values("src")
    )
    assert "@import" not in page.source and page.source.count("url(") == page.source.count("url(#")
    assert "None" not in page.text and "nan" not in page.text.lower().split()
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = {value.removeprefix("#") for value in page.values("href") if value.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", page.source)) | set(page.values("aria-labelledby"))
    assert wanted <= set(ids)


@pytest.mark.parametrize("lang", ["en", "es"])
def test_every_chart_says_what_it_shows(eventful: Path, lang: str) -> None:
    page = page_of(eventful, lang, drawn=True)
    assert (
        page.tags.count("svg") == 7
    )  # two of the loss, each wide and narrow, and three small ones
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == 7
    begins = {"en": "Chart of", "es": "Gráfico de"}[lang]
    assert all(label.startswith(begins) for label in labels)
    assert "1.214" in labels[0] and "1.352" in labels[0]
    assert "<text" in page.source and "DejaVu Sans'" not in page.source


def test_both_languages_hold_the_same_numbers(eventful: Path) -> None:
    def numbers(lang: str) -> list[str]:
        page = page_of(eventful, lang)
        told = " ".join([page.text, *page.values("aria-label")]).replace("\u202f", "")
        return sorted(re.findall(r"\d[\d.]*\d|\d", told))

    assert numbers("en") == numbers("es")


def test_language_is_the_one_asked_or_the_reader_s(run: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("x1.text._chosen", "es")
    assert '<html lang="es">' in report.write_report(run).read_text("utf-8")
    assert '<html lang="en">' in report.write_report(run, "en").read_text("utf-8")
    with pytest.raises(UserError, match="'fr'"):
        report.write_report(run, "fr")


def test_page_is_a_function_of_the_folder(run: Path) -> None:
    first = report.write_report(run, "en").read_bytes()
    assert report.write_report(run, "en").read_bytes() == first
    folder.record_event(run, "alert", reason="a thing that was not there before")
    assert report.write_report(run, "en").read_bytes() != first


def test_colours_are_readable_in_light_and_dark() -> None:
    """WCAG 2.2, 1.4.3: text and background differ by at least 4.5:1."""

    def luminance(code: str) -> float:
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    style = Path(report.__file__).with_name("report.html").read_text("utf-8")
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        for block in re.findall(r":root \{([^}]*)\}", style)
    ]
    assert len(themes) == 2
    for theme in themes:
        assert set(chart.COLOURS) <= set(theme)
        for ink in ("ink", "muted", "train", "held-out", "floor", "alarm"):
            for paper in ("paper", "panel"):
                pair = sorted(luminance(theme[name]) for name in (ink, paper))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ink, paper, theme)


def test_a_long_run_makes_a_small_page_quickly(tmp_path: Path) -> None:
    """40,000 steps: under 10 s of one core and 0.6 MB."""
    run = make_run(tmp_path / "night", steps=40_000)
    began = time.process_time()
    path = report.write_report(run, "en")
    assert time.process_time() - began < 10
    assert path.stat().st_size < 600_000


# ---- The numbers


def test_key_numbers_are_computed_from_the_folder(eventful: Path) -> None:
    text = page_of(eventful).text
    lines = [line for line in folder.curve(eventful) if "loss" in line]
    rate = float(np.median([line["clock"]["tokens_per_s"] for line in lines]))
    last = float(np.median([line["loss"] for line in lines[-50:]]))
    assert f"Held-out loss 1.333 nats/token Whole documents, at step {len(lines)}." in text
    assert (
        "Entropy floor 1.214 nats/token "
        "On the documents scored, 1.210; the loss is +0.122 above that: 10.1%." in text
    )
    assert "Bits per byte 0.466" in text
    assert f"Training loss {last:.3f}" in text
    assert f"Throughput {markup.count(rate)} tokens/s" in text
    assert (
        f"MFU {100 * rate * 6_094_848 / 247e9:.1f}% "
        "Against a measured matmul ceiling of 247 GFLOP/s on this CPU" in text
    )
    assert f"Cost so far {markup.dollars(float(ledger.read_ledger(eventful).spent_usd))}" in text
    assert "Attempts 3 Kills: 1. Roll-backs: 1." in text
    again = (302 - 250) + (400 - 390)
    assert (
        f"2.05M Of 2.05M planned. {markup.amount(again * 4096)} more were trained and undone."
        in text
    )


def test_a_gpu_s_peak_is_named(run: Path) -> None:
    manifest = folder.read_json(run / folder.MANIFEST)
    manifest["peak_flops"] = {"value": 312e12, "name": "A100-80GB bf16 dense", "measured": False}
    folder.write_json(run / folder.MANIFEST, manifest)
    assert "Of the peak of A100-80GB bf16 dense: 312 TFLOP/s." in page_of(run).text


def test_windows_are_not_compared_with_the_floor_as_documents_are(run: Path) -> None:
    change(run / folder.EVALUATION, "held_out", mode="windows")
    assert "not strictly comparable" in page_of(run).text


def test_the_curve_is_each_step_s_last_attempt(eventful: Path) -> None:
    """What the report draws strongly is `folder.curve`; all the rest is drawn faintly."""
    training = record.read(eventful).training
    steps, losses = training.curve("loss")
    lines = [line for line in folder.curve(eventful) if "loss" in line]
    assert steps.tolist() == [line["step"] for line in lines]
    assert losses.tolist() == [line["loss"] for line in lines]
    earlier = training.earlier("loss")
    assert len(earlier) == 2
    assert sum(len(x) for x, _ in earlier) + len(steps) == len(training)


def test_right_after_a_roll_back_the_undone_steps_are_not_the_curve(run: Path) -> None:
    lines = [line for line in folder.read_lines(run / folder.METRICS) if line["attempt"] < 3]
    undone = max(line["step"] for line in lines if line["attempt"] == 1)
    fresh = [line for line in lines if line["attempt"] == 2 and line["step"] < undone - 5]
    write_lines(run / folder.METRICS, [line for line in lines if line["attempt"] == 1] + fresh)
    steps, _ = record.read(run).training.curve("loss")
    assert steps.max() == fresh[-1]["step"] < undone


def test_phases_add_up_to_the_ledger(eventful: Path) -> None:
    read = record.read(eventful)
    assert read.spending is not None
    costs = record.costs(read, read.spending)
    assert costs is not None and len(costs.phases) == 3
    total = costs.before_usd + sum(phase.usd for phase in costs.phases) + costs.after_usd
    assert total == pytest.approx(read.spending.total_usd, abs=1e-12)
    assert min(costs.before_usd, costs.after_usd, *(phase.usd for phase in costs.phases)) > 0
    for before, after in pairwise(costs.phases):
        assert before.last == after.first and before.loss_after == after.loss_before
    assert costs.before_usd / 0.013 * 3600 == pytest.approx(2.0, abs=0.3)
    # At one price, a phase's share of the dollars is its share of the seconds, kills included.
    second = costs.phases[1]
    assert second.usd / 0.013 * 3600 == pytest.approx(second.seconds, abs=1.5)
    third = costs.phases[2]
    assert third.usd / 0.013 * 3600 == pytest.approx(third.seconds + 3.0, abs=1.5)


def test_phases_follow_the_milestones_where_there_are_enough(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=120, **{"checkpoint.milestones": "[10, 60]"})
    read = record.read(run)
    assert record.phase_borders(read) == [0, 10, 60, 100, 120]


def test_a_phase_that_gains_nothing_has_no_price_for_a_nat() -> None:
    phase = record.Phase(0, 10, 2.0, 2.0, 1.0, 0.5)
    assert report_tables.price_of_gain(phase) == markup.UNKNOWN
    assert report_tables.price_of_gain(record.Phase(0, 10, 3.0, 1.0, 1.0, 0.5)) == "$0.25"


def straighten(run: Path, slope: float, noise: float = 0.0) -> None:
    """Make the training loss an exact line in ln(tokens), but for noise of that deviation."""
    generator = np.random.default_rng(1)
    lines = folder.read_lines(run / folder.METRICS)
    for line in lines:
        if "loss" in line:
            line["loss"] = 5 - slope * math.log(line["tokens"]) + noise * generator.normal()
    write_lines(run / folder.METRICS, lines)


def test_the_next_dollar_is_the_run_s_slope_times_the_tokens_it_buys(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=400, eventful=False)
    straighten(run, 0.25)
    (run / folder.LEDGER).unlink()
    write_ledger(run, 102.0, price=36.0)  # a cent a second, so a dollar is 100 s of 16,384 tokens
    read = record.read(run)
    slope = report_next.own_slope(read)
    assert slope is not None and slope.first_step == 200
    # Each bin's median lies where its mean does, but for the curvature of ln within the bin.
    assert slope.nats == pytest.approx(0.25, rel=1e-3)
    assert slope.low < 0.25 + 1e-3 and slope.high > 0.25 - 1e-3 and slope.high - slope.low < 2e-3
    bought = report_next.next_purchase(read)
    rate = record.throughput(read)[0]
    assert bought is not None and bought.usd == 1.0
    assert (bought.tokens, bought.tokens_so_far) == (pytest.approx(100 * rate), 400 * 4096)
    gain = slope.nats * math.log(1 + 100 * rate / (400 * 4096))
    text = page_of(run).text
    assert (
        f"The next $1.00, at this run's speed and price, buys {markup.amount(100 * rate)}" in text
    )
    assert f"lower the loss by {gain:.4f} nats" in text and "from step 200 to 400" in text
    assert f"There a nat costs ${1 / gain:.2f}." in text
    assert "learning rate was not constant" in text and "scaling laws" not in text


def test_no_slope_is_drawn_out_beyond_as_many_tokens_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=400, eventful=False, **{"optim.schedule": "constant"})
    straighten(run, 0.25)
    bought = report_next.next_purchase(record.read(run))
    assert bought is not None and bought.tokens == pytest.approx(400 * 4096)
    assert bought.gain(1.0) == pytest.approx(math.log(2))
    rate = record.throughput(record.read(run))[0]
    assert bought.usd == pytest.approx(400 * 4096 / rate * 0.013 / 3600)
    text = page_of(run).text
    assert f"The next {markup.dollars(bought.usd)}," in text and "as many again" in text
    assert "learning rate was not constant" not in text


def test_a_loss_that_does_not_fall_promises_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=400, eventful=False)
    straighten(run, 0.0, noise=0.05)
    text = page_of(run).text
    assert "no gain is certain" in text and "There a nat costs" not in text
    assert "no gain is certain" not in page_of(make_run(tmp_path / "short", steps=100)).text


def test_the_interval_of_the_slope_holds_it_as_often_as_it_says(tmp_path: Path) -> None:
    """95% of 60 noisy lines, so 50 of them at the very least (p < 0.001 otherwise)."""
    run = make_run(tmp_path / "run", steps=300, eventful=False)
    read = record.read(run)
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(60):
        noise = 0.05 * generator.standard_normal(len(read.training))
        read.training.values["loss"][:] = 5 - 0.25 * np.log(read.training.step + 1) + noise
        slope = report_next.own_slope(read)
        assert slope is not None
        held += slope.low <= 0.25 <= slope.high
    assert held >= 50


def test_web_text_has_the_published_laws_beside_the_slope(tmp_path: Path) -> None:
    settings = {"data.source": "dataset", "data.dataset": "a/b", "optim.schedule": "constant"}
    run = make_run(tmp_path / "run", steps=400, eventful=False, **settings)
    straighten(run, 0.25)
    made = folder.open_run(run)
    N, D = flops.parameters(made.model), 400 * 4096
    # Besiroglu: the second D tokens of 2 D gain B (1 - 2^-beta) / D^beta.
    law = scaling.BESIROGLU
    expected = law.B * (1 - 2**-law.beta) / D**law.beta
    bought = report_next.Purchase(1.0, D, D)
    assert report_next.law_gains(made, bought)[1] == pytest.approx(expected, rel=1e-9)
    assert N > 0 and f"or {expected:.4f} (Besiroglu)" in page_of(run).text


def test_predictions_are_held_against_results(run: Path) -> None:
    text = page_of(run).text
    # (1.3325 - 1.30) / 1.30 = 2.5%, above 1.32
    assert "1.300 1.280 – 1.320 1.333 +2.5% outside" in text
    assert "12\u202f800 – 19\u202f200" in text and "inside" in text
    assert "not to be read off this folder: kWh." in text
    assert "Five runs of this recipe." in text
    assert "Cinco ejecuciones de esta receta." in page_of(run, "es").text


def test_a_loss_is_not_judged_before_the_run_is_over(run: Path) -> None:
    events = [e for e in folder.read_lines(run / folder.EVENTS) if e["event"] != "finish"]
    write_lines(run / folder.EVENTS, events)
    text = page_of(run).text
    assert "+2.5% so far" in text and "outside" not in text


def test_the_seal_of_the_prediction_is_checked(run: Path) -> None:
    assert "this very plan.json" in page_of(run).text
    plan = folder.read_json(run / folder.PLAN)
    folder.write_json(run / folder.PLAN, {**plan, "date": "2030-03-16"})
    assert "changed afterwards" in page_of(run).text
    folder.write_json(run / folder.PLAN, {**plan, "config_sha256": "0" * 64})
    assert "another configuration" in page_of(run).text
    (run / folder.LEDGER).unlink()
    folder.write_json(run / folder.PLAN, plan)
    assert "nothing here shows when it was written" in page_of(run).text


# ---- What happened


def test_kills_roll_backs_and_resumes_are_told_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=120, eventful=False)
    sequence = [
        {"event": "start", "attempt": 1, "step": 0},
        {"event": "stop", "step": 40, "reason": "sigterm"},
        {"event": "start", "attempt": 2, "step": 40},
        {
            "event": "rollback",
            "from_step": 60,
            "to_step": 50,
            "attempt": 3,
            "skipped": [60, 61, 64],
        },
        {"event": "start", "attempt": 4, "step": 50},
        {"event": "finish", "step": 120},
        {"event": "start", "attempt": 5, "step": 120},
    ]
    write_lines(run / folder.EVENTS, [{**event, "time": iso(0)} for event in sequence])
    read = record.read(run)
    kinds = [kind for kind, _, _ in record.happenings(read)]
    assert kinds == ["start", "stop", "resume", "rollback", "kill", "finish", "resume"]
    assert [kill.restart["attempt"] for kill in record.kills(read)] == [4]
    assert "without batches 60–61, 64." in page_of(run).text


def test_status_says_how_the_run_stands(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=120)
    assert record.status(record.read(run))[0] == "finished"
    events = [e for e in folder.read_lines(run / folder.EVENTS) if e["event"] != "finish"]
    write_lines(run / folder.EVENTS, events)
    assert record.status(record.read(run))[0] == "interrupted"
    with folder.locked(run):
        assert record.status(record.read(run))[0] == "running"
    write_lines(run / folder.EVENTS, [*events, {"event": "stop", "step": 70, "reason": "sigterm"}])
    assert "Stopped. At step 120 of 120 (reason: sigterm)." in page_of(run).text
    guarded = [
        {"event": "stop", "reason": "guard", "rule": "ceiling"},
        {"event": "stop", "reason": "sigterm"},
    ]
    write_lines(run / folder.EVENTS, [*events, *guarded])
    assert "(reason: guard: ceiling)" in page_of(run).text
    for name in (folder.EVENTS, folder.METRICS):
        (run / name).unlink()
    assert "Not started. 120 steps lie ahead." in page_of(run).text


def test_events_are_marked_on_the_curve_and_told_in_the_table(eventful: Path) -> None:
    page = page_of(eventful, drawn=True)
    source = page.source
    whole = source[source.index("<svg") : source.index("</svg>")]
    assert ">spike → roll-back</text>" in whole and ">kill</text>" in whole
    text = page.text
    assert "Planted on purpose at batch 300: lr-x100." in text
    assert "Batch 302: loss = 9.5, judged harmful." in text
    assert "From step 302 back to 250; attempt 2 begins, without batches 300–302." in text
    assert "Checkpoints written: 12; the newest at step 500." in text


def test_a_harmless_spike_and_an_unknown_event_are_told_too(run: Path) -> None:
    folder.record_event(
        run, "spike", step=9, data_index=9, channel="grad_norm", grad_norm=7.12345, benign=True
    )
    folder.record_event(run, "eclipse", step=10, shadow="long")
    folder.record_event(run, "overfitting", step=50, val_loss=2.5, best_val_loss=2.25)
    clock = {"tokens_per_s": 8000.4, "usual_tokens_per_s": 16000.2}
    folder.record_event(run, "slow", step=60, clock=clock)
    text = page_of(run).text
    assert "overfitting The validation loss is 2.5, up from 2.25" in text
    assert "slower 8\u202f000 tokens/s over the last minute, where 16\u202f000 was usual" in text
    assert "benign spike Batch 9: grad_norm = 7.123; the weights were unharmed" in text
    assert "eclipse {'shadow': 'long'}" in text


def test_long_lists_are_cut_and_say_so(run: Path) -> None:
    for index in range(300):
        folder.append_line(
            run / folder.EVENTS, {"event": "skip", "time": iso(0), "step": 5, "data_index": index}
        )
        folder.append_line(
            run / folder.SAMPLES, {"step": index, "attempt": 1, "prompt": "p", "text": "t" * 9000}
        )
    page = page_of(run)
    assert "Showing 120 of " in page.text and "Showing 60 of 303;" in page.text
    assert len(page.source) < 600_000


# ---- A stranger's folder, a damaged folder

EVIL = (
    '</p></style></svg><script>alert(1)</script><img src=x onerror="alert(2)">'
    "'\"&{step}$body${x}\u202e\x00\ud800"
)


def change(path: Path, *names: str, **fields: Any) -> None:
    whole = folder.read_json(path)
    part = whole
    for name in names:
        part = part[name]
    part.update(fields)
    path.write_text(json.dumps(whole), "utf-8")


@pytest.mark.parametrize("lang", ["en", "es"])
def test_nothing_from_the_folder_becomes_markup(tmp_path: Path, lang: str) -> None:
    clean = Page(
        report.write_report(make_run(tmp_path / "clean", steps=60), lang).read_text("utf-8")
    )
    name = EVIL.replace("/", "∕").replace("\x00", "").replace("\ud800", "")
    run = make_run(tmp_path / name, steps=60)
    toml = (run / folder.CONFIG).read_text("utf-8")
    quoted = json.dumps(EVIL.replace("\x00", "").replace("\ud800", ""))
    toml = re.sub(
        r'(?m)^(preset|dataset|subset|column|hardware) = ".*"', lambda m: f"{m[1]} = {quoted}", toml
    )
    (run / folder.CONFIG).write_text(
        toml.replace('source = "verbs"', 'source = "dataset"'), "utf-8"
    )
    for event in ("spike", "skip", "rollback", "stop", "alert", "damaged", "inject", "start", EVIL):
        fields = (
            "channel",
            "value",
            "reason",
            "path",
            "kind",
            "attempt",
            "data_index",
            "skipped",
            "time",
            EVIL,
        )
        line = {"event": event, "step": 3, **dict.fromkeys(fields, EVIL)}
        write_lines(run / folder.EVENTS, [*folder.read_lines(run / folder.EVENTS), line])
    write_lines(run / folder.SAMPLES, [{"step": 1, "prompt": EVIL, "text": EVIL}])
    change(run / folder.MANIFEST, "hardware", **{"device": EVIL, "cpu": EVIL, EVIL: [EVIL]})
    change(run / folder.MANIFEST, "peak_flops", name=EVIL, measured=False)
    change(run / folder.MANIFEST, git_commit=EVIL)
    change(run / folder.EVALUATION, "held_out", mode=EVIL)
    change(run / folder.PLAN, date=EVIL)
    change(
        run / folder.PLAN, "predictions", **{EVIL: {"value": 1, "low": 0, "high": 2, "basis": EVIL}}
    )
    change(run / folder.PLAN, "predictions", "tokens_per_s", basis={"en": EVIL, "es": EVIL})
    (run / folder.LEDGER).unlink()
    paid = ledger.Price(1.0, EVIL.replace("\ud800", ""), "2030-03-17")
    ledger.start(
        run, ledger.Instant(1000 * START_S, 1, "boot"), paid, 50.0, 35.0, EVIL.replace("\ud800", "")
    )

    page = page_of(run, lang, drawn=True)
    assert page.open == []
    assert set(page.tags) <= set(clean.tags)
    assert {(tag, name) for tag, name, _ in page.attributes} <= {
        *((tag, name) for tag, name, _ in clean.attributes), ("p", "class"), ("span", "class")
    }  # fmt: skip
    assert page.source.count("<script") == 0
    assert page.text.count("<script>alert(1)</script>") > 20
    assert f"'runs/{name}-again'".replace("'\"&", "'\"'\"'\"&") in page.text  # one shell word


JUNK: tuple[Any, ...] = (
    None,
    True,
    "x",
    [],
    {},
    [1],
    {"a": 1},
    -1,
    0,
    1e308,
    10**400,
    math.nan,
    math.inf,
)


@pytest.mark.parametrize("seed", range(12))
def test_junk_where_numbers_belong_is_never_a_traceback(tmp_path: Path, seed: int) -> None:
    """Every value of every file, one in ten replaced by something of another kind."""
    run = make_run(tmp_path / "run", steps=60)
    generator = np.random.default_rng(seed)

    def spoil(value: Any, depth: int = 0) -> Any:
        if generator.random() < 0.1 and depth:
            return JUNK[generator.integers(len(JUNK))]
        if isinstance(value, dict):
            return {name: spoil(part, depth + 1) for name, part in value.items()}
        return [spoil(part, depth + 1) for part in value] if isinstance(value, list) else value

    for name in (folder.METRICS, folder.EVENTS, folder.SAMPLES):
        write_lines(run / name, [spoil(line) for line in folder.read_lines(run / name)])
    for name in (folder.MANIFEST, folder.EVALUATION, folder.PLAN):
        (run / name).write_text(json.dumps(spoil(folder.read_json(run / name))), "utf-8")
    assert page_of(run, drawn=True).open == []


OPTIONAL = (
    folder.METRICS, folder.EVENTS, folder.MANIFEST, folder.EVALUATION, folder.PLAN, folder.LEDGER,
)  # fmt: skip


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_missing_file_is_named_with_what_it_costs(run: Path, name: str) -> None:
    (run / name).unlink()
    assert f"{name} is missing." in page_of(run).text
    assert f"Falta {name}." in page_of(run, "es").text


@pytest.mark.parametrize("name", (*OPTIONAL, folder.SAMPLES))
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[[[[", b"[" * 100_000, b'{"a": 1}', b"null\n7\n"]
)
def test_a_damaged_file_never_stops_the_page(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    assert page_of(run).open == []


def test_only_a_configuration_is_needed(tmp_path: Path) -> None:
    run = tmp_path / "bare"
    folder.claim(run, config.build("rehearsal", None, ("train.steps=500",)))
    page = page_of(run)
    assert "Not started. 500 steps lie ahead." in page.text
    assert "No training step is on record yet." in page.text
    assert "svg" not in page.tags


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        report.write_report(tmp_path, "en")
    (tmp_path / folder.CONFIG).write_text("steps = [", "utf-8")
    with pytest.raises(UserError, match="TOML"):
        report.write_report(tmp_path, "en")
    assert not (tmp_path / folder.REPORT).exists()


def test_torn_lines_are_left_out_and_counted(run: Path) -> None:
    with (run / folder.METRICS).open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "att\n{"step": 8')
    assert "metrics.jsonl: unreadable lines left out: 2." in page_of(run).text


def test_a_tampered_ledger_shows_no_dollar(run: Path) -> None:
    path = run / folder.LEDGER
    path.write_text(path.read_text("utf-8").replace('"usd": "0.0', '"usd": "0.1', 1), "utf-8")
    text = page_of(run).text
    assert "ledger.jsonl is damaged and was left out. No dollar is shown" in text
    assert "Cost so far – No readable ledger." in text and "Dollars per nat" not in text


@pytest.mark.parametrize("kept", [1, 2, 15])
def test_a_run_of_few_steps_has_its_page(run: Path, kept: int) -> None:
    lines = [line for line in folder.read_lines(run / folder.METRICS) if "loss" in line][:kept]
    write_lines(run / folder.METRICS, lines)
    page = page_of(run, drawn=True)
    assert page.tags.count("svg") == 5  # too short for a chart of its tail
    assert f"Training loss {record.last_loss(record.read(run)):.3f}" in page.text


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_losses_that_are_no_numbers_are_counted_not_drawn(run: Path, value: float | None) -> None:
    lines = folder.read_lines(run / folder.METRICS)
    spoiled = [line for line in lines if line.get("step") in (20, 21, 22) and "loss" in line]
    for line in spoiled:
        line["loss"] = value
    write_lines(run / folder.METRICS, lines)
    assert "Steps without a finite loss: 3." in page_of(run).text
    write_lines(run / folder.METRICS, [{**line, "loss": value} for line in lines if "loss" in line])
    page = page_of(run, drawn=True)
    assert "Training loss –" in page.text and page.tags.count("svg") == 7


def test_a_page_that_cannot_be_written_leaves_nothing_behind(run: Path, monkeypatch: Any) -> None:
    report.write_report(run, "en")
    before = sorted(path.name for path in run.iterdir())
    old = (run / folder.REPORT).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        report.write_report(run, "es")
    assert sorted(path.name for path in run.iterdir()) == before
    assert (run / folder.REPORT).read_bytes() == old


# ---- Charts


def test_thinning_keeps_the_envelope() -> None:
    x = np.arange(20_000.0)
    y = np.random.default_rng(0).standard_normal(len(x))
    y[[7_777, 12_345]] = 50.0, -50.0
    y[5] = math.nan
    for log in (False, True):
        kept = chart.thin(x, y, chart.Bins(0, 19_999, log, 500))
        assert len(kept) <= 1002 and np.all(np.diff(kept) > 0)
        assert {0, 7_777, 12_345, 19_999} <= set(kept.tolist()) and 5 not in kept
        assert y[kept].max() == 50 and y[kept].min() == -50
    few = chart.thin(x[:300], y[:300], chart.Bins(0, 299, False, 500))
    assert len(few) == 299


def test_a_median_line_ignores_a_spike() -> None:
    x, y = np.arange(1000.0), np.full(1000, 2.0)
    y[500:503] = 1e9
    y[3] = math.nan
    _, medians = chart.bin_medians(x, y, chart.Bins(0, 999, False, 90))
    assert medians.tolist() == [2.0] * len(medians)


def test_names_above_a_chart_never_meet() -> None:
    generator = np.random.default_rng(3)
    for _ in range(5):
        names = generator.choice(["spike", "roll-back", "benign spike", "kill", "stop"], 25)
        steps = generator.integers(0, 500, 25)
        marks = tuple(
            chart.Mark(float(s), str(n), False) for s, n in zip(steps, names, strict=True)
        )
        x = np.arange(500.0)
        drawn = chart.draw(chart.Chart((x, 1 / (x + 1)), marks=marks), "c", "", 1056, 400)
        texts = re.findall(r'x="([\d.-]+)" y="([\d.-]+)"[^>]*>([a-z][^<]*)</text>', drawn)
        assert texts
        spans: dict[str, list[tuple[float, float]]] = {}
        for left, y, text in texts:
            spans.setdefault(y, []).append((float(left), float(left) + 6.5 * len(text)))
        for row in spans.values():
            assert all(a[1] < b[0] for a, b in pairwise(sorted(row)))


def test_a_wild_step_is_a_sign_at_the_top_and_does_not_set_the_scale() -> None:
    x, y = np.arange(300.0), np.full(300, 2.0) + 0.1 * np.sin(np.arange(300.0))
    calm = chart.draw(chart.Chart((x, y), median=True, off_scale=True), "c", "", 600, 300)
    y[150] = 1e6
    wild = chart.draw(chart.Chart((x, y), median=True, off_scale=True), "c", "", 600, 300)
    assert calm.count("var(--alarm)") == 0 and wild.count("var(--alarm)") > 0
    ticks = re.compile(r"text-anchor: end[^>]*>([^<]*)<")
    assert ticks.findall(wild) == ticks.findall(calm)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.006, "0.006"),
        (2.25, "2.25"),
        (500, "500"),
        (20_000, "20k"),
        (1.5e6, "1.5M"),
        (6e-5, "6e-5"),
    ],
)
def test_tick_numbers_are_short(value: float, text: str) -> None:
    assert chart.short_number(value) == text


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (markup.count(2_048_000), "2\u202f048\u202f000"),
        (markup.amount(46_900_000), "46.9M"),
        (markup.amount(4.999e9), "5.00×10⁹"),
        (markup.amount(999_600), "1M"),
        (markup.duration(4.21), "4.2 s"),
        (markup.duration(192), "3 min 12 s"),
        (markup.duration(7385), "2 h 03 min"),
        (markup.duration(59.99), "1 min 00 s"),
        (markup.percent(0.119, 1.214), "9.8%"),
        (markup.percent(1, 0), "–"),
        (markup.signed(-0.01), "\u22120.010"),
        (markup.flops_rate(312e12), "312 TFLOP/s"),
        (markup.flops_rate(247.4e9), "247 GFLOP/s"),
        (markup.hourly(0.013), "$0.013"),
        (markup.hourly(1.1), "$1.10"),
        (markup.fixed(math.nan), "–"),
        (report_tables.spans([5, 1, 2, 3]), "1–3, 5"),
    ],
)
def test_numbers_as_people_read_them(told: str, text: str) -> None:
    assert told == text
