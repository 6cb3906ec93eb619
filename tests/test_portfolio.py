"""The portfolio: what it may claim, whose law it shows, what its numbers add up to."""

import json
import re
import shutil
import sys
from html import escape, unescape
from pathlib import Path

import pytest
from test_report import make_run

from x1 import cli, config, flops, folder, ledger, portfolio, record, scaling, verify
from x1.text import LANGUAGES, UserError, say

JOB = ("train.steps=60", "evaluate.every_steps=30", "stability.inject=[]")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "r", 200)


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "r")
    return tmp_path / "r"


def page(run, lang="en"):
    return portfolio.page(record.read(run), lang)


def text(source):
    plain = unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", source, flags=re.S))
    return re.sub(r"\s+", " ", plain)


def verified(run, level, **more):
    finding = {"check": "seal", "verdict": "holds", "text": "It is the same <everywhere>."}
    folder.write_json(run / portfolio.VERIFICATION, {
        "format": verify.FORMAT, "time": "2030-03-17T18:00:00+00:00", "level": level,
        "plan_sha256": folder.plan_digest(run), "findings": [finding], **more,
    })  # fmt: skip


def as_the_job(run):
    """The same folder as if it had been the 50M run on a GPU."""
    text = (run / folder.CONFIG).read_text()
    old, job = folder.open_run(run), config.build("x1-50m", None, JOB)
    (run / folder.CONFIG).write_text(config.to_toml(job))
    manifest = folder.read_json(run / folder.MANIFEST)
    manifest["hardware"] = {"device": "cuda", "gpu": "NVIDIA A100-SXM4-80GB"}
    folder.write_json(run / folder.MANIFEST, manifest)
    assert old.preset in text
    return job


# ---- What it may be called


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_line_is_printed_only_for_the_job_and_only_once_verified(run, lang, monkeypatch):
    line = escape(say("portfolio.line", lang))
    for level in ("unverified", "rehearsed", "incomplete", "refuted", "done"):
        if level != "unverified":
            verified(run, level)
        shown = page(run, lang)
        assert line not in shown  # a rehearsal, whatever verification.json says
        status = "rehearsed" if level == "done" else level
        assert say(f"portfolio.status.{status}", lang) in shown
    as_the_job(run)
    verified(run, "done")
    assert line not in page(run, lang)  # 60 steps of it are not the job
    monkeypatch.setattr(verify, "SHARE_OF_TOKENS", 0.0)
    assert line in page(run, lang)
    for level in ("rehearsed", "incomplete", "refuted"):
        verified(run, level)
        assert line not in page(run, lang)


def test_a_verification_of_another_plan_counts_for_nothing(run):
    verified(run, "rehearsed")
    assert say("portfolio.status.rehearsed", "en") in page(run)
    (run / folder.PLAN).write_bytes((run / folder.PLAN).read_bytes() + b"\n")
    assert say("portfolio.status.unverified", "en") in page(run)
    (run / portfolio.VERIFICATION).write_text("[")
    assert say("portfolio.status.unverified", "en") in page(run)


def test_what_it_proves_is_said_with_every_finding_and_with_the_seal(run):
    assert say("verify.publish", "en", digest=folder.plan_digest(run)) in text(page(run))
    for level in ("unverified", "refuted"):  # nothing of it may be called shown
        if level == "refuted":
            verified(run, level)
        shown = text(page(run))
        assert say("portfolio.proof.forger", "en") in shown
        assert say("verify.proves", "en") not in shown
    verified(run, "rehearsed")
    for lang in LANGUAGES:
        shown = page(run, lang)
        assert "It is the same &lt;everywhere&gt;." in shown
        assert escape(say("verify.proves", lang)) in shown
        assert say("portfolio.verdict.holds", lang) in shown


def test_a_run_that_is_not_finished_has_none(run, capsys, monkeypatch):
    kept = [e for e in folder.events(run) if e["event"] != "finish"]
    (run / folder.EVENTS).write_text("".join(json.dumps(e) + "\n" for e in kept))
    for lang in LANGUAGES:
        words = ["x1", "report", str(run), "--as", "portfolio", "--lang", lang]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        expected = say("portfolio.unfinished", lang, run=run) + "\n"
        assert (ended.value.code, out, err) == (2, "", expected)
    assert not (run / portfolio.PORTFOLIO).exists()
    with pytest.raises(UserError):
        portfolio.write_portfolio(run, "fr")


# ---- Its numbers


def test_the_dollars_add_up_to_the_ledger(run):
    entries = ledger.read_entries(run)
    total = float(entries[-1].get("cumulative_usd") or entries[-2]["cumulative_usd"])
    told = record.read(run)
    costs = record.costs(told, told.spending)
    parts = costs.before_usd + sum(p.usd for p in costs.phases) + costs.after_usd
    assert parts == pytest.approx(total)
    shown = text(page(run))
    for usd in (costs.before_usd, costs.after_usd, total):
        assert portfolio.dollars(usd) in shown


