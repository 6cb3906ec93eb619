# %% [markdown] lang="en"
# What loss will a model have that nobody has trained? In this lab you fit a scaling law to a ladder of small models, put an interval around it, and write down the loss of a model whose size, tokens and seed are drawn for you and are in nobody's data. Then you train it, here, and see by how much you missed. With the same functions you read the two published laws and price X1: 50M parameters trained on far more tokens than those laws would buy.
#
# The chapter derives what you need. Each function is graded alone, on cases drawn at grading time, so it may call numpy and math but none of the others: `check("objective")` below an exercise, or `x1 grade 1` in a terminal. `x1 hint 1 objective` gives a hint, and then a plainer one.

# %% [markdown] lang="es"
# ¿Qué pérdida tendrá un modelo que nadie ha entrenado? En este laboratorio ajustas una ley de escala a una escalera de modelos pequeños, le pones un intervalo y escribes la pérdida de un modelo cuyo tamaño, tokens y semilla se sortean para ti y no están en los datos de nadie. Después lo entrenas, aquí, y ves por cuánto fallaste. Con las mismas funciones lees las dos leyes publicadas y le pones precio a X1: 50M de parámetros entrenados con muchos más tokens de los que esas leyes comprarían.
#
# Lo que necesitas se deduce en el capítulo. Cada función se califica sola, con casos sorteados en el momento, así que puede usar numpy y math, pero ninguna de las otras: `check("objective")` debajo de un ejercicio, o `x1 grade 1` en una terminal. `x1 hint 1 objective` da una pista, y después otra más clara.

# %%
import itertools
import math
import secrets
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from x1 import config, evaluate, flops, folder, ladder, scaling
from x1.course import check, label, predict, predicted, setting
from x1.course.source import labs_folder
from x1.prepare import prepare

# %% [markdown] lang="en"
# ## Write a number down
#
# X1 has 46.9M parameters and will see 5B tokens of filtered web text. What will its held-out loss be, in nats per token? Put your number and your margin in place of the two `None`. It may be wrong and is never graded for being right; the cell at the end that answers asks for it first.

# %% [markdown] lang="es"
# ## Escribe un número
#
# X1 tiene 46.9M de parámetros y verá 5B de tokens de texto web filtrado. ¿Cuál será su pérdida en texto reservado, en nats por token? Pon tu número y tu margen en lugar de los dos `None`. Puede fallar, y nunca se califica si acierta; la celda del final que da la respuesta lo pide antes.

# %%
predict("x1_loss", value=None, plus_or_minus=None)

# %% [markdown] lang="en"
# ## The ladder
#
# Five sizes, each at four token counts, all of one family: two layers, heads of width 8, `d_ff` three times the width, a vocabulary of 512. They were trained on the generated corpus, whose floor is known exactly: the dashed line, which no model that has not seen these documents can expect to beat. N counts every parameter, the embedding too.

# %% [markdown] lang="es"
# ## La escalera
#
# Cinco tamaños, cada uno con cuatro cantidades de tokens, todos de una misma familia: dos capas, cabezas de ancho 8, `d_ff` el triple del ancho, un vocabulario de 512. Se entrenaron con el corpus generado, cuyo piso se conoce con exactitud: la línea discontinua, que ningún modelo que no haya visto estos documentos puede esperar superar. N cuenta todos los parámetros, también el embedding.

# %%
root = labs_folder().resolve().parent
measured = folder.read_json(root / "docs" / "measured" / "ladder-verbs.json")
floor = measured["points"]["floor_nats_per_token"]
points = [point for point in measured["points"]["points"] if point["seed"] == 0]
N, D, loss = (
    np.array([float(p[key]) for p in points]) for key in ("N", "D", "loss_nats_per_token")
)
for size in np.unique(N):
    plt.plot(D[size == N], loss[size == N], "o-", label=f"N = {size:,.0f}")
plt.axhline(floor, color="grey", linestyle="--")
plt.xscale("log")
plt.xlabel(label("tokens"))
plt.ylabel(f"{label('loss')} (nats)")
plt.legend()

