# %% [markdown] lang="en"
# X1's brief plans 24 hours on an A100 for 46.9M parameters and 5B tokens, and its dollars follow from the hours. In this lab you write the functions that would have caught it: what a token costs, what share of a card a run uses, what must fit in memory, what it costs in hours, kilowatt-hours and dollars. With them you audit reports you have not seen, choose among offers, and write the sentence without which X1 launches nothing.
#
# The chapter derives what you need. Every function is graded on cases drawn at grading time: `check("mfu")` below an exercise, or `x1 grade 2` in a terminal. `x1 hint 2 mfu` gives a hint, and then a plainer one.

# %% [markdown] lang="es"
# El encargo de X1 planea 24 horas de una A100 para 46.9M de parámetros y 5B de tokens, y sus dólares salen de esas horas. En este laboratorio escribes las funciones que lo habrían detectado: cuánto cuesta un token, qué parte de una tarjeta aprovecha una ejecución, qué tiene que caber en memoria y cuánto sale todo en horas, kilovatios hora y dólares. Con ellas auditas informes que no has visto, eliges entre ofertas y escribes la frase sin la que X1 no lanza nada.
#
# Lo que necesitas se deduce en el capítulo. Cada función se califica con casos sorteados en el momento: `check("mfu")` debajo de un ejercicio, o `x1 grade 2` en una terminal. `x1 hint 2 mfu` da una pista, y después otra más clara.

# %%
import math
from datetime import date

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from x1 import calibrate, cases, config, flops, money, plan
from x1.course import check, label, predict, predicted, setting
from x1.model import Transformer

x1 = config.build("x1-50m")

# %% [markdown] lang="en"
# ## Write a number down
#
# How many hours does an A100 (312 TFLOP/s in bf16) need for X1's 5B tokens, at the MFU of 0.40 that the brief expects? Put your number and an interval in place of the two `None`. It may be wrong and is never graded for being right, but the cell that computes the answer asks for it first.

# %% [markdown] lang="es"
# ## Escribe un número
#
# ¿Cuántas horas necesita una A100 (312 TFLOP/s en bf16) para los 5B de tokens de X1, con la MFU de 0.40 que espera el encargo? Pon tu número y un intervalo en lugar de los dos `None`. Puede estar mal, y nunca se califica si acierta, pero la celda que calcula la respuesta lo pide antes.

# %%
predict("x1_hours", value=None, plus_or_minus=None)

# %% [markdown] lang="en"
# ## What a token costs
#
# `flops_per_token(model, causal)` returns the FLOPs of *training* on one token, forward and backward, averaged over a full context. `model` has `vocab_size`, `n_layers`, `d_model`, `d_ff` (SwiGLU's hidden width), `context` and `tied`; there are no biases. Count the matrix products only: not norms, not look-ups. With `causal` a position meets itself and the ones before it; without, all of the context.

# %% [markdown] lang="es"
# ## Lo que cuesta un token
#
# `flops_per_token(model, causal)` devuelve los FLOPs de *entrenar* con un token, hacia delante y hacia atrás, en promedio sobre un contexto completo. `model` tiene `vocab_size`, `n_layers`, `d_model`, `d_ff` (el ancho interior de SwiGLU), `context` y `tied`; no hay sesgos. Cuenta solo los productos de matrices: ni normas ni búsquedas en tablas. Con `causal`, una posición ve la suya y las anteriores; sin él, todo el contexto.


# %% exercise="flops_per_token"
# exercise: flops_per_token
def flops_per_token(model, causal):
    # solution
    d = model.d_model
    keys = (model.context + 1) / 2 if causal else model.context
    projections = 4 * 2 * d * d
    mlp = 3 * 2 * d * model.d_ff
    attention = 2 * 2 * d * keys
    head = 2 * d * model.vocab_size
    return 3 * (model.n_layers * (projections + mlp + attention) + head)
    # end solution


# %%
check("flops_per_token")

# %% [markdown] lang="en"
# ## Hold it against torch
#
# torch can count the FLOPs of what it runs: `FlopCounterMode`. Write `counted_flops(step)`: it calls the function `step()` once and returns how many FLOPs torch counted. One trap: on a CPU the fused kernel of `scaled_dot_product_attention` is unknown to the counter, which gives it zero. Find the context manager that makes torch use another implementation.

