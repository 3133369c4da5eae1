"""One thread for PyTorch: small networks gain nothing from more, and lose much on a machine that does something else as well."""

import torch

torch.set_num_threads(1)
