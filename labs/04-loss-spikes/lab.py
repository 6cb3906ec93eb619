# %% [markdown] lang="en"
# A loss spike is a question that a run asks at three in the morning: is this harmless, or are the weights gone? In this lab you blow up small runs on purpose, say beforehand what will become of each, write the detector that notices and the roll-back that repairs, hunt a NaN down to its operation, and close two post-mortems with an experiment instead of an opinion. [The chapter](../../theory/04-loss-spikes.md) asks the question behind all of it: which explosion does clipping save, and which does it not?
#
# Every run here is real: a transformer of 62 thousand parameters on a Markov chain of 64 tokens whose entropy H is known, half a second to a second a run. `check("alarms")` below an exercise grades it on cases drawn on the spot; `x1 hint 4 alarms` gives a hint, and then a plainer one.

# %% [markdown] lang="es"
# Un pico de pérdida es una pregunta que una ejecución te hace a las tres de la mañana: ¿no es nada, o se han perdido los pesos? En este laboratorio haces explotar ejecuciones pequeñas a propósito, dices antes qué será de cada una, escribes el detector que lo nota y el retroceso que lo repara, persigues un NaN hasta su operación y cierras dos post-mortems con un experimento en vez de una opinión. [El capítulo](../../theory/04-loss-spikes.es.md) hace la pregunta que hay detrás de todo: ¿qué explosión salva el recorte y cuál no?
#
# Todas las ejecuciones son reales: un transformer de 62 mil parámetros sobre una cadena de Markov de 64 tokens y entropía H conocida, entre medio segundo y un segundo cada una. `check("alarms")` debajo de un ejercicio lo califica con casos sorteados en el momento; `x1 hint 4 alarms` da una pista, y después otra más clara.

# %%
import json
import math
from itertools import pairwise
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from x1 import drill
from x1.course import check, label, predict, predicted, setting

torch.set_num_threads(1)
print(f"ln V = {math.log(64):.3f}, H = {drill.floor_nats(0):.3f} nats")

# %% [markdown] lang="en"
# ## 1. Five ways to explode
#
# These are the five, each as the settings that differ from the healthy run's. A `stability.inject` plants a fault at batch 70: for one batch the gradient is 10,000 times too large, for three the learning rate is 100 times too high, for three every token of the batch is the same. The last two have no such moment. They are faults of the configuration: a high learning rate without the norm on queries and keys, and full-sized steps from the very first one, without warm-up.

# %% [markdown] lang="es"
# ## 1. Cinco maneras de explotar
#
# Son estas cinco, cada una con los ajustes que la distinguen de la ejecución sana. Un `stability.inject` planta un fallo en el lote 70: durante un lote el gradiente es 10,000 veces demasiado grande; durante tres, la tasa de aprendizaje es 100 veces demasiado alta; durante tres, todos los tokens del lote son el mismo. Las dos últimas no tienen un momento así. Son fallos de la configuración: una tasa de aprendizaje alta sin la norma sobre consultas y claves, y pasos de tamaño completo desde el primero, sin calentamiento.

# %%
for name, trigger in drill.TRIGGERS.items():
    print(f"{name:15} {trigger.settings}")

# %% [markdown] lang="en"
# All of them train **with the gradient clipped to norm 1**. How far above the healthy run on the same batches does each end, in nats? The end is the mean of the last 20 losses; a run that clipping saves ends at 0. Write down all five before you measure; a wrong guess costs nothing, a missing one stops the next cell.

# %% [markdown] lang="es"
# Todas entrenan **con el gradiente recortado a norma 1**. ¿Cuántos nats por encima de la ejecución sana, con los mismos lotes, acaba cada una? El final es la media de las últimas 20 pérdidas; una ejecución a la que salva el recorte acaba en 0. Escribe las cinco antes de medir; fallar no cuesta nada, y sin predicción la celda siguiente no arranca.

# %%
predict("gradient_x1e4", value=None, plus_or_minus=None)
predict("lr_x100", value=None, plus_or_minus=None)
predict("constant_batch", value=None, plus_or_minus=None)
predict("no_qk_norm", value=None, plus_or_minus=None)
predict("no_warm_up", value=None, plus_or_minus=None)

# %% [markdown] lang="en"
# Now each of them with clipping and without, beside its healthy twin. Dashed is without clipping. A minute's work.