# %% [markdown] lang="es"
# ## Compáralo con torch
#
# torch sabe contar los FLOPs de lo que ejecuta: `FlopCounterMode`. Escribe `counted_flops(step)`: llama una vez a la función `step()` y devuelve cuántos FLOPs contó torch. Hay una trampa: en una CPU, el contador no conoce el kernel fusionado de `scaled_dot_product_attention` y le da cero. Busca el gestor de contexto que hace que torch use otra implementación.


# %% exercise="counted_flops"
# exercise: counted_flops
def counted_flops(step):
    # solution
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
    # end solution


# %%
check("counted_flops")

# %% [markdown] lang="en"
# Now both of your functions on X1 itself. The device `meta` has shapes and no numbers, so the whole model is counted in a moment. The four lines: torch's count per token, yours with full and with causal attention, and 6N.

# %% [markdown] lang="es"
# Ahora, tus dos funciones con el propio X1. El dispositivo `meta` tiene formas y no números, así que el modelo entero se cuenta en un momento. Las cuatro líneas: lo que cuenta torch por token, lo tuyo con atención completa y con atención causal, y 6N.

# %%
with torch.device("meta"):
    network = Transformer(x1.model)
    ids = torch.zeros(1, x1.model.context, dtype=torch.long)


def one_step():
    F.cross_entropy(network(ids).flatten(0, 1), ids.flatten()).backward()


counts = {
    "torch": counted_flops(one_step) / x1.model.context,
    label("full"): flops_per_token(x1.model, causal=False),
    label("causal"): flops_per_token(x1.model, causal=True),
    "6N": 6 * flops.parameters(x1.model),
}
for name, count in counts.items():
    print(f"{name:8}  {count / 1e6:.2f} MFLOP")

# %% [markdown] lang="en"
# ## The hours
#
# First your number, then what follows from the shape, the tokens and the peak at three MFUs; the middle one is the one you were asked for.

# %% [markdown] lang="es"
# ## Las horas
#
# Primero tu número; después, lo que resulta de la forma, los tokens y el pico con tres MFU. La del medio es la que se te pedía.

# %%
guess = predicted("x1_hours")
peak = flops.gpu("a100-80gb").peak_flops_per_s("bf16")
per_token = flops.token_flops(x1.model).total
print(label("predicted"), guess.value, "±", guess.plus_or_minus)
for share in (0.35, 0.40, 0.45):
    hours = 5e9 * per_token / (share * peak) / 3600
    print(f"MFU {share:.2f}  {hours:.2f} h  {24 / hours:.1f}×")

# %% [markdown] lang="en"
# ## MFU and HFU
#
# `mfu(tokens_per_s, forward_flops, head_flops, peak_flops_per_s, gpus, recompute)` returns a pair: the MFU and the HFU. `tokens_per_s` is that of all `gpus` together, `peak_flops_per_s` that of one. `forward_flops` is the forward pass of one token, of which `head_flops` is the head. With `recompute` the blocks, but not the head, are run forward a second time.

# %% [markdown] lang="es"
# ## MFU y HFU
#
# `mfu(tokens_per_s, forward_flops, head_flops, peak_flops_per_s, gpus, recompute)` devuelve un par: la MFU y la HFU. `tokens_per_s` es la velocidad de todas las `gpus` juntas, y `peak_flops_per_s`, el pico de una. `forward_flops` es la pasada hacia delante de un token, de la que `head_flops` es la cabeza. Con `recompute`, los bloques, pero no la cabeza, se recorren hacia delante una segunda vez.


# %% exercise="mfu"
# exercise: mfu
def mfu(tokens_per_s, forward_flops, head_flops, peak_flops_per_s, gpus, recompute):
    # solution
    needed = 3 * forward_flops
    executed = needed + (forward_flops - head_flops if recompute else 0)
    rate = tokens_per_s / (gpus * peak_flops_per_s)
    return rate * needed, rate * executed
    # end solution


# %%
check("mfu")

