"""The draft of a post-mortem: what it tells is on record, what it cannot know is blank."""

import json
import math
import re
import shlex
from datetime import UTC, datetime
from statistics import median

import numpy as np
import pytest
from typer.main import get_command

from x1 import config, folder, ledger, postmortem
from x1.cli import build_app
from x1.text import UserError, set_language

START_S = 1_900_000_000
STEP_S = 2.0
USD_PER_HOUR = 3.6  # a tenth of a cent a second
BACK, SPIKED, SKIPPED, STEPS = 40, 56, 62, 90


def iso(seconds):
    return datetime.fromtimestamp(START_S + seconds, UTC).isoformat(timespec="seconds")


def make_run(run, benign=False, settings=(), kinds=("lr-x100",)):
    """A spike at step 56 that sent the run back to step 40; a NaN at step 62 that was skipped."""
    inject = json.dumps([f"{kinds[0]}@54"]) if kinds else "[]"
    base = (f"train.steps={STEPS}", "checkpoint.every_steps=20", "stability.window=20")
    folder.claim(
        run, config.build("rehearsal", None, (*base, f"stability.inject={inject}", *settings))
    )
    noise = np.random.default_rng(0).standard_normal(4 * STEPS)
    metrics, events, now = [], [], 0.0

    def happened(event, **fields):
        events.append({"event": event, "time": iso(now), **fields})

    def stretch(first, last, attempt, shift):
        nonlocal now
        for step in range(first, last):
            now += STEP_S
            metrics.append({
                "step": step, "attempt": attempt, "data_index": step + shift,
                "loss": 4.0 - step / 50 + 0.02 * noise[step],
                "grad_norm": math.exp(0.1 * noise[STEPS + step]), "lr": 3e-3,
                "tokens": (step + 1) * 4096,
                "clock": {"time": iso(now), "seconds": STEP_S, "tokens_per_s": 2048.0},
            })  # fmt: skip

    happened("start", attempt=1, step=0, pid=1)
    stretch(0, SPIKED, 1, 0)
    if kinds:
        happened("inject", step=54, data_index=54, kinds=list(kinds))
    happened("spike", step=SPIKED, data_index=SPIKED, channel="loss", loss=9.5, grad_norm=30.0,
             benign=benign)  # fmt: skip
    if not benign:
        happened("rollback", from_step=SPIKED, to_step=BACK, attempt=2, skipped=[54, 55, 56],
                 fired=[], reason="spike")  # fmt: skip
        stretch(BACK, SKIPPED, 2, 3)
    else:
        stretch(SPIKED, SKIPPED, 1, 0)
    happened("skip", step=SKIPPED, data_index=SKIPPED + 3 * (not benign), reason="non-finite")
    stretch(SKIPPED, STEPS, 1 + (not benign), 1 + 3 * (not benign))
    happened("finish", step=STEPS)
    for name, lines in ((folder.METRICS, metrics), (folder.EVENTS, events)):
        (run / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def at(moment):
        return ledger.Instant(int(1000 * (START_S + moment)), int(1000 * (moment + 60)), "boot")

    book = ledger.start(
        run, at(0), ledger.Price(USD_PER_HOUR, "typed", "2030-03-17"), 50.0, 35.0, None
    )
    for moment in np.arange(STEP_S, now + STEP_S, STEP_S):
        book = ledger.charge(run, book, at(float(moment)))
    ledger.close(run, book, at(now), "done")
    return run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "rehearsal-1")