# %% [markdown] lang="es"
# Ahora, cada una con recorte y sin él, al lado de su gemela sana. La línea discontinua es sin recorte. Tarda un minuto.


# %%
def losses(settings, seed):
    return [line.loss for line in drill.curve(drill.configured(settings, seed))]


expected = {name: predicted(name.replace("-", "_")) for name in drill.TRIGGERS}
figure, axes = plt.subplots(1, len(expected), figsize=(16, 3), layout="tight")
for axis, (name, trigger) in zip(axes, drill.TRIGGERS.items(), strict=True):
    ends = {}
    for clip, style in ((0.0, "--"), (1.0, "-")):
        gaps = []
        for seed in range(setting(3, small=1)):
            healthy = losses({**trigger.without, "optim.clip": clip}, seed)
            broken = losses({**trigger.settings, "optim.clip": clip}, seed)
            gaps.append(drill.end_loss(broken) - drill.end_loss(healthy))
        ends[clip] = round(median(gaps), 2) + 0.0
        axis.plot(broken, style)
    axis.plot(healthy, color="grey")
    axis.set_title(name)
    axis.set_xlabel(label("step"))
    axis.set_ylim(2.8, 7)
    guess = expected[name]
    print(
        f"{name:15} {label('predicted')} {guess.value:+.2f} ± {guess.plus_or_minus:.2f}   "
        f"{label('measured')}: {label('clip_on')} {ends[1.0]:+.2f}, "
        f"{label('clip_off')} {ends[0.0]:+.2f} nats"
    )

# %% [markdown] lang="en"
# Clipping shortens a gradient. Where the gradient was too long, that is the whole cure. Where the step is too long for another reason, it has nothing to shorten: AdamW divides each gradient by its own usual size, so a rate that is 100 times too high moves the weights 100 times too far whatever the gradient's length, and logits that grow with every update do so under small gradients too. The constant batches are the opposite case, a spike in the data that the weights survive; a roll-back would cost more than it does.
#
# And one more that clipping does not save. It multiplies every gradient by 1 / norm:

# %% [markdown] lang="es"
# El recorte acorta un gradiente. Donde lo que sobraba era gradiente, eso es toda la cura. Donde el paso es demasiado largo por otra razón, no hay nada que acortar: AdamW divide cada gradiente por su propio tamaño habitual, así que una tasa 100 veces demasiado alta mueve los pesos 100 veces más de la cuenta, mida lo que mida el gradiente, y unos logits que crecen con cada actualización lo hacen también con gradientes pequeños. Los lotes constantes son el caso contrario: un pico que está en los datos y al que los pesos sobreviven; un retroceso costaría más que él.
#
# Y hay otra que el recorte no salva. Multiplica todos los gradientes por 1 / norma:

# %%
weight = torch.ones(4, requires_grad=True)
weight.grad = torch.tensor([0.5, math.nan, -0.5, 0.1])
print(nn.utils.clip_grad_norm_([weight], 1.0), weight.grad)

# %% [markdown] lang="en"
# One NaN has become four. So the first rule of every loop: a step whose loss or gradient norm is not finite is not applied at all.
#
# ## 2. How long AdamW remembers
#
# The gradient that was 10,000 times too large, and not clipped, stays in AdamW's second moment. Take one weight whose gradient has always been 1, so that its update is always the learning rate. Then, once, the gradient is 10,000, and after that 1 again. With β1 = 0.9 and β2 = 0.999: for how many of the steps after it is the update **less than half** of the usual one?

# %% [markdown] lang="es"
# Un NaN se ha convertido en cuatro. De ahí la primera regla de cualquier bucle: un paso cuya pérdida o cuya norma de gradiente no es finita no se aplica.
#
# ## 2. Cuánto tiempo recuerda AdamW
#
# El gradiente que era 10,000 veces demasiado grande, y que nadie recortó, se queda en el segundo momento de AdamW. Toma un peso cuyo gradiente ha sido siempre 1, de modo que su actualización es siempre la tasa de aprendizaje. Entonces, una sola vez, el gradiente es 10,000, y después otra vez 1. Con β1 = 0.9 y β2 = 0.999: ¿en cuántos de los pasos que siguen la actualización es **menos de la mitad** de la habitual?

# %%
predict("steps_lost", value=None, plus_or_minus=None)

