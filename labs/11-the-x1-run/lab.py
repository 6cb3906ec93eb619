# %% [markdown] lang="en"
# Everything before this lab was preparation. Now a run is launched, and what you will have in the end is a folder: a plan, a curve, a ledger, weights. `x1 verify RUN` takes such a folder, yours or a stranger's, and computes again what can be computed again. Here you write its heart yourself: the list that decides whether anything is launched, the test of the seal, the sum of the dollars, the curve of a run that was killed and rolled back, and the verdict on what you predicted. Then you forge your own run seven times and see what is noticed. In the last cell you name the folder of your real one.
#
# You know two words from [the chapter](../../theory/11-the-x1-run.md). The **seal** is the SHA-256 of `plan.json`: whoever knows it before the run can tell afterwards that the prediction was not touched. The **ledger** is `ledger.jsonl`, one line for every charge. `check("preflight")` below an exercise grades it on cases drawn on the spot; `x1 hint 11 preflight` gives a hint, and then a plainer one.

# %% [markdown] lang="es"
# Todo lo anterior a este laboratorio era preparación. Ahora se lanza una ejecución, y lo que te queda al final es una carpeta: un plan, una curva, un libro de gastos, unos pesos. `x1 verify RUN` toma una carpeta así, tuya o ajena, y calcula de nuevo lo que se puede calcular de nuevo. Aquí escribes tú el corazón de ese comando: la lista que decide si se lanza algo, la prueba del sello, la suma de los dólares, la curva de una ejecución que murió y retrocedió, y el veredicto sobre lo que predijiste. Después falsificas siete veces tu propia ejecución y ves qué se nota. En la última celda das la carpeta de la de verdad.
#
# Del [capítulo](../../theory/11-the-x1-run.es.md) conoces dos palabras. El **sello** es el SHA-256 de `plan.json`: quien lo conoce antes de la ejecución puede saber después que nadie tocó la predicción. El **libro de gastos** es `ledger.jsonl`, una línea por cada cargo. `check("preflight")` debajo de un ejercicio lo califica con casos sorteados en el momento; `x1 hint 11 preflight` da una pista, y después otra más clara.

# %%
import hashlib
import json
import math
import os
import random
import shutil
import warnings
from contextlib import chdir
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import matplotlib.pyplot as plt

from x1 import (
    checkpoint,
    config,
    data,
    evaluate,
    export,
    folder,
    history,
    ledger,
    plan,
    record,
    supervise,
    verify,
    verify_page,
)
from x1.course import check, label, predict, predicted, setting

warnings.filterwarnings("ignore", module="rich")
os.environ.pop("FORCE_COLOR", None)
os.environ["X1_LANG"] = label("language")

# %% [markdown] lang="en"
# ## 1. The plan of a small run
#
# The run of this lab takes seconds: two layers, bytes of a text made of ten words, 60 steps of 128 tokens, and a planted fault at batch 25 (the learning rate a hundred times too high) that its supervisor will have to survive. Everything else is as in the real one: plan, ledger, guard, checkpoints, model.
#
# A plan needs a speed. Use yours: **how many tokens per second** will your CPU train? A network this small spends its time on everything but arithmetic. Write a number, and an interval.

# %% [markdown] lang="es"
# ## 1. El plan de una ejecución pequeña
#
# La ejecución de este laboratorio tarda segundos: dos capas, los bytes de un texto hecho con diez palabras, 60 pasos de 128 tokens y un fallo plantado en el lote 25 (la tasa de aprendizaje, cien veces más alta) al que su supervisor tendrá que sobrevivir. Lo demás es como en la de verdad: plan, libro de gastos, guardián, checkpoints, modelo.
#
# Un plan necesita una velocidad. Usa la tuya: **¿cuántos tokens por segundo** entrenará tu CPU? Una red así de pequeña gasta su tiempo en todo menos en la aritmética. Escribe un número y un intervalo.

# %%
predict("tokens_per_s", value=None, plus_or_minus=None)

# %%
words = ["one", "small", "model", "learns", "the", "words", "of", "a", "tiny", "text"]
draw = random.Random(0)
Path("words.txt").write_text(" ".join(draw.choice(words) for _ in range(6000)))
shape = (
    "model.n_layers=2", "model.n_heads=2", "model.d_model=32", "model.d_ff=48",
    "model.context=16", "optim.warmup_steps=5", "train.batch_sequences=8", "train.steps=60",
    "train.threads=1", "checkpoint.every_steps=10", "checkpoint.keep=4",
    "evaluate.every_steps=10", "evaluate.tokens=400", "sample.milestones=[0, 30]",
    "sample.max_tokens=24", "stability.window=16", 'stability.inject=["lr-x100@25"]',
)  # fmt: skip
chosen = config.build(
    "shakespeare-bytes", settings=shape, data={"source": "text", "files": ["words.txt"]}
)
small_run = Path("small-run")
for old in (small_run, Path("data")):
    shutil.rmtree(old, ignore_errors=True)
