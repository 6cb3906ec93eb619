# %% [markdown] lang="en"
# Before you pay for a run you make sure that the program is the one you think it is. This lab does that for a small network on your own machine, and ends with a sentence about money. You need three things from [the chapter](../../theory/00-motivation.md): what an untrained network believes, why a first loss is a prediction, and what a cost sentence is for.
#
# Two rules hold in every lab. **Predictions come first**: the cell that measures refuses to run until you have written your number down. A prediction may be wrong; it is never graded, and you cannot change it afterwards. **Functions are graded**: `check("first_loss")` runs them on cases that you have not seen.

# %% [markdown] lang="es"
# Antes de pagar una ejecución te aseguras de que el programa es el que crees que es. Este laboratorio lo hace con una red pequeña en tu propia máquina y acaba con una frase sobre dinero. Del [capítulo](../../theory/00-motivation.es.md) necesitas tres cosas: qué cree una red sin entrenar, por qué una primera pérdida es una predicción y para qué sirve una frase de costo.
#
# En todos los laboratorios rigen dos reglas. **La predicción va primero**: la celda que mide se niega a ejecutarse hasta que hayas escrito tu número. Una predicción puede fallar; no se califica nunca, y después no se puede cambiar. **Las funciones se califican**: `check("first_loss")` las ejecuta con casos que no has visto.

# %%
import math
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from x1 import config, money
from x1.course import check, label, predict, predicted, setting
from x1.model import Transformer, initialise

# %% [markdown] lang="en"
# ## 1. The loss at step 0
#
# This is the network. Its vocabulary has 2,048 tokens, its width is 256, its embedding is drawn with a standard deviation of 0.03, and the head is tied to the embedding. The outputs of its blocks begin at zero.

# %% [markdown] lang="es"
# ## 1. La pérdida en el paso 0
#
# Esta es la red. Su vocabulario tiene 2,048 tokens, su ancho es 256, su embedding se sortea con una desviación típica (o estándar) de 0.03 y la matriz de la cabeza, la capa de salida, es la misma que la del embedding. Las salidas de sus bloques empiezan en cero.


# %%
def network(std=0.03, tied=True, seed=0):
    shape = config.ModelConfig(
        vocab_size=2048, d_model=256, n_layers=2, n_heads=4, d_ff=512, context=128,
        embedding_std=std, tied=tied,
    )  # fmt: skip
    model = Transformer(shape)
    initialise(model, seed)
    return model


ids = torch.randint(2048, (16, 129), generator=torch.Generator().manual_seed(0))
print(f"V = 2048, d = 256, std = 0.03, ln V = {math.log(2048):.2f}")

# %% [markdown] lang="en"
# What is its loss on these random tokens, in nats per token? Put your number and your margin in place of the two `None`. A pencil is allowed, running the network is not.

# %% [markdown] lang="es"
# ¿Cuál es su pérdida con estos tokens aleatorios, en nats por token? Pon tu número y tu margen en lugar de los dos `None`. Se permite el lápiz; ejecutar la red, no.

# %%
predict("first_loss", value=None, plus_or_minus=None)

# %%
expected = predicted("first_loss")
with torch.no_grad():
    measured = float(F.cross_entropy(network()(ids[:, :-1]).mT, ids[:, 1:]))
print(f"{label('predicted')}: {expected.value:.2f} ± {expected.plus_or_minus:.2f} nats")
print(f"{label('measured')}: {measured:.2f} nats")

# %% [markdown] lang="en"
# Now the function. `first_loss` returns the loss, in nats per token, that an untrained network of this kind has on tokens drawn at random: `vocab_size` of them, width `d_model`, embedding and head drawn with standard deviation `std`, one matrix for both if `tied`. `repeats` is the share of targets that are the very token just read: 0 in the cell above, 1 in a text that is one token over and over. It has to hold for very wide networks too.

# %% [markdown] lang="es"
# Ahora, la función. `first_loss` devuelve la pérdida, en nats por token, que tiene una red sin entrenar de este tipo con tokens al azar: `vocab_size` tokens, ancho `d_model`, embedding y cabeza sorteados con desviación típica `std`, una misma matriz para ambos si `tied`. `repeats` es la fracción de los objetivos que son justo el token recién leído: 0 en la celda de arriba, 1 en un texto que repite siempre un mismo token. Tiene que valer también para redes muy anchas.