# %% [markdown] lang="en"
# `steps_lost(size, beta1, beta2, clip)` returns that number for a gradient that is `size` (at least 1) times the usual one. The update is learning rate × m / √v, with m ← β1·m + (1 − β1)·g and v ← β2·v + (1 − β2)·g²; the run is old, so the bias corrections are 1, and eps is 0. Every gradient is clipped to length `clip` before AdamW sees it, the usual ones too; `clip = 0` means no clipping. β2 is at most 0.999. The step of the large gradient itself does not count.

# %% [markdown] lang="es"
# `steps_lost(size, beta1, beta2, clip)` devuelve ese número para un gradiente que es `size` (al menos 1) veces el habitual. La actualización es tasa de aprendizaje × m / √v, con m ← β1·m + (1 − β1)·g y v ← β2·v + (1 − β2)·g²; la ejecución ya es larga, así que las correcciones de sesgo valen 1, y eps es 0. Cada gradiente se recorta a longitud `clip` antes de que AdamW lo vea, también los habituales; `clip = 0` significa sin recorte. β2 es como mucho 0.999. El paso del gradiente grande no cuenta.


# %% exercise="steps_lost"
# exercise: steps_lost
def steps_lost(size: float, beta1: float, beta2: float, clip: float) -> int:
    # solution
    if clip:
        size = min(size, clip)
    after = torch.arange(1, 20_001).double()
    momentum = 1 + (1 - beta1) * (size - 1) * beta1**after
    second = 1 + (1 - beta2) * (size**2 - 1) * beta2**after
    return int((2 * momentum < second.sqrt()).sum())
    # end solution


# %%
check("steps_lost")

# %%
guess = predicted("steps_lost")
print(f"{label('predicted')}: {guess.value:,.0f} ± {guess.plus_or_minus:,.0f}")
for beta2 in (0.999, 0.99, 0.95):
    print(f"β2 = {beta2}: {steps_lost(1e4, 0.9, beta2, 0):,}, {steps_lost(1e4, 0.9, beta2, 1)}")

# %% [markdown] lang="en"
# Your run of section 1 had 50 steps left after that gradient. OPT-175B's log went from β2 = 0.98 to 0.95 among its remedies; you can now say what that buys and what clipping to 1 buys.
#
# ## 3. Numbers that do not fit
#
# A part of all explosions is arithmetic. bf16 has fp32's range and 8 bits of precision; fp16 has 11 bits and a range that ends at 65,504 above and at 6e-8 below. Four facts:

# %% [markdown] lang="es"
# A tu ejecución de la sección 1 le quedaban 50 pasos después de aquel gradiente. Entre los remedios del registro de OPT-175B está bajar β2 de 0.98 a 0.95; ahora puedes decir qué se gana con eso y qué se gana con recortar a 1.
#
# ## 3. Números que no caben
#
# Una parte de las explosiones es aritmética. bf16 tiene el rango de fp32 y 8 bits de precisión; fp16 tiene 11 bits y un rango que acaba en 65,504 por arriba y en 6e-8 por abajo. Cuatro hechos:

# %%
print(torch.tensor(1.0).bfloat16() + 2**-9 == 1)
print(torch.tensor(256.0).bfloat16() + 1 == 256)
print(torch.tensor(1e-8).half())
print(torch.tensor(65519.0).half(), torch.tensor(65520.0).half())

# %% [markdown] lang="en"
# The first is why the weights that are updated stay in fp32: an update of a thousandth of a weight vanishes in bf16. The third is AdamW's usual eps, which is no protection in fp16: for a gradient that is 0 the update is 0 / (0 + 0). And since most gradients are small, in fp16 many of them are 0. Loss scaling multiplies the loss, and with it every gradient, by a power of two before the backward pass; the optimizer divides again, in fp32.
#
# `loss_scale(gradients)` is given an fp32 tensor of gradients, not all of them zero. It returns a pair: the largest power of two by which they can be multiplied so that fp16 still holds every one of them as a finite number, and the share of the gradients that are not zero but still become zero in fp16 at that scale. Not all gradients are smaller than 1.

