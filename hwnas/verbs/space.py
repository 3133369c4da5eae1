"""`space list` and `space show`: what a search space holds, in the literature's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwnas import registry
from hwnas.costs import macs, params
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.space import SearchSpace


def show_space(name: str) -> Mapping[str, Any]:
    """Facts about the space that `name` (or `name(key=value)`, or `path.py:name`) makes.

    `encodings`: choices of skipped layers collapsed, resolution excluded. `subnets`: distinct networks, all resolutions. `macs` and
    `params`: least and greatest at the largest resolution. Raises UnknownName, InputError.
    """
    space: SearchSpace = registry.create("spaces", name)
    index = BlockIndex(space)
    hold = {"resolution": len(space.choices[space.column["resolution"]].values) - 1} if "resolution" in space.column else {}
    encodings, subnets = index.encodings(), index.subnets()
    ranges = {}
    for price in (macs, params):
        least, greatest = Additive(index, price(index.blocks), name=price.__name__, unit=price.__name__).bounds(hold)
        ranges[price.__name__] = {"min": int(least.value), "max": int(greatest.value)}
    return {
        "name": space.name,
        "fingerprint": index.fingerprint,
        "choices": [{"name": choice.name, "values": list(choice.values)} for choice in space.choices],
        "layers": len(space.layers),
        "distinct_blocks": len(index.blocks),
        "encodings": encodings.n,
        "encodings_exact": encodings.exact,
        "subnets": subnets.n,
        "subnets_exact": subnets.exact,
        "resolution": space.choices[space.column["resolution"]].values[-1] if hold else None,
        **ranges,
        "references": sorted(space.references),
    }
