"""Field reports, audited: what a report claims against what follows from what it states.

A report is a case in `cases.toml`: phases, each with the inputs it states and the claims it makes.
The value a claim should have is computed by a rule from everything the report states except the
claim itself; nothing is fitted, and an input that is not there is named, never guessed. `audit` is
pure; `x1 cases` prints it.
"""

import json
import math
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console, Group
from rich.padding import Padding
from rich.text import Text

from x1 import flops, money, scaling
from x1.config import PRESETS, ModelConfig, build, nearest
from x1.text import LANGUAGES, UserError, language, say

FORMAT = "x1-cases-1"
AUDIT_FORMAT = "x1-audit-1"
TOLERANCE = 0.05  # of the implied value; a claim that states its own interval is held to that

Json = dict[str, Any]
Verdict = Literal["follows", "does_not_follow", "cannot_be_computed"]

# ---- Rules


class Rule(NamedTuple):
    """How `quantity` is computed: `compute` takes the inputs `needs`, in that order.

    Two inputs are not numbers: "preset" is its ModelConfig, "hardware" its Gpu.
    """

    quantity: str
    compute: Callable[..., float]
    needs: tuple[str, ...]


def _exact_flops(model: ModelConfig) -> int:
    return flops.token_flops(model, "causal").total


def _peak(gpu: flops.Gpu, gpus: float) -> float:
    return gpu.peak_flops_per_s("bf16") * gpus


def _hours(tokens: float, flops_per_token: float, mfu: float, gpu: flops.Gpu, gpus: float) -> float:
    return money.run_hours(tokens, mfu * _peak(gpu, gpus) / flops_per_token)


def _tokens(hours: float, flops_per_token: float, mfu: float, gpu: flops.Gpu, gpus: float) -> float:
    return hours * 3600 * mfu * _peak(gpu, gpus) / flops_per_token


def _six_n(parameters: float) -> int:
    return flops.six_n_flops(round(parameters))


def _tied(model: ModelConfig) -> int:
    return flops.parameters(model.model_copy(update={"tied": True}))


