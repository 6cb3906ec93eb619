"""`python -m x1.calibrate`: prints the training tokens/s of the TOML configuration on stdin.

Random tokens through the real model, loss and optimizers for a few steps; nothing is written. It
is a process of its own so that the one that plans and supervises never loads torch.
"""

import sys
import time
import tomllib

import torch

from x1 import config, hardware, train
from x1.config import RunConfig
from x1.ranks import Ranks, device_of

STEPS = 6


def tokens_per_s(config: RunConfig) -> float:
    """Median over a few optimizer steps, after one that warms up."""
    hardware.prepare(config.train)
    ranks = Ranks(0, 1, device_of(config.train))
    model, network, optimizers = train.assemble(config, ranks)
    shape = (config.train.batch_sequences, config.model.context + 1)
    size = hardware.automatic_micro_batch(config, ranks.device, config.train.batch_sequences)
    durations = []
    for _ in range(STEPS + 1):
        ids = torch.randint(config.model.vocab_size, shape, device=ranks.device)
        started = time.perf_counter()
        train.forward_backward(network, ids, size, config.optim.z_loss, config.train.compile)
        norm = train.clip_gradients(model, config.optim.clip)
        float(norm)  # waits for the device
        train.update(optimizers, config.optim.lr)
        durations.append(time.perf_counter() - started)
    return config.batch_tokens / sorted(durations[1:])[STEPS // 2]


if __name__ == "__main__":
    raw = tomllib.loads(sys.stdin.read())
    raw.pop("format")
    print(tokens_per_s(config.validate(raw)))
