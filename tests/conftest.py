"""Small networks train faster, and alike on every machine, on one thread."""

import torch

torch.set_num_threads(1)