data.prepare(chosen, quiet=True)
guess = predicted("tokens_per_s").value
planned = plan.make_plan(chosen, today=date.today(), tokens_per_s=guess)
plan.write_plan(small_run, planned)
print(planned.record["sentence"][label("language")])
print("SHA-256", folder.plan_digest(small_run))

# %% [markdown] lang="en"
# The second line is the seal. For the real run it goes into a public commit now, before anything starts. With one digit of `plan.json` changed it would be another; section 3 tries it.

# %% [markdown] lang="es"
# La segunda línea es el sello. En la ejecución de verdad va ahora a un commit público, antes de que empiece nada. Con una sola cifra cambiada en `plan.json` sería otro; la sección 3 lo prueba.

# %% [markdown] lang="en"
# ## 2. Reasons not to launch
#
# Before a pilot starts the engine there is a list, because whoever wants to fly finds everything in order. `preflight(facts)` returns the `set` of reasons not to launch; the empty set means go. `facts` is a dictionary; this is when each reason does *not* apply:
#
# | reason | is absent only if |
# |---|---|
# | `"disk"` | `free_gb` is at least `needed_gb` |
# | `"price"` | `price_age_days` is from 0 to 14: a price from the future is an error |
# | `"sentence"` | `confirmed_usd`, what a person typed back, is `plan_usd` |
# | `"resume"` | the drill was done and `resume_differs_nats`, the largest difference from a run that was never killed, is exactly 0 |
# | `"spike"` | the drill was done and the detector's `alarm_step` came at the planted `spike_step` or up to 20 steps after it, not before |
# | `"seal"` | `published_sha256` is `plan_sha256` |
# | `"ceiling"` | `spent_usd` + `reserve_usd` is at most `ceiling_usd`, and at most 50, whatever the ceiling says |
# | `"dead-man"` | the same holds for `spent_usd` plus `dead_man_hours`, after which something outside the machine ends it, at `price_usd_per_hour` |
#
# With `own` true the machine is one's own: `"price"` and `"dead-man"` never apply. And the rule above all: **what is not known counts against the launch**. A fact may be missing, None or NaN; then nothing that needs it is in order.

# %% [markdown] lang="es"
# ## 2. Razones para no lanzar
#
# Antes de encender el motor, un piloto recorre una lista, porque a quien quiere volar todo le parece en orden. `preflight(facts)` devuelve el conjunto (`set`) de las razones para no lanzar; el conjunto vacío quiere decir adelante. `facts` es un diccionario; cada razón *falta* en estos casos:
#
# | razón | falta solo si |
# |---|---|
# | `"disk"` | `free_gb` es al menos `needed_gb` |
# | `"price"` | `price_age_days` está entre 0 y 14: un precio del futuro es un error |
# | `"sentence"` | `confirmed_usd`, lo que una persona tecleó, es `plan_usd` |
# | `"resume"` | se hizo el simulacro y `resume_differs_nats`, la mayor diferencia con una ejecución que nunca murió, es exactamente 0 |
# | `"spike"` | se hizo el simulacro y la alarma del detector, `alarm_step`, llegó en el paso plantado, `spike_step`, o hasta 20 pasos después, no antes |
# | `"seal"` | `published_sha256` es `plan_sha256` |
# | `"ceiling"` | `spent_usd` + `reserve_usd` no pasa de `ceiling_usd`, ni de 50, diga lo que diga el tope |
# | `"dead-man"` | lo mismo vale para `spent_usd` más `dead_man_hours`, las horas tras las que algo la apaga desde fuera, a `price_usd_per_hour` |
#
# Si `own` es verdadero, la máquina es propia: `"price"` y `"dead-man"` no se aplican nunca. Y la regla que está por encima de todas: **lo que no se sabe cuenta en contra**. Un dato puede faltar, ser None o ser NaN; entonces nada que lo necesite está en orden.


# %% exercise="preflight"
# exercise: preflight
def preflight(facts):
    # solution
    def fact(name):
        value = facts.get(name)
        return math.nan if value is None else value

    own = facts.get("own") is True
    spent, most = fact("spent_usd"), fact("ceiling_usd")
    by_then = spent + fact("dead_man_hours") * fact("price_usd_per_hour")
    in_order = {
        "disk": fact("free_gb") >= fact("needed_gb"),
        "price": own or 0 <= fact("price_age_days") <= 14,
        "sentence": fact("confirmed_usd") == fact("plan_usd"),
        "resume": fact("resume_differs_nats") == 0,
        "spike": 0 <= fact("alarm_step") - fact("spike_step") <= 20,
        "seal": fact("published_sha256") == fact("plan_sha256"),
        "ceiling": spent + fact("reserve_usd") <= min(most, 50),
        "dead-man": own or by_then <= min(most, 50),
    }
    return {name for name, held in in_order.items() if not held}
    # end solution


