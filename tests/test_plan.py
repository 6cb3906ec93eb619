import dataclasses
import hashlib
import io
import json
import math
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from x1 import flops, folder, ladder, money, plan, plan_page, predict, scaling, throughput
from x1.config import PRESETS, RunConfig, build, to_toml
from x1.text import LANGUAGES, UserError, set_language

TODAY = date(2026, 11, 20)

PRICES = money.Prices(
    (money.Price("a100-80gb", 1.39, date(2026, 11, 9), "Someone", "on-demand", "https://x.test"),),
    0.10,
    "Someone, 2026-11-09",
)
NOTHING: dict[str, Any] = {"losses": [], "tokenizers": []}


def capstone(**asked: Any) -> dict[str, Any]:
    asked = {"today": TODAY, "prices": PRICES, "measured": NOTHING, **asked}
    return plan.make_plan(build("x1-50m"), **asked).record


def own_cpu(**asked: Any) -> plan.Plan:
    asked = {"today": TODAY, "measured": NOTHING, "calibrate": lambda config: 12_000.0, **asked}
    return plan.make_plan(build("rehearsal"), **asked)


def value(record: dict[str, Any], name: str) -> float:
    return float(record["predictions"][name]["value"])


def line(record: dict[str, Any], item: str) -> dict[str, Any]:
    return next(entry for entry in record["lines"] if entry["item"] == item)


# ---- The numbers


def test_the_capstone_at_the_briefs_mfu_takes_three_and_a_half_hours() -> None:
    record = capstone(mfu=0.40)
    assert value(record, "training_hours") == pytest.approx(3.55, abs=0.005)
    assert value(record, "mfu") == pytest.approx(0.40)
    by_six_n = record["tokens"] * record["model"]["six_n_flops_per_token"] / (0.4 * 312e12) / 3600
    assert by_six_n == pytest.approx(3.13, abs=0.02)


def test_the_briefs_money() -> None:
    """24 h at $1.10 is $26.40 with $8.60 to spare: what the brief would print of its own hours."""
    config = build("x1-50m")
    hours_for_the_run = 24 - plan.SETUP_HOURS[0]
    record = capstone(price=1.10, tokens_per_s=config.tokens / 3600 / hours_for_the_run)
    training = value(record, "training_hours")
    assert training == pytest.approx(hours_for_the_run)
    rental = line(record, "run")["usd"]["value"] + line(record, "set_up")["usd"]["value"]
    evaluation = line(record, "run")["hours"]["value"] - hours_for_the_run
    assert rental - 1.10 * evaluation == pytest.approx(26.40)
    # By the brief's hours the card would do this run at a sixteenth of its peak.
    assert value(record, "mfu") == pytest.approx(0.06, abs=0.003)


def test_every_prediction_lies_in_its_interval_and_says_why() -> None:
    for record in (capstone(), capstone(mfu=0.4), own_cpu().record):
        for prediction in record["predictions"].values():
            assert set(prediction["basis"]) == set(LANGUAGES)
            assert all(prediction["basis"].values())
            if prediction["value"] is not None:
                assert prediction["low"] <= prediction["value"] <= prediction["high"]


def test_lines_add_up_to_the_sentence_and_the_plan() -> None:
    record = capstone(mfu=0.40)
    total = sum(entry["usd"]["value"] for entry in record["lines"])
    sentence = money.parse_cost_sentence(record["sentence"]["es"])
    assert sentence == money.parse_cost_sentence(record["sentence"]["en"])
    assert sentence.faults() == []
    assert record["money"]["plan_usd"] == sentence.cost_usd == pytest.approx(total, abs=0.0051)
    assert sentence.hours == pytest.approx(value(record, "hours"))
    assert sentence.budget_usd == 35.0


def test_money_words() -> None:
    amounts = capstone(mfu=0.40)["money"]
    assert amounts["alert_line_usd"] == pytest.approx(1.2 * amounts["plan_usd"], abs=0.0051)
    assert amounts["plan_usd"] < amounts["alert_line_usd"] <= amounts["reserve_usd"]
    assert amounts["reserve_usd"] <= amounts["ceiling_usd"] == 50.0


