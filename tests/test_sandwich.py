"""The sandwich rule of BigNAS (Yu et al., 2020): the gradients of one step, against networks that stand alone."""

import numpy as np
import torch
import torch.nn.functional as F

from hwnas.backends.torch import static
from hwnas.images import Images
from hwnas.index import BlockIndex
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.supernet.sharing import window
from hwnas.supernet.supernet import Supernet
from hwnas.training.schedule import Phase
from hwnas.training.trainer import SupernetTrainer, batch_rows


def test_the_largest_learns_the_labels_and_teaches_all_others():
    """Seen in AdamW's first moments, which after one step are a tenth of the gradients."""
    index = BlockIndex(ofa_mini(resolutions=(16,), classes=2))
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.randint(0, 256, (32, 1, 16, 16), generator=generator).to(torch.uint8), torch.arange(32) % 2
    images = Images("noise", pixels, labels, torch.arange(32), ("a", "b"), (0.5,), (0.3,))
    supernet = Supernet(index, transforms=False)
    codes = Phase("all", 1, 0.1, {"kernel": 9, "depth": 9, "expand": 9}, subnets=2, sandwich=True).sample(index.space, np.random.default_rng(0))
    rows = batch_rows(images, 16, 0, 0)
    x = images.inputs(images.pixels[rows], 16)
    expected = {name: torch.zeros(supernet.shapes[name]) for name in supernet.trained}
    losses, soft = [], None
    for code in codes:
        own = static(index.space.lower(code), supernet.extract(code)).train()
        logits = own(x)
        losses.append(F.cross_entropy(logits, images.labels[rows]) if soft is None else -(soft * F.log_softmax(logits, 1)).sum(1).mean())
        losses[-1].backward()
        soft = F.softmax(logits.detach(), 1) if soft is None else soft
        for name, tensor in own.parameters_by_name().items():
            expected[name][window(supernet.shapes[name], tuple(tensor.shape))] += tensor.grad
    trainer = SupernetTrainer(supernet, images, batch=16)
    loss = trainer.step(codes, 1e-3, sandwich=True)
    assert len(codes) == 4
    torch.testing.assert_close(loss, float(sum(losses).detach()) / 4, rtol=1e-5, atol=0)
    for name, tensor in zip(supernet.trained, supernet.parameters(), strict=True):
        torch.testing.assert_close(trainer.optimizer.state[tensor]["exp_avg"] * 10, expected[name], rtol=1e-3, atol=1e-5)