# %% [markdown] lang="en"
# ## Your machine
#
# What share of your CPU's fastest matrix product does a real training step of the small `rehearsal` model reach? Write it down, as a fraction.

# %% [markdown] lang="es"
# ## Tu máquina
#
# ¿Qué parte del producto de matrices más rápido de tu CPU alcanza un paso real de entrenamiento del modelo pequeño `rehearsal`? Escríbela, como fracción.

# %%
predict("own_mfu", value=None, plus_or_minus=None)

# %% [markdown] lang="en"
# The measurement takes about ten seconds. The last line is how long X1's 5B tokens would take here if the large model reached the same share. The chapter shows why that "if" is not free.

# %% [markdown] lang="es"
# La medición tarda unos diez segundos. La última línea es lo que tardarían aquí los 5B de tokens de X1 si el modelo grande alcanzara la misma fracción. El capítulo muestra por qué ese «si» no sale gratis.

# %%
guess = predicted("own_mfu")
small_run = config.build("rehearsal", settings=(f"train.batch_sequences={setting(32, small=8)}",))
ceiling = flops.measured_matmul_ceiling(seconds=setting(2.0, small=0.3)).flops_per_s
rate = calibrate.tokens_per_s(small_run)
share = flops.mfu(rate, flops.token_flops(small_run.model).total, ceiling)
hours = 5e9 * per_token / (share * ceiling) / 3600
print(label("predicted"), guess.value, "±", guess.plus_or_minus)
print(label("measured"), f"{share:.3f}  ({rate:,.0f} tokens/s, {ceiling / 1e9:.0f} GFLOP/s)")
print(f"{hours:,.0f} h")

# %% [markdown] lang="en"
# ## What must fit
#
# `memory_bytes(n_muon, n_adamw, micro_tokens, vocab_size)` returns the bytes that a training step cannot do without, not counting the activations that the blocks keep:
#
# - weights and gradients in fp32 for all `n_muon + n_adamw` parameters;
# - the optimizer's moments in fp32, one for each parameter that Muon moves and two for each that AdamW moves;
# - the loss at its peak, in fp32: four tables of `micro_tokens` × `vocab_size` (logits, log-softmax, and a gradient of each).
#
# The grader measures all of it in torch.

# %% [markdown] lang="es"
# ## Lo que tiene que caber
#
# `memory_bytes(n_muon, n_adamw, micro_tokens, vocab_size)` devuelve los bytes que un paso de entrenamiento necesita como mínimo, sin contar las activaciones que guardan los bloques:
#
# - pesos y gradientes en fp32 de todos los `n_muon + n_adamw` parámetros;
# - los momentos del optimizador en fp32: uno por cada parámetro que mueve Muon y dos por cada uno que mueve AdamW;
# - la pérdida en su punto máximo, en fp32: cuatro tablas de `micro_tokens` × `vocab_size` (logits, log-softmax y un gradiente de cada una).
#
# El calificador mide todo eso en torch.


# %% exercise="memory_bytes"
# exercise: memory_bytes
def memory_bytes(n_muon, n_adamw, micro_tokens, vocab_size):
    # solution
    weights_and_gradients = 2 * 4 * (n_muon + n_adamw)
    moments = 4 * n_muon + 2 * 4 * n_adamw
    tables = 4 * 4 * micro_tokens * vocab_size
    return weights_and_gradients + moments + tables
    # end solution


# %%
check("memory_bytes")

# %% [markdown] lang="en"
# X1 with 64 sequences of 1,024 at a time: first what the state takes in GB, then all of your function. Which of the two would you try to shrink?

# %% [markdown] lang="es"
# X1 con 64 secuencias de 1,024 a la vez: primero lo que ocupa el estado, en GB, y después todo lo de tu función. ¿Cuál de los dos intentarías reducir?

# %%
groups = flops.parameter_groups(x1.model)
rest = groups.total - groups.matrices
print(f"{memory_bytes(groups.matrices, rest, 0, x1.model.vocab_size) / 1e9:.2f} GB")
print(f"{memory_bytes(groups.matrices, rest, 64 * 1024, x1.model.vocab_size) / 1e9:.2f} GB")