# By name. Of the rules of one quantity the first whose inputs are there derives it, so the ones
# that rest on a measured rate come before the ones that rest on an assumed MFU.
RULES: dict[str, Rule] = {
    "steps_times_batch": Rule("tokens", lambda a, b: a * b, ("steps", "tokens_per_step")),
    "rate_times_hours": Rule("tokens", lambda r, h: r * h * 3600, ("tokens_per_s", "hours")),
    "ratio_times_parameters": Rule(
        "tokens", lambda r, n: r * n, ("tokens_per_parameter", "parameters")
    ),
    "tokens_6n": Rule(
        "tokens",
        lambda hours, n, *rest: _tokens(hours, _six_n(n), *rest),
        ("hours", "parameters", "mfu", "hardware", "gpus"),
    ),
    "tokens_over_steps": Rule("tokens_per_step", lambda t, s: t / s, ("tokens", "steps")),
    "tokens_over_batch": Rule("steps", lambda t, b: t / b, ("tokens", "tokens_per_step")),
    "tokens_over_hours": Rule("tokens_per_s", lambda t, h: t / h / 3600, ("tokens", "hours")),
    "rate_gained": Rule(
        "throughput_gain", lambda a, b: b / a - 1, ("tokens_per_s_before", "tokens_per_s_after")
    ),
    "tokens_over_rate": Rule("hours", money.run_hours, ("tokens", "tokens_per_s")),
    "progress": Rule("hours", lambda h, f: h / f, ("hours_so_far", "fraction_done")),
    "larger_model": Rule(
        "hours",
        lambda h, m, n: h * n / m,
        ("reference_hours", "reference_parameters", "parameters"),
    ),
    "bill_over_price": Rule("hours", money.rented_hours, ("dollars", "price_usd_per_hour")),
    "hours_exact": Rule(
        "hours",
        lambda tokens, model, *rest: _hours(tokens, _exact_flops(model), *rest),
        ("tokens", "preset", "mfu", "hardware", "gpus"),
    ),
    "hours_6n": Rule(
        "hours",
        lambda tokens, n, *rest: _hours(tokens, _six_n(n), *rest),
        ("tokens", "parameters", "mfu", "hardware", "gpus"),
    ),
    "rental": Rule("dollars", money.rental_usd, ("hours", "price_usd_per_hour")),
    "sum_of_lines": Rule("dollars", math.fsum, ("lines_usd",)),
    "bill_over_hours": Rule("price_usd_per_hour", money.usd_per_hour, ("dollars", "hours")),
    "budget_left": Rule(
        "buffer_usd",
        lambda hours, price, budget: money.rented_sentence("", hours, price, budget).buffer_usd,
        ("hours", "price_usd_per_hour", "lab_budget_usd"),
    ),
    "spent_over_gain": Rule(
        "usd_per_loss_point",
        money.usd_per_loss_point,
        ("dollars", "loss_before_nats", "loss_after_nats"),
    ),
    "mfu_6n": Rule(
        "mfu",
        lambda rate, n, gpu, gpus: flops.mfu(rate, _six_n(n), _peak(gpu, gpus)),
        ("tokens_per_s", "parameters", "hardware", "gpus"),
    ),
    "mfu_exact": Rule(
        "mfu",
        lambda rate, model, gpu, gpus: flops.mfu(rate, _exact_flops(model), _peak(gpu, gpus)),
        ("tokens_per_s", "preset", "hardware", "gpus"),
    ),
    "hfu_exact": Rule(
        "hfu",
        lambda rate, model, gpu, gpus: flops.hfu(
            rate, flops.token_flops(model), _peak(gpu, gpus), recompute=True
        ),
        ("tokens_per_s", "preset", "hardware", "gpus"),
    ),
    "draw_times_hours": Rule("kwh", money.energy_kwh, ("hours", "watts")),
    "besiroglu": Rule("loss_nats", scaling.BESIROGLU.predict, ("parameters", "tokens")),
    "hoffmann": Rule("loss_nats", scaling.HOFFMANN.predict, ("parameters", "tokens")),
    "ln_vocabulary": Rule("initial_loss_nats", math.log, ("vocab_size",)),
    "loss_drop": Rule(
        "loss_gain_nats", lambda a, b: a - b, ("loss_before_nats", "loss_after_nats")
    ),
    "counted": Rule("parameters", flops.parameters, ("preset",)),
    "counted_tied": Rule("parameters", _tied, ("preset",)),
    "share_of_budget": Rule("budget_fraction", lambda t, b: t / b, ("tokens", "budget_tokens")),
    "steps_lost": Rule("lost_fraction", lambda a, b: a / b, ("step", "steps")),
}

QUANTITIES = list(dict.fromkeys(rule.quantity for rule in RULES.values()))
LINES = "lines_usd"  # the one input that is a list
INPUTS = sorted(
    ({need for rule in RULES.values() for need in rule.needs} | set(QUANTITIES))
    - {"preset", "hardware"}
)


def rules_of(quantity: str) -> list[str]:
    """Names of the rules that compute a quantity, the preferred one first."""
    return [name for name, rule in RULES.items() if rule.quantity == quantity]


# ---- Reports, as they are written down