def test_evaluation_is_a_third_of_training_per_token() -> None:
    record, config = capstone(mfu=0.40), build("x1-50m")
    evaluations = 1 + 38_147 // 500 + 1
    extra = evaluations * config.evaluate.tokens / 3 / config.tokens
    run = line(record, "run")["hours"]["value"]
    expected = value(record, "training_hours") * (1 + extra)
    assert expected <= run <= expected + 0.01


def test_tokens_become_whole_steps_of_the_plans_own_config() -> None:
    made = plan.make_plan(build("x1-50m"), today=TODAY, tokens=1_000_000_000, measured=NOTHING)
    assert made.config.train.steps == math.ceil(1e9 / 131_072)
    assert made.record["tokens"] == made.config.tokens >= 1_000_000_000
    assert made.config.data.train_tokens == made.config.tokens


def test_a_price_stays_with_its_machine() -> None:
    config = build(
        "x1-50m", None, ("money.price_usd_per_hour=1.1", 'money.price_date="2026-11-19"')
    )
    assert plan.planned_config(config, TODAY, hardware="A100 80GB").money.price_usd_per_hour == 1.1
    assert plan.planned_config(config, TODAY, hardware="h200").money.price_usd_per_hour is None


# ---- The ladder's line


def fitted_flops() -> float:
    """By the definition: a trunk to the last cool-down, a cool-down for each D, the other seeds."""
    definition, total = ladder.named("x1"), 0.0
    cooldown = definition.cooldown_fraction
    for rung in definition.rungs:
        counts = definition.counts(rung)
        tokens = (1 - cooldown) * counts[-1] + cooldown * sum(counts)
        tokens += (definition.seeds - 1) * counts[-1] * (rung.name == definition.seed_rung)
        tokens_each = ladder.rung_flops(definition, rung, 1)
        total += tokens * tokens_each
    return total


def test_the_ladder_is_in_the_hours_the_sentence_and_the_reserve() -> None:
    record = capstone(mfu=0.40)
    rungs = line(record, "ladder")
    assert rungs["on_the_clock"] and rungs["usd"]["value"] > 1
    assert rungs["usd"]["value"] == pytest.approx(1.39 * rungs["hours"]["value"])
    clock = [entry for entry in record["lines"] if entry["on_the_clock"]]
    assert [entry["item"] for entry in clock] == ["set_up", "ladder", "run"]
    sentence = money.parse_cost_sentence(record["sentence"]["en"])
    assert sentence.hours == pytest.approx(sum(entry["hours"]["value"] for entry in clock))
    dearest = sum(entry["usd"]["high"] for entry in record["lines"])
    assert record["money"]["reserve_usd"] == pytest.approx(dearest, abs=0.0051)


def test_without_a_gpu_the_ladder_is_its_flops_at_the_runs_speed() -> None:
    record = capstone(hardware="own-cpu", tokens_per_s=50_000)
    hours = line(record, "ladder")["hours"]
    starts = 20 / 60  # 20 runs, a minute each
    flops_per_s = 50_000 * record["model"]["flops_per_token"]["causal"]
    assert hours["value"] - starts == pytest.approx(fitted_flops() / flops_per_s / 3600, rel=1e-3)


def test_on_a_gpu_its_narrow_models_are_slower_than_their_flops_say() -> None:
    record = capstone(mfu=0.40)
    hours, peak = line(record, "ladder")["hours"], 312e12
    at_the_runs_mfu = fitted_flops() / (0.40 * peak) / 3600
    _, soonest, _ = (20 * each for each in predict.LADDER_START_HOURS)
    assert hours["value"] > 2 * at_the_runs_mfu
    assert hours["low"] == pytest.approx(at_the_runs_mfu / 1.1 + soonest, abs=0.011)
    assert hours["low"] < hours["value"] < hours["high"]
    assert f"{fitted_flops():.2e}"[:3] in hours["basis"]["en"]