# %% [markdown] lang="en"
# ## The objective
#
# The law is L = E + A/N^α + B/D^β. From here on a law is an array of five numbers, `theta = (a, b, e, alpha, beta)` with A = exp(a), B = exp(b), E = exp(e), so that none of the three can turn negative. The logarithm of its loss is LSE(a − α ln N, b − β ln D, e), where LSE is the logarithm of a sum of exponentials.
#
# `objective(theta, N, D, loss, delta)` is what approach 3 of Hoffmann et al. minimises: the sum over the runs of the Huber loss of r = ln predicted − ln measured. That is r²/2 up to |r| = δ, and a straight line from there on that continues it with the same slope. `N`, `D` and `loss` are arrays, one entry a run. It has to hold for a theta anywhere, also where exp(a) is more than a float can hold.

# %% [markdown] lang="es"
# ## El objetivo
#
# La ley es L = E + A/N^α + B/D^β. De aquí en adelante, una ley es un array de cinco números, `theta = (a, b, e, alpha, beta)` con A = exp(a), B = exp(b), E = exp(e), para que ninguno de los tres pueda volverse negativo. El logaritmo de su pérdida es LSE(a − α ln N, b − β ln D, e), donde LSE es el logaritmo de una suma de exponenciales.
#
# `objective(theta, N, D, loss, delta)` es lo que minimiza el método 3 de Hoffmann et al.: la suma, sobre las ejecuciones, de la pérdida de Huber de r = ln predicho − ln medido. Eso es r²/2 hasta |r| = δ, y desde ahí una recta que la continúa con la misma pendiente. `N`, `D` y `loss` son arrays, con un valor por ejecución. Tiene que valer para cualquier theta, también donde exp(a) no cabe en un float.


# %% exercise="objective"
# exercise: objective
def objective(theta, N, D, loss, delta):
    # solution
    a, b, e, alpha, beta = theta
    predicted = np.logaddexp(np.logaddexp(a - alpha * np.log(N), b - beta * np.log(D)), e)
    size = np.abs(predicted - np.log(loss))
    near = np.minimum(size, delta)
    return (near * (size - near / 2)).sum()
    # end solution


# %%
check("objective")

# %% [markdown] lang="en"
# ## Its gradient
#
# `gradient(theta, N, D, loss, delta)` returns the derivative of that sum in a, b, e, α and β: an array of five, by hand. The grader holds it to torch.autograd and to finite differences. The slope of LSE in each of its terms is that term's share of the predicted loss.

# %% [markdown] lang="es"
# ## Su gradiente
#
# `gradient(theta, N, D, loss, delta)` devuelve la derivada de esa suma respecto de a, b, e, α y β: un array de cinco, a mano. El calificador la compara con torch.autograd y con diferencias finitas. La pendiente de LSE en cada uno de sus términos es la parte que ese término tiene en la pérdida predicha.


# %% exercise="gradient"
# exercise: gradient
def gradient(theta, N, D, loss, delta):
    # solution
    a, b, e, alpha, beta = theta
    from_N, from_D = a - alpha * np.log(N), b - beta * np.log(D)
    predicted = np.logaddexp(np.logaddexp(from_N, from_D), e)
    pull = np.clip(predicted - np.log(loss), -delta, delta)
    in_N, in_D = pull * np.exp(from_N - predicted), pull * np.exp(from_D - predicted)
    in_E = pull * np.exp(e - predicted)
    slopes = [in_N, in_D, in_E, -in_N * np.log(N), -in_D * np.log(D)]
    return np.array(slopes).sum(axis=1)
    # end solution


# %%
check("gradient")

# %% [markdown] lang="en"
# Now give both to torch's L-BFGS with the tolerances it comes with, once as a sum and once as a mean over the runs. A mean has the same minimum. From the same start, do the two end at the same law? The last column is the objective, as a sum, where each one stopped.

# %% [markdown] lang="es"
# Ahora dale las dos al L-BFGS de torch con las tolerancias que trae de fábrica, una vez como suma y otra como media de las ejecuciones. Una media tiene el mismo mínimo. Desde el mismo punto de partida, ¿acaban las dos en la misma ley? La última columna es el objetivo, como suma, donde se detuvo cada una.


# %%
def lbfgs(start, divisor):
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=5000, line_search_fn="strong_wolfe")

    def closure():
        at = theta.detach().numpy()
        theta.grad = torch.from_numpy(gradient(at, N, D, loss, 1e-3) / divisor)
        return torch.tensor(objective(at, N, D, loss, 1e-3) / divisor)

    optimizer.step(closure)
    return theta.detach().numpy()