# %% [markdown] lang="es"
# Por el primero, los pesos que se actualizan se quedan en fp32: una actualización de una milésima del peso desaparece en bf16. El tercero es el eps habitual de AdamW, que en fp16 no protege de nada: con un gradiente que es 0, la actualización es 0 / (0 + 0). Y como casi todos los gradientes son pequeños, en fp16 muchos son 0. El escalado de la pérdida la multiplica por una potencia de dos antes de la pasada hacia atrás, y con ella todos los gradientes; el optimizador vuelve a dividir, en fp32.
#
# `loss_scale(gradients)` recibe un tensor fp32 de gradientes, no todos cero. Devuelve un par: la mayor potencia de dos por la que se pueden multiplicar sin que ninguno deje de ser un número finito en fp16, y la fracción de los gradientes que no son cero pero se vuelven cero en fp16 con esa escala. No todos los gradientes son menores que 1.


# %% exercise="loss_scale"
# exercise: loss_scale
def loss_scale(gradients: torch.Tensor) -> tuple[float, float]:
    # solution
    largest = gradients.abs().max().item()
    scale = 2.0 ** (math.ceil(math.log2(65520 / largest)) - 1)
    present = gradients[gradients != 0].double()
    lost = (present * scale).half() == 0
    return scale, lost.double().mean().item()
    # end solution


# %%
check("loss_scale")

# %% [markdown] lang="en"
# The same gradients, spread over fifteen powers of ten: the share that fp16 loses without a scale, with yours, and the share that bf16 loses.

# %% [markdown] lang="es"
# Los mismos gradientes, repartidos entre quince potencias de diez: la fracción que pierde fp16 sin escala, con la tuya, y la que pierde bf16.

# %%
gradients = 10 ** (torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 15 - 15)
scale, lost = loss_scale(gradients)
print(f"fp16 × 1: {(gradients.half() == 0).float().mean():.3f}")
print(f"fp16 × {scale:g}: {lost:.3f}")
print(f"bf16: {(gradients.bfloat16() == 0).float().mean():.3f}")

# %% [markdown] lang="en"
# ## 4. Noticing
#
# `alarms(losses, grad_norms)` gets a curve, one loss and one gradient norm a step, and returns a list with one True or False for each step: whether a guard has to look at it. It is graded on curves that are drawn while it is graded:
#
# - Healthy runs: a steep fall at the start, then a slow one; noise with outliers of up to 6 times its scale, now and then a gradient norm of 5 times the usual one. Over three runs of 150 steps you may raise one false alarm.
# - Spikes, at least 25 times the noise in the loss or 100 times in the gradient norm, from step 40 on: a jump that stays, a bump that passes, a climb over ten steps, a norm alone. The alarm has to come within 2 steps, in a climb within 10.
# - NaN and infinities, in either channel: at that very step, even the first, and the curve goes on after it.
# - The verdict on a step must not depend on later ones.

# %% [markdown] lang="es"
# ## 4. Notarlo
#
# `alarms(losses, grad_norms)` recibe una curva, con una pérdida y una norma de gradiente por paso, y devuelve una lista con un True o un False por paso: si un vigilante tiene que mirarlo. Se califica con curvas que se sortean al calificar:
#
# - Ejecuciones sanas: una caída brusca al principio y luego otra lenta; ruido con valores extremos de hasta 6 veces su escala y, de vez en cuando, una norma de gradiente 5 veces la habitual. En tres ejecuciones de 150 pasos se admite una falsa alarma.
# - Picos, de al menos 25 veces el ruido en la pérdida o 100 veces la norma de gradiente, a partir del paso 40: un salto que se queda, un pico que pasa, una subida a lo largo de diez pasos, o la norma sola. La alarma tiene que llegar en 2 pasos como mucho; en una subida, en 10.
# - NaN e infinitos, en cualquiera de los dos canales: en ese mismo paso, aunque sea el primero, y la curva sigue después.
# - El veredicto sobre un paso no puede depender de los posteriores.


# %% exercise="alarms"
# exercise: alarms
def alarms(losses: list[float], grad_norms: list[float]) -> list[bool]:
    # solution
    def stands_out(value, history, least):
        recent = history[-24:]
        changes = [after - before for before, after in pairwise(recent)]
        centre = median(changes)
        spread = median(abs(change - centre) for change in changes)
        return value - median(history[-8:]) > max(12 * spread, least)

    quiet, quiet_norms, raised = [], [], []
    for loss, norm in zip(losses, grad_norms, strict=True):
        alarm = not (math.isfinite(loss) and math.isfinite(norm))
        if not alarm:
            size = math.log(norm + 1e-12)
            if len(quiet) >= 16:
                alarm = stands_out(loss, quiet, 0.0)
                alarm = alarm or stands_out(size, quiet_norms, math.log(20))
            if not alarm:
                quiet.append(loss)
                quiet_norms.append(size)
        raised.append(alarm)
    return raised
    # end solution