def test_the_ladders_speed_is_that_of_its_own_two_terms() -> None:
    """A card with no memory traffic to wait for would train every rung at the run's own MFU."""
    config, card = build("x1-50m"), flops.gpu("a100-80gb")
    machine = money.hardware("a100-80gb")
    endless = dataclasses.replace(machine, gpu=dataclasses.replace(card, bandwidth_gb_s=1e12))
    rate = predict.predict_throughput(config, machine, mfu=0.40)
    slow, fast = (predict.predict_ladder(config, each, rate) for each in (machine, endless))
    assert slow.value is not None and fast.value is not None
    # What is left is Muon's own rounds, which the FLOPs of a token leave out.
    least = fitted_flops() / (0.40 * 312e12) / 3600 + 20 / 60
    assert least <= fast.value < 1.03 * least < slow.value


@pytest.mark.parametrize("other", ["model.n_layers=11", 'data.dataset="someone/text"'])
def test_a_ladder_predicts_its_own_model_on_its_own_data(other: str) -> None:
    assert predict.ladder_of(build("x1-50m")) == ladder.named("x1")
    assert predict.ladder_of(build("x1-50m", None, (other,))) is None
    made = plan.make_plan(build("x1-50m", None, (other,)), today=TODAY, prices=PRICES)
    assert line(made.record, "ladder")["usd"]["value"] == 0


# ---- Throughput


def test_a_rate_is_typed_or_measured_or_guessed_or_unknown() -> None:
    typed = capstone(tokens_per_s=300_000)["predictions"]["tokens_per_s"]
    assert (typed["value"], typed["low"], typed["high"]) == pytest.approx((3e5, 2.7e5, 3.3e5))
    guessed = capstone()["predictions"]
    mfu = guessed["mfu"]
    assert (mfu["value"], mfu["low"], mfu["high"]) == pytest.approx(predict.MFU_GUESS)
    assert "not measured" in guessed["tokens_per_s"]["basis"]["en"]
    assert value(own_cpu().record, "tokens_per_s") == 12_000
    record = own_cpu(calibrate=None).record
    assert record["predictions"]["tokens_per_s"]["value"] is None
    assert record["predictions"]["dollars"]["value"] is None
    assert record["sentence"] == {"en": None, "es": None}
    assert [reason["reason"] for reason in record["reasons"]] == ["no_rate"]


def gpu_results(path: Path, **changed: Any) -> Path:
    """A file as benchmarks/gpu.py leaves it, of an H200 whose efficiencies are round numbers."""
    fitted = throughput.TwoTerms("h200", "bf16", 0.6, 0.7, 0.03, 12).to_json()
    two_terms = {"status": "fitted", **fitted, **changed}
    record = {"format": "x1-measured-1", "summary": {"two_terms": two_terms}}
    path.write_text(json.dumps(record))
    return path


def test_a_measured_gpu_is_planned_by_its_two_terms(tmp_path: Path) -> None:
    fitted = predict.read_two_terms(gpu_results(tmp_path / "gpu.json"))
    record = capstone(hardware="h200", price=3.0, two_terms=fitted)
    rate = record["predictions"]["tokens_per_s"]
    matmul_s, memory_s = throughput.ideal_seconds(
        build("x1-50m"), flops.gpu("h200"), record["predictions"]["micro_batch"]["value"]
    )
    assert rate["value"] == pytest.approx(131_072 / (matmul_s / 0.6 + memory_s / 0.7))
    assert rate["low"] == pytest.approx(0.97 * rate["value"])
    assert "12" in rate["basis"]["en"] and "extrapolat" not in rate["basis"]["en"]