def row(name, theta, value):
    print(f"{name:12} E {np.exp(theta[2]):.3f}  α {theta[3]:.3f}  β {theta[4]:.3f}  {value:.3e}")


for start in ([5.0, 5.0, 0.0, 0.5, 0.5], [5.0, 10.0, 0.0, 0.5, 1.0]):
    for name, divisor in (("sum", 1), ("mean", len(N))):
        end = lbfgs(start, divisor)
        row(label(name), end, objective(end, N, D, loss, 1e-3))

# %% [markdown] lang="en"
# The mean stopped where its slope, or what a step still changed, fell below an absolute tolerance, and that is all that "converged" means. And the sum depends on where it starts: the landscape has valleys.
#
# ## The fit
#
# So a solver that goes to the bottom, and many starts. The cell below gives you the solver: `solver(N, D, loss, delta)` returns a function `descend(starts, steps)`, which takes an array of S starts, (S, 5), makes at most `steps` steps from each, and returns where they end, (S, 5), and the objective there, (S,). A Huber loss is least squares in which a run weighs min(1, δ/|r|), so each step solves those.
#
# `fit(descend, N, D, loss)` returns the best law you can find with it. The grader's `descend` gets stuck more often than this one: from most starts it makes no step at all, and you cannot know which. Its ladders are anywhere between a thousand and a trillion parameters, and a run may have diverged.

# %% [markdown] lang="es"
# La media se detuvo donde su pendiente, o lo que aún cambiaba un paso, bajó de una tolerancia absoluta, y «convergió» no significa nada más que eso. Y la suma depende de dónde empieza: el paisaje tiene valles.
#
# ## El ajuste
#
# Así que hacen falta un algoritmo que llegue al fondo y muchos puntos de partida. La celda de abajo te da el algoritmo: `solver(N, D, loss, delta)` devuelve una función `descend(starts, steps)`, que recibe un array de S puntos de partida, (S, 5), da como mucho `steps` pasos desde cada uno y devuelve dónde acaban, (S, 5), y el objetivo ahí, (S,). Una pérdida de Huber son mínimos cuadrados en los que una ejecución pesa min(1, δ/|r|), así que cada paso resuelve esos.
#
# `fit(descend, N, D, loss)` devuelve la mejor ley que encuentres con ella. La `descend` del calificador se atasca más que esta: desde la mayoría de los puntos de partida no da ni un paso, y no puedes saber desde cuáles. Sus escaleras están en cualquier parte entre mil y un millón de millones de parámetros, y puede que una ejecución haya divergido.


# %%
def solver(N, D, loss, delta=1e-3):
    x, y, target = np.log(N), np.log(D), np.log(loss)

    def look(theta):
        a, b, e, alpha, beta = theta.T[:, :, None]
        terms = np.stack([a - alpha * x, b - beta * y, e + 0 * x])
        predicted = np.logaddexp.reduce(terms)
        of_N, of_D, of_E = np.exp(terms - predicted)
        jacobian = np.stack([of_N, of_D, of_E, (x.mean() - x) * of_N, (y.mean() - y) * of_D])
        r = predicted - target
        near = np.minimum(np.abs(r), delta)
        return r, jacobian.transpose(1, 0, 2), (near * (np.abs(r) - near / 2)).sum(axis=1)

    def descend(starts, steps):
        theta = np.array(starts, dtype=float).reshape(-1, 5)
        state = [theta, *look(theta)]
        damping = np.full(len(theta), 1e-2)
        for _ in range(steps):
            _, r, J, value = state
            weighted = J * (delta / np.maximum(np.abs(r), delta))[:, None, :]
            curvature = weighted @ J.swapaxes(1, 2)
            own = np.einsum("sii->si", curvature)
            own += damping[:, None] * np.maximum(own, 1e-10 * own.max(axis=1, keepdims=True))
            step = np.linalg.solve(curvature, weighted @ r[:, :, None])[:, :, 0]
            step[:, :2] += step[:, 3:] * [x.mean(), y.mean()]
            trial = state[0] - step
            moved = [trial, *look(trial)]
            down = moved[3] < value
            for kept, new in zip(state, moved, strict=True):
                kept[down] = new[down]
            damping = np.where(down, np.maximum(damping / 5, 1e-9), damping * 8)
            if (damping > 1e8).all():
                break
        return state[0], state[3]

    return descend