# Bounds that no report comes near, so that no product or quotient of a few inputs overflows.
Amount = Annotated[float, Field(ge=1e-12, le=1e24)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Also(_Part):
    """Another figure worth showing beside a claim: `given` replaces inputs, `without` drops some.

    Of the claim's own quantity it is another reading of it; of any other, what the claim comes to
    if it is taken at its word. `source` says where an assumed input is from.
    """

    quantity: str
    rule: str = ""
    given: dict[str, Amount] = {}
    without: list[str] = []
    source: str = ""
    source_es: str = ""


class Claim(_Part):
    """A stated value, and the rule it is audited by (default: the first that has its inputs)."""

    quantity: str
    stated: Amount
    plus_or_minus: Amount | None = None
    rule: str = ""
    without: list[str] = []
    also: list[Also] = []


class Phase(_Part):
    """A part of a run: inputs of its own on top of the case's, and claims.

    `price_from` names phases whose stated dollars over stated hours are this phase's price.
    """

    id: str
    title: str = ""
    title_es: str = ""
    preset: str = ""
    hardware: str = ""
    price_from: list[str] = []
    stated: dict[str, Amount | list[Amount]] = {}
    claim: list[Claim] = Field(min_length=1)


class Case(_Part):
    """A report: where it is, the preset and hardware its phases share, what it states, phases."""

    id: str
    title: str
    title_es: str = ""
    source: str
    source_es: str = ""
    preset: str = ""
    hardware: str = ""
    stated: dict[str, Amount | list[Amount]] = {}
    phase: list[Phase] = Field(min_length=1)


class _File(_Part):
    format: str
    case: list[Case] = Field(min_length=1)


def read_cases(text: str, name: str) -> list[Case]:
    """The reports in a file's text; `name` is what a fault calls the file.

    Raises UserError naming the case and the field, and the nearest valid name where there is one.
    """
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as fault:
        raise UserError("cases.not_toml", path=name, fault=fault) from None
    if raw.get("format") != FORMAT:
        raise UserError("cases.format", path=name, expected=FORMAT)
    try:
        cases = _File.model_validate(raw).case
    except ValidationError as fault:
        raise _as_user_error(fault, raw, name) from None
    _distinct([case.id for case in cases], name)
    for case in cases:
        _check(case)
    return cases


def read_file(path: Path) -> list[Case]:
    """The reports in a file of one's own. Raises UserError; see `read_cases`."""
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError("cases.no_file", path=path) from None
    except UnicodeDecodeError as fault:
        raise UserError("cases.not_toml", path=path, fault=fault) from None
    return read_cases(text, str(path))


@cache
def shipped_cases() -> tuple[Case, ...]:
    """The five field reports of the curriculum (`cases.toml`)."""
    name = "cases.toml"
    return tuple(read_cases(files("x1").joinpath(name).read_text("utf-8"), name))


def _distinct(ids: list[str], where: str) -> None:
    for one in ids:
        if ids.count(one) > 1:
            raise UserError("cases.twice", where=where, id=one)


def _known(where: str, field: str, value: str, names: Iterable[str]) -> None:
    known = list(names)
    if value not in known:
        raise UserError(
            "cases.unknown", where=where, field=field, value=value, nearest=nearest(value, known)
        )


def _check(case: Case) -> None:
    """Names that must exist: presets, hardware, inputs, quantities, rules, phases."""
    _distinct([phase.id for phase in case.phase], case.id)
    parts: list[tuple[str, Case | Phase]] = [(case.id, case)]
    parts += [(f"{case.id}, {phase.id}", phase) for phase in case.phase]
    for where, part in parts:
        if part.preset:
            _known(where, "preset", part.preset, PRESETS)
        if part.hardware:
            _known(where, "hardware", part.hardware, flops.PEAKS)
        for field, value in part.stated.items():
            _known(where, "stated", field, INPUTS)
            if isinstance(value, list) != (field == LINES):
                expected = "list" if field == LINES else "number"
                raise UserError(
                    "cases.type", where=where, field=field, value=value, expected=expected
                )
    for phase in case.phase:
        for other in phase.price_from:
            _known(f"{case.id}, {phase.id}", "price_from", other, [p.id for p in case.phase])
        for claim in phase.claim:
            where = f"{case.id}, {phase.id}, {claim.quantity}"
            figures: list[Claim | Also] = [claim, *claim.also]
            for figure in figures:
                _known(where, "quantity", figure.quantity, QUANTITIES)
                if figure.rule:
                    _known(where, "rule", figure.rule, rules_of(figure.quantity))
                for field in figure.without:
                    _known(where, "without", field, INPUTS)
            for also in claim.also:
                for field in also.given:
                    _known(where, "given", field, [name for name in INPUTS if name != LINES])


PARTS: dict[str, type[BaseModel]] = {"case": Case, "phase": Phase, "claim": Claim, "also": Also}


def _as_user_error(fault: ValidationError, raw: Json, name: str) -> UserError:
    """The first fault, its place told by the ids on the way to it."""
    first = fault.errors()[0]
    places: list[str] = []
    part: Any = raw
    owner: type[BaseModel] = _File
    field = ""
    for step in first["loc"]:
        if isinstance(part, dict):
            field = str(step)
            part = part.get(field)
        elif isinstance(part, list) and isinstance(step, int) and step < len(part):
            part = part[step]
            if field in PARTS:
                owner = PARTS[field]
                label = part.get("id") or part.get("quantity") if isinstance(part, dict) else None
                places.append(str(label or f"{field} {step + 1}"))
    where = ", ".join(places) or name
    if first["type"] == "missing":
        return UserError("cases.missing", where=where, field=field)
    if first["type"] == "extra_forbidden":
        known = list(owner.model_fields)
        return UserError(
            "cases.unknown_field", where=where, field=field, nearest=nearest(field, known)
        )
    if first["type"] == "too_short":
        return UserError("cases.missing", where=where, field=field)
    if first["type"] in ("greater_than_equal", "less_than_equal", "finite_number"):
        return UserError("cases.bound", where=where, field=field, value=part)
    expected = first["type"].removesuffix("_type").replace("float", "number")
    return UserError(
        "cases.type", where=where, field=field, value=first["input"], expected=expected
    )


# ---- The audit


@dataclass(frozen=True)
class Step:
    """One rule at work: what came out, and the inputs as they went in (name -> value)."""

    rule: str
    value: float
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Aside:
    """A figure beside a claim; `steps` is empty when its inputs are not there."""

    also: Also
    steps: tuple[Step, ...]
    missing: tuple[str, ...]

    @property
    def value(self) -> float | None:
        return self.steps[0].value if self.steps else None


@dataclass(frozen=True)
class Finding:
    """One claim and what became of it.

    `steps` is how the implied value came about, the claim's own rule first and then the rules that
    derived its inputs; empty when inputs are `missing`. `rivals` are other values that the report
    states for the same quantity and that this one excludes.
    """

    case: str
    phase: str
    claim: Claim
    rule: str
    steps: tuple[Step, ...]
    missing: tuple[str, ...]
    rivals: tuple[Claim, ...]
    price_from: tuple[str, ...]
    asides: tuple[Aside, ...]

    @property
    def quantity(self) -> str:
        return self.claim.quantity

    @property
    def stated(self) -> float:
        return self.claim.stated

    @property
    def implied(self) -> float | None:
        return self.steps[0].value if self.steps else None

    @property
    def factor(self) -> float | None:
        """Stated over implied."""
        return self.stated / self.implied if self.implied else None

    @property
    def verdict(self) -> Verdict:
        if self.implied is None:
            return "cannot_be_computed"
        allowed = self.claim.plus_or_minus or TOLERANCE * abs(self.implied)
        near = abs(self.stated - self.implied) <= allowed
        return "follows" if near and not self.rivals else "does_not_follow"


def audit(case: Case) -> list[Finding]:
    """Every claim of a report against what follows from the rest of it, in the report's order.

    A claim is never an input of its own audit, but it is one of the others': the hours a report
    states are what its dollars are held against. Raises UserError, naming the case, when a rule
    refuses an input (a loss that did not fall has no cost per point).
    """
    return [_finding(case, phase, claim) for phase in case.phase for claim in phase.claim]


def _finding(case: Case, phase: Phase, claim: Claim) -> Finding:
    def work(quantity: str, rule: str, facts: Json, barred: Iterable[str]) -> _Worked:
        try:
            return _work(quantity, rule, facts, frozenset(barred))
        except UserError as fault:
            where = f"{case.id}, {phase.id}, {claim.quantity}"
            raise UserError("cases.fault", where=where, fault=fault) from None

    facts = _facts(case, phase)
    own = {claim.quantity, *claim.without}
    worked = work(claim.quantity, claim.rule, facts, own)
    asides = []
    for also in claim.also:
        # Another quantity is asked with the claim taken at its word.
        taken = {} if also.quantity == claim.quantity else {claim.quantity: claim.stated}
        seen = work(
            also.quantity,
            also.rule,
            {**facts, **taken, **also.given},
            {also.quantity, *also.without} - set(also.given),
        )
        asides.append(Aside(also, seen.steps, seen.missing))
    used = {name for step in worked.steps for name in step.inputs}
    return Finding(
        case=case.id,
        phase=phase.id,
        claim=claim,
        rule=worked.rule,
        steps=worked.steps,
        missing=worked.missing,
        rivals=tuple(c for c in phase.claim if c is not claim and _exclude(claim, c)),
        price_from=_priced_by(phase) if "price_usd_per_hour" in used else (),
        asides=tuple(asides),
    )


def _exclude(one: Claim, other: Claim) -> bool:
    """Two values of one quantity, one of them outside what the other allows."""
    allowed = [c.plus_or_minus or TOLERANCE * c.stated for c in (one, other)]
    return one.quantity == other.quantity and abs(one.stated - other.stated) > min(allowed)


def _facts(case: Case, phase: Phase) -> Json:
    """All that a phase states, its claims too."""
    facts: Json = {"gpus": 1.0, **case.stated, **phase.stated}
    for claim in phase.claim:
        facts.setdefault(claim.quantity, claim.stated)
    preset, hardware = phase.preset or case.preset, phase.hardware or case.hardware
    if preset:
        facts["preset"] = preset
    if hardware:
        facts["hardware"] = hardware
    if phase.price_from:
        price = _price_of([p for p in case.phase if p.id in _priced_by(phase)])
        if price is not None:
            facts["price_usd_per_hour"] = price
    return facts


def _priced_by(phase: Phase) -> tuple[str, ...]:
    """The phases whose bill gives a phase its price: never its own, which is under audit."""
    return tuple(name for name in phase.price_from if name != phase.id)


def _price_of(phases: list[Phase]) -> float | None:
    """What an hour cost over some phases, by their stated dollars and hours."""
    stated: list[Json] = [{**p.stated, **{c.quantity: c.stated for c in p.claim}} for p in phases]
    if not stated or not all("dollars" in facts and "hours" in facts for facts in stated):
        return None
    dollars, hours = (math.fsum(facts[n] for facts in stated) for n in ("dollars", "hours"))
    return money.usd_per_hour(dollars, hours)


class _Worked(NamedTuple):
    rule: str
    steps: tuple[Step, ...]
    missing: tuple[str, ...]


def _work(
    quantity: str,
    rule: str,
    facts: Json,
    barred: frozenset[str],
    under_way: frozenset[str] = frozenset(),
) -> _Worked:
    """A quantity by one rule, or by the first of its rules that has its inputs.

    An input that is not stated, or is `barred` from being read as stated, is derived by its own
    rules, which may not come back to a quantity `under_way`. Without success: the inputs missing
    from the named (else the preferred) rule.
    """
    names = [rule] if rule else rules_of(quantity)
    under_way |= {quantity}
    preferred: tuple[str, ...] = ()
    for name in names:
        inputs: Json = {}
        derived: list[Step] = []
        missing = []
        for need in RULES[name].needs:
            if need in facts and need not in barred:
                inputs[need] = facts[need]
                continue
            steps: tuple[Step, ...] = ()
            if need in QUANTITIES and need not in under_way:
                steps = _work(need, "", facts, barred, under_way).steps
            if steps:
                inputs[need] = steps[0].value
                derived += [step for step in steps if step not in derived]
            else:
                missing.append(need)
        if not missing:
            return _Worked(name, (Step(name, _value(name, inputs), inputs), *derived), ())
        preferred = preferred or tuple(missing)
    return _Worked(names[0], (), preferred)


def _value(rule: str, inputs: Json) -> float:
    arguments = [
        build(value).model
        if name == "preset"
        else flops.gpu(value)
        if name == "hardware"
        else value
        for name, value in inputs.items()
    ]
    return float(RULES[rule].compute(*arguments))


# ---- What is shown


def show(name: str, value: Any) -> str:
    """A quantity or an input as text, in the form its unit has."""
    if name == "preset":
        return str(value)
    if name == "hardware":
        card = flops.gpu(value)
        return f"{card.label} ({card.bf16_tflops:g} TFLOP/s)"
    if isinstance(value, list):
        return " + ".join(show("dollars", one) for one in value)
    if name == "price_usd_per_hour":
        return f"${money.rate(value) if value < 10 else f'{value:.2f}'}/h"
    if name == "dollars" or "usd" in name:
        return money.usd(value)
    if "hours" in name:
        return f"{money.hours_text(value)} h"
    if name == "kwh":
        return f"{value:.4g} kWh"
    if name.endswith("nats"):
        return f"{value:.4g}" if value % 1 else f"{value:.1f}"
    if name in ("watts", "gpus") or abs(value) < 1:
        return f"{value:.3g}"
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.4g}{letter}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _show_stated(claim: Claim) -> str:
    text = show(claim.quantity, claim.stated)
    if claim.plus_or_minus is None:
        return text
    return f"{text} ± {show(claim.quantity, claim.plus_or_minus)}"