def test_another_gpu_is_extrapolated_and_says_so_in_either_language(tmp_path: Path) -> None:
    fitted = predict.read_two_terms(gpu_results(tmp_path / "gpu.json"))
    record = capstone(two_terms=fitted)
    rate = record["predictions"]["tokens_per_s"]
    assert rate["basis"]["en"].startswith("extrapolated from H200")
    assert rate["basis"]["es"].startswith("extrapolado desde H200")
    assert rate["low"] < 0.8 * rate["value"] and 1.1 * rate["value"] < rate["high"]
    assert 0.3 < value(record, "mfu") < 0.6
    slower = capstone(two_terms=dataclasses.replace(fitted, memory_efficiency=0.35))
    assert value(slower, "tokens_per_s") < 0.9 * rate["value"]
    assert value(capstone(two_terms=fitted, mfu=0.2), "mfu") == pytest.approx(0.2)  # typed wins


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"status": "needs a GPU that is in the table"}, "plan.no_two_terms"),
        ({"matmul_efficiency": "0.6"}, "folder.damaged"),
        ({"matmul_efficiency": -0.6}, "folder.damaged"),
        ({"memory_efficiency": math.nan}, "folder.damaged"),
        ({"spread": None}, "folder.damaged"),
        ({"gpu": "abacus"}, "folder.damaged"),
        ({"gpu": ["h200"]}, "folder.damaged"),
    ],
)
def test_results_without_a_sound_speed_are_refused(
    tmp_path: Path, changed: dict[str, Any], key: str
) -> None:
    path = gpu_results(tmp_path / "gpu.json", **changed)
    with pytest.raises(UserError) as refused:
        predict.read_two_terms(path)
    assert refused.value.key == key and str(path) in str(refused.value)


def test_two_terms_serve_the_runs_they_were_fitted_to(tmp_path: Path) -> None:
    fitted = predict.read_two_terms(gpu_results(tmp_path / "gpu.json"))
    with pytest.raises(UserError, match="own-cpu"):
        own_cpu(two_terms=fitted)
    for setting in ("train.dtype=fp32", "train.compile=false"):
        config = build("x1-50m", settings=(setting,))
        with pytest.raises(UserError, match="bf16"):
            plan.make_plan(config, today=TODAY, measured=NOTHING, two_terms=fitted)


def test_a_rented_machine_is_not_calibrated_here() -> None:
    def never(config: RunConfig) -> float:
        raise AssertionError

    capstone(calibrate=never)
    capstone(hardware="own-rtx-4090", calibrate=never)
    own_cpu(calibrate=never, tokens_per_s=5000)


def test_a_machine_too_slow_to_measure_says_so() -> None:
    record = own_cpu(calibrate=lambda config: None).record
    assert "minute" in record["predictions"]["tokens_per_s"]["basis"]["en"]
    assert reasons(record) == ["no_rate"]


def test_the_command_measures_this_cpu_itself() -> None:
    settings = ("model.n_layers=1", "model.d_model=16", "model.n_heads=1", "model.d_ff=16")
    config = build("rehearsal", None, (*settings, "train.threads=1", "train.batch_sequences=1"))
    made = plan_page.run_plan_command(
        config, today=TODAY, calibrate=plan_page.measure, console=Console(file=io.StringIO())
    )
    assert value(made.record, "tokens_per_s") > 0
    assert "measured on this machine" in made.record["predictions"]["tokens_per_s"]["basis"]["en"]