# %% exercise="fit"
# exercise: fit
def fit(descend, N, D, loss):
    # solution
    part = np.log(loss).mean() - 1
    middle_N, middle_D = np.log(N).mean(), np.log(D).mean()
    starts = []
    for alpha, beta in itertools.product(np.linspace(0, 1, 6), repeat=2):
        starts.append([part + alpha * middle_N, part + beta * middle_D, part, alpha, beta])
    ends, values = descend(np.array(starts), 60)
    ends, values = descend(ends[np.argsort(values)[:5]], 1000)
    return ends[np.argmin(values)]
    # end solution


# %%
check("fit")

# %% [markdown] lang="en"
# Your law of this ladder, and how the smallest sizes bend it. The second row leaves the smallest size out, the third the two smallest. The floor is known: the last line. Which of the three E would you have believed?

# %% [markdown] lang="es"
# Tu ley de esta escalera, y cómo la doblan los tamaños más pequeños. La segunda fila deja fuera el menor; la tercera, los dos menores. El piso se conoce: la última línea. ¿A cuál de las tres E le habrías creído?


# %%
def refit(N, D, loss):
    return fit(solver(N, D, loss), N, D, loss)


def loss_at(theta, N, D):
    a, b, e, alpha, beta = theta
    return np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D)) + np.exp(e)


sizes = np.unique(N)[:3]
larger = [size <= N for size in sizes]
fits = [refit(N[kept], D[kept], loss[kept]) for kept in larger]
law = fits[0]
for smallest, kept, theta in zip(sizes, larger, fits, strict=True):
    row(f"N ≥ {smallest:,.0f}", theta, objective(theta, N[kept], D[kept], loss[kept], 1e-3))
print(f"{label('floor'):12} E {floor:.3f}")

# %% [markdown] lang="en"
# ## The bootstrap
#
# How far could another ladder of the same kind have led? `bootstrap(refit, N, D, loss, resamples, rng)` draws `resamples` ladders from this one, each of as many runs as it has, with replacement, and fits each: it returns the laws that `refit(N, D, loss)` gives, as an array (resamples, 5). `rng` is a numpy Generator; all that is random comes from it.

# %% [markdown] lang="es"
# ## El bootstrap
#
# ¿Hasta dónde podría haber llevado otra escalera del mismo tipo? `bootstrap(refit, N, D, loss, resamples, rng)` sortea `resamples` escaleras a partir de esta, cada una con tantas ejecuciones como tiene, con reemplazo, y las ajusta: devuelve las leyes que da `refit(N, D, loss)`, como array (resamples, 5). `rng` es un Generator de numpy; todo lo aleatorio sale de él.


# %% exercise="bootstrap"
# exercise: bootstrap
def bootstrap(refit, N, D, loss, resamples, rng):
    # solution
    laws = []
    for _ in range(resamples):
        drawn = rng.integers(len(N), size=len(N))
        laws.append(refit(N[drawn], D[drawn], loss[drawn]))
    return np.array(laws)
    # end solution


# %%
check("bootstrap")

# %% [markdown] lang="en"
# The middle 90% of each parameter. Twenty runs, five numbers: which of the five does this ladder determine?

# %% [markdown] lang="es"
# El 90% central de cada parámetro. Veinte ejecuciones, cinco números: ¿cuáles de los cinco determina esta escalera?


# %%
def with_progress(N, D, loss):
    print(end=".", flush=True)
    return refit(N, D, loss)


laws = bootstrap(with_progress, N, D, loss, setting(100, small=6), np.random.default_rng(0))
print()
shown = [*np.exp(laws.T[:3]), *laws.T[3:]]
for name, values in zip("ABEαβ", shown, strict=True):
    low, high = np.quantile(values, [0.05, 0.95])
    print(f"{name}  {low:.3g} – {high:.3g}")

# %% [markdown] lang="en"
# ## The interval of a run
#
# `interval(laws, residuals, N, D, level)` returns `(low, high)`, in nats: where the loss of *one new run* of N parameters and D tokens should fall with probability `level`, as much of the rest below as above. Two things are uncertain. Where the curve is: `laws`, (R, 5). And how far a run falls from its curve: `residuals`, (n,), the ln measured − ln predicted of the runs fitted. A fit of five numbers passes closer to its own n runs than to new ones, so widen the residuals by √(n/(n − 5)). Any law may come with any residual.