# %% [markdown] lang="en"
# ## Hours, kilowatt-hours, dollars
#
# `run_cost(tokens, tokens_per_s, gpus, watts, usd_per_gpu_hour, tariff_usd_per_kwh)` returns `(hours, kwh, usd)`. `tokens_per_s` is that of all GPUs together; `watts` and `usd_per_gpu_hour` are those of one. A rented machine has its electricity in the price. Your own has `usd_per_gpu_hour=None` and costs its electricity. Energy is drawn in both cases.

# %% [markdown] lang="es"
# ## Horas, kilovatios hora, dólares
#
# `run_cost(tokens, tokens_per_s, gpus, watts, usd_per_gpu_hour, tariff_usd_per_kwh)` devuelve `(hours, kwh, usd)`. `tokens_per_s` es la velocidad de todas las GPU juntas; `watts` y `usd_per_gpu_hour` son los de una. En una máquina alquilada, la electricidad va en el precio. La tuya tiene `usd_per_gpu_hour=None` y cuesta su electricidad. En los dos casos se gasta energía.


# %% exercise="run_cost"
# exercise: run_cost
def run_cost(tokens, tokens_per_s, gpus, watts, usd_per_gpu_hour, tariff_usd_per_kwh):
    # solution
    hours = tokens / tokens_per_s / 3600
    kwh = hours * gpus * watts / 1000
    if usd_per_gpu_hour is None:
        return hours, kwh, kwh * tariff_usd_per_kwh
    return hours, kwh, hours * gpus * usd_per_gpu_hour
    # end solution


# %%
check("run_cost")

# %% [markdown] lang="en"
# ## What a point of loss costs
#
# `cost_per_loss_point(first_loss, phases)`: `phases` is a list of `(usd, loss_after)`, in order; `first_loss` is the loss before the first. Return a list with the dollars per nat of each phase, counted from where that phase began. A phase that did not lower the loss has no price: `None`.

# %% [markdown] lang="es"
# ## Lo que cuesta un punto de pérdida
#
# `cost_per_loss_point(first_loss, phases)`: `phases` es una lista de `(usd, loss_after)`, en orden; `first_loss` es la pérdida antes de la primera. Devuelve una lista con los dólares por nat de cada fase, contados desde donde empezó esa fase. Una fase que no bajó la pérdida no tiene precio: `None`.


# %% exercise="cost_per_loss_point"
# exercise: cost_per_loss_point
def cost_per_loss_point(first_loss, phases):
    # solution
    prices, before = [], first_loss
    for usd, after in phases:
        prices.append(usd / (before - after) if after < before else None)
        before = after
    return prices
    # end solution


# %%
check("cost_per_loss_point")

# %% [markdown] lang="en"
# GPUburnout's phases 2, 3 and 4, from step 200 and then from step 1. The same dollars, the same model: the first price falls to less than half, because the first fall of the loss is the cheap one.

# %% [markdown] lang="es"
# Las fases 2, 3 y 4 de GPUburnout, desde el paso 200 y después desde el paso 1. Los mismos dólares, el mismo modelo: el primer precio cae a menos de la mitad, porque la primera bajada de la pérdida es la barata.

# %%
burnout = [(22, 2.907), (94, 2.573), (44, 2.494)]
for first_loss in (6.41, 10.63):
    print("  ".join(f"${price:.2f}" for price in cost_per_loss_point(first_loss, burnout)))

# %% [markdown] lang="en"
# ## Audit a report
#
# A report is a dictionary of what it states; any of these may be missing. Its claims are the stated quantities that have a rule:
#
# | quantity | rule |
# |---|---|
# | `tokens` | `steps` × `tokens_per_step` |
# | `tokens_per_s` | `mfu` × `peak_flops_per_s` / `flops_per_token` |
# | `hours` | `tokens` / `tokens_per_s`, in hours |
# | `dollars` | `hours` × `price_usd_per_hour` |
# | `kwh` | `hours` × `watts`, in kWh |
# | `mfu` | `tokens_per_s` × `flops_per_token` / `peak_flops_per_s` |
# | `usd_per_loss_point` | `dollars` / (`loss_before_nats` − `loss_after_nats`) |
#
# `audit(report)` returns a dictionary from each claim to its verdict. What a rule needs is read from the report; if it is not stated, it is derived by its own rule, and so on. A claim is never computed from itself, not even by a detour. The verdicts: `"follows"` if the stated value is within 5% of the implied one, `"does_not_follow"` if not, `"cannot_be_computed"` if something is missing. Every stated number is above zero, and the loss fell.