def test_a_whole_plan_is_made_and_printed_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from datetime import date; from x1 import plan_page; from x1.config import build\n"
        "plan_page.run_plan_command(build('x1-50m'), today=date(2026, 11, 20))"
    )
    assert (
        "d512"
        in subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


# ---- Loss


def test_the_law_predicts_the_published_curve() -> None:
    for tokens, loss in ((1e9, 3.92), (2.5e9, 3.61), (5e9, 3.44)):
        assert scaling.BESIROGLU.predict(46.9e6, tokens) == pytest.approx(loss, abs=0.005)


def test_loss_interval_holds_both_laws_and_the_transfer_error() -> None:
    loss = capstone()["predictions"]["loss_nats_per_token"]
    config = build("x1-50m")
    N = flops.parameters(config.model)
    laws = [law.predict(N, config.tokens) for law in scaling.PUBLISHED]
    error = scaling.transfer_error()
    assert 0.25 < error < 0.35
    assert loss["low"] == pytest.approx(min(laws) - error)
    assert loss["high"] == pytest.approx(max(laws) + error)
    for law in scaling.PUBLISHED:
        for point in scaling.WEB_TEXT:
            assert abs(law.predict(point.N, point.D) - point.loss_nats) <= error


@pytest.mark.parametrize(("N", "D"), [(0, 1e9), (1e6, 0), (-1, 1e9), (math.nan, 1e9)])
def test_a_law_needs_parameters_and_tokens(N: float, D: float) -> None:
    with pytest.raises(UserError):
        scaling.HOFFMANN.predict(N, D)


def test_bits_per_byte_without_a_measured_tokenizer_are_wider() -> None:
    """1 bit/byte is ln 2 nats for each byte of the token."""
    predictions = capstone()["predictions"]
    nats, bits = predictions["loss_nats_per_token"], predictions["bits_per_byte"]
    value, low, high = predict.BYTES_PER_TOKEN
    assert nats["value"] == pytest.approx(bits["value"] * math.log(2) * value)
    assert nats["low"] == pytest.approx(bits["low"] * math.log(2) * high)
    assert nats["high"] == pytest.approx(bits["high"] * math.log(2) * low)
    assert "assumed" in bits["basis"]["en"] and "sin medir" in bits["basis"]["es"]
    made = plan.make_plan(build("baby-7m"), today=TODAY, tokens_per_s=1e4)  # a text of one's own
    assert made.record["predictions"]["bits_per_byte"]["value"] is None


def test_a_measured_tokenizer_prices_bits_and_data() -> None:
    assert "assumed" in line(capstone(), "data")["hours"]["basis"]["en"]
    entry = {
        "source": "dataset",
        "dataset": "HuggingFaceFW/fineweb-edu",
        "tokenizer": "bpe",
        "vocab_size": 16_384,
        "tokens_per_s": 850_000,
        "bytes_per_token": 4.5,
    }
    record = capstone(measured={"losses": [], "tokenizers": [entry]})
    nats = value(record, "loss_nats_per_token")
    assert value(record, "bits_per_byte") == pytest.approx(nats / math.log(2) / 4.5)
    assert line(record, "data")["hours"]["value"] == pytest.approx(5e9 / 850_000 / 3600)
    assert line(record, "data")["usd"]["value"] == 0


def test_generated_corpus_is_predicted_from_runs_of_its_recipe_or_not_at_all() -> None:
    config = build("rehearsal")
    assert own_cpu().record["predictions"]["loss_nats_per_token"]["value"] is None
    losses = [1.00, 1.02, 1.01]
    entry = {
        "recipe": predict.recipe(config),
        "loss_nats_per_token": losses,
        "bits_per_byte": [x / 3 for x in losses],
    }
    measured = {"losses": [entry], "tokenizers": []}
    loss = own_cpu(measured=measured).record["predictions"]["loss_nats_per_token"]
    # 1.01 ± 4.303 · 0.01 · sqrt(4/3)
    assert (loss["low"], loss["value"], loss["high"]) == pytest.approx(
        (0.96031, 1.01, 1.05969), abs=1e-5
    )
    other_seed = build("rehearsal", None, ("train.seed=7", "data.seed=7", "train.threads=1"))
    assert predict.recipe(other_seed) == predict.recipe(config)
    longer = build("rehearsal", None, ("train.steps=501",))
    made = plan.make_plan(longer, today=TODAY, measured=measured, tokens_per_s=1e4)
    assert made.record["predictions"]["loss_nats_per_token"]["value"] is None


def test_no_law_is_claimed_for_a_text_of_ones_own() -> None:
    made = plan.make_plan(build("shakespeare-bytes"), today=TODAY, tokens_per_s=1e4)
    assert made.record["predictions"]["loss_nats_per_token"]["value"] is None


def test_shipped_measurements_carry_their_provenance() -> None:
    measured = predict.shipped_measurements()
    for entry in [*measured["losses"], *measured["tokenizers"]]:
        assert {"command", "hardware", "versions"} <= set(entry["provenance"])
    for entry in measured["losses"]:
        assert len(entry["loss_nats_per_token"]) == len(entry["bits_per_byte"]) >= 2


# ---- Launchable or not; it always computes


def reasons(record: dict[str, Any]) -> list[str]:
    assert record["launchable"] == (not record["reasons"])
    assert all(set(reason) == {"reason", *LANGUAGES} for reason in record["reasons"])
    return [reason["reason"] for reason in record["reasons"]]


def test_a_good_plan_is_launchable() -> None:
    assert reasons(capstone()) == []
    assert reasons(own_cpu().record) == []


def test_stale_after_fourteen_days_and_still_computed() -> None:
    assert reasons(capstone(today=date(2026, 11, 23))) == []
    record = capstone(today=date(2026, 11, 24))
    assert reasons(record) == ["stale_price"] and record["stale"]
    for code in LANGUAGES:
        assert record["sentence"][code].startswith("STALE")
    assert money.parse_cost_sentence(record["sentence"]["en"]).stale_days == 15
    assert record["money"]["plan_usd"] > 0


def test_a_price_from_the_future_is_not_fresh() -> None:
    record = capstone(today=date(2026, 11, 8))
    assert reasons(record) == ["future_price"] and record["money"]["plan_usd"] > 0


def test_a_typed_price_is_dated_today_and_fresh() -> None:
    made = plan.make_plan(build("x1-50m"), today=TODAY, price=1.10, measured=NOTHING)
    assert made.record["price"]["date"] == "2026-11-20" == made.config.money.price_date
    assert made.launchable
    later = plan.make_plan(made.config, today=date(2026, 12, 25), measured=NOTHING)
    assert reasons(later.record) == ["stale_price"]


def test_over_the_budget_and_over_the_ceiling() -> None:
    over = capstone(tokens_per_s=100_000, price=1.60)
    assert reasons(over) == ["over_budget"] and 35 < over["money"]["plan_usd"] < 50
    assert money.parse_cost_sentence(over["sentence"]["en"]).buffer_usd < 0
    dear = capstone(tokens_per_s=20_000)
    assert reasons(dear) == ["over_ceiling"]
    assert dear["money"]["reserve_usd"] == 50.0 < dear["money"]["plan_usd"]
    assert "Not acceptable" in dear["sentence"]["en"]


def test_no_price_and_no_memory() -> None:
    record = capstone(hardware="rtx-5090")
    assert reasons(record) == ["no_price"] and record["money"]["plan_usd"] is None
    assert record["predictions"]["hours"]["value"] > 0
    assert "no_memory" in reasons(
        plan.make_plan(
            build("gpuburnout-1b", None, ("model.n_layers=36",)), today=TODAY, hardware="l4"
        ).record
    )


def test_ones_own_machine_pays_electricity() -> None:
    record = own_cpu().record
    hours = value(record, "hours")
    assert value(record, "dollars") == pytest.approx(hours * 65 / 1000 * 0.20)
    assert value(record, "kwh") == pytest.approx(hours * 0.065)
    assert record["price"] is None and record["hardware"]["own"]
    card = capstone(hardware="own-rtx-4090")
    assert card["hardware"]["watts"] == 450 and reasons(card) == []
    assert "RTX-4090" in card["sentence"]["es"]
    stated = plan.make_plan(
        build("rehearsal", None, ("money.watts=120",)), today=TODAY, tokens_per_s=12_000
    )
    assert value(stated.record, "kwh") == pytest.approx(value(stated.record, "hours") * 0.12)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_planned_and_printed(name: str) -> None:
    made = plan.make_plan(build(name), today=TODAY, tokens_per_s=1000)
    for code in LANGUAGES:
        console = Console(file=io.StringIO(), width=140)
        console.print(plan_page.render(made.record, code))
    json.dumps(made.record, allow_nan=False)


# ---- Refusals


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"gpu": "b1000"}, "flops.unknown_gpu"),
        ({"mfu": "1.01"}, "plan.mfu_range"),
        ({"mfu": "0"}, "plan.mfu_range"),
        ({"mfu": "-0,3"}, "plan.mfu_range"),
        ({"tokens_per_s": "2000000"}, "plan.rate_over_peak"),
        ({"tokens_per_s": "0"}, "money.positive"),
        ({"tokens": "0"}, "money.positive"),
        ({"tokens": "-5B"}, "money.positive"),
        ({"price_usd_per_hour": "0"}, "money.positive"),
        ({"price_usd_per_hour": "-1,10"}, "money.positive"),
        ({"price_usd_per_hour": "nan"}, "money.not_a_number"),
        ({"price_usd_per_hour": "cheap"}, "money.not_a_number"),
        ({"gpu": "own-cpu", "mfu": "0.3"}, "plan.mfu_needs_gpu"),
        ({"gpu": "own-cpu", "price_usd_per_hour": "1"}, "plan.price_of_own"),
    ],
)
def test_what_is_impossible_is_named_and_nothing_is_written(
    tmp_path: Path, asked: dict[str, str], key: str
) -> None:
    with pytest.raises(UserError) as fault:
        plan_page.run_plan_command(build("x1-50m"), today=TODAY, out=tmp_path / "run", **asked)  # type: ignore[arg-type]
    assert fault.value.key == key
    assert str(fault.value)
    assert not (tmp_path / "run").exists()


