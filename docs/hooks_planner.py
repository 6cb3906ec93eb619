"""The planner's page gets its constants from the package when the site is built.

Everything the page computes with (presets, machines, prices, laws, assumptions) and every sentence
it says about a plan goes into one JSON object inside the page, next to the script and style sheet
that use it. The labels of the form are in the page itself, in its own language.
"""

import dataclasses
import json
from pathlib import PurePosixPath
from typing import Any

from x1 import flops, ladder, money, plan, predict, scaling
from x1.cases import Case, Phase, shipped_cases
from x1.config import PRESETS, ModelConfig, MoneyConfig, RunConfig, build
from x1.text import catalogue

PAGES = {"planner.md": "en", "planner.es.md": "es"}
SCRIPT, STYLE = "javascripts/planner.js", "stylesheets/planner.css"
SPOKEN = ("plan.", "money.", "config.")  # the sentences a plan is made of
SHAPE = ("vocab_size", "n_layers", "n_heads", "d_model", "d_ff", "context", "tied")
TOKENIZER = ("source", "dataset", "tokenizer", "vocab_size", "tokens_per_s", "bytes_per_token")
TYPED = {"model": SHAPE, "money": ("watts", "tariff_usd_per_kwh")}  # what the form may change


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The planner's page with its constants, its script and its style sheet; others as they are."""
    language = PAGES.get(page.file.src_uri)
    if language is None:
        return output
    up = "../" * len(PurePosixPath(page.file.dest_uri).parent.parts)
    constants = json.dumps(planner_constants(language), ensure_ascii=False, separators=(",", ":"))
    constants = constants.replace("<", "\\u003c")  # no text in it can end the script element
    head = (
        f'<link rel="stylesheet" href="{up}{STYLE}">'
        f'<script type="application/json" id="planner-constants">{constants}</script>'
        f'<script type="module" src="{up}{SCRIPT}"></script>'
    )
    return output.replace("</head>", head + "</head>", 1)


def planner_constants(language: str) -> dict[str, Any]:
    """All that the page's script takes from the package, as plain data."""
    words = {key: text for key, text in catalogue(language).items() if key.startswith(SPOKEN)}
    return {
        "words": words,
        "presets": {name: preset_constants(build(name)) for name in PRESETS},
        "bounds": bounds(),
        "hardware": {name: hardware_constants(name) for name in machines()},
        "storage": {
            "usd_per_gb_month": money.shipped_prices().storage_usd_per_gb_month,
            "source": money.shipped_prices().storage_source,
        },
        "stale_after_days": money.STALE_AFTER_DAYS,
        "alert_fraction": money.ALERT_FRACTION,
        "set_up_hours": plan.SETUP_HOURS,
        "start_hours": plan.START_HOURS,
        "storage_days": plan.STORAGE_DAYS,
        "mfu_guess": predict.MFU_GUESS,
        "typed_spread": predict.TYPED_SPREAD,
        "assumed_bytes_per_token": predict.BYTES_PER_TOKEN,
        "assumed_tokenizer_tokens_per_s": predict.TOKENIZER_TOKENS_PER_S,
        "tokenizers": [
            {name: entry[name] for name in TOKENIZER}
            for entry in predict.shipped_measurements()["tokenizers"]
        ],
        "ladder_start_hours": predict.LADDER_START_HOURS,
        "ladder_slower": predict.LADDER_SLOWER,
        "ladders": ladders(),
        "laws": [dataclasses.asdict(law) for law in scaling.PUBLISHED],
        "flops_per_parameter_token": scaling.FLOPS_PER_PARAMETER_TOKEN,
        "transfer_error": scaling.transfer_error(),
        "short_context": flops.SHORT_CONTEXT,
        "cpu_micro_batch_values": flops.CPU_MICRO_BATCH_VALUES,
        "reserved_bytes": flops.RESERVED_BYTES,
        "usable": flops.USABLE,
        "reports": reports(),
    }


def preset_constants(config: RunConfig) -> dict[str, Any]:
    """What a plan reads of a configuration, and the measured loss of exactly this recipe."""
    kept = {
        "model": None,
        "optim": {"name", "z_loss"},
        "data": {"source", "dataset", "tokenizer", "train_tokens"},
        "train": {"steps", "batch_sequences", "micro_batch", "dtype", "recompute"},
        "checkpoint": {"every_steps", "every_minutes", "keep", "milestones"},
        "evaluate": None,
        "money": {
            "hardware", "price_usd_per_hour", "price_date", "watts", "tariff_usd_per_kwh",
            "lab_budget_usd", "ceiling_usd",
        },
    }  # fmt: skip
    fields = {
        section: getattr(config, section).model_dump(mode="json", include=include)
        for section, include in kept.items()
    }
    return {**fields, "measured_loss": measured_loss(config)}


