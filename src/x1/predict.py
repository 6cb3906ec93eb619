"""What can be predicted about a run before it starts: speed, hours, loss, memory, checkpoints.

Every prediction is a value, an interval and the basis for both, or no value and the reason why.
torch is never loaded here.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from x1 import flops, folder, ladder, money, scaling, throughput
from x1.config import RunConfig
from x1.ladder import Ladder
from x1.text import LANGUAGES, UserError, say
from x1.throughput import TwoTerms

MEASURED_FORMAT = "x1-measured-1"

# Assumptions, each printed as such in the basis of what rests on it.
MFU_GUESS = (0.35, 0.24, 0.45)  # value, low, high, for a GPU nobody has measured this model on
TYPED_SPREAD = 0.10  # one GPU from another of its kind, one hour from the next
CALIBRATION_SPREAD = 0.20  # a few steps, on a machine with other work
BYTES_PER_TOKEN = (4.3, 3.8, 4.8)  # of a BPE on English web text that nobody has measured
TOKENIZER_TOKENS_PER_S = 850_000  # BPE on two cores, where it has not been measured
LADDER_START_HOURS = (60 / 3600, 15 / 3600, 180 / 3600)  # a run: loading, compiling, scoring
LADDER_SLOWER = 2.0  # how much longer than expected the training of a ladder may take

Json = dict[str, Any]
Words = dict[str, str]


@dataclass(frozen=True)
class Prediction:
    """A value, an interval around it, and where both come from, in each language.

    Without a value, `basis` says what is missing.
    """

    value: float | None
    low: float | None
    high: float | None
    basis: Words

    def scaled(self, factor: float, basis: Words | None = None) -> "Prediction":
        """Every number times `factor`."""
        if self.value is None or self.low is None or self.high is None:
            return Prediction(None, None, None, basis or self.basis)
        return Prediction(
            self.value * factor, self.low * factor, self.high * factor, basis or self.basis
        )

    def to_json(self) -> Json:
        return {"value": self.value, "low": self.low, "high": self.high, "basis": self.basis}


def both(key: str, **values: Any) -> Words:
    return {code: say(f"plan.{key}", code, **values) for code in LANGUAGES}


def exactly(value: float, basis: Words) -> Prediction:
    return Prediction(value, value, value, basis)


def unknown(key: str, **values: Any) -> Prediction:
    return Prediction(None, None, None, both(key, **values))


def predict_throughput(
    config: RunConfig,
    machine: money.Hardware,
    mfu: float | None = None,
    tokens_per_s: float | None = None,
    calibrate: Callable[[RunConfig], float | None] | None = None,
    two_terms: TwoTerms | None = None,
) -> Prediction:
    """Training tokens per second, from the best knowledge there is.

    In order: a typed rate, a typed MFU, two terms fitted to a GPU's measured steps, a guessed MFU
    for a GPU in the table, a short measurement on this machine's CPU. Raises UserError for an MFU
    outside (0, 1], a rate that implies one, and terms fitted to something else.
    """
    card, dtype = machine.gpu, config.train.dtype
    per_token = flops.token_flops(config.model).total
    if mfu is not None and not 0 < mfu <= 1:
        raise UserError("plan.mfu_range", mfu=mfu)
    if tokens_per_s is not None:
        money.positive("--tokens-per-s", tokens_per_s)
        if card:
            implied = flops.mfu(tokens_per_s, per_token, card.peak_flops_per_s(dtype))
            if implied > 1:
                raise UserError(
                    "plan.rate_over_peak",
                    tokens_per_s=f"{tokens_per_s:,.0f}", mfu=f"{implied:.2f}", gpu=card.label,
                )  # fmt: skip
        return _spread(tokens_per_s, TYPED_SPREAD, "basis.typed_rate")
    if mfu is not None:
        if card is None:
            raise UserError("plan.mfu_needs_gpu", hardware=machine.name)
        rate = mfu * card.peak_flops_per_s(dtype) / per_token
        return _spread(
            rate, TYPED_SPREAD, "basis.typed_mfu", mfu=f"{mfu:.2f}", peak=peak_text(card, dtype)
        )
    if two_terms:
        return _rate_of_two_terms(config, machine, two_terms)
    if card:
        value, low, high = (m * card.peak_flops_per_s(dtype) / per_token for m in MFU_GUESS)
        basis = both(
            "basis.guessed_mfu",
            mfu=MFU_GUESS[0], low=MFU_GUESS[1], high=MFU_GUESS[2], peak=peak_text(card, dtype),
        )  # fmt: skip
        return Prediction(value, low, high, basis)
    if calibrate is None:
        return unknown("missing.rate", hardware=machine.name)
    measured = calibrate(config)
    if measured is None:
        return unknown("missing.slow_rate")
    return _spread(measured, CALIBRATION_SPREAD, "basis.calibrated")


def read_two_terms(path: Path) -> TwoTerms:
    """The two terms that benchmarks/gpu.py fitted and wrote into `path`; UserError without any."""
    found = folder.read_json(path, MEASURED_FORMAT).get("summary")
    found = found.get("two_terms") if isinstance(found, dict) else None
    if not isinstance(found, dict) or found.get("status") != "fitted":
        status = found.get("status") if isinstance(found, dict) else None
        raise UserError("plan.no_two_terms", path=path, status=status or "–")
    try:
        fitted = TwoTerms.from_json(found)
        flops.gpu(str(fitted.gpu))
        efficiencies = fitted.matmul_efficiency, fitted.memory_efficiency
        sound = all(0 < e < 10 for e in efficiencies) and 0 <= fitted.spread < 1
    except (KeyError, TypeError, UserError):
        sound = False
    if not sound:
        raise UserError("folder.damaged", path=path)
    return fitted


def _rate_of_two_terms(config: RunConfig, machine: money.Hardware, fitted: TwoTerms) -> Prediction:
    if machine.gpu is None:
        raise UserError("plan.two_terms_need_gpu", hardware=machine.name)
    if config.train.dtype != fitted.dtype or not config.train.compile:
        raise UserError("plan.two_terms_of_other", dtype=fitted.dtype)
    asked = config.train.micro_batch
    size = None if asked == "auto" else asked
    rate = throughput.predict_tokens_per_s(config, machine.gpu, fitted, size)
    basis = both(
        "basis.extrapolated" if rate.extrapolated else "basis.two_terms",
        gpu=flops.gpu(fitted.gpu).label, rows=fitted.rows,
        matmul=f"{fitted.matmul_efficiency:.2f}", memory=f"{fitted.memory_efficiency:.2f}",
    )  # fmt: skip
    return Prediction(rate.tokens_per_s, rate.low, rate.high, basis)


def _spread(value: float, fraction: float, key: str, **values: Any) -> Prediction:
    basis = both(key, percent=f"{100 * fraction:.0f}", **values)
    return Prediction(value, value * (1 - fraction), value * (1 + fraction), basis)


def peak_text(card: flops.Gpu, dtype: str) -> str:
    return f"{card.peak_flops_per_s(dtype) / flops.TERA:g} TFLOP/s ({card.label}, {dtype})"


def evaluation_tokens(config: RunConfig) -> int:
    """Held-out tokens scored over the whole run: at step 0, every so many steps, and at the end."""
    times = 1 + math.ceil(config.train.steps / config.evaluate.every_steps)
    return times * config.evaluate.tokens


def hours_at(tokens: float, rate: Prediction, basis: Words) -> Prediction:
    if rate.value is None or rate.low is None or rate.high is None:
        return Prediction(None, None, None, rate.basis)
    value, low, high = (money.run_hours(tokens, r) for r in (rate.value, rate.high, rate.low))
    return Prediction(value, low, high, basis)


@cache
def shipped_measurements() -> Json:
    """What was measured with this code (`measured.json`), each entry with its `provenance`.

    `losses`: `recipe`, and `loss_nats_per_token` and `bits_per_byte` with one number per seed.
    `tokenizers`: `source`, `dataset`, `tokenizer`, `vocab_size`, `tokens_per_s`, `bytes_per_token`.
    """
    record: Json = json.loads(files("x1").joinpath("measured.json").read_text("utf-8"))
    if record.get("format") != MEASURED_FORMAT:
        raise ValueError(f"measured.json: expected format {MEASURED_FORMAT}")
    return record


def recipe(config: RunConfig) -> str:
    """SHA-256 of what a final loss depends on, seeds aside: shape, optimizer, data, amount, dtype.

    A measured loss predicts the runs of its own recipe and no other.
    """
    decisive = {
        "model": config.model.model_dump(),
        "optim": config.optim.model_dump(),
        "data": config.data.model_dump(
            include={"source", "corpus_setting", "tokenizer", "dataset", "subset"}
        ),
        "train": config.train.model_dump(include={"steps", "batch_sequences", "dtype"}),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


# 97.5% points of Student's t for 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def prediction_interval(samples: list[float]) -> tuple[float, float, float]:
    """Mean, and the 95% interval in which one more run of the same recipe should fall.

    mean ± t·s·sqrt(1 + 1/n), for n ≥ 2 runs that differ in their seeds.
    """
    n, centre = len(samples), mean(samples)
    t = _STUDENT[min(n - 1, len(_STUDENT)) - 1]
    half = t * stdev(samples) * math.sqrt(1 + 1 / n)
    return centre, centre - half, centre + half


def predict_loss(config: RunConfig, measured: Json) -> tuple[Prediction, Prediction]:
    """Final held-out loss in nats/token, and in bits/byte.

    The generated corpus: from runs of the same recipe, measured. A dataset of web text under BPE:
    from published laws, with their spread and their error on text they were not fitted on. Anything
    else: no prediction, and why.
    """
    if config.data.source == "verbs":
        return _measured_loss(config, measured)
    if config.data.source == "text" or config.data.tokenizer == "bytes":
        missing = unknown("missing.law_for_text")
        return missing, missing
    nats = _law_loss(config)
    return nats, _bits_per_byte(nats, config, measured)


def _measured_loss(config: RunConfig, measured: Json) -> tuple[Prediction, Prediction]:
    entry = next((e for e in measured["losses"] if e["recipe"] == recipe(config)), None)
    if entry is None or len(entry["loss_nats_per_token"]) < 2:
        missing = unknown("missing.measured_loss")
        return missing, missing
    basis = both("basis.measured_loss", n=len(entry["loss_nats_per_token"]))
    return (
        Prediction(*prediction_interval(entry["loss_nats_per_token"]), basis),
        Prediction(*prediction_interval(entry["bits_per_byte"]), basis),
    )


def _law_loss(config: RunConfig) -> Prediction:
    N = flops.parameters(config.model)
    losses = [law.predict(N, config.tokens) for law in scaling.PUBLISHED]
    error = scaling.transfer_error()
    basis = both(
        "basis.laws",
        hoffmann=f"{losses[0]:.2f}", besiroglu=f"{losses[1]:.2f}", error=f"{error:.2f}",
    )  # fmt: skip
    return Prediction(mean(losses), min(losses) - error, max(losses) + error, basis)


def _bits_per_byte(nats: Prediction, config: RunConfig, measured: Json) -> Prediction:
    entry = _tokenizer_entry(config, measured)
    if entry is not None:
        bytes_per_token = float(entry["bytes_per_token"])
        basis = both("basis.bits_per_byte", bytes=f"{bytes_per_token:.3f}")
        return nats.scaled(1 / (math.log(2) * bytes_per_token), basis)
    if nats.value is None or nats.low is None or nats.high is None:
        return nats
    value, low, high = BYTES_PER_TOKEN
    basis = both("basis.assumed_bytes_per_token", value=value, low=low, high=high)
    bits = [
        nats_per_byte / math.log(2)
        for nats_per_byte in (nats.value / value, nats.low / high, nats.high / low)
    ]
    return Prediction(bits[0], bits[1], bits[2], basis)


def _tokenizer_entry(config: RunConfig, measured: Json) -> Json | None:
    wanted = (
        config.data.source,
        config.data.dataset,
        config.data.tokenizer,
        config.model.vocab_size,
    )
    for entry in measured["tokenizers"]:
        if (entry["source"], entry["dataset"], entry["tokenizer"], entry["vocab_size"]) == wanted:
            return dict(entry)
    return None


def predict_memory(config: RunConfig, machine: money.Hardware) -> tuple[Prediction, Prediction]:
    """The micro-batch that fits (sequences; 0 when none does) and the bytes it takes."""
    configured = config.train.micro_batch
    if configured != "auto":
        fits = min(configured, config.train.batch_sequences)
        basis = both("basis.configured_micro_batch")
    elif machine.gpu:
        fits = flops.fitting_micro_batch(config, machine.gpu.memory_gb)
        basis = both("basis.fitting_micro_batch", gb=f"{machine.gpu.memory_gb:g}")
    else:
        fits, basis = flops.cpu_micro_batch(config), both("basis.cpu_micro_batch")
    estimate = flops.memory(config, max(fits, 1), on_cpu=machine.gpu is None).total
    return exactly(fits, basis), exactly(estimate, both("basis.memory"))


def checkpoint_bytes(config: RunConfig) -> int:
    """Size of one checkpoint: fp32 weights and the optimizer's moments."""
    estimate = flops.memory(config, micro_batch=1)
    return estimate.weights + estimate.optimizer