# %% [markdown] lang="es"
# ## El intervalo de una ejecución
#
# `interval(laws, residuals, N, D, level)` devuelve `(low, high)`, en nats: dónde debería caer la pérdida de *una ejecución nueva* de N parámetros y D tokens con probabilidad `level`, y del resto, tanto por debajo como por encima. Hay dos cosas inciertas. Dónde está la curva: `laws`, (R, 5). Y cuánto se aparta una ejecución de su curva: `residuals`, (n,), los ln medido − ln predicho de las ejecuciones ajustadas. Un ajuste de cinco números pasa más cerca de sus propias n ejecuciones que de otras nuevas, así que ensancha los residuos por √(n/(n − 5)). Cualquier ley puede venir con cualquier residuo.


# %% exercise="interval"
# exercise: interval
def interval(laws, residuals, N, D, level):
    # solution
    a, b, e, alpha, beta = np.asarray(laws).T
    curve = np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D)) + np.exp(e)
    n = len(residuals)
    scatter = np.asarray(residuals) * math.sqrt(n / (n - 5))
    low, high = np.quantile(np.outer(curve, np.exp(scatter)), [(1 - level) / 2, (1 + level) / 2])
    return low, high
    # end solution


# %%
check("interval")

# %% [markdown] lang="en"
# ## A rung that nobody has trained
#
# The next cell draws yours, once: its width, its tokens and its seed go into `rung.json` in this folder and stay. It is of the ladder's family, larger than its largest size, and cools down like the others; the learning rate follows the ladder's, which falls about as the root of the width. Below it, what the three laws say, and the 90% interval around the first.

# %% [markdown] lang="es"
# ## Un peldaño que nadie ha entrenado
#
# La celda siguiente sortea el tuyo, una sola vez: su ancho, sus tokens y su semilla quedan en `rung.json`, en esta carpeta. Es de la familia de la escalera, mayor que su tamaño más grande, y se enfría como los demás; la tasa de aprendizaje sigue la de la escalera, que baja más o menos como la raíz del ancho. Debajo, lo que dicen las tres leyes, y el intervalo del 90% alrededor de la primera.

# %%
drawn = Path("rung.json")
if not drawn.exists():
    steps = 1030 + secrets.randbelow(60)
    width, seed = secrets.choice([48, 56]), 100 + secrets.randbelow(900_000)
    folder.write_json(drawn, {"width": width, "steps": steps, "seed": seed})
mine = folder.read_json(drawn)
width, seed, steps = mine["width"], mine["seed"], setting(mine["steps"], small=10)
rung = ladder.Rung(
    name=f"d{width}", n_layers=2, n_heads=width // 8, d_model=width, d_ff=3 * width,
    lr=round(0.0105 * (40 / width) ** 0.55, 5),
)  # fmt: skip
run = ladder.config_of(ladder.named(setting("cpu", small="small")), rung, steps, seed)
my_N, my_D = flops.parameters(run.model), run.tokens
print(f"N = {my_N:,}, D = {my_D:,}, lr = {rung.lr}")

residuals = np.log(loss) - np.log(loss_at(law, N, D))
low, high = interval(laws, residuals, my_N, my_D, 0.9)
for smallest, theta in zip(sizes, fits, strict=True):
    print(f"N ≥ {smallest:,.0f}  {loss_at(theta, my_N, my_D):.4f} nats")
print(f"{low:.4f} – {high:.4f} nats")

# %% [markdown] lang="en"
# A bootstrap draws the runs again; it never doubts the form of the law. You may. Write down the loss you expect of this run, and your margin.

# %% [markdown] lang="es"
# Un bootstrap vuelve a sortear las ejecuciones; de la forma de la ley no duda nunca. Tú puedes. Escribe la pérdida que esperas de esta ejecución, y tu margen.

# %%
predict("rung_loss", value=None, plus_or_minus=None)

# %% [markdown] lang="en"
# Now it is trained: the corpus takes about ten seconds to make, the training a minute at most on two cores. A run that is finished is not trained again; one that you interrupt goes on where it was.

# %% [markdown] lang="es"
# Ahora se entrena: preparar el corpus lleva unos diez segundos, y el entrenamiento, como mucho un minuto con dos núcleos. Una ejecución terminada no se vuelve a entrenar; una que interrumpes sigue donde estaba.