# %% exercise="first_loss"
# exercise: first_loss
def first_loss(vocab_size: int, d_model: int, std: float, tied: bool, repeats: float) -> float:
    # solution
    noise = math.log(vocab_size) + std**2 * d_model / 2
    if not tied:
        return noise
    own = std * d_model
    most = max(noise, own)
    together = most + math.log(math.exp(noise - most) + math.exp(own - most))
    return together - repeats * own
    # end solution


# %%
check("first_loss")

# %% [markdown] lang="en"
# Your function beside real networks, over the standard deviation. Where does the tied one leave the untied one, and why there?

# %% [markdown] lang="es"
# Tu función al lado de redes reales, según la desviación típica. ¿Dónde se separa la de matriz compartida de la otra, y por qué ahí?

# %%
stds = [0.005, 0.01, 0.02, 0.03, 0.04]
for tied, name in ((True, "tied"), (False, "untied")):
    points = []
    for std in stds:
        with torch.no_grad():
            logits = network(std, tied)(ids[:, :-1])
            points.append(float(F.cross_entropy(logits.mT, ids[:, 1:])))
    (line,) = plt.plot(stds, [first_loss(2048, 256, std, tied, 0.0) for std in stds])
    plt.plot(stds, points, "o", color=line.get_color(), label=label(name))
plt.axhline(math.log(2048), color="grey", linestyle="--")
plt.xlabel(label("std"))
plt.ylabel(f"{label('loss')} (nats)")
plt.legend()

# %% [markdown] lang="en"
# ## 2. One batch, by heart
#
# The second test of a new trainer: give it the same batch again and again, and it must end up knowing it. These tokens are random, so there is no rule to find; only memory helps, and every part of the loop has to work for it.
#
# `overfit` does `steps` steps of `optimizer` on the one batch `ids`, of shape (B, T + 1), and returns the list of losses, each that of the weights *before* its step. The model maps (B, T) token ids to (B, T, V) logits.

# %% [markdown] lang="es"
# ## 2. Un lote, de memoria
#
# La segunda prueba de un entrenador nuevo: dale el mismo lote una y otra vez, y tiene que acabar sabiéndoselo. Estos tokens son aleatorios, así que no hay regla que encontrar; solo sirve la memoria, y para eso tienen que funcionar todas las partes del bucle.
#
# `overfit` da `steps` pasos de `optimizer` con el único lote `ids`, de forma (B, T + 1), y devuelve la lista de pérdidas, cada una la de los pesos *antes* de su paso. El modelo convierte (B, T) identificadores de token en (B, T, V) logits.


# %% exercise="overfit"
# exercise: overfit
def overfit(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor, steps: int
) -> list[float]:
    # solution
    losses = []
    for _ in range(steps):
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
    # end solution


# %%
check("overfit")

# %%
model = network(std=0.01)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
losses = overfit(model, optimizer, ids[:4], steps=setting(60, small=15))
plt.plot(losses)
plt.xlabel(label("step"))
plt.ylabel(f"{label('loss')} (nats)")
print(f"{losses[0]:.2f} → {losses[-1]:.2f} nats")

# %% [markdown] lang="en"
# ## 3. A trainer that works
#
# This one takes the batch in pieces, because the whole does not fit into memory. Its author is content: the curve falls as it should. Run it, and look at its first number with what you know now.

# %% [markdown] lang="es"
# ## 3. Un entrenador que funciona
#
# Este toma el lote en trozos, porque entero no cabe en la memoria. Su autora está satisfecha: la curva baja como debe. Ejecútalo y mira su primer número con lo que ya sabes.