def predict_checkpoints(config: RunConfig, training: Prediction) -> dict[str, Prediction]:
    """How many are written, how many stay, and their bytes."""
    every = config.checkpoint
    by_step = math.ceil(config.train.steps / every.every_steps)
    by_step += sum(step % every.every_steps > 0 for step in every.milestones)
    by_clock = math.ceil((training.value or 0.0) * 60 / every.every_minutes)
    # The clock writes only where the steps come too slowly.
    written = max(by_step, by_clock)
    kept = min(written, every.keep + 1 + len(every.milestones))
    size = exactly(checkpoint_bytes(config), both("basis.checkpoint_bytes"))
    basis = both("basis.checkpoints", steps=every.every_steps, minutes=f"{every.every_minutes:g}")
    return {
        "checkpoints_written": Prediction(written, by_step, by_step + by_clock, basis),
        "checkpoints_kept": exactly(kept, both("basis.checkpoints_kept")),
        "checkpoint_bytes": size,
    }


def data_hours(config: RunConfig, measured: Json) -> Prediction:
    """Hours of one's own CPU to prepare the training tokens; half to twice that."""
    entry = _tokenizer_entry(config, measured)
    if entry is None and config.data.source != "dataset":
        return unknown("missing.tokenizer_speed")
    speed = float(entry["tokens_per_s"]) if entry else TOKENIZER_TOKENS_PER_S
    hours = money.run_hours(config.data.train_tokens or config.tokens, speed)
    key = "basis.tokenizer" if entry else "basis.assumed_tokenizer"
    return Prediction(hours, 0.5 * hours, 2 * hours, both(key, speed=f"{speed:,.0f}"))