# %%
def train(path, run):
    prepare(run)
    folder.claim(path, run)
    log = path / "train.log"
    with log.open("a") as said:
        child = subprocess.Popen([sys.executable, "-m", "x1.train", path], stdout=said, stderr=said)
        try:
            while child.poll() is None:
                time.sleep(0.5)
                lines = folder.read_lines(path / folder.METRICS)
                done = max((line["step"] for line in lines), default=0)
                print(f"\r{done} / {run.train.steps}", end="", flush=True)
        finally:
            child.terminate()
            code = child.wait()
    print()
    if code != 0:
        raise RuntimeError(log.read_text()[-500:])
    return evaluate.evaluate(path)["held_out"]["loss_nats_per_token"]


expected = predicted("rung_loss")
path = Path("runs") / f"{rung.name}-s{seed}-{run.tokens}"
met = train(path, run)
print(f"{label('measured')}: {met:.4f} nats")

# %% [markdown] lang="en"
# And the score: your number, the law and two guesses that need none. The first is the largest size of the ladder at the nearest token count; the second, a straight line through ln loss over ln N there. All of it is of one seed: three seeds of width 16 lie up to 0.005 nats apart after 5.2M tokens, and wider models after fewer tokens may differ by more. Another seed of your own rung is one more minute: `train(Path("runs/again"), ladder.config_of(ladder.named("cpu"), rung, steps, seed + 1))`.
#
# The last line is the ladder's own held-back rung, of width 96: the loss it met, and by how much the law of all twenty runs had missed it. Does your miss have the same sign? A bootstrap of the runs doubts neither the form of the law nor that each size has one seed. `x1 ladder` adds both doubts to its interval, which came out five times as wide, and held. Look at the plot again: where do the sizes stop helping, and would you have fitted that with the rest?

# %% [markdown] lang="es"
# Y el resultado: tu número, la ley y dos conjeturas que no necesitan ninguna. La primera es el tamaño mayor de la escalera con la cantidad de tokens más cercana; la segunda, una recta de ln pérdida según ln N en esa misma cantidad. Todo esto es de una sola semilla: tres semillas del ancho 16 distan hasta 0.005 nats entre sí después de 5.2M de tokens, y los modelos más anchos, con menos tokens, pueden diferir más. Otra semilla de tu propio peldaño es un minuto más: `train(Path("runs/again"), ladder.config_of(ladder.named("cpu"), rung, steps, seed + 1))`.
#
# La última línea es el peldaño reservado de la propia escalera, de ancho 96: la pérdida que obtuvo, y por cuánto había fallado la ley de las veinte ejecuciones. ¿Tiene tu error el mismo signo? Un bootstrap de las ejecuciones no duda ni de la forma de la ley ni de que cada tamaño tenga una sola semilla. `x1 ladder` suma las dos dudas a su intervalo, que salió cinco veces más ancho, y acertó. Vuelve a mirar la gráfica: ¿dónde deja de ayudar el tamaño, y lo habrías ajustado junto con lo demás?

# %%
near = np.abs(np.log(D / my_D)) == np.abs(np.log(D / my_D)).min()
slope, height = np.polyfit(np.log(N[near]), np.log(loss[near]), 1)
guesses = {
    label("predicted"): expected.value,
    label("law"): loss_at(law, my_N, my_D),
    label("law_shorter"): loss_at(fits[2], my_N, my_D),
    label("largest"): loss[near][np.argmax(N[near])],
    label("line"): np.exp(height + slope * np.log(my_N)),
}
print(f"{label('measured'):24} {met:.4f} nats")
for name, value in guesses.items():
    print(f"{name:24} {value:.4f} nats  {value - met:+.4f}")
print(f"{low:.4f} – {high:.4f}  {label('inside' if low <= met <= high else 'outside')}")
own = abs(met - expected.value) <= expected.plus_or_minus
print(f"{label('predicted')} ± {expected.plus_or_minus}  {label('inside' if own else 'outside')}")
held_back = measured["result"]
before, after = held_back["predicted_nats_per_token"], held_back["measured_nats_per_token"]
print(f"{held_back['target']['rung']:24} {after:.4f} nats  {before - after:+.4f}")

