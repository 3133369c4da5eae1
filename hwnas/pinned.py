"""A space of one architecture: what is trained, exported and shown as a network alone takes the way of all others."""

from __future__ import annotations

from dataclasses import replace

from hwnas.space import Choice, Codes, Layer, SearchSpace


def pinned(space: SearchSpace, code: Codes) -> SearchSpace:
    """The space with every choice reduced to the value that `code` (1, choices) has; names of choices and layers stay."""
    values = space.decode(code)
    choices = {choice.name: Choice(choice.name, (values[choice.name],)) for choice in space.choices}
    layers = [Layer(layer.name, tuple(choices[choice.name] for choice in layer.reads), layer.build, layer.after) for layer in space.layers]
    return replace(space, choices=list(choices.values()), layers=layers, references={}, published={})