# %%
check("preflight")

# %% [markdown] lang="en"
# Your list on what is known of the small run. Its money is fine. But nobody has typed the sentence, no drill was done and no seal is public. For less than a hundredth of a cent we go on all the same; for X1 the set has to be empty, and `x1 rehearse` does both drills.

# %% [markdown] lang="es"
# Tu lista con lo que se sabe de la ejecución pequeña. Su dinero está en orden. Pero nadie ha tecleado la frase, no se hizo ningún simulacro y ningún sello es público. Por menos de una centésima de centavo seguimos adelante igual; para X1 el conjunto tiene que estar vacío, y `x1 rehearse` hace los dos simulacros.

# %%
amounts, sizes = planned.record["money"], planned.record["predictions"]
needed_bytes = sizes["checkpoints_kept"]["value"] * sizes["checkpoint_bytes"]["value"]
facts = {
    "own": True, "spent_usd": 0.0, "reserve_usd": amounts["reserve_usd"],
    "ceiling_usd": amounts["ceiling_usd"], "plan_usd": amounts["plan_usd"],
    "free_gb": shutil.disk_usage(".").free / 1e9, "needed_gb": needed_bytes / 1e9,
    "plan_sha256": folder.plan_digest(small_run),
}  # fmt: skip
print(preflight(facts))

# %% [markdown] lang="en"
# Launched: under its supervisor, with its guard and its ledger. A few seconds, a spike, a roll-back.

# %% [markdown] lang="es"
# Lanzada: bajo su supervisor, con su guardián y su libro de gastos. Unos segundos, un pico, un retroceso.

# %%
assert supervise.supervise(small_run) == 0
evaluate.evaluate(small_run)
export.export(small_run)
print(*sorted(path.name for path in small_run.iterdir()))

# %% [markdown] lang="en"
# ## 3. Does the seal hold?
#
# A prediction proves something only if it came first and is still the same. `seal_holds(config_bytes, plan_bytes, ledger_lines, metric_lines, states)` returns True exactly if all of this is so:
#
# - the plan, which is JSON, has in its `config_sha256` the SHA-256 of the bytes of `config.toml`;
# - the **first** line of the ledger and **every** checkpoint's state have in `plan_sha256` the SHA-256 of the bytes of `plan.json`, in hex;
# - the first line of the ledger (its `time`) is not later than any line of the metrics (its `time` under `clock`). Times are ISO 8601 with an offset, and machines in different places may write different offsets;
# - there is at least one line of the ledger and one checkpoint: where nothing is sealed, nothing holds.
#
# `ledger_lines`, `metric_lines` and `states` are lists of dictionaries; a field may be missing from those that should carry the seal. (A run that climbs its own ladder first has a second seal, that of `prediction.json`, kept in the same places from there on.)

# %% [markdown] lang="es"
# ## 3. ¿Se sostiene el sello?
#
# Una predicción prueba algo solo si vino antes y sigue siendo la misma. `seal_holds(config_bytes, plan_bytes, ledger_lines, metric_lines, states)` devuelve True exactamente cuando se cumple todo esto:
#
# - el plan, que es JSON, tiene en su `config_sha256` el SHA-256 de los bytes de `config.toml`;
# - la **primera** línea del libro de gastos y el estado de **cada** checkpoint tienen en `plan_sha256` el SHA-256 de los bytes de `plan.json`, en hexadecimal;
# - la primera línea del libro de gastos (su `time`) no es posterior a ninguna línea de las métricas (su `time` dentro de `clock`). Las horas son ISO 8601 con desfase, y máquinas en lugares distintos pueden escribir desfases distintos;
# - hay al menos una línea del libro de gastos y un checkpoint: donde no hay nada sellado, nada se sostiene.
#
# `ledger_lines`, `metric_lines` y `states` son listas de diccionarios; en los que deberían llevar el sello puede faltar el campo. (Una ejecución que antes sube su propia escalera tiene un segundo sello, el de `prediction.json`, guardado desde ahí en los mismos lugares.)


