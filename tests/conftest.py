"""Small networks train faster, and alike on every machine, on one thread."""

import gc
import os

# Read when they are loaded, by numpy and in processes that tests start as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from now on, and not among all that was loaded: that takes seconds."""
    gc.freeze()
    gc.enable()
