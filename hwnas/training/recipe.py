"""How weights are stepped: optimiser, losses, precision. The same for supernets and for networks alone."""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.errors import InputError, UnknownName
from hwnas.training.augment import augmentation

OPTIMIZERS = ("adamw", "sgd")
#: Name -> whether the loss is scaled so that small gradients do not vanish.
PRECISIONS = {"fp32": False, "bf16": False, "fp16": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`rate` multiplies the rates of all phases; `rate_images`: they are for so many images a step and grow with more (0: they do not).

    `decay_norms`: whether weight decay shrinks biases and batch norms, too. `distillation` weighs the loss against the teacher's
    probabilities, 0 learns from labels alone. `ema`: decay of the exponential moving average of the weights that is kept as the result,
    0 keeps the last ones. `augment`: `data` is what suits the data set. `validate`: measure the accuracy of the largest and the smallest
    subnet every so many epochs, 0 at the end only. Raises InputError.
    """

    optimizer: str = "adamw"
    weight_decay: float = 3e-5  # OFA's
    decay_norms: bool = True
    momentum: float = 0.9
    rate: float = 1.0
    rate_images: int = 0
    label_smoothing: float = 0.0
    distillation: float = 1.0
    clip: float = 0.0
    ema: float = 0.0
    precision: str = "fp32"
    augment: str = "data"
    validate: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, OPTIMIZERS)
        if self.precision not in PRECISIONS:
            raise UnknownName("precision of training", self.precision, PRECISIONS)
        shares = {name: getattr(self, name) for name in ("label_smoothing", "ema", "momentum")}
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise InputError(f"{name} is {value:g}, it must be at least 0 and less than 1")
        for name in ("weight_decay", "rate_images", "distillation", "clip", "validate"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name):g}, it must not be negative")
        if not 0 < self.rate < float("inf"):
            raise InputError(f"rate is {self.rate:g}, it must be positive")
        if self.augment != "data":
            augmentation(self.augment)


#: Recipe of each schedule. `ofa`: SGD with Nesterov's momentum, smoothed labels, no decay of batch norms and biases (official code).
RECIPES = {
    "ofa": Recipe(optimizer="sgd", decay_norms=False, rate_images=64, label_smoothing=0.1),
    "small": Recipe(),
    "fine_tune": Recipe(),
    "as_is": Recipe(),
}