def measured_loss(config: RunConfig) -> dict[str, Any] | None:
    """The loss of a generated corpus's preset as the plan predicts it; None if not measured."""
    if config.data.source != "verbs":
        return None
    nats, bits = predict.predict_loss(config, predict.shipped_measurements())
    if nats.value is None:
        return None
    return {
        "runs": next(
            len(entry["loss_nats_per_token"])
            for entry in predict.shipped_measurements()["losses"]
            if entry["recipe"] == predict.recipe(config)
        ),
        "nats": [nats.value, nats.low, nats.high],
        "bits": [bits.value, bits.low, bits.high],
    }


def bounds() -> dict[str, dict[str, float]]:
    """The least values of the fields the form may change, by "section.field"."""
    sections = {"model": ModelConfig, "money": MoneyConfig}
    found = {}
    for section, names in TYPED.items():
        for name in names:
            for rule in sections[section].model_fields[name].metadata:
                for kind in ("ge", "gt"):
                    if hasattr(rule, kind):
                        found[f"{section}.{name}"] = {kind: getattr(rule, kind)}
    return found


def machines() -> list[str]:
    """Every name `x1 plan --gpu` takes: rented, one's own, and one's own CPU."""
    return [*flops.PEAKS, *(money.OWN + name for name in flops.PEAKS), money.OWN_CPU]


def hardware_constants(name: str) -> dict[str, Any]:
    machine = money.hardware(name)
    card = machine.gpu
    offer = None if machine.own else money.price_for(name)
    return {
        "name": machine.name,
        "label": machine.label,
        "own": machine.own,
        "watts": machine.watts,
        "card": card
        and {
            "label": card.label,
            "memory_gb": card.memory_gb,
            "flops_per_s": {dtype: card.peak_flops_per_s(dtype) for dtype in ("bf16", "fp32")},
            "source": card.source,
        },
        "offer": offer
        and {
            "usd_per_hour": offer.usd_per_hour,
            "date": offer.day.isoformat(),
            "provider": offer.provider,
            "kind": offer.kind,
            "source": offer.source,
        },
    }


def ladders() -> list[dict[str, Any]]:
    """For every preset that a named ladder can predict: the shape it needs, the work by machine.

    `predict.ladder_of` wants a run's whole model and data to be those of the held-back rung. Of
    these the form changes the shape alone, so what a ladder costs is known here for each machine.
    """
    found = []
    for preset in PRESETS:
        config = build(preset)
        for name in ladder.names():
            definition = ladder.named(name)
            target = ladder.held_back_runs(definition)[0].config
            if not same_but_for_shape(config, target):
                continue
            for recompute in (False, True):
                train = config.train.model_copy(update={"recompute": recompute})
                run = config.model_copy(update={"model": target.model, "train": train})
                found.append(
                    {
                        "preset": preset,
                        "shape": {field: getattr(target.model, field) for field in SHAPE},
                        "recompute": recompute,
                        "work": ladder_work(definition, run),
                    }
                )
    return found


def same_but_for_shape(config: RunConfig, target: RunConfig) -> bool:
    shape = {field: getattr(target.model, field) for field in SHAPE}
    data = (config.data.source, config.data.dataset)
    reshaped = config.model.model_copy(update=shape)
    return reshaped == target.model and data == (target.data.source, target.data.dataset)


def ladder_work(definition: ladder.Ladder, run: RunConfig) -> dict[str, Any]:
    """The ladder's work by card, whoever owns it, and on a CPU."""
    by_card = [*flops.PEAKS, money.OWN_CPU]
    return {
        name: dataclasses.asdict(predict.ladder_work(definition, run, money.hardware(name)))
        for name in by_card
    }


def reports() -> dict[str, dict[str, float | None]]:
    """Parameters and training tokens, of X1 as configured and of each report by "case/phase".

    None where a report does not state them.
    """
    x1 = build("x1-50m")
    capstone = {"parameters": float(flops.parameters(x1.model)), "tokens": float(x1.tokens)}
    return {"x1-50m": capstone} | {
        f"{case.id}/{phase.id}": {
            "parameters": stated(case, phase, "parameters") or counted(case, phase),
            "tokens": stated(case, phase, "tokens"),
        }
        for case in shipped_cases()
        for phase in case.phase
    }


def stated(case: Case, phase: Phase, quantity: str) -> float | None:
    """A quantity as the report states or claims it, or as a source beside the report gives it."""
    for facts in (phase.stated, case.stated):
        value = facts.get(quantity)
        if isinstance(value, float):
            return value
    claimed = [claim.stated for claim in phase.claim if claim.quantity == quantity]
    given = [also.given.get(quantity) for claim in phase.claim for also in claim.also]
    return next((value for value in [*claimed, *given] if value is not None), None)


def counted(case: Case, phase: Phase) -> float | None:
    """The parameters of the preset that stands for the report, where it states no number."""
    preset = phase.preset or case.preset
    return float(flops.parameters(build(preset).model)) if preset else None