# ---- The folder


def test_written_sealed_and_read_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert plan.plan_digest(run) is None
    made = own_cpu()
    plan.write_plan(run, made)
    config = (run / folder.CONFIG).read_bytes()
    assert config == to_toml(made.config).encode()
    record = plan.read_plan(run)
    assert record == made.record
    assert record["config_sha256"] == hashlib.sha256(config).hexdigest()
    assert plan.plan_digest(run) == hashlib.sha256((run / folder.PLAN).read_bytes()).hexdigest()


def test_the_same_question_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        plan.write_plan(tmp_path / name, own_cpu())
    assert plan.plan_digest(tmp_path / "a") == plan.plan_digest(tmp_path / "b")


@pytest.mark.parametrize("started", [folder.LEDGER, folder.METRICS, folder.CHECKPOINTS])
def test_no_prediction_after_the_start(tmp_path: Path, started: str) -> None:
    plan.write_plan(tmp_path, own_cpu())
    digest = plan.plan_digest(tmp_path)
    (tmp_path / started).touch()
    with pytest.raises(UserError) as fault:
        plan.write_plan(tmp_path, own_cpu(tokens_per_s=99_999))
    assert fault.value.key == "plan.already_started"
    assert plan.plan_digest(tmp_path) == digest


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    plan.write_plan(tmp_path, own_cpu())
    with pytest.raises(UserError) as fault:
        plan.write_plan(tmp_path, own_cpu(tokens=1_000_000))
    assert fault.value.key == "folder.other_config"


# ---- The command


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_command_speaks_either_language(code: str) -> None:
    output = io.StringIO()
    set_language(code)
    try:
        made = plan_page.run_plan_command(
            build("x1-50m"),
            today=TODAY,
            gpu="A100 80GB",
            price_usd_per_hour="1,10",
            tokens="2,5B",
            mfu="0,4",
            console=Console(file=output, width=400),
        )
    finally:
        set_language(None)
    text = output.getvalue()
    assert made.record["sentence"][code] in text
    for prediction in made.record["predictions"].values():
        assert prediction["basis"][code] in text
    other = next(c for c in LANGUAGES if c != code)
    assert made.record["sentence"][other] not in text
    assert made.record["predictions"]["hours"]["basis"][other] not in text


def test_json_is_the_plan(tmp_path: Path) -> None:
    output = io.StringIO()
    plan_page.run_plan_command(
        build("x1-50m"), today=TODAY, as_json=True, out=tmp_path, console=Console(file=output)
    )
    assert json.loads(output.getvalue()) == plan.read_plan(tmp_path)