# %% exercise="seal_holds"
# exercise: seal_holds
def seal_holds(config_bytes, plan_bytes, ledger_lines, metric_lines, states):
    # solution
    if json.loads(plan_bytes)["config_sha256"] != hashlib.sha256(config_bytes).hexdigest():
        return False
    if not (ledger_lines and states):
        return False
    seal = hashlib.sha256(plan_bytes).hexdigest()
    if any(one.get("plan_sha256") != seal for one in (ledger_lines[0], *states)):
        return False
    opened = datetime.fromisoformat(ledger_lines[0]["time"])
    return all(opened <= datetime.fromisoformat(line["clock"]["time"]) for line in metric_lines)
    # end solution


# %%
check("seal_holds")

# %% [markdown] lang="en"
# On the small run: as it is, and with a prediction that was made a little better after the fact.

# %% [markdown] lang="es"
# Con la ejecución pequeña: tal como está, y con una predicción que se mejoró un poco después.

# %%
entries = ledger.read_entries(small_run)
lines = folder.read_lines(small_run / folder.METRICS)
paths = [checkpoint.path_of(small_run, step) for step in checkpoint.steps(small_run)]
states = [folder.read_json(path / checkpoint.STATE) for path in paths]
config_bytes = (small_run / folder.CONFIG).read_bytes()
plan_bytes = (small_run / folder.PLAN).read_bytes()
said = json.loads(plan_bytes)
said["predictions"]["tokens_per_s"]["value"] *= 0.9
better = folder.json_bytes(said)
for written in (plan_bytes, better):
    print(seal_holds(config_bytes, written, entries, lines, states))

# %% [markdown] lang="en"
# ## 4. The sum of the dollars
#
# `spent_usd(entries)` adds up a ledger and returns the dollars, but only if its lines follow from each other: else it raises `ValueError`. The first line has `"entry": "open"` and the `price_usd_per_hour` in force from there on. Money moves in three kinds of line, each with its `usd` and, after it, the sum so far in `cumulative_usd`. Both are strings such as `"0.000036769"`, because a ledger is no place for binary fractions: read them with `Decimal`.
#
# - `charge` and `gap` charge `seconds` (never below zero) at the price in force; their `price_usd_per_hour` has to be that price.
# - `price` puts another `price_usd_per_hour` in force. Nobody knows when the price rose, so the rise is charged for all seconds since the price was last read (in the line `open` or `price`). A fall gives nothing back: `usd` is 0.
# - `carry` brings in what was spent elsewhere under the same ceiling, `usd`, never below zero.
#
# A `usd` is right within two billionths of a dollar, since each is rounded up to a billionth; a `cumulative_usd` is right only to the last digit. All other lines, such as `reserve` and `close`, move nothing.

# %% [markdown] lang="es"
# ## 4. La suma de los dólares
#
# `spent_usd(entries)` suma un libro de gastos y devuelve los dólares, pero solo si sus líneas se siguen unas de otras: si no, lanza `ValueError`. La primera línea tiene `"entry": "open"` y el `price_usd_per_hour` vigente desde ahí. El dinero se mueve en tres clases de línea, cada una con su `usd` y, después de ella, la suma hasta ahí en `cumulative_usd`. Las dos son cadenas como `"0.000036769"`, porque un libro de gastos no es lugar para fracciones binarias: léelas con `Decimal`.
#
# - `charge` y `gap` cobran `seconds` (nunca menos de cero) al precio vigente; su `price_usd_per_hour` tiene que ser ese precio.
# - `price` pone en vigor otro `price_usd_per_hour`. Nadie sabe cuándo subió el precio, así que la subida se cobra por todos los segundos desde que se leyó por última vez (en la línea `open` o `price`). Una bajada no devuelve nada: `usd` es 0.
# - `carry` trae lo que se gastó en otra parte bajo el mismo tope, `usd`, nunca menos de cero.
#
# Un `usd` está bien si difiere en dos milmillonésimas de dólar como mucho, porque cada uno se redondea hacia arriba a la milmillonésima; un `cumulative_usd`, solo si coincide hasta la última cifra. Las demás líneas, como `reserve` y `close`, no mueven nada.


# %% exercise="spent_usd"
# exercise: spent_usd
def spent_usd(entries):
    # solution
    spent, price, unread_s = Decimal(0), entries[0]["price_usd_per_hour"], 0.0
    for entry in entries:
        if entry["entry"] in ("charge", "gap"):
            if entry["price_usd_per_hour"] != price or entry["seconds"] < 0:
                raise ValueError(entry)
            unread_s += entry["seconds"]
            implied = entry["seconds"] * price / 3600
        elif entry["entry"] == "price":
            implied = max(unread_s * (entry["price_usd_per_hour"] - price) / 3600, 0)
            price, unread_s = entry["price_usd_per_hour"], 0.0
        elif entry["entry"] == "carry":
            implied = max(float(entry["usd"]), 0)
        else:
            continue
        spent += Decimal(entry["usd"])
        if abs(float(entry["usd"]) - implied) > 2e-9 or Decimal(entry["cumulative_usd"]) != spent:
            raise ValueError(entry)
    return spent
    # end solution