def _show_steps(steps: tuple[Step, ...], lang: str) -> str:
    """Each rule's sentence; what derived an input follows its user."""
    told: list[str] = []
    for step in steps:
        numbers = {name: show(name, value) for name, value in step.inputs.items()}
        sentence = say(f"cases.rule.{step.rule}", lang, **numbers)
        quantity = RULES[step.rule].quantity
        told.append(f"{quantity} = {show(quantity, step.value)}: {sentence}" if told else sentence)
    return "; ".join(told)


def reason(finding: Finding, lang: str | None = None) -> str:
    """Why the verdict is what it is, in one line of prose."""
    code = lang or language()
    if finding.implied is None:
        return say("cases.missing_inputs", code, names=", ".join(finding.missing))
    parts = [_show_steps(finding.steps, code)]
    if finding.price_from:
        parts.append(say("cases.price_from", code, phases=", ".join(finding.price_from)))
    if finding.rivals:
        others = ", ".join(_show_stated(claim) for claim in finding.rivals)
        parts.append(say("cases.rivals", code, others=others))
    return "; ".join(parts)


def describe(aside: Aside, finding: Finding, lang: str | None = None) -> str:
    """An aside as one line of prose."""
    code, also = lang or language(), aside.also
    label = say(f"cases.quantity.{also.quantity}", code)
    if aside.value is None:
        names = ", ".join(aside.missing)
        return f"{label}: {say('cases.missing_inputs', code, names=names)}"
    value, how = show(also.quantity, aside.value), _show_steps(aside.steps, code)
    terms = [f"{name} = {show(name, given)}" for name, given in also.given.items()]
    if also.without:
        terms.append(say("cases.without", code, names=", ".join(also.without)))
    if also.source:
        terms.append(say("cases.source", code, source=_translated(also, "source", code)))
    basis = "; ".join([*terms, how])
    if also.quantity == finding.quantity:
        return say("cases.otherwise", code, value=value, basis=basis)
    return say("cases.as_stated", code, label=label, value=value, basis=basis)


