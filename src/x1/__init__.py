"""X1: pre-train one 50M-parameter language model on one rented GPU, and defend every number."""

import os

__version__ = "0.1.0"

# torch's threads spin while they wait for each other. Where another program shares the cores that
# turns a busy machine into a standing one (600 tokens/s instead of 3,000, rehearsal preset, two
# threads, load 4), so they sleep instead. It must be said before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