# %%
check("spent_usd")

# %% [markdown] lang="en"
# The small run's ledger, summed by you and by the package. Then the same lines with one charge made a millionth of a dollar cheaper, its own sum adjusted with it: where does it no longer add up?

# %% [markdown] lang="es"
# El libro de gastos de la ejecución pequeña, sumado por ti y por el paquete. Después, las mismas líneas con un cargo una millonésima de dólar más barato y su propia suma ajustada: ¿dónde deja de cuadrar?

# %%
print(spent_usd(entries), ledger.read_ledger(small_run).spent_usd)
cheaper = [dict(entry) for entry in entries]
charge = max((entry for entry in cheaper if entry["entry"] == "charge"), key=lambda e: e["seconds"])
for field in ("usd", "cumulative_usd"):
    charge[field] = str(Decimal(charge[field]) - Decimal("0.000001"))
try:
    print(spent_usd(cheaper))
except ValueError:
    print("ValueError")

# %% [markdown] lang="en"
# ## 5. The curve of a run that fell
#
# `metrics.jsonl` only ever grows. After a kill or a roll-back the run goes back to an earlier step and lives the following ones again, under the next `attempt`; what it had written before stays in the file. `curve(lines)` takes the lines as they were written and returns two things:
#
# - the curve: a list of `(step, loss)` by step, where each step has the line of its **last** attempt, up to where the run stands, that is, up to the step of the newest line. What an earlier attempt had reached beyond that is not yet lived again, and no part of the curve;
# - the seconds (`seconds` under `clock`) that went into lines that are *not* on the curve: what the falls cost.
#
# Lines with `val_loss` in place of `loss` are evaluations: leave them out of both. There is at least one training line.

# %% [markdown] lang="es"
# ## 5. La curva de una ejecución que cayó
#
# `metrics.jsonl` solo crece. Después de una muerte o de un retroceso, la ejecución vuelve a un paso anterior y vive los siguientes otra vez, con el `attempt` siguiente; lo que ya había escrito se queda en el archivo. `curve(lines)` recibe las líneas tal como se escribieron y devuelve dos cosas:
#
# - la curva: una lista de `(step, loss)` por orden de paso, donde cada paso lleva la línea de su **último** intento, hasta donde está la ejecución, es decir, hasta el paso de la línea más nueva. Lo que un intento anterior alcanzó más allá aún no se ha vivido otra vez y no es parte de la curva;
# - los segundos (`seconds` dentro de `clock`) que se fueron en líneas que *no* están en la curva: lo que costaron las caídas.
#
# Las líneas con `val_loss` en vez de `loss` son evaluaciones: déjalas fuera de las dos cosas. Hay al menos una línea de entrenamiento.


# %% exercise="curve"
# exercise: curve
def curve(lines):
    # solution
    trained = [line for line in lines if "loss" in line]
    last = {line["step"]: line for line in trained}
    kept = [line for step, line in last.items() if step <= trained[-1]["step"]]
    all_s = sum(line["clock"]["seconds"] for line in trained)
    kept_s = sum(line["clock"]["seconds"] for line in kept)
    return [(line["step"], line["loss"]) for line in kept], all_s - kept_s
    # end solution


# %%
check("curve")

# %% [markdown] lang="en"
# The small run: your curve over everything that was written. The planted fault is what the curve no longer shows and the ledger still does.

# %% [markdown] lang="es"
# La ejecución pequeña: tu curva sobre todo lo que se escribió. El fallo plantado es lo que la curva ya no muestra y el libro de gastos sí.

# %%
points, lost_s = curve(lines)
written = [(line["step"], line["loss"]) for line in lines if "loss" in line]
plt.plot(*zip(*written, strict=True), ".", color="grey", alpha=0.5)
plt.plot(*zip(*points, strict=True))
plt.xlabel(label("step"))
plt.ylabel(f"{label('loss')} (nats)")
print(f"{len(points)} / {len(written)}, {lost_s:.2f} s")

# %% [markdown] lang="en"
# ## 6. The verdict
#
# `hold_against(predictions, measured)` holds each prediction against what came out. `predictions` maps a name to a dictionary with `value`, `low` and `high`, all None where nothing could be predicted; `measured` maps names to numbers. It returns a dictionary with **every** predicted name:
#
# - `None` if there is nothing to judge: no prediction, or no measurement (missing or NaN). A prediction that nobody could check is not one that held, and it is not left out either;
# - else a pair `(inside, miss)`. `inside` says whether the measurement lies in the interval, its ends included. `miss` is signed, in half-widths of the side it fell on: 0 at the value, 1 at `high`, −1 at `low`, whether or not `value` lies in the middle. Where that side has no width, any miss is infinite.

