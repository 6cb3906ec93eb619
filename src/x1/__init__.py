"""X1: pre-train one 50M-parameter language model on one rented GPU, and defend every number."""

import os

__version__ = "0.1.0"

# torch's threads spin while they wait for each other, which starves them where another program
# shares the cores, so they sleep instead. It must be said before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