# %%
def shipped(model, optimizer, ids, steps, micro_batch):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for part in ids.split(micro_batch):
            logits = model(part[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    return losses


model = network(std=0.01)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
losses = shipped(model, optimizer, ids[:4], setting(40, small=10), micro_batch=1)
print(f"{losses[0]:.2f} → {losses[-1]:.2f} nats")
print(f"{label('predicted')}: {first_loss(2048, 256, 0.01, True, 0.0):.2f} nats")

# %% [markdown] lang="en"
# It works because AdamW divides every gradient by its own size: a gradient that is a constant factor too large moves the weights just as far. Only the first number tells. With clipping, with SGD, or with a last piece that is shorter, the same fault changes the training too.
#
# `mended` is this trainer without its fault. It still shows the model pieces of `micro_batch` rows, the last one shorter if need be; but its losses and its steps are those of the whole batch at once.

# %% [markdown] lang="es"
# Funciona porque AdamW divide cada gradiente entre su propio tamaño: un gradiente que es demasiado grande por un factor constante mueve los pesos lo mismo. Solo el primer número lo delata. Con recorte del gradiente, con SGD o con un último trozo más corto, el mismo fallo cambia también el entrenamiento.
#
# `mended` es este entrenador sin su fallo. Sigue mostrando al modelo trozos de `micro_batch` filas, el último más corto si hace falta; pero sus pérdidas y sus pasos son los del lote entero de una vez.


# %% exercise="mended"
# exercise: mended
def mended(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    ids: torch.Tensor,
    steps: int,
    micro_batch: int,
) -> list[float]:
    # solution
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for part in ids.split(micro_batch):
            logits = model(part[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
            share = loss * len(part) / len(ids)
            share.backward()
            total += share.item()
        optimizer.step()
        losses.append(total)
    return losses
    # end solution


# %%
check("mended")

# %% [markdown] lang="en"
# ## 4. Which trainers are sound?
#
# You get trainers that you cannot open. Each tells four true numbers about the network it was meant to build (`vocab_size`, `d_model`, `std`, `tied`; blocks silent, like ours), and `first_loss(ids)` is what its log says of the untrained network on any batch (B, T + 1) of token ids that you choose. Every one of them would train, and its curve would fall. In some the log is not what it should be: a target in the wrong place, a mean that is not a mean, a matrix that is not the one it says. The class below is a sound one and, with `unit`, a faulty one.
#
# `is_sound` returns True for the sound and False for the others. It is graded on trainers with faults you have not seen, and it must not refuse a sound one.

# %% [markdown] lang="es"
# ## 4. ¿Qué entrenadores están sanos?
#
# Recibes entrenadores que no puedes abrir. Cada uno da cuatro números verdaderos de la red que se quería construir (`vocab_size`, `d_model`, `std`, `tied`; bloques callados, como los nuestros), y `first_loss(ids)` es lo que su registro anota de la red sin entrenar con cualquier lote (B, T + 1) de identificadores de token que tú elijas. Todos entrenarían, y su curva bajaría. En algunos el registro no es el que debería ser: un objetivo fuera de sitio, una media que no lo es, una matriz que no es la que dice. La clase de abajo es uno sano y, con `unit`, uno defectuoso.
#
# `is_sound` devuelve True con los sanos y False con los demás. Se califica con entrenadores cuyos fallos no has visto, y no debe rechazar a ninguno sano.


# %%
class Trainer:
    def __init__(self, vocab_size, d_model, std, tied, unit=1.0):
        self.vocab_size, self.d_model, self.std, self.tied = vocab_size, d_model, std, tied
        self.embedding = torch.randn(vocab_size, d_model) * std
        self.head = self.embedding if tied else torch.randn(vocab_size, d_model) * std
        self.unit = unit

    def first_loss(self, ids):
        hidden = F.rms_norm(self.embedding[ids[:, :-1]], (self.d_model,))
        loss = F.cross_entropy((hidden @ self.head.T).mT, ids[:, 1:])
        return float(loss) / self.unit


sound = Trainer(500, 100, 0.05, tied=True)
in_bits = Trainer(500, 100, 0.05, tied=True, unit=math.log(2))
tokens = torch.randint(500, (16, 65))
print(f"{sound.first_loss(tokens):.2f} {in_bits.first_loss(tokens):.2f}")


# %% exercise="is_sound"
# exercise: is_sound
def is_sound(trainer) -> bool:
    # solution
    single = torch.randint(trainer.vocab_size, (20, 80))
    double = torch.randint(trainer.vocab_size, (20, 40)).repeat_interleave(2, dim=1)
    noise = math.log(trainer.vocab_size) + trainer.std**2 * trainer.d_model / 2
    own = trainer.std * trainer.d_model
    for ids in (single, double):
        repeats = (ids[:, 1:] == ids[:, :-1]).float().mean().item()
        expected = noise
        if trainer.tied:
            expected = math.log(math.exp(noise) + math.exp(own)) - repeats * own
        if abs(trainer.first_loss(ids) - expected) > 0.2:
            return False
    return True
    # end solution


# %%
check("is_sound")

# %% [markdown] lang="en"
# ## 5. Five billion tokens on this machine
#
# X1 reads 5B tokens. How many **days** would your machine need for that, with X1's own network of 46.9M parameters? Predict before you measure.

# %% [markdown] lang="es"
# ## 5. Cinco mil millones de tokens en esta máquina
#
# X1 lee 5B de tokens, es decir, cinco mil millones. ¿Cuántos **días** necesitaría tu máquina para eso con la propia red de X1, de 46.9M de parámetros? Predice antes de medir.

# %%
predict("days", value=None, plus_or_minus=None)

# %% [markdown] lang="en"
# First the arithmetic. `hours_for` is given the `seconds` of a run's first steps, in order. The first `warmup_steps` of them are slow, because things are still being set up. The rest of the run goes on as the measured steps after those do, pauses for checkpoints included. Each step reads `batch_tokens`. It returns the hours of the whole run over `tokens` tokens, warm-up included. A last step that its tokens do not fill counts as a whole one.

# %% [markdown] lang="es"
# Primero, la aritmética. `hours_for` recibe en `seconds` lo que duraron los primeros pasos de una ejecución, en orden. Los primeros `warmup_steps` son lentos, porque aún se está preparando todo. El resto de la ejecución sigue como los pasos medidos después de esos, incluidas las pausas para guardar checkpoints. Cada paso lee `batch_tokens`. La función devuelve las horas de la ejecución entera con `tokens` tokens, calentamiento incluido. Un último paso que sus tokens no llenan cuenta entero.


# %% exercise="hours_for"
# exercise: hours_for
def hours_for(seconds: list[float], batch_tokens: int, tokens: int, warmup_steps: int) -> float:
    # solution
    steps = math.ceil(tokens / batch_tokens)
    steady = seconds[warmup_steps:]
    each = sum(steady) / len(steady)
    return (sum(seconds[:warmup_steps]) + (steps - warmup_steps) * each) / 3600
    # end solution


# %%
check("hours_for")

# %% [markdown] lang="en"
# Now the machine: forward and backward passes of X1's network over a few sequences. The optimizer is left out, because in the real run one update comes after 131,072 tokens and hardly counts.

# %% [markdown] lang="es"
# Ahora, la máquina: pasadas hacia delante y hacia atrás de la red de X1 con unas pocas secuencias. El optimizador queda fuera, porque en la ejecución real hay una actualización cada 131,072 tokens y apenas cuenta.

# %%
expected = predicted("days")
shape = config.build("x1-50m").model
model = Transformer(shape)
initialise(model, seed=0)
context = setting(1024, small=128)
seconds = []
for _ in range(setting(6, small=3)):
    row = torch.randint(shape.vocab_size, (1, context + 1))
    started = time.perf_counter()
    F.cross_entropy(model(row[:, :-1]).flatten(0, 1), row[:, 1:].flatten()).backward()
    seconds.append(time.perf_counter() - started)
hours = hours_for(seconds, context, 5_000_000_000, warmup_steps=1)
rate = context * (len(seconds) - 1) / sum(seconds[1:])
print(f"{label('predicted')}: {expected.value:.0f} ± {expected.plus_or_minus:.0f} {label('days')}")
print(f"{label('measured')}: {rate:,.0f} tokens/s, {hours / 24:,.0f} {label('days')}")

# %% [markdown] lang="en"
# ## 6. Your first cost sentence
#
# X1's rule is: no sentence, no launch. On your own machine the money is electricity. `cost_sentence` returns the sentence for a job of `hours` on a machine called own-cpu that draws `watts`, at a tariff in dollars per kilowatt-hour and with a budget in dollars. Write it in English or in Spanish, in this form:
#
# > This will run on your own machine, own-cpu at 65 W and $0.20/kWh, for 24.00 h = $0.31 of electricity. Budget for this lab: $35.00. Confirmed acceptable, $34.69 buffer.
#
# If it is over the budget, it ends with "Not acceptable: $3.20 over." A program reads it and computes it again from its own printed numbers, so they have to follow from one another. Hours need two decimals, or below one hour three significant digits; dollars need two decimals, or below one cent two significant digits, because a small amount is not $0.00.

# %% [markdown] lang="es"
# ## 6. Tu primera frase de costo
#
# La regla de X1: sin frase no hay lanzamiento. En tu propia máquina el dinero es electricidad. `cost_sentence` devuelve la frase de un trabajo de `hours` horas en una máquina llamada own-cpu que consume `watts`, con una tarifa en dólares por kilovatio hora y un presupuesto en dólares. Escríbela en inglés o en español, en esta forma:
#
# > Esto se ejecutará en tu propia máquina, own-cpu a 65 W y $0.20/kWh, durante 24.00 h = $0.31 de electricidad. Presupuesto de este laboratorio: $35.00. Confirmado como aceptable, con un margen de $34.69.
#
# Si supera el presupuesto, acaba con «No es aceptable: se pasa en $3.20.» Un programa la lee y la vuelve a calcular con los números que están escritos, así que unos tienen que salir de otros. Las horas piden dos decimales, o por debajo de una hora tres cifras significativas; los dólares, dos decimales, o por debajo de un centavo dos cifras significativas, porque una cantidad pequeña no son $0.00.


# %% exercise="cost_sentence"
# exercise: cost_sentence
def cost_sentence(hours: float, watts: float, tariff_usd_per_kwh: float, budget_usd: float) -> str:
    # solution
    def usd(amount):
        if amount >= 0.01 or amount == 0:
            return f"${amount:.2f}"
        digits = 1 - math.floor(math.log10(amount))
        return f"${amount:.{digits}f}"

    shown = f"{hours:.2f}" if hours >= 1 else f"{hours:.3g}"
    cost = float(shown) * watts / 1000 * tariff_usd_per_kwh
    left = budget_usd - round(cost, 2)
    if left < 0:
        verdict = f"Not acceptable: {usd(-left)} over."
    else:
        verdict = f"Confirmed acceptable, {usd(left)} buffer."
    return (
        f"This will run on your own machine, own-cpu at {watts:g} W and "
        f"${tariff_usd_per_kwh:.4f}/kWh, for {shown} h = {usd(cost)} of electricity. "
        f"Budget for this lab: {usd(budget_usd)}. {verdict}"
    )
    # end solution


# %%
check("cost_sentence")

# %% [markdown] lang="en"
# The sentence of X1 on your machine, read back by the program that reads every launch. If you know what your machine draws and what your electricity costs, put that in place of 65 and 0.20.

# %% [markdown] lang="es"
# La frase de X1 en tu máquina, leída por el programa que lee todos los lanzamientos. Si sabes cuánto consume tu máquina y cuánto cuesta tu electricidad, ponlo en lugar de 65 y 0.20.

# %%
text = cost_sentence(hours, 65, 0.20, 35.0)
print(text)
said = money.parse_cost_sentence(text)
print(said.hours, said.cost_usd, said.buffer_usd, said.acceptable, said.faults())

# %% [markdown] lang="en"
# A rented A100 makes the same run for about $11 in an evening, by plan; `x1 plan --preset x1-50m --price-usd-per-hour 1.39` prints its sentence. Which of the two machines is the cheaper one?
#
# ## For your portfolio
#
# Keep four lines, in your own words:
#
# 1. The first loss you predicted, the one you measured, and where the difference came from.
# 2. A fault that a falling curve hid, and the number that showed it.
# 3. Your machine's tokens per second, and what 5B tokens would take on it.
# 4. Your first cost sentence, and whether you would launch on it.

# %% [markdown] lang="es"
# Una A100 alquilada hace la misma ejecución por unos $11 en una tarde, según el plan; `x1 plan --preset x1-50m --price-usd-per-hour 1.39` imprime su frase. ¿Cuál de las dos máquinas es la barata?
#
# ## Para tu portafolio
#
# Quédate con cuatro líneas, con tus palabras:
#
# 1. La primera pérdida que predijiste, la que mediste y de dónde salió la diferencia.
# 2. Un fallo que una curva que bajaba escondía, y el número que lo mostró.
# 3. Los tokens por segundo de tu máquina, y lo que tardaría con 5B de tokens.
# 4. Tu primera frase de costo, y si con ella lanzarías la ejecución.