# %% [markdown] lang="en"
# ## What a budget buys
#
# `optimal(law, C, head)` returns `(N, D)`: the parameters and tokens with the least loss that C FLOPs can buy. A token costs 6·(N + head) FLOPs, where `head` are parameters that have to be multiplied with but that the N of this law leaves out: Kaplan's laws counted neither embedding nor head. So 6·(N + head)·D = C. With `head=0` there is a closed form; with another the two slopes have to be balanced by number.

# %% [markdown] lang="es"
# ## Lo que compra un presupuesto
#
# `optimal(law, C, head)` devuelve `(N, D)`: los parámetros y los tokens con la menor pérdida que se puede comprar con C FLOPs. Un token cuesta 6·(N + head) FLOPs, donde `head` son parámetros por los que hay que multiplicar, pero que la N de esta ley no cuenta: las leyes de Kaplan no contaban ni el embedding ni la cabeza. Así que 6·(N + head)·D = C. Con `head=0` hay una fórmula cerrada; con otro valor hay que equilibrar las dos pendientes numéricamente.


# %% exercise="optimal"
# exercise: optimal
def optimal(law, C, head):
    # solution
    a, b, _, alpha, beta = law
    low, high = 0.0, math.log(C / 6)
    for _ in range(100):
        x = (low + high) / 2
        paid = math.exp(x) + head
        gain = math.log(alpha) + a - alpha * x
        price = math.log(beta) + b + beta * math.log(6 * paid / C) + x - math.log(paid)
        low, high = (x, high) if gain > price else (low, x)
    N = math.exp(low)
    return N, C / (6 * (N + head))
    # end solution


# %%
check("optimal")

# %% [markdown] lang="en"
# The two published laws at X1's own compute and at Chinchilla's, 5.76e23 FLOPs: parameters, tokens, tokens per parameter. The last column is the share of N by which a Kaplan-like count would be off: what `optimal` gives if 8.4M parameters of embedding go uncounted. Where does "20 tokens per parameter" hold?

# %% [markdown] lang="es"
# Las dos leyes publicadas con el cómputo del propio X1 y con el de Chinchilla, 5.76e23 FLOPs: parámetros, tokens, tokens por parámetro. La última columna es cuánto se apartaría, como fracción de N, una cuenta como la de Kaplan: lo que da `optimal` si 8.4M de parámetros del embedding quedan sin contar. ¿Dónde valen los «20 tokens por parámetro»?

# %%
x1 = config.build("x1-50m")
x1_N, x1_D = flops.parameters(x1.model), 5e9
x1_C = 6 * x1_N * x1_D
published = [scaling.parameters(one) for one in scaling.PUBLISHED]
for theta in published:
    for C in (x1_C, 5.76e23):
        best_N, best_D = optimal(theta, C, 0)
        off = optimal(theta, C, 8.4e6)[0] / best_N - 1
        print(f"{C:.2e}  N {best_N:.3g}  D {best_D:.3g}  D/N {best_D / best_N:.1f}  {off:+.3f}")

# %% [markdown] lang="en"
# ## The price of over-training
#
# A model smaller than the optimum costs less to use and more to train. `overtraining(law, N, C)` returns a pair for a model of N parameters trained with C = 6·N·D FLOPs: the nats by which its loss is above the best that C can buy, and the share of C with which the best split would have reached that same loss.

# %% [markdown] lang="es"
# ## El precio de sobreentrenar
#
# Un modelo menor que el óptimo cuesta menos de usar y más de entrenar. `overtraining(law, N, C)` devuelve un par para un modelo de N parámetros entrenado con C = 6·N·D FLOPs: los nats que su pérdida queda por encima de la mejor que se compra con C, y la parte de C con la que el mejor reparto habría alcanzado esa misma pérdida.


# %% exercise="overtraining"
# exercise: overtraining
def overtraining(law, N, C):
    # solution
    a, b, _, alpha, beta = law

    def above_floor(N):
        return math.exp(a - alpha * math.log(N)) + math.exp(b - beta * math.log(C / 6 / N))

    ratio = math.log(alpha / beta) + a - b
    best = math.exp((ratio + beta * math.log(C / 6)) / (alpha + beta))
    here, there = above_floor(N), above_floor(best)
    return here - there, (there / here) ** (1 / alpha + 1 / beta)
    # end solution


# %%
check("overtraining")