COLUMNS = ("claim", "stated", "implied", "factor", "verdict")


def _row(finding: Finding, lang: str) -> dict[str, str]:
    implied, factor = finding.implied, finding.factor
    return {
        "claim": say(f"cases.quantity.{finding.quantity}", lang),
        "stated": _show_stated(finding.claim),
        "implied": "–" if implied is None else show(finding.quantity, implied),
        "factor": "–" if factor is None else f"{factor:.2f}",
        "verdict": say(f"cases.verdict.{finding.verdict}", lang),
    }


def _translated(part: Case | Phase | Also, field: str, lang: str) -> str:
    """A field of a report in a language; in English where it has no Spanish."""
    return str((lang == "es" and getattr(part, f"{field}_es")) or getattr(part, field))


def _title(part: Case | Phase, lang: str) -> str:
    return _translated(part, "title", lang) or part.id


def _tally(findings: list[Finding], lang: str) -> str:
    counts = dict.fromkeys(("follows", "does_not_follow", "cannot_be_computed"), 0)
    for finding in findings:
        counts[finding.verdict] += 1
    return say("cases.tally", lang, **counts)


def to_json(case: Case) -> Json:
    """A report's audit as plain data, numbers to six digits, words in both languages."""
    findings = audit(case)

    def number(value: float | None) -> float | None:
        return None if value is None else money.significant(value, 6)

    def inputs(steps: tuple[Step, ...]) -> list[Json]:
        return [
            {
                "rule": step.rule,
                "quantity": RULES[step.rule].quantity,
                "value": number(step.value),
                "inputs": {
                    name: number(value) if isinstance(value, float) else value
                    for name, value in step.inputs.items()
                },
            }
            for step in steps
        ]

    def words(finding: Finding, lang: str) -> Json:
        asides = [describe(aside, finding, lang) for aside in finding.asides]
        return {**_row(finding, lang), "reason": reason(finding, lang), "also": asides}

    return {
        "id": case.id,
        "title": {code: _title(case, code) for code in LANGUAGES},
        "source": {code: _translated(case, "source", code) for code in LANGUAGES},
        "tally": {code: _tally(findings, code) for code in LANGUAGES},
        "phases": [
            {
                "id": phase.id,
                "title": {code: _title(phase, code) for code in LANGUAGES},
                "preset": phase.preset or case.preset or None,
                "hardware": phase.hardware or case.hardware or None,
                "findings": [
                    {
                        "quantity": finding.quantity,
                        "stated": finding.stated,
                        "plus_or_minus": finding.claim.plus_or_minus,
                        "rule": finding.rule,
                        "implied": number(finding.implied),
                        "factor": number(finding.factor),
                        "verdict": finding.verdict,
                        "missing": list(finding.missing),
                        "price_from": list(finding.price_from),
                        "rivals": [claim.stated for claim in finding.rivals],
                        "steps": inputs(finding.steps),
                        "also": [
                            {
                                "quantity": aside.also.quantity,
                                "value": number(aside.value),
                                "given": aside.also.given,
                                "without": aside.also.without,
                                "source": aside.also.source,
                                "steps": inputs(aside.steps),
                            }
                            for aside in finding.asides
                        ],
                        "text": {code: words(finding, code) for code in LANGUAGES},
                    }
                    for finding in findings
                    if finding.phase == phase.id
                ],
            }
            for phase in case.phase
        ],
    }