def ladder_of(config: RunConfig) -> Ladder | None:
    """The named ladder that predicts this run: its held-back rung has the run's shape and data."""
    for name in ladder.names():
        found = ladder.named(name)
        target = ladder.held_back_runs(found)[0].config
        same_data = (target.data.source, target.data.dataset) == (
            config.data.source,
            config.data.dataset,
        )
        if target.model == config.model and same_data:
            return found
    return None


@dataclass(frozen=True)
class LadderWork:
    """The fitted rungs of a ladder, in tokens of the run whose rate takes the time.

    `tokens` if every rung does the run's FLOPs per second; `slowed_tokens` at what each is assumed
    to do, `slowest` to `fastest` times the run's.
    """

    name: str
    rungs: int
    runs: int
    held_back: str
    tokens: float
    slowed_tokens: float
    slowest: float
    fastest: float


def ladder_work(found: Ladder, config: RunConfig, machine: money.Hardware) -> LadderWork:
    """What there is to train before this run is launched, and how fast each rung goes."""
    runs = [run for group in ladder.groups(found) for run in group]
    run_tokens = sum(ladder.own_tokens(run) * _flops_ratio(run.config, config) for run in runs)
    slowed_tokens, ratios = 0.0, []
    for run in runs:
        ratio = _speed_ratio(run.config, config, machine)  # in FLOPs per second
        slowed_tokens += ladder.own_tokens(run) * _flops_ratio(run.config, config) / ratio
        ratios.append(ratio)
    return LadderWork(
        found.name, len(found.rungs), len(runs), found.held_back.name,
        run_tokens, slowed_tokens, min(ratios), max(ratios),
    )  # fmt: skip