# %% [markdown] lang="en"
# X1's price under each published law: nats, and the share of its compute that would have done.

# %% [markdown] lang="es"
# El precio de X1 según cada ley publicada: los nats, y la parte de su cómputo que habría bastado.

# %%
for theta in published:
    nats, share = overtraining(theta, x1_N, x1_C)
    print(f"{nats:+.3f} nats  {share:.2f}")

# %% [markdown] lang="en"
# ## When the text runs out
#
# `effective_tokens(unique, total, R)`: what `total` training tokens are worth in fresh ones when only `unique` of them are different. The first pass counts in full, and fewer tokens than `unique` are simply fresh. The rest are worth less and less: after r further passes, unique·R·(1 − e^(−r/R)), where r need not be whole (Muennighoff et al., 2305.16264, who fit R = 15.39).

# %% [markdown] lang="es"
# ## Cuando se acaba el texto
#
# `effective_tokens(unique, total, R)`: cuánto valen `total` tokens de entrenamiento, en tokens nuevos, cuando solo `unique` de ellos son distintos. La primera vuelta cuenta entera, y menos tokens que `unique` son nuevos sin más. Los demás valen cada vez menos: después de r vueltas adicionales, unique·R·(1 − e^(−r/R)), donde r no tiene por qué ser entero (Muennighoff et al., 2305.16264, que ajustan R = 15.39).


# %% exercise="effective_tokens"
# exercise: effective_tokens
def effective_tokens(unique, total, R):
    # solution
    repeats = max(0, total / unique - 1)
    return min(unique, total) + unique * R * (1 - math.exp(-repeats / R))
    # end solution


# %%
check("effective_tokens")

# %% [markdown] lang="en"
# And X1's loss: your number first, then both laws, with fresh text and with the same 5B tokens made of 1B and of 100M different ones. The last line is how far either of the two has been from the published losses of small models on other web text, which is the least margin one can put on such a number. X1's own ladder, on its own text and tokenizer, will replace it before the run.

# %% [markdown] lang="es"
# Y la pérdida de X1: primero tu número; después, las dos leyes, con texto nuevo y con los mismos 5B de tokens hechos de 1B y de 100M distintos. La última línea es cuánto se ha apartado alguna de las dos de las pérdidas publicadas de modelos pequeños con otro texto web: el margen mínimo que se le puede poner a un número así. La escalera del propio X1, con su texto y su tokenizador, lo sustituirá antes de la ejecución.

# %%
guess = predicted("x1_loss")
print(f"{label('predicted')}: {guess.value} ± {guess.plus_or_minus} nats")
for theta in published:
    worth = [effective_tokens(unique, x1_D, 15.39) for unique in (5e9, 1e9, 1e8)]
    print("  ".join(f"{loss_at(theta, x1_N, tokens):.3f}" for tokens in worth))
print(f"± {scaling.transfer_error():.2f} nats")

# %% [markdown] lang="en"
# ## For the portfolio
#
# One paragraph, with your own numbers:
#
# > Before training it I wrote down that a model of N = … on D = … tokens would reach … ± … nats per token. My law of 20 smaller runs said …, with a 90% interval of … to … . It reached … . The law missed by …, the two guesses without a law by … and … . I would now trust the interval more / less, because … . For X1, 46.9M parameters on 5B tokens, I predict … ± … nats: the published laws say … and …, and its size costs … nats over the best split of the same compute, which I would pay because … .
#
# Keep `rung.json` and the run's folder with it: whoever doubts it can train your rung again.

# %% [markdown] lang="es"
# ## Para el portafolio
#
# Un párrafo, con tus propios números:
#
# > Antes de entrenarlo escribí que un modelo de N = … con D = … tokens llegaría a … ± … nats por token. Mi ley de 20 ejecuciones menores decía …, con un intervalo del 90% de … a … . Llegó a … . La ley falló por …, y las dos conjeturas sin ley, por … y … . Ahora confiaría más / menos en el intervalo, porque … . Para X1, 46.9M de parámetros con 5B de tokens, predigo … ± … nats: las leyes publicadas dicen … y …, y su tamaño cuesta … nats sobre el mejor reparto del mismo cómputo, que yo pagaría porque … .
#
# Guarda con él `rung.json` y la carpeta de la ejecución: quien lo dude puede volver a entrenar tu peldaño.
