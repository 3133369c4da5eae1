"""How accurate networks are: one network on a split, and a supernet's subnets as a metric."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwnas.backends.torch import Network
from hwnas.images import Images
from hwnas.predictor import Origin
from hwnas.space import Codes, FloatArray
from hwnas.supernet.recalibrate import recalibrated
from hwnas.supernet.supernet import Supernet
from hwnas.training.trainer import calibration_batches

BoolArray = npt.NDArray[np.bool_]


#: Images that several subnets are evaluated on are kept normalised in memory, of all resolutions together up to so many bytes, else decoded anew for each.
KEPT_BYTES = 2 << 30


def correct(network: Network, images: Images, *, batch: int = 500, inputs: Tensor | None = None) -> BoolArray:
    """Whether each image is classified right, (n,); inputs: the images normalised at the network's resolution, if they are at hand."""
    resolution = network.graph.input[2]
    device = next(iter(network.tensors.values())).device
    network.eval()
    hits = []
    with torch.inference_mode():
        for rows in torch.arange(len(images)).split(batch):
            x = images.at(rows, resolution) if inputs is None else inputs[rows]
            hits.append(network(x.to(device)).argmax(1).cpu() == images.labels[rows])
    return torch.cat(hits).numpy()


class SupernetAccuracy:
    """Top-1 accuracy in % of subnets with inherited weights after batch-norm re-calibration, on the validation images."""

    name: str = "accuracy"
    unit: str = "%"
    origin: Origin = "measured"
    expensive: bool = True

    def __init__(self, supernet: Supernet, training: Images, validation: Images, *, calibration: int = 1_000, seed: int = 0):
        self.supernet, self.training, self.validation = supernet, training, validation
        self.calibration, self.seed = calibration, seed
        self._inputs: dict[int, tuple[list[Tensor], Tensor | None]] = {}  # resolution -> calibration batches, validation inputs

    def __call__(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> accuracy in %, (n,)."""
        return np.array([100 * self.correct(code).mean() for code in codes])

    def network(self, code: Codes) -> Network:
        """The subnet of one row of codes, re-calibrated."""
        network = self.supernet.subnet(code)
        return recalibrated(network, self._prepared(network.graph.input[2])[0])

    def correct(self, code: Codes) -> BoolArray:
        """Whether each validation image is classified right, (n,)."""
        network = self.network(code)
        return correct(network, self.validation, inputs=self._prepared(network.graph.input[2])[1])

    def _prepared(self, resolution: int) -> tuple[list[Tensor], Tensor | None]:
        if resolution not in self._inputs:
            device = next(iter(self.supernet.tensors.values())).device
            batches = [each.to(device) for each in calibration_batches(self.training, resolution, n=self.calibration, seed=self.seed)]
            kept = sum(inputs.nbytes for _, inputs in self._inputs.values() if inputs is not None)
            fits = kept + 4 * len(self.validation) * self.validation.channels * resolution**2 <= KEPT_BYTES
            self._inputs[resolution] = batches, self.validation.at(slice(None), resolution) if fits else None
        return self._inputs[resolution]