# %% [markdown] lang="es"
# ## Audita un informe
#
# Un informe es un diccionario con lo que dice; puede faltar cualquiera de estas cosas. Sus afirmaciones son las magnitudes que da y que tienen regla:
#
# | magnitud | regla |
# |---|---|
# | `tokens` | `steps` × `tokens_per_step` |
# | `tokens_per_s` | `mfu` × `peak_flops_per_s` / `flops_per_token` |
# | `hours` | `tokens` / `tokens_per_s`, en horas |
# | `dollars` | `hours` × `price_usd_per_hour` |
# | `kwh` | `hours` × `watts`, en kWh |
# | `mfu` | `tokens_per_s` × `flops_per_token` / `peak_flops_per_s` |
# | `usd_per_loss_point` | `dollars` / (`loss_before_nats` − `loss_after_nats`) |
#
# `audit(report)` devuelve un diccionario de cada afirmación a su veredicto. Lo que una regla necesita se lee del informe; si no está, se deduce con su propia regla, y así sucesivamente. Una afirmación nunca se calcula a partir de sí misma, ni dando un rodeo. Los veredictos: `"follows"` si lo que dice el informe está a un 5% como mucho de lo que resulta, `"does_not_follow"` si no, `"cannot_be_computed"` si falta algo. Todos los números son mayores que cero, y la pérdida bajó.


# %% exercise="audit"
# exercise: audit
def audit(report):
    # solution
    rules = {
        "tokens": (("steps", "tokens_per_step"), lambda steps, batch: steps * batch),
        "tokens_per_s": (
            ("mfu", "peak_flops_per_s", "flops_per_token"),
            lambda share, peak, cost: share * peak / cost,
        ),
        "hours": (("tokens", "tokens_per_s"), lambda tokens, rate: tokens / rate / 3600),
        "dollars": (("hours", "price_usd_per_hour"), lambda hours, price: hours * price),
        "kwh": (("hours", "watts"), lambda hours, watts: hours * watts / 1000),
        "mfu": (
            ("tokens_per_s", "flops_per_token", "peak_flops_per_s"),
            lambda rate, cost, peak: rate * cost / peak,
        ),
        "usd_per_loss_point": (
            ("dollars", "loss_before_nats", "loss_after_nats"),
            lambda usd, before, after: usd / (before - after),
        ),
    }

    def derived(quantity, under_way):
        needs, compute = rules[quantity]
        values = []
        for need in needs:
            if need in report and need not in under_way:
                values.append(report[need])
            elif need in rules and need not in under_way:
                values.append(derived(need, under_way | {need}))
            else:
                return None
        return None if None in values else compute(*values)

    verdicts = {}
    for claim in rules.keys() & report.keys():
        implied = derived(claim, {claim})
        if implied is None:
            verdicts[claim] = "cannot_be_computed"
        elif abs(report[claim] - implied) <= 0.05 * implied:
            verdicts[claim] = "follows"
        else:
            verdicts[claim] = "does_not_follow"
    return verdicts
    # end solution


# %%
check("audit")

# %% [markdown] lang="en"
# The brief, and phase 4 of GPUburnout at the price of its other phases. Below them, the same two as `x1 cases` sees them, which knows more rules.

# %% [markdown] lang="es"
# El encargo, y la fase 4 de GPUburnout al precio de sus otras fases. Debajo, los dos mismos informes tal como los ve `x1 cases`, que conoce más reglas.

# %%
brief = {
    "tokens": 5e9, "mfu": 0.40, "peak_flops_per_s": peak, "flops_per_token": per_token,
    "hours": 24, "price_usd_per_hour": 1.10, "dollars": 26.40,
}  # fmt: skip
phase_4 = {
    "steps": 30_000, "tokens_per_step": 131_072, "tokens_per_s": 28_300,
    "price_usd_per_hour": 116 / 78, "dollars": 44,
}  # fmt: skip
for report in (brief, phase_4):
    print(audit(report))
