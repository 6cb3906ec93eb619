"""X1: pre-train one 50M-parameter language model on one rented GPU, and defend every number."""

import os

__version__ = "0.1.0"

# torch's threads wait for each other in a loop before they sleep. GNU OpenMP's own choice, a long
# loop, starves them where another program shares the cores; none at all makes small steps much
# slower. A short one is nearly as fast as any and starves nobody for long (docs/ideas.md). To be
# said before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
