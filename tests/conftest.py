"""One torch thread per test worker, and English unless a test asks otherwise."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["X1_LANG"] = "en"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from x1.text import set_language

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def english():
    set_language("en")
    yield
    set_language(None)
