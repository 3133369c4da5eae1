"""hwnas/registry.py: names without imports, calls without evaluation."""

import pytest

from hwnas import registry
from hwnas.errors import InputError, UnknownName
from hwnas.registry import create, load, names, split_call


@pytest.mark.parametrize("catalogue", registry.CATALOGUES)
def test_every_listed_name_can_be_listed_twice_and_is_sorted(catalogue):
    assert names(catalogue) == sorted(set(names(catalogue)))
    assert not [name for name in names(catalogue) if name.startswith("_")]


def test_a_name_is_its_modules_name():
    assert {"numpy", "onnx", "torch"} <= set(names("backends"))
    assert load("backends", "numpy").__module__ == "hwnas.backends.numpy"


def test_an_unknown_name_offers_a_near_one():
    with pytest.raises(UnknownName, match=r"no search space named 'ofa_mobilenet_v2'; did you mean 'ofa_mobilenet_v3'\? Known: .*ofa_mini"):
        load("spaces", "ofa_mobilenet_v2")


@pytest.mark.parametrize("name", ["__init__", "../spaces/ofa_mini", "os", "", "ofa_mini.ofa_mini"])
def test_nothing_but_catalogue_entries_is_imported(name):
    with pytest.raises(UnknownName):
        load("spaces", name)


def test_arguments_are_literals():
    assert split_call("ofa_mini") == ("ofa_mini", {})
    assert split_call("ofa_mini()") == ("ofa_mini", {})
    assert split_call("s(resolutions=(32, 48), name='a(b)', rate=-0.5, on=True)") == ("s", {"resolutions": (32, 48), "name": "a(b)", "rate": -0.5, "on": True})


@pytest.mark.parametrize(
    "text",
    [
        *("s(1)", "s(a=b)", "s(a=1", "s(a=1)b", "s(a=1)(b=2)", "s(**{'a': 1})", "s(a=1, a=2)"),
        *("s(a=open('x'))", "s(a=__import__('os'))", "s(a=" + "(" * 10_000 + ")"),
    ],
)
def test_anything_else_is_refused_and_not_run(text):
    with pytest.raises(InputError, match=r"is not of the form name\(key=value"):
        split_call(text)


def test_create_calls_the_factory_with_what_the_text_says():
    space = create("spaces", "ofa_mini(resolutions=(32,), classes=3)")
    assert space.choices[0].values == (32,)
    assert space.lower(space.smallest()).output == (1, 3)


def test_an_argument_that_the_factory_does_not_take_is_named():
    with pytest.raises(InputError, match="unexpected keyword argument 'colour'"):
        create("spaces", "ofa_mini(colour=3)")


USER_SPACE = """
from __future__ import annotations
from dataclasses import dataclass
from hwnas.spaces.ofa_mini import ofa_mini

@dataclass(frozen=True)
class Sides:
    low: int

def mine(classes=2):
    return ofa_mini(resolutions=(Sides(32).low,), classes=classes)
"""


def test_a_file_of_ones_own_works_wherever_a_name_does(tmp_path):
    path = tmp_path / "my_spaces.py"
    path.write_text(USER_SPACE)
    space = create("spaces", f"{path}:mine(classes=4)")
    assert space.lower(space.smallest()).output == (1, 4)


def test_a_function_named_like_its_file_needs_no_other_name(tmp_path):
    (tmp_path / "mine.py").write_text(USER_SPACE)
    space = create("spaces", f"{tmp_path / 'mine.py'}(classes=4)")
    assert space.lower(space.smallest()).output == (1, 4)
    (tmp_path / "other.py").write_text(USER_SPACE)
    with pytest.raises(InputError, match=r"other.py has no function 'other'; of another name it is .*other.py:NAME"):
        create("spaces", f"{tmp_path / 'other.py'}")


@pytest.mark.parametrize("arguments", ["width=1e999", "width=0", "width='a'", "classes=2.5", "resolutions=(64.5,)", "resolutions=5"])
def test_arguments_a_factory_cannot_use_are_wrong_input(arguments):
    with pytest.raises(InputError, match="ofa_mobilenet_v3"):
        create("spaces", f"ofa_mobilenet_v3({arguments})")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("x = 1", "has no function 'mine'"),
        ("mine = 1", "has no function 'mine'"),
        ("1 / 0", "does not run: ZeroDivisionError"),
        ("def", "does not run: SyntaxError"),
    ],
)
def test_a_file_that_does_not_work_is_named(tmp_path, text, message):
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        load("spaces", f"{path}:mine")