for name in ("x1-brief", "gpuburnout-1b"):
    cases.run_cases_command(name)

# %% [markdown] lang="en"
# ## Choose a machine
#
# `choose(offers, job)` returns the `name` of the cheapest offer that can do the job, or `None` if none can.
#
# A job has `tokens`, `memory_gb`, `deadline_hours`, `budget_usd` and `tariff_usd_per_kwh`. An offer has `name`, `kind`, `memory_gb`, `tokens_per_s` and `setup_hours`, and according to its kind:
#
# - `"on-demand"`: `usd_per_hour`;
# - `"spot"`: `usd_per_hour`, `interruptions_per_hour` and `hours_lost`, the hours of work that each interruption costs on average. So of one hour of training only 1 − interruptions_per_hour × hours_lost is of use, and the training takes longer in the same proportion; if nothing is of use, it never ends. The set-up is not stretched;
# - `"own"`: `watts`. It costs electricity for all its hours.
#
# All hours are paid, set-up and lost ones too. An offer can do the job if its memory is enough, its hours are at most the deadline and its cost at most the budget. A rented price that is not above zero is an error of the list and no offer.

# %% [markdown] lang="es"
# ## Elige una máquina
#
# `choose(offers, job)` devuelve el `name` de la oferta más barata que puede hacer el trabajo, o `None` si no puede ninguna.
#
# Un trabajo tiene `tokens`, `memory_gb`, `deadline_hours`, `budget_usd` y `tariff_usd_per_kwh`. Una oferta tiene `name`, `kind`, `memory_gb`, `tokens_per_s` y `setup_hours`, y según su tipo:
#
# - `"on-demand"`: `usd_per_hour`;
# - `"spot"`: `usd_per_hour`, `interruptions_per_hour` y `hours_lost`, las horas de trabajo que cuesta en promedio cada interrupción. Así que de una hora de entrenamiento solo es de provecho 1 − interruptions_per_hour × hours_lost, y el entrenamiento dura más en la misma proporción; si nada es de provecho, no acaba nunca. La puesta en marcha no se alarga;
# - `"own"`: `watts`. Cuesta la electricidad de todas sus horas.
#
# Se pagan todas las horas, también las de puesta en marcha y las perdidas. Una oferta puede hacer el trabajo si le alcanza la memoria, sus horas no pasan del plazo y su costo no pasa del presupuesto. Un precio de alquiler que no es mayor que cero es un error de la lista, y no una oferta.


# %% exercise="choose"
# exercise: choose
def choose(offers, job):
    # solution
    affordable = []
    for offer in offers:
        hours = job["tokens"] / offer["tokens_per_s"] / 3600
        if offer["kind"] == "spot":
            useful = 1 - offer["interruptions_per_hour"] * offer["hours_lost"]
            if useful <= 0:
                continue
            hours /= useful
        hours += offer["setup_hours"]
        if offer["kind"] == "own":
            usd = hours * offer["watts"] / 1000 * job["tariff_usd_per_kwh"]
        elif offer["usd_per_hour"] > 0:
            usd = hours * offer["usd_per_hour"]
        else:
            continue
        fits = offer["memory_gb"] >= job["memory_gb"] and hours <= job["deadline_hours"]
        if fits and usd <= job["budget_usd"]:
            affordable.append((usd, offer["name"]))
    return min(affordable)[1] if affordable else None
    # end solution


# %%
check("choose")

# %% [markdown] lang="en"
# ## The cost sentence
#
# Nothing of X1 starts without a sentence like this one:
#
# > This will spin up 1× A100-80GB at $1.39/h for 7.02 h + $1.12 storage = $10.88. Budget for this lab: $35.00. Confirmed acceptable, $24.12 buffer.
#
# `cost_sentence(hardware, hours, usd_per_hour, storage_usd, budget_usd)` returns it for one rented machine. The wording is yours, in English or Spanish: the grader reads the numbers and computes them again. What must be in it: `1×` and the hardware; the price with `/h`, to its last digit; the hours with `h`, rounded *up* to the hundredth, since that is how they are billed; `+` and the storage; `=` and the cost; the budget after “Budget:”; and the amount followed by “buffer”, or by “over” if the cost is above the budget. Amounts are in dollars and cents. The cost is that of the rounded hours.