# %%
check("alarms")

# %% [markdown] lang="en"
# Your detector on real curves: at which steps does it raise an alarm? The fault begins at batch 70, and the loss is measured before the update.

# %% [markdown] lang="es"
# Tu detector con curvas reales: ¿en qué pasos da la alarma? El fallo empieza en el lote 70, y la pérdida se mide antes de la actualización.

# %%
for name in ("gradient-x1e4", "lr-x100", "constant-batch"):
    for planted in (True, False):
        trigger = drill.TRIGGERS[name]
        settings = trigger.settings if planted else trigger.without
        lines = drill.curve(drill.configured({**settings, "optim.clip": 0.0}, seed=1))
        raised = alarms([line.loss for line in lines], [line.grad_norm for line in lines])
        steps = [step for step, alarm in enumerate(raised) if alarm]
        print(f"{name if planted else label('healthy'):15} {len(steps):3} {steps[:6]}")

# %% [markdown] lang="en"
# ## 5. Going back
#
# The run saves a checkpoint now and then; the one of step s holds the weights before batch s's update. Step s trains on batch `data_index(s)`: the s-th, counted from 0, of the batches that are not on the skip list. When the alarm comes at step `alarm_step`, nobody knows since when the weights have been damaged. So a checkpoint is *good* only if `window` quiet steps were made from it before the alarm: `step + window <= alarm_step`. The run goes back to the newest good one, and every batch that was trained on since then, the alarm's included, goes on the skip list, because it may be the one that did it. What was skipped before stays skipped.
#
# `recover(checkpoints, skipped, alarm_step, window)` gets the steps of the checkpoints in any order, the skipped batches in any order, and returns a pair: the step to go back to, and the new skip list, sorted. If no checkpoint is good, the run starts over at step 0.

# %% [markdown] lang="es"
# ## 5. Volver atrás
#
# La ejecución guarda un checkpoint de vez en cuando; el del paso s contiene los pesos antes de la actualización de ese paso. El paso s entrena con el lote `data_index(s)`: el s-ésimo, contando desde 0, de los lotes que no están en la lista de saltos. Cuando la alarma llega en el paso `alarm_step`, nadie sabe desde cuándo están dañados los pesos. Por eso un checkpoint es *bueno* solo si desde él hubo `window` pasos tranquilos antes de la alarma: `step + window <= alarm_step`. La ejecución retrocede al más nuevo de los buenos, y todos los lotes con los que se entrenó desde entonces, el de la alarma incluido, van a la lista de saltos, porque puede haber sido cualquiera. Lo que ya se saltaba se sigue saltando.
#
# `recover(checkpoints, skipped, alarm_step, window)` recibe los pasos de los checkpoints en cualquier orden y los lotes saltados en cualquier orden, y devuelve un par: el paso al que volver y la nueva lista de saltos, ordenada. Si ningún checkpoint es bueno, la ejecución vuelve a empezar en el paso 0.


# %% exercise="recover"
# exercise: recover
def recover(
    checkpoints: list[int], skipped: list[int], alarm_step: int, window: int
) -> tuple[int, list[int]]:
    # solution
    good = [step for step in checkpoints if step + window <= alarm_step]
    back = max(good, default=0)
    kept = [i for i in range(alarm_step + len(skipped) + 1) if i not in skipped]
    return back, sorted({*skipped, *kept[back : alarm_step + 1]})
    # end solution


# %%
check("recover")

# %% [markdown] lang="en"
# Now the two of them guard a real run. The fault stays in its batches: whoever trains on batch 70, 71 or 72 does so at 100 times the learning rate, however often. The numbers below have to say that the run is back on its curve, that no skipped batch was seen again, and that data_index = step + batches skipped.

# %% [markdown] lang="es"
# Ahora las dos vigilan una ejecución real. El fallo se queda en sus lotes: quien entrene con el lote 70, 71 o 72 lo hace con 100 veces la tasa de aprendizaje, todas las veces. Los números de abajo tienen que decir que la ejecución ha vuelto a su curva, que ningún lote saltado se volvió a ver y que data_index = paso + lotes saltados.