def part(text, heading):
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def rows(text):
    """The cells of each line of a table; a bar after a backslash is text."""
    lines = [line.strip("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def test_the_timeline_tells_the_way_from_the_last_good_step_to_the_second_passing(run):
    told = rows(part(postmortem.draft(run, SPIKED, "en"), "Timeline"))[2:]
    where = [(attempt, step, what.partition(".")[0].strip("*")) for _, attempt, step, what in told]
    assert where == [
        ("1", "54", "injection"),
        ("1", "55", "Trained on batch 55: loss 2"),
        ("1", "56", "spike"),
        ("1", "56", "roll-back"),
        ("2", "56", "Trained on batch 59: loss 2"),
        ("2", "62", "skip"),
    ]
    assert told[0][0] == "2030-03-17 17:48:32 UTC"  # 112 s after the start
    assert "lr-x100" in told[0][3] and "back to 40" in told[3][3] and "54–56" in told[3][3]


def test_what_it_cost_is_counted(run):
    """Sixteen steps of two seconds at a tenth of a cent a second."""
    told = part(postmortem.draft(run, SPIKED, "en"), "Summary")
    assert (
        "At step 56 of attempt 1, batch 56, the loss stood out: loss 9.5, gradient norm 30." in told
    )
    assert "back to step 40: 16 steps were undone (32.0 s of training, $0.03) and 3 batches" in told
    assert "Finished. All 90 steps are done." in told


def test_the_step_is_held_against_its_trend(run):
    told = part(postmortem.draft(run, SPIKED, "en"), "Evidence")
    lines = [x for x in folder.read_lines(run / folder.METRICS) if x["attempt"] == 1][-20:]
    for name, label, value, scale in (
        ("loss", "Loss", 9.5, float), ("grad_norm", "Gradient norm", 30.0, math.log)
    ):  # fmt: skip
        past = np.array([scale(line[name]) for line in lines])
        steps = np.diff(past)
        deviation = 1.4826 * np.median(np.abs(steps - np.median(steps))) / math.sqrt(2)
        apart = (scale(value) - np.median(past[-16:])) / deviation
        usual = median(line[name] for line in lines[-16:])
        assert [label, f"{usual:.4f}", f"{value:.4f}", f"{apart:+.1f}"] in rows(told)
    shown = rows(told)
    assert ["1", "56", "56", "9.5000", "30.0000", ""] in shown
    assert [r[:3] for r in shown if r[:1] == ["2"]][-1] == ["2", "58", "61"]
    again = next(
        x for x in folder.read_lines(run / folder.METRICS) if (x["step"], x["attempt"]) == (56, 2)
    )
    assert f"Attempt 2 passed step 56 with a loss of {again['loss']:.4f}" in told


@pytest.mark.parametrize("step", [50, 56, 58])
def test_the_nearest_trouble_is_meant(run, step):
    text = postmortem.draft(run, step, "en")
    assert f"step {step}\n" in text.splitlines(keepends=True)[0]
    assert "At step 56 of attempt 1" in text


def test_a_batch_that_was_skipped_and_a_step_without_trouble(run):
    text = postmortem.draft(run, SKIPPED, "en")
    assert (
        "At step 62 of attempt 2 the run could not go on with its batch (reason: non-finite)."
        in text
    )
    assert "Left out without going back: batch 65." in text and "Usual" not in text
    assert "did not test the weights" in text
    text = postmortem.draft(run, 10, "en")
    assert "At step 10 of attempt 1 nothing was noticed" in text and "### 1. The batch" in text


def test_the_verdict_is_blank(run):
    for lang, heading in (("en", "Verdict"), ("es", "Veredicto")):
        told = part(postmortem.draft(run, SPIKED, lang), heading).split("\n\n")
        assert len(told) == 4 and all(
            line.strip()[:2] == "- " and line.strip()[-1] == ":" for line in told
        )


def test_candidates_come_with_experiments_that_can_be_typed(run, tmp_path):
    text = part(postmortem.draft(run, SPIKED, "en"), "Candidates")
    candidates = text.split("\n### ")[1:]
    assert [c.splitlines()[0] for c in candidates] == [
        "1. A fault that was planted", "2. The batch", "3. An update that was too large",
        "4. The machine",
    ]  # fmt: skip
    assert "lr-x100 (54)" in candidates[0] and "had got worse" in candidates[1]
    assert "--step 55 --attempt 1" in candidates[2] and "optim.lr=0.003" in candidates[2]
    app = get_command(build_app())
    for candidate in candidates:
        typed = re.findall(r"`(x1 [^`]*)`", candidate)
        assert typed
        for command in typed:
            _, verb, *arguments = shlex.split(command)
            app.commands[verb].make_context(verb, arguments)
    unharmed = make_run(tmp_path / "benign", benign=True, kinds=())
    text = part(postmortem.draft(unharmed, SPIKED, "en"), "Candidates")
    assert "planted" not in text and "weights were unharmed" in text


def test_a_setting_that_is_known_to_do_harm_is_a_candidate_too(tmp_path):
    run = make_run(tmp_path / "unclipped", settings=("optim.clip=0",))
    with_it = postmortem.draft(run, SPIKED, "en")
    assert with_it.count("\n### ") == 5 and "--set optim.clip=1" in with_it


def test_both_languages_have_one_structure_and_the_same_numbers(run):
    english, spanish = (postmortem.draft(run, SPIKED, lang) for lang in ("en", "es"))
    for pattern in (r"(?m)^#+ (?=\d)|^#+", r"(?m)^\|.*?(?=\|)", r"`[^`]*`"):
        found = [re.findall(pattern, text) for text in (english, spanish)]
        assert len(found[0]) == len(found[1])
    numbers = [sorted(re.findall(r"\d+(?:\.\d+)?", text)) for text in (english, spanish)]
    assert numbers[0] == numbers[1]


def test_a_verdict_that_was_written_is_never_lost(run):
    set_language("es")
    path = postmortem.write_postmortem(run, SPIKED)
    assert (
        path.name == "postmortem-56.md"
        and "# Post mortem: rehearsal-1, paso 56" in path.read_text()
    )
    assert postmortem.write_postmortem(run, SPIKED) == path  # the same draft
    path.write_text(path.read_text().replace("Causa:", "Causa: la tasa de aprendizaje"))
    written = path.read_text()
    with pytest.raises(UserError, match=r"postmortem-56\.md ya existe"):
        postmortem.write_postmortem(run, SPIKED)
    assert path.read_text() == written
    with pytest.raises(UserError, match="nunca llegó al paso 90"):
        postmortem.write_postmortem(run, STEPS)
    assert not (run / "postmortem-90.md").exists()


def replayed(run, changes=()):
    layer = {
        "activation_rms": 1.25,
        "activation_max": 7.5,
        "attention_logit_max": 33.0,
        "gradient_norm": None,
    }
    batch = {
        "data_index": 56, "outcome": "rolled-back", "loss": 9.5, "bit_exact": True,
        "layers": [layer, layer], "update_to_weight": {"a.weight": 0.002, "b.weight": 0.5},
        "worst_tokens": [{"token": "|`<b>\n", "loss": 18.25}],
    }  # fmt: skip
    whole = {"format": "x1-replay-1", "run": str(run), "step": 56, "attempt": 1, "batches": [batch]}
    path = run.parent / "replay.json"
    path.write_text(json.dumps({**whole, **dict(changes)}))
    return path


def test_a_replay_that_was_kept_goes_into_the_draft(run):
    text = postmortem.draft(run, SPIKED, "en", replayed(run))
    assert ["layers.1", "1.25", "7.5", "33", "–"] in rows(text)
    assert "to the last bit" in part(text, "Evidence") and "no passing fault of the machine" in text
    assert "`b.weight`: 0.5 of" in text and "(18.2)" in text
    assert "<b>" not in text and "has not been looked at" not in text
    for changes in (
        {"format": "x1-plan-1"},
        {"run": "elsewhere"},
        {"batches": None},
        {"batches": [1]},
    ):
        with pytest.raises(UserError):
            postmortem.draft(run, SPIKED, "en", replayed(run, changes))


EVIL = "</td><script>alert(1)</script> | a\n# heading"


def test_nothing_from_the_folder_becomes_markup(tmp_path):
    run = make_run(tmp_path / "run", kinds=("lr-x100", EVIL))
    events = folder.events(run)
    for event in events:
        if event["event"] in ("rollback", "skip", "spike"):
            event |= {"reason": EVIL, "channel": EVIL}
    events.append({"event": EVIL, "step": SPIKED, "time": EVIL, EVIL: EVIL})
    (run / folder.EVENTS).write_text("".join(json.dumps(e) + "\n" for e in events))
    for step in (SPIKED, SKIPPED):
        text = postmortem.draft(run, step, "en")
        assert "<script>" not in text and "\n# heading" not in text
        widths = [
            [len(row) for row in rows(block)] for block in text.split("\n\n") if block[:1] == "|"
        ]
        assert all(len(set(width)) == 1 for width in widths)