# %% [markdown] lang="es"
# ## La frase de costo
#
# Nada de X1 arranca sin una frase como esta:
#
# > Esto pondrá en marcha 1× A100-80GB a $1.39/h durante 7.02 h + $1.12 de almacenamiento = $10.88. Presupuesto de este laboratorio: $35.00. Confirmado como aceptable, con un margen de $24.12.
#
# `cost_sentence(hardware, hours, usd_per_hour, storage_usd, budget_usd)` la devuelve para una máquina alquilada. Las palabras son tuyas, en español o en inglés: el calificador lee los números y los vuelve a calcular. Lo que tiene que llevar: `1×` y el hardware; el precio con `/h`, hasta su última cifra; las horas con `h`, redondeadas *hacia arriba* a la centésima, porque así se facturan; `+` y el almacenamiento; `=` y el costo; el presupuesto después de «Presupuesto:»; y «margen de» con la cantidad, o «se pasa en» si el costo supera el presupuesto. Las cantidades van en dólares y centavos. El costo es el de las horas redondeadas.


# %% exercise="cost_sentence"
# exercise: cost_sentence
def cost_sentence(hardware, hours, usd_per_hour, storage_usd, budget_usd):
    # solution
    billed = math.ceil(round(hours * 100, 6)) / 100
    usd = round(billed * usd_per_hour + storage_usd, 2)
    left = round(budget_usd - usd, 2)
    verdict = f"${left:.2f} buffer" if left >= 0 else f"${-left:.2f} over"
    return (
        f"1× {hardware}, ${usd_per_hour:.4f}/h, {billed:.2f} h + ${storage_usd:.2f} = ${usd:.2f}. "
        f"Budget: ${budget_usd:.2f}. {verdict}."
    )
    # end solution


# %%
check("cost_sentence")

# %% [markdown] lang="en"
# Now X1's own: the hours and the storage of its plan, at a price you can get today. The shipped price has a date; look one up and put yours in its place before you trust the sentence. Below it, the plan's own.

# %% [markdown] lang="es"
# Ahora, la de X1: las horas y el almacenamiento de su plan, a un precio que se consiga hoy. El precio que viene incluido tiene fecha; busca uno y pon el tuyo en su lugar antes de fiarte de la frase. Debajo, la del propio plan.

# %%
offer = money.price_for("a100-80gb")
price_usd_per_hour = offer.usd_per_hour
print(offer.provider, offer.day)

made = plan.make_plan(x1, today=date.today(), price=price_usd_per_hour).record
billed_hours = made["predictions"]["hours"]["value"]
storage = next(line["usd"]["value"] for line in made["lines"] if line["item"] == "storage")
print(cost_sentence("A100-80GB", billed_hours, price_usd_per_hour, storage, 35))
print(made["sentence"][label("language")])

# %% [markdown] lang="en"
# ## For the portfolio
#
# Keep three things from this lab:
#
# 1. The cost sentence of X1 at a price you looked up, with the provider and the day.
# 2. Your prediction of the hours and what the shape gives, and in one sentence why they differ.
# 3. An audit of a report of your choice: a blog post, a model card, your own last run. Write it down as a file for `x1 cases --file` (the page on field reports shows the form), and say of each claim that does not follow what would have to be true.

# %% [markdown] lang="es"
# ## Para el portafolio
#
# Guarda tres cosas de este laboratorio:
#
# 1. La frase de costo de X1 a un precio que hayas buscado, con el proveedor y el día.
# 2. Tu predicción de las horas y lo que resulta de la forma, y en una frase por qué difieren.
# 3. La auditoría de un informe que elijas: una entrada de blog, la ficha de un modelo, tu última ejecución. Escríbelo como archivo para `x1 cases --file` (la página de los informes de campo muestra la forma) y di, de cada afirmación que no cuadra, qué tendría que ser cierto.