# %%
def guarded(config, window=16, every=10):
    bench = drill.Bench(config)
    step, skipped, lines, saved, seen_again, rollbacks = 0, [], [], {}, 0, 0
    while step < config.train.steps and rollbacks < 6:
        if step % every == 0:
            saved[step] = bench.save()
        index = [i for i in range(step + len(skipped) + 1) if i not in skipped][step]
        seen_again += index in skipped
        lines[step:] = [bench.step(step, index)]
        if alarms([x.loss for x in lines], [x.grad_norm for x in lines])[-1]:
            print(f"{label('step')} {step}, data_index {index}, {lines[-1].loss:.2f} nats")
            step, skipped = recover(list(saved), skipped, step, window)
            saved = {s: state for s, state in saved.items() if s <= step}
            bench.restore(saved[step])
            rollbacks += 1
        else:
            step += 1
    return lines, skipped, seen_again


broken = drill.TRIGGERS["lr-x100"].settings
lines, skipped, seen_again = guarded(drill.configured(broken))
healthy, alone = losses({}, 0), losses(broken, 0)
last = lines[-1]
print(f"{last.data_index} = {last.step} + {len(skipped)}, {seen_again}")
for said, found in (("healthy", healthy), ("alone", alone), ("guarded", [x.loss for x in lines])):
    print(f"{label(said):12} {drill.end_loss(found):.3f} nats")
    plt.plot(found, label=label(said))
plt.ylim(2.8, 7)
plt.xlabel(label("step"))
plt.legend()

# %% [markdown] lang="en"
# PaLM met about 20 spikes, and went back about 100 steps and skipped 200 to 500 batches each time; the same batches, trained on from another checkpoint, did no harm. So what was to blame was neither the batch alone nor the weights alone, and the skip list makes no accusation. It only makes sure that the two do not meet again.
#
# ## 6. Hunting a NaN
#
# The loss is NaN, and after one more step so are all weights. Where did it begin? `hunt(model, ids, targets)` answers for a model whose `model(ids, targets)` is the loss: it runs it forward, and backward if the loss is finite, and returns `(layer, op)`, or None if nothing is wrong.
#
# - `layer` is the name of the innermost module that was running, as `model.named_modules()` has it: `"blocks.1.attention"`.
# - `op` is the operation as autograd names it, without the ending: a tensor whose `grad_fn` is a `DivBackward0` came from `"div"`.
# - Forward, it is the first operation with a result that is not finite. One is innocent: the mask writes −∞ where attention must not look (`masked_fill`).
# - If the loss is finite, it is the operation whose derivative is the first that is not finite, on the way back: its incoming gradient is finite, and what it passes on is not. A `torch.where` may hide a −∞ in the forward pass, and its derivative is NaN all the same; the operation you return is the same either way.
#
# A patient to practise on. Its norms divide by a root, and with `eps=0` they divide by zero for a token whose embedding is zero. `TorchFunctionMode` sees every call of torch while it is open; forward hooks of the modules tell which layer is running; `Node.register_hook` sees gradients. Leave no hook behind.

# %% [markdown] lang="es"
# PaLM tuvo unos 20 picos, y cada vez retrocedió unos 100 pasos y se saltó entre 200 y 500 lotes; los mismos lotes, entrenados desde otro checkpoint, no hicieron daño. La culpa no era, pues, ni del lote solo ni de los pesos solos, y la lista de saltos no acusa a nadie. Solo evita que los dos se vuelvan a encontrar.
#
# ## 6. A la caza de un NaN
#
# La pérdida es NaN, y un paso después lo son todos los pesos. ¿Dónde empezó? `hunt(model, ids, targets)` responde para un modelo en el que `model(ids, targets)` es la pérdida: lo ejecuta hacia delante, y hacia atrás si la pérdida es finita, y devuelve `(layer, op)`, o None si no pasa nada.
#
# - `layer` es el nombre del módulo más interior que se estaba ejecutando, tal como lo da `model.named_modules()`: `"blocks.1.attention"`.
# - `op` es la operación con el nombre que le da autograd, sin el final: un tensor cuyo `grad_fn` es un `DivBackward0` viene de `"div"`.
# - Hacia delante es la primera operación con un resultado que no es finito. Una es inocente: la máscara escribe −∞ donde la atención no debe mirar (`masked_fill`).
# - Si la pérdida es finita, es la primera operación, en el camino de vuelta, cuya derivada no es finita: el gradiente que le llega es finito y el que pasa no. Un `torch.where` puede esconder un −∞ en la pasada hacia delante, y aun así su derivada es NaN; la operación que devuelves es la misma en los dos casos.
#
# Un paciente para practicar. Sus normas dividen por una raíz y, con `eps=0`, dividen por cero en un token cuyo embedding es cero. `TorchFunctionMode` ve todas las llamadas a torch mientras está abierto; los hooks de los módulos dicen qué capa se está ejecutando; `Node.register_hook` ve los gradientes. No dejes ningún hook puesto.


