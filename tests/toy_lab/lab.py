# %% [markdown] lang="en"
# Some words.
# %% [markdown] lang="es"
# Unas palabras.
# %%
import math

import numpy as np

from x1 import flops, money
from x1.course import check, predict, predicted

# %%
predict("loss", value=None, plus_or_minus=None)
# %%
loss = predicted("loss").value
math.exp(loss) / flops.GIGA, money.usd(loss)


# %% exercise="mfu"
# exercise: mfu
def mfu(flops_per_s: float, peak_flops_per_s: float) -> float:
    # solution
    return flops_per_s / peak_flops_per_s
    # end solution


# %%
check("mfu")


# %% exercise="mean_square"
# exercise: mean_square
def mean_square(values: list[float]) -> float:
    # solution
    return float(np.mean(np.square(values)))
    # end solution


# %%
check("mean_square")