def predict_ladder(config: RunConfig, machine: money.Hardware, rate: Prediction) -> Prediction:
    """Hours to train the fitted rungs of this run's ladder, all there is to train before a launch.

    A rung's speed follows from the run's. On a GPU both keep the same share of what the two terms
    of `x1.throughput` allow at the data sheet's peak and bandwidth, so a narrow rung, which moves
    more bytes per FLOP, reaches a lower MFU; on a CPU both do the same FLOPs per second. The low
    end is the run's own MFU for every rung at its high rate, the high end LADDER_SLOWER times the
    expected time at its low rate. Without a ladder for this model: zero hours.
    """
    found = ladder_of(config)
    if found is None:
        return exactly(0.0, both("basis.no_ladder"))
    if rate.value is None or rate.low is None or rate.high is None:
        return Prediction(None, None, None, rate.basis)
    work = ladder_work(found, config, machine)
    start = [work.runs * hours for hours in LADDER_START_HOURS]
    basis = both(
        "basis.ladder" if machine.gpu else "basis.ladder_on_cpu",
        name=work.name, rungs=work.rungs, runs=work.runs,
        flops=f"{work.tokens * flops.token_flops(config.model).total:.2e}",
        low=f"{work.slowest:.2f}", high=f"{work.fastest:.2f}",
        seconds=f"{3600 * LADDER_START_HOURS[0]:.0f}", held_back=work.held_back,
    )  # fmt: skip
    return Prediction(
        work.slowed_tokens / rate.value / 3600 + start[0],
        work.tokens / rate.high / 3600 + start[1],
        LADDER_SLOWER * work.slowed_tokens / rate.low / 3600 + start[2],
        basis,
    )


def _flops_ratio(small: RunConfig, run: RunConfig) -> float:
    """FLOPs of a token of `small` over those of one of `run`."""
    return flops.token_flops(small.model).total / flops.token_flops(run.model).total


def _speed_ratio(small: RunConfig, run: RunConfig, machine: money.Hardware) -> float:
    """FLOPs per second that `small` reaches over those that `run` does; at most 1.

    Until a GPU has been measured the loss is taken as uncompiled, the dearer case.
    """
    if machine.gpu is None:
        return 1.0
    rates = []
    for config in (small, run):
        size = max(1, flops.fitting_micro_batch(config, machine.gpu.memory_gb))
        step_s = sum(throughput.ideal_seconds(config, machine.gpu, size, fused_loss=False))
        rates.append(config.batch_tokens / step_s)
    return min(1.0, rates[0] / rates[1] * _flops_ratio(small, run))
