from typing import Literal

import numpy as np
import pytest

from hwnas.errors import InputError, UnknownName
from hwnas.searcher import OptionSpec, options_of, parse_options, trains


def annotated(problem, *, rng, population: int = 50, rate: float = 0.1, elitist: bool = False, kind: Literal["a", "b"] = "a", note: str = ""):
    yield


def bare(problem, *, rng, population=50):
    yield


def trained(problem, *, rng, state, steps: int = 10):
    yield


def test_options_are_the_keyword_only_parameters_with_type_and_default():
    assert options_of(annotated) == {
        "population": OptionSpec("population", int, 50),
        "rate": OptionSpec("rate", float, 0.1),
        "elitist": OptionSpec("elitist", bool, False),
        "kind": OptionSpec("kind", str, "a", ("a", "b")),
        "note": OptionSpec("note", str, ""),
    }


def test_the_type_of_an_option_without_annotation_is_that_of_its_default():
    assert options_of(bare) == {"population": OptionSpec("population", int, 50)}


def test_rng_and_state_are_no_options():
    assert list(options_of(trained)) == ["steps"] and trains(trained) and not trains(bare)


def test_options_are_parsed_by_type_and_only_those_given():
    parsed = parse_options(annotated, ["population = 7", "rate=1e-2", "elitist=True", "kind=b", "note=a=b"])
    assert parsed == {"population": 7, "rate": 0.01, "elitist": True, "kind": "b", "note": "a=b"}
    assert parse_options(annotated, []) == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("population=many", "population is 'many', it must be a whole number"),
        ("population=1.5", "must be a whole number"),
        ("rate=fast", "rate is 'fast', it must be a number"),
        ("rate=nan", "must be finite"),
        ("elitist=1", "must be true or false"),
        ("kind=c", "kind is 'c', it must be one of a, b"),
        ("population", "'population' is not of the form option=value"),
        ("=3", "not of the form"),
    ],
)
def test_an_unusable_value_is_refused_with_what_is_wanted(text, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_options(annotated, [text])


def test_an_unknown_option_is_answered_with_a_near_one():
    with pytest.raises(UnknownName, match=r"no option of annotated named 'popluation'; did you mean 'population'\? Known: elitist, kind"):
        parse_options(annotated, ["popluation=3"])
    for hidden in ("rng", "problem"):
        with pytest.raises(UnknownName):
            parse_options(annotated, [f"{hidden}=3"])


def test_an_option_given_twice_is_refused():
    with pytest.raises(InputError, match="rate is given twice"):
        parse_options(annotated, ["rate=0.1", "rate=0.2"])


def no_generator(problem, *, rng):
    return np.zeros(1)


def no_rng(problem, *, size: int = 1):
    yield


def two_problems(problem, other, *, rng):
    yield


def no_default(problem, *, rng, size: int):
    yield


def odd_type(problem, *, rng, sizes: tuple[int, ...] = (1,)):
    yield


@pytest.mark.parametrize("function", [no_generator, no_rng, two_problems, no_default, odd_type])
def test_what_is_no_searcher_is_told_what_one_looks_like(function):
    with pytest.raises(InputError, match=r"must be a generator function|its signature must be|needs a type"):
        options_of(function)