def audit_record(reports: Iterable[Case]) -> Json:
    """What `x1 cases --json` prints, and the documentation's page is made of."""
    return {
        "format": AUDIT_FORMAT,
        "columns": {
            code: {name: say(f"cases.column.{name}", code) for name in COLUMNS}
            for code in LANGUAGES
        },
        "rules": [
            {"quantity": rule.quantity, "rule": name, "inputs": ", ".join(rule.needs)}
            for name, rule in RULES.items()
        ],
        "cases": [to_json(case) for case in reports],
    }


def render(case: Case, lang: str | None = None) -> Group:
    """A report's audit for the terminal: 80 columns hold a row, and its reason stands below it."""
    code = lang or language()
    findings = audit(case)
    heads = {name: say(f"cases.column.{name}", code) for name in COLUMNS}
    rows = [_row(finding, code) for finding in findings]
    widths = {name: max(len(row[name]) for row in [heads, *rows]) for name in COLUMNS}

    def line(row: dict[str, str]) -> str:
        left = ("claim", "verdict")
        cells = [
            row[name].ljust(widths[name]) if name in left else row[name].rjust(widths[name])
            for name in COLUMNS
        ]
        return "  ".join(cells).rstrip()

    parts: list[Any] = [
        Text(_title(case, code), style="bold"),
        # An address is not broken: it is there to be followed.
        Text(
            say("cases.source", code, source=_translated(case, "source", code)),
            no_wrap=True,
            overflow="ignore",
        ),
        "",
        Text(line(heads), style="dim"),
    ]
    phase_id = ""
    for finding, row in zip(findings, rows, strict=True):
        if finding.phase != phase_id:
            phase_id = finding.phase
            phase = next(p for p in case.phase if p.id == phase_id)
            preset, hardware = phase.preset or case.preset, phase.hardware or case.hardware
            names = [name for name in (preset, hardware) if name]
            parts += ["", Text(" · ".join([_title(phase, code), *names]), style="bold")]
        parts.append(line(row))
        parts.append(Padding(Text(reason(finding, code), style="dim"), (0, 0, 0, 4)))
        for aside in finding.asides:
            parts.append(Padding(Text(describe(aside, finding, code), style="dim"), (0, 0, 0, 4)))
    return Group(*parts, "", _tally(findings, code))


def run_cases_command(
    name: str | None = None,
    *,
    file: Path | None = None,
    as_json: bool = False,
    console: Console | None = None,
) -> None:
    """`x1 cases`: the shipped reports, or those of `file`, or the one called `name` among them.

    Everything is audited before anything is printed. Raises UserError.
    """
    cases = list(shipped_cases()) if file is None else read_file(file)
    if name is not None:
        known = [case.id for case in cases]
        if name not in known:
            raise UserError("cases.unknown_case", name=name, nearest=nearest(name, known))
        cases = [case for case in cases if case.id == name]
    console = console or Console()
    if as_json:
        console.file.write(json.dumps(audit_record(cases), indent=1, ensure_ascii=False) + "\n")
        return
    pages = [render(case) for case in cases]
    for position, page in enumerate(pages):
        if position:
            console.print()
        console.print(page, highlight=False, markup=False)