def own_law(run, law):
    constants = {name: getattr(law, name) for name in portfolio.CONSTANTS}
    intervals = {name: [value * 0.9, value * 1.1] for name, value in constants.items()}
    loss = {"value": 1.31, "low": 1.27, "high": 1.36, "basis": {"en": "own", "es": "propia"}}
    folder.write_json(run / folder.PREDICTION, {
        "format": "x1-own-prediction-1", "ladder": "tiny", "points": 14,
        "predictions": {"loss_nats_per_token": loss},
        "law": {**constants, "residual_rms": 0.0123, "intervals": intervals},
    })  # fmt: skip


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_law_says_whose_it_is(run, lang):
    assert escape(say("portfolio.law.none", lang)) in page(run, lang)
    law = scaling.ScalingLaw(E=0.9, A=40.0, B=900.0, alpha=0.5, beta=0.6)
    own_law(run, law)
    shown = text(page(run, lang))
    assert say("portfolio.law.own", lang, points="14", rms="0.0123") in shown
    assert say("portfolio.curve.ladder", lang, value="1.310", low="1.270", high="1.360") in shown
    assert say("portfolio.law.borrowed", lang) not in shown
    told = record.read(run)
    N = flops.parameters(told.config.model)
    C = 6 * N * told.config.tokens
    best = law.optimal(10 * C)
    assert f"{law.predict(*best):.3f}" in shown and text(portfolio.amount(best[0])) in shown
    assert f"{law.predict(N, 10 * told.config.tokens):.3f}" in shown
    (run / folder.PREDICTION).unlink()
    as_the_job(run)
    shown = text(page(run, lang))
    assert say("portfolio.law.borrowed", lang) in shown
    for each in scaling.PUBLISHED:
        assert each.source in shown and f"{each.E:.4g}" in shown


def test_ten_times_the_money_is_ten_times_the_compute(run):
    law = scaling.ScalingLaw(E=0.9, A=40.0, B=900.0, alpha=0.5, beta=0.6)
    own_law(run, law)
    told = record.read(run)
    shown = portfolio.more_section(told, lambda key, **values: say(f"portfolio.{key}", **values))
    usd = portfolio.dollars(10 * told.spending.total_usd)
    assert shown.count(usd) == 3  # the sentence, and two ways to spend it
    assert portfolio.dollars(told.spending.total_usd) in shown


def test_a_written_post_mortem_is_named_at_its_spike(run):
    spike = folder.events(run, "spike")[0]["step"]
    name = f"postmortem-{spike}.md"
    assert name not in page(run)
    (run / name).write_text("# mine")
    shown = page(run)
    assert shown.count(name) == 2  # the spike and the roll-back of the same step
    assert escape(say("portfolio.spikes.planted", "en")) in shown


@pytest.mark.parametrize("lang", LANGUAGES)
def test_it_is_one_page_by_itself_and_nothing_from_the_folder_is_markup(run, lang):
    hostile = '"><script>alert(1)</script>'
    verified(run, "rehearsed", findings=[
        {"check": "seal", "verdict": "holds", "text": hostile},
        {"check": hostile, "verdict": "holds", "text": "x"}, "x",
        {"check": "curve", "verdict": hostile, "text": "x"},
    ])  # fmt: skip
    manifest = folder.read_json(run / folder.MANIFEST)
    manifest["hardware"] = {"device": "cpu", "cpu": hostile}
    folder.write_json(run / folder.MANIFEST, manifest)
    path = portfolio.write_portfolio(run, lang)
    shown = path.read_text("utf-8")
    assert path.name == "portfolio.html" and "<script" not in shown
    assert f'<html lang="{lang}">' in shown
    assert not re.search(r'(src|href)="(?!#|data:)', shown)
    ids = re.findall(r'<h2 id="([a-z]+)"', shown)
    assert ids == ["card", "curve", "prediction", "money", "law", "spikes", "more", "proof"]


@pytest.mark.parametrize(
    "name", [folder.METRICS, folder.EVENTS, folder.LEDGER, folder.PLAN, folder.MANIFEST,
             folder.EVALUATION, folder.SAMPLES]
)  # fmt: skip
def test_a_folder_with_a_damaged_file_still_has_a_page(run, name):
    (run / name).write_bytes(b'{"a": \xff[[')
    for lang in LANGUAGES:
        assert "</html>" in page(run, lang)


def test_the_line_is_the_one_of_the_hiring_path():
    for file, lang in (("HIRING_PATH.md", "en"), ("HIRING_PATH.es.md", "es")):
        source = (Path(__file__).parent.parent / file).read_text("utf-8")
        assert f"> {say('portfolio.line', lang)}\n" in source