# %% [markdown] lang="es"
# ## 6. El veredicto
#
# `hold_against(predictions, measured)` contrasta cada predicción con lo que salió. `predictions` lleva de un nombre a un diccionario con `value`, `low` y `high`, los tres None donde no se pudo predecir nada; `measured` lleva de nombres a números. Devuelve un diccionario con **todos** los nombres predichos:
#
# - `None` si no hay nada que juzgar: ni predicción, ni medición (falta o es NaN). Una predicción que nadie pudo comprobar no es una que acertó, y tampoco se omite;
# - si no, un par `(inside, miss)`. `inside` dice si la medición cae en el intervalo, extremos incluidos. `miss` tiene signo y se mide en medios anchos del lado en que cayó: 0 en el valor, 1 en `high`, −1 en `low`, esté o no `value` en el medio. Donde ese lado no tiene ancho, cualquier error es infinito.


# %% exercise="hold_against"
# exercise: hold_against
def hold_against(predictions, measured):
    # solution
    verdicts = {}
    for name, said in predictions.items():
        found = measured.get(name, math.nan)
        if said["value"] is None or math.isnan(found):
            verdicts[name] = None
            continue
        off = found - said["value"]
        width = abs((said["high"] if off > 0 else said["low"]) - said["value"])
        miss = off / width if width else math.copysign(math.inf, off) if off else 0.0
        verdicts[name] = said["low"] <= found <= said["high"], miss
    return verdicts
    # end solution


# %%
check("hold_against")

# %% [markdown] lang="en"
# What the plan said of the small run, made from your guess of the speed, against what came out.

# %% [markdown] lang="es"
# Lo que el plan dijo de la ejecución pequeña, a partir de la velocidad que supusiste, contra lo que salió.


# %%
def print_verdicts(run):
    predictions = folder.read_json(run / folder.PLAN)["predictions"]
    measured = record.results(record.read(run))
    for name, verdict in hold_against(predictions, measured).items():
        shown = "–" if verdict is None else f"{'✓' if verdict[0] else '✗'} {verdict[1]:+.1f}"
        said = predictions[name]["value"]
        value = "–" if said is None else f"{said:.5g}"
        print(f"{name:20} {value:>12} {measured.get(name, math.nan):>12.5g}  {shown}")


print_verdicts(small_run)

# %% [markdown] lang="en"
# ## 7. What the miss was made of
#
# The bill was not what you planned. Was it the hours or the price? `dollars_miss(planned, paid)` takes two dictionaries with `hours`, `usd_per_hour` and `other_usd` (the bill is hours × price + other) and returns one with `"hours"`, `"price"` and `"other"`: the dollars by which each of them made the bill dearer, negative where cheaper. The three add up to the whole miss.
#
# The catch is what hours and price do together: four extra hours, each a dollar dearer than planned, are four dollars that belong to neither alone. Give each of the two half. Then the story can be told backwards, from the bill to the plan, and every part only changes its sign. With “the extra hours at the planned price, the rest is the price” it cannot.

# %% [markdown] lang="es"
# ## 7. De qué estuvo hecho el error
#
# La factura no fue la que planeaste. ¿Fueron las horas o el precio? `dollars_miss(planned, paid)` toma dos diccionarios con `hours`, `usd_per_hour` y `other_usd` (la factura es horas × precio + lo demás) y devuelve uno con `"hours"`, `"price"` y `"other"`: los dólares en que cada cosa encareció la factura, negativos si la abarató. Los tres suman el error entero.
#
# Lo delicado es lo que hacen juntos las horas y el precio: cuatro horas de más, cada una un dólar más cara de lo planeado, son cuatro dólares que no son solo de las unas ni solo del otro. Dale la mitad a cada uno. Así la historia se puede contar hacia atrás, de la factura al plan, y cada parte solo cambia de signo. Con «las horas de más al precio planeado, y el resto es el precio» no se puede.


# %% exercise="dollars_miss"
# exercise: dollars_miss
def dollars_miss(planned, paid):
    # solution
    hours = paid["hours"] - planned["hours"]
    price = paid["usd_per_hour"] - planned["usd_per_hour"]
    return {
        "hours": hours * (planned["usd_per_hour"] + paid["usd_per_hour"]) / 2,
        "price": price * (planned["hours"] + paid["hours"]) / 2,
        "other": paid["other_usd"] - planned["other_usd"],
    }
    # end solution


# %%
check("dollars_miss")

# %% [markdown] lang="en"
# X1 as planned, and a night in which the rented card was slower and the price rose.

