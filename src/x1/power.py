"""The power one's own GPUs draw, by NVIDIA's management library, where nvidia-ml-py is installed.

What is wanted is an average over the minutes since the last reading, so the energy counter is read
twice (millijoules since the driver was loaded; Volta and later), not the power of one moment. The
first reading has nothing to compare with and gives the limit the cards are held to, which is never
too little.
"""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Energy:
    """A reading of the energy counters of all cards together."""

    joules: float
    at_s: float


def nvml() -> Any | None:
    """The library, ready to be asked; None where it, a driver or a card is missing."""
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
        return library if library.nvmlDeviceGetCount() > 0 else None
    except Exception:  # not installed, no driver, no permission: each has a class of its own
        return None


def read(before: Energy | None, at_s: float) -> tuple[float, Energy] | None:
    """(watts of all cards since `before`, this reading); None where nothing can be measured."""
    library = nvml()
    if library is None:
        return None
    try:
        cards = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
        joules = sum(library.nvmlDeviceGetTotalEnergyConsumption(card) for card in cards) / 1000
        now = Energy(joules, at_s)
        if before and at_s > before.at_s and joules >= before.joules:
            return (joules - before.joules) / (at_s - before.at_s), now
        limits = [library.nvmlDeviceGetEnforcedPowerLimit(card) for card in cards]
        return sum(limits) / 1000, now
    except Exception:  # a card that has no counter, or has fallen off the bus
        return None
