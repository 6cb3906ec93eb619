"""A replay on the terminal: its price first, then the step, in the reader's language."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from x1 import history
from x1.history import Moment
from x1.markup import UNKNOWN, duration, short
from x1.text import say

Json = dict[str, Any]

SEQUENCES_SHOWN = 2
CHARACTERS_SHOWN = 400
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def run_replay_command(
    run: Path, step: int, attempt: int | None, batch_only: bool, as_json: bool
) -> None:
    """`x1 replay`. Raises UserError as `history.find` and `replay.replay` do."""
    from x1 import replay

    moment = history.find(run, step, attempt)
    notes = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    notes.print(cost(moment, batch_only))
    result = replay.batch_text(moment) if batch_only else replay.replay(moment)
    if as_json:
        json.dump(finite(result), sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
        print()
        return
    console = Console(highlight=False, markup=False)
    for batch in result["batches"]:
        console.print(text_alone(batch) if batch_only else page(batch))
    if not batch_only:
        console.print(verdict(result))


def cost(moment: Moment, batch_only: bool) -> str:
    """What is about to be done, and how long it takes at the run's own pace."""
    said: Json = {"step": moment.step, "attempt": moment.attempt.number}
    if batch_only:
        told = say("replay.batch_only", **said)
    else:
        pace = moment.seconds_per_step
        origin = "checkpoint" if moment.from_step else "seed"
        told = say(
            "replay.cost",
            **said,
            origin=say(f"replay.from_{origin}", step=moment.from_step),
            steps=moment.steps,
            time=duration(moment.steps * pace),
            pace=f"{pace:.3g} s" if math.isfinite(pace) else UNKNOWN,
        )
    if not moment.others:
        return told
    return f"{told} " + say("replay.others", attempts=", ".join(map(str, moment.others)))


def page(batch: Json) -> Group:
    """One batch of the step and all its statistics."""
    quantiles = batch["token_loss_quantiles"]
    spread = ", ".join(f"{float(q):.0%} {value:.3f}" for q, value in quantiles.items())
    learnt = bool(batch["update_to_weight"])
    return Group(
        title(batch),
        figures(batch),
        Text("\n" + say("replay.layers")),
        layers(batch),
        Text("\n" + say("replay.updates" if learnt else "replay.no_update")),
        *([updates(batch)] if learnt else []),
        Text("\n" + say("replay.tokens", spread=spread)),
        token_losses(batch),
        *texts(batch),
    )


def title(batch: Json) -> Text:
    outcome = say(f"replay.outcome.{batch['outcome']}")
    planted = ", ".join(batch["planted"])
    what = say("replay.batch", index=batch["data_index"], outcome=outcome)
    return Text("\n" + what + (" " + say("replay.planted", kinds=planted) if planted else ""))


def figures(batch: Json) -> Table:
    table = new_table("", say("replay.replayed"), say("replay.logged"))
    for name in ("loss", "grad_norm"):
        logged = batch["logged"][name]
        shown = UNKNOWN if logged is None else repr(logged)
        table.add_row(say(f"replay.{name}"), repr(batch[name]), shown)
    table.add_row(say("replay.lr"), f"{batch['lr']:.4g}", "")
    return table


def layers(batch: Json) -> Table:
    norms = batch["gradient_norms"]
    heads = ("layer", "activation_rms", "activation_max", "attention_logit_max", "gradient_norm")
    table = new_table(*(say(f"replay.column.{head}") for head in heads))
    table.add_row("embed_tokens", "", "", "", number(norms.get("embed_tokens.weight")))
    for order, layer in enumerate(batch["layers"]):
        table.add_row(f"layers.{order}", *(number(layer[head]) for head in heads[1:]))
    for name in ("norm", "lm_head"):
        if f"{name}.weight" in norms:
            table.add_row(name, "", "", "", number(norms[f"{name}.weight"]))
    return table


def updates(batch: Json) -> Table:
    """|ΔW| / |W| of every matrix: a block's on one line, embedding and head below."""
    ratios = batch["update_to_weight"]
    table = new_table("", *MATRICES)
    for order in range(len(batch["layers"])):
        cells = []
        for matrix in MATRICES:
            part = "self_attn" if matrix in "qkvo" else "mlp"
            cells.append(number(ratios.get(f"layers.{order}.{part}.{matrix}_proj.weight")))
        table.add_row(f"layers.{order}", *cells)
    for name in ("embed_tokens", "lm_head"):
        if f"{name}.weight" in ratios:
            table.add_row(name, number(ratios[f"{name}.weight"]))
    return table


def token_losses(batch: Json) -> Table:
    table = new_table(say("replay.column.nats"), say("replay.column.token"))
    table.columns[1].justify = "left"
    for worst in batch["worst_tokens"]:
        before = printable(worst["before"]).replace("\n", "↵")[-48:]
        token = printable(worst["token"]).replace("\n", "↵")
        table.add_row(f"{worst['loss']:.3f}", Text.assemble(before, (f"[{token}]", "bold")))
    return table


def texts(batch: Json) -> list[Text]:
    """The sequences that cost most, from their beginning."""
    order = sorted(
        range(len(batch["sequences"])),
        key=lambda i: -math.inf if math.isnan(loss := batch["sequences"][i]["loss"]) else -loss,
    )[:SEQUENCES_SHOWN]
    shown = [sequence(i, batch["sequences"][i], CHARACTERS_SHOWN) for i in order]
    return [*shown, Text("\n" + say("replay.whole_text"))]


def text_alone(batch: Json) -> Group:
    return Group(title(batch), *(sequence(i, s) for i, s in enumerate(batch["sequences"])))


def sequence(order: int, content: Json, most: int = 0) -> Text:
    """One sequence's text under its number, with its loss where that is known."""
    head = say("replay.sequence", number=order)
    loss = f" · {content['loss']:.3f} nats/token" if "loss" in content else ""
    text = printable(content["text"])
    return Text.assemble((f"\n{head}{loss}\n", "dim"), short(text, most) if most else text)


def verdict(result: Json) -> str:
    """Whether the replay gave what was logged; if not, where it parted, and what is different."""
    exact = [batch["bit_exact"] for batch in result["batches"]]
    if None in exact:
        return "\n" + say("replay.nothing_logged")
    if all(exact):
        return "\n" + say("replay.exact")
    told = []
    for batch in result["batches"]:
        for name in ("loss", "grad_norm"):
            logged = batch["logged"][name]
            if logged is not None and logged != batch[name]:
                told.append(f"{say(f'replay.{name}')} {batch[name] - logged:+.3g}")
    first = result["differs_from_step"]
    fields = [
        f"{name} ({short(then, 60)} → {short(now, 60)})"
        for name, (then, now) in result["manifest_differs"].items()
    ]
    return "\n" + say(
        "replay.different",
        differences=", ".join(told) or UNKNOWN,
        step=result["step"] if first is None else first,
        fields=", ".join(fields) or say("replay.no_field"),
    )


def new_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for order, column in enumerate(columns):
        table.add_column(column, justify="right" if order else "left", overflow="fold")
    return table


def number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3g}"


def printable(text: str) -> str:
    """Text from a data set, which may hold what a terminal would obey."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text.replace("\r\n", "\n"))


def finite(value: Any) -> Any:
    """Plain JSON values: what is no finite number becomes null, which JSON has."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