# %% [markdown] lang="es"
# X1 según el plan, y una noche en que la tarjeta alquilada fue más lenta y el precio subió.

# %%
x1_planned = {"hours": 7.02, "usd_per_hour": 1.39, "other_usd": 1.12}
x1_paid = {"hours": 9.5, "usd_per_hour": 1.89, "other_usd": 1.12}
for name, usd in dollars_miss(x1_planned, x1_paid).items():
    print(f"{name:6} {usd:+.2f} $")

# %% [markdown] lang="en"
# ## 8. A window lived again
#
# The strongest check of `x1 verify` draws steps at random, loads the checkpoint before them and trains them again. Here on the small run, on the machine that made it: the same code, the same data, the same threads. **By how many nats** does the farthest of these losses differ from the one on record? (Rounding errors are about a ten-millionth of a value in fp32.)

# %% [markdown] lang="es"
# ## 8. Una ventana vivida otra vez
#
# La comprobación más fuerte de `x1 verify` sortea pasos, carga el checkpoint anterior y los entrena otra vez. Aquí, con la ejecución pequeña, en la máquina que la hizo: el mismo código, los mismos datos, los mismos hilos. **¿En cuántos nats** difiere de la registrada la pérdida que más se aparta? (En fp32, los errores de redondeo rondan la diezmillonésima parte de un valor.)

# %%
predict("window_nats", value=None, plus_or_minus=None)

# %%
expected = predicted("window_nats")
print(label("predicted"), expected.value, "±", expected.plus_or_minus, "nats")
for begin in (0, *checkpoint.steps(small_run)[: setting(3, small=1)]):
    moment = history.find(small_run, begin + 8)
    logged = history.way_to(moment)
    again = verify.live_again(moment).losses
    worst = max(abs(loss - logged[step]["loss"]) for step, loss in again.items())
    print(f"{label('step')} {min(again)}–{max(again)}  {label('measured')} {worst} nats")

# %% [markdown] lang="en"
# ## 9. Seven forgeries
#
# Now be the forger. Seven copies of your run, each with one edit:
#
# | copy | edit |
# |---|---|
# | `curve` | every training loss lower by a thousandth of itself |
# | `last_loss` | the last held-out loss of the curve lower by 0.01 nats |
# | `evaluation` | the held-out loss of `evaluation.json` lower by 0.01 nats |
# | `prediction` | the predicted speed in `plan.json` replaced by the measured one |
# | `dollars` | every charge in `ledger.jsonl` halved, all sums adjusted |
# | `weights` | the published weights replaced by slightly different ones |
# | `sample` | the text that the model wrote replaced by a better one |
#
# **How many of the seven** does `x1 verify` refute?

# %% [markdown] lang="es"
# ## 9. Siete falsificaciones
#
# Ahora te toca falsificar. Siete copias de tu ejecución, cada una con un solo cambio:
#
# | copia | cambio |
# |---|---|
# | `curve` | cada pérdida de entrenamiento, una milésima más baja |
# | `last_loss` | la última pérdida de validación de la curva, 0.01 nats más baja |
# | `evaluation` | la pérdida de validación de `evaluation.json`, 0.01 nats más baja |
# | `prediction` | la velocidad predicha en `plan.json`, cambiada por la medida |
# | `dollars` | cada cargo de `ledger.jsonl`, a la mitad, con todas las sumas ajustadas |
# | `weights` | los pesos publicados, cambiados por otros un poco distintos |
# | `sample` | el texto que escribió el modelo, cambiado por otro mejor |
#
# **¿Cuántas de las siete** refuta `x1 verify`?

# %%
predict("refuted", value=None, plus_or_minus=None)


# %%
def rewrite(path, change):
    edited = [change(dict(line)) for line in folder.read_lines(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in edited))


def forge_curve(run):
    def change(line):
        return line | {"loss": line["loss"] * 0.999} if "loss" in line else line

    rewrite(run / folder.METRICS, change)


def forge_last_loss(run):
    def change(line):
        last = "val_loss" in line and line["step"] == chosen.train.steps
        return line | {"val_loss": line["val_loss"] - 0.01} if last else line

    rewrite(run / folder.METRICS, change)


def forge_evaluation(run):
    evaluation = folder.read_json(run / folder.EVALUATION)
    evaluation["held_out"]["loss_nats_per_token"] -= 0.01
    folder.write_json(run / folder.EVALUATION, evaluation)


def forge_prediction(run):
    made = folder.read_json(run / folder.PLAN)
    made["predictions"]["tokens_per_s"]["value"] = record.results(record.read(run))["tokens_per_s"]
    folder.write_json(run / folder.PLAN, made)