# %%
class Norm(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        scores = torch.bmm(self.query(x), self.key(x).mT) / x.shape[-1] ** 0.5
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return torch.softmax(scores.masked_fill(future, -math.inf), dim=-1) @ x


class Patient(nn.Module):
    def __init__(self, eps, width=16, vocabulary=10):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.norm, self.attention = Norm(eps), Attention(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids, targets):
        x = self.norm(self.embedding(ids))
        return F.cross_entropy(self.head(x + self.attention(x)).mT, targets)


ids = torch.arange(10)[None]
print(Patient(eps=1e-6)(ids, ids), Patient(eps=0.0)(ids, ids))


# %% exercise="hunt"
# exercise: hunt
def hunt(model: nn.Module, ids: torch.Tensor, targets: torch.Tensor) -> tuple[str, str] | None:
    # solution
    found, running = [], []

    def leave(*_):
        running.pop()

    def finite(tensors):
        return all(t is None or bool(t.isfinite().all()) for t in tensors)

    def watch_gradients(node, place):
        def hook(passed_on, incoming):
            if finite(incoming) and not finite(passed_on):
                found.append(place)

        node.register_hook(hook)

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.grad_fn is not None:
                op = out.grad_fn.name().partition("Backward")[0].lower()
                if op != "maskedfill" and not finite([out]):
                    found.append((running[-1], op))
                watch_gradients(out.grad_fn, (running[-1], op))
            return out

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        hooks.append(module.register_forward_hook(leave))
    with Watch():
        loss = model(ids, targets)
    for hook in hooks:
        hook.remove()
    if not found:
        loss.backward()
    return found[0] if found else None
    # end solution


# %%
check("hunt")

# %%
print(hunt(Patient(eps=1e-6), ids, ids), hunt(Patient(eps=0.0), ids, ids))

# %% [markdown] lang="en"
# ## 7. Two post-mortems
#
# Two runs of ours went wrong; `recorded.json` has what they logged, and the command that recorded them. You see their settings, their curves, and the loss of a healthy run on the same batches. What their data and their machine did to them is not in the settings, and happens again in every rerun.

# %% [markdown] lang="es"
# ## 7. Dos post-mortems
#
# A dos ejecuciones nuestras les fue mal; `recorded.json` tiene lo que registraron, y el comando con el que se grabaron. Ves sus ajustes, sus curvas y la pérdida de una ejecución sana con los mismos lotes. Lo que les hicieron sus datos y su máquina no está en los ajustes, y vuelve a pasar en cada repetición.

# %%
record = json.loads(Path("../../labs/04-loss-spikes/recorded.json").read_text("utf-8"))
incidents = record["incidents"]
may_change = ("optim.warmup_steps", "optim.beta2", "optim.clip", "optim.z_loss", "model.qk_norm")
asked = ("optim.lr", "train.steps", *may_change)
figure, axes = plt.subplots(2, 3, figsize=(13, 5), layout="tight", sharey="col")
for row, (name, incident) in zip(axes, incidents.items(), strict=True):
    config = drill.configured(incident["settings"]).model_dump()
    print(name, {key: config[key.split(".")[0]][key.split(".")[1]] for key in asked})
    row[0].plot(incident["healthy"], color="grey")
    for axis, channel in zip(row, ("loss", "grad_norm", "attention_logit"), strict=True):
        axis.plot(incident[channel])
        axis.set_title(f"{name}: {label(channel)}")
        axis.set_yscale("linear" if channel == "loss" else "log")

# %% [markdown] lang="en"
# A cause is not what sounds right, but what the experiment leaves standing. For each incident you submit:
#
# - `"cause"`: `"gradient-burst"` (one gradient far longer than the others reached the optimizer), `"attention-logits"` (they grew without bound), `"first-updates"` (full-sized steps before the second moment knew anything), `"output-logits"` (those of the head drifted away), `"long-memory"` (a second moment that remembers for too many steps).
# - `"fix"`: the change of **one** setting with which the spike is gone, such as `{"optim.beta2": 0.95}`. The rerun must never be more than 0.25 nats (a mean of 8 steps) above the healthy run, so making it learn nothing is no fix.
# - `"control"`: a change of **one other** setting with which the spike is still there. It is half of the proof: it rules out that any change would have done.
#
# You may change `optim.warmup_steps` (at most the run's steps), `optim.beta2`, `optim.clip`, `optim.z_loss` and `model.qk_norm`. The learning rate, the steps and the data are what the run was asked for. `rerun` is your bench: about a second an experiment. Look at the six curves first, decide what each channel rules out, and only then run something.

# %% [markdown] lang="es"
# Una causa no es lo que suena bien, sino lo que el experimento deja en pie. Para cada incidente entregas:
#
# - `"cause"`: `"gradient-burst"` (un gradiente mucho más largo que los demás llegó al optimizador), `"attention-logits"` (los logits de atención crecieron sin límite), `"first-updates"` (pasos de tamaño completo antes de que el segundo momento supiera nada), `"output-logits"` (los logits de la cabeza se fueron alejando), `"long-memory"` (un segundo momento que recuerda demasiados pasos).
# - `"fix"`: el cambio de **un** ajuste con el que el pico desaparece, como `{"optim.beta2": 0.95}`. La repetición no puede estar nunca más de 0.25 nats (en media de 8 pasos) por encima de la ejecución sana, así que no vale hacer que no aprenda nada.
# - `"control"`: un cambio de **otro** ajuste con el que el pico sigue ahí. Es la mitad de la prueba: descarta que hubiera servido cualquier cambio.
#
# Puedes cambiar `optim.warmup_steps` (como mucho, los pasos de la ejecución), `optim.beta2`, `optim.clip`, `optim.z_loss` y `model.qk_norm`. La tasa de aprendizaje, los pasos y los datos son lo que se le pidió a la ejecución. `rerun` es tu banco de pruebas: alrededor de un segundo por experimento. Mira antes las seis curvas, decide qué descarta cada canal y solo entonces ejecuta algo.


# %%
def rerun(name, change):
    incident = incidents[name]
    settings = {**incident["settings"], **incident["planted"], **change}
    found = losses(settings, incident["seed"])
    print(name, change, f"{drill.excess(found, incident['healthy']):.2f} nats")


rerun("a", {})
rerun("b", {})


# %% exercise="post_mortem"
# exercise: post_mortem
def post_mortem(incident: str) -> dict:
    # solution
    if incident == "a":
        return {
            "cause": "gradient-burst",
            "fix": {"optim.clip": 1.0},
            "control": {"optim.beta2": 0.95},
        }
    return {
        "cause": "attention-logits",
        "fix": {"model.qk_norm": True},
        "control": {"optim.clip": 1.0},
    }
    # end solution


# %%
check("post_mortem")

# %%
for name in incidents:
    found = post_mortem(name)
    rerun(name, found["fix"])
    rerun(name, found["control"])

# %% [markdown] lang="en"
# ## For your portfolio
#
# One paragraph, in your own words, as you would tell it in an interview:
#
# 1. One of the two incidents as a post-mortem: what the curves showed, what each channel ruled out, the one change that removed the spike and the control that did not.
# 2. The prediction of section 1 that was furthest off, and what you now know instead.
# 3. Your detector's rule in one sentence, and a spike it would miss.
# 4. What a roll-back cost your guarded run, in steps done twice and batches never seen.

# %% [markdown] lang="es"
# ## Para tu portafolio
#
# Un párrafo, con tus palabras, como lo contarías en una entrevista:
#
# 1. Uno de los dos incidentes como post-mortem: qué mostraban las curvas, qué descartó cada canal, el único cambio que quitó el pico y el control que no.
# 2. La predicción de la sección 1 que más se alejó, y lo que sabes ahora en su lugar.
# 3. La regla de tu detector en una frase, y un pico que se le escaparía.
# 4. Lo que le costó el retroceso a tu ejecución vigilada, en pasos dados dos veces y lotes nunca vistos.