def forge_dollars(run):
    def change(line):
        half = {name: str(Decimal(line[name]) / 2) for name in line if name.endswith("usd")}
        return line | half if line["entry"] == "charge" else line

    rewrite(run / folder.LEDGER, change)


def forge_weights(run):
    from safetensors.torch import load_file, save_file

    path = run / folder.MODEL / "model.safetensors"
    sealed = verify.shipped_metadata(run)
    weights = {name: tensor + 1e-3 for name, tensor in load_file(path).items()}
    save_file(weights, path, sealed)


def forge_sample(run):
    def change(line):
        return line | {"text": " ".join(words)}

    rewrite(run / folder.SAMPLES, change)


forgeries = {
    "curve": forge_curve, "last_loss": forge_last_loss, "evaluation": forge_evaluation,
    "prediction": forge_prediction, "dollars": forge_dollars, "weights": forge_weights,
    "sample": forge_sample,
}  # fmt: skip

# %%
expected = predicted("refuted")
refuted = 0
for name, forge in forgeries.items():
    copy = Path("forged") / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(small_run, copy)
    forge(copy)
    result = verify.verify(copy, window=setting(8, small=3))
    refuted += result["level"] == "refuted"
    print(f"{name:12} {result['level']}")
    for finding in result["findings"]:
        if finding["verdict"] == "refuted":
            print(f"{'':12} {finding['text']}")
print(label("predicted"), expected.value, "±", expected.plus_or_minus)
print(label("measured"), refuted)

# %% [markdown] lang="en"
# Look at the one that passes, and at what it has in common with the forgeries that are not in the table: to train ten runs and show the best; to write the plan after the run and make every seal, checkpoint and line of the ledger anew. A folder can prove that its parts belong together. It cannot prove *when* it was made. Only a date that you do not control can: the seal in a public commit, before the launch.

# %% [markdown] lang="es"
# Fíjate en la que pasa, y en lo que tiene en común con las falsificaciones que no están en la tabla: entrenar diez ejecuciones y enseñar la mejor; escribir el plan después de la ejecución y rehacer cada sello, cada checkpoint y cada línea del libro de gastos. Una carpeta puede probar que sus partes van juntas. No puede probar *cuándo* se hizo. Eso solo lo puede una fecha que no dependa de ti: el sello en un commit público, antes del lanzamiento.

# %% [markdown] lang="en"
# ## 10. Your run
#
# In place of `None`, name the folder of your own run as seen from the top of the repository, `"runs/NAME"`: the one that `x1 rehearse` printed, or that of the X1 run once it has come back. As long as there is none, the next cell takes the small one.

# %% [markdown] lang="es"
# ## 10. Tu ejecución
#
# En lugar de `None`, pon la carpeta de tu propia ejecución vista desde la raíz del repositorio, `"runs/NAME"`: la que imprimió `x1 rehearse`, o la de la ejecución X1 cuando haya vuelto. Mientras no haya ninguna, la celda siguiente toma la pequeña.

# %%
own_run = None

# %%
if own_run is None:
    print(label("no_run"))
with chdir(Path.cwd() if own_run is None else Path.cwd().parents[1]):
    shown_run = Path(own_run or small_run)
    verify_page.run_verify_command(shown_run, setting(20, small=5), None, as_json=False)
    print_verdicts(shown_run)

# %% [markdown] lang="en"
# ## For the portfolio
#
# `x1 report RUN --as portfolio` writes the page; three things make it yours:
#
# 1. The seal of your plan and where it was public before the launch: a link with a date.
# 2. What `x1 verify` says of the folder, **Done** or **Rehearsed**, in that word. A rehearsal is worth showing, and is called one.
# 3. The verdicts: every prediction with its interval and its miss, and for the dollars what the miss was made of. Write one sentence about the worst one. It is what they will ask you about.
#
# [HIRING_PATH.md](../../HIRING_PATH.md) says which sentence you may now say, what they ask after it, and where it ends.

# %% [markdown] lang="es"
# ## Para el portafolio
#
# `x1 report RUN --as portfolio` escribe la página; tres cosas la hacen tuya:
#
# 1. El sello de tu plan y dónde era público antes del lanzamiento: un enlace con fecha.
# 2. Lo que dice `x1 verify` de la carpeta, **Hecha** o **Ensayada**, con esa palabra. Un ensayo merece enseñarse, y se le llama ensayo.
# 3. Los veredictos: cada predicción con su intervalo y su error, y en los dólares, de qué estuvo hecho. Escribe una frase sobre el peor. Es por lo que te van a preguntar.
#
# [HIRING_PATH.es.md](../../HIRING_PATH.es.md) dice qué frase puedes decir ahora, qué te preguntan después y dónde termina.
