"""tests/documents.py, printed.py and parsed.py: the rules by which documents are read and held against the code."""

from __future__ import annotations

import pytest
from documents import anchors, blocks, inline_commands, links, prose
from parsed import check, is_name
from printed import assert_printed
from reader import Reader
from shortened import shortened
from test_docs import run

PAGE = """# Page

Give `my_space.py`:

```python
print(1)
```

```text
1
```

then `hwnas search
RUN`, `A=1 hwnas table show|check T`, `print(2)`, or

```sh
hwnas train RUN \\
    --space S  # a comment
# nothing
make demo
```

```console
$ hwnas doctor
torch  works
```

## The `second` part, at last

[here](other.md#top), [there](#page), [out](https://example.org), `[not](a link)`

## Page
"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_every_kind_of_block_and_command_is_found(page):
    program, text, shell, session = blocks(page)
    assert (program.language, program.line, program.file, program.printed) == ("python", 5, "my_space.py", "1\n")
    assert (text.language, text.file, text.printed) == ("text", None, None)
    assert [(" ".join(command.split()), shown) for command, shown in shell.commands] == [("hwnas train RUN --space S", ""), ("make demo", "")]
    assert session.commands == [("hwnas doctor", "torch  works\n")]
    assert inline_commands(page) == ["hwnas search RUN", "hwnas table show T", "hwnas table check T"]
    assert "print(1)" not in prose(page) and "then" in prose(page)


def test_links_and_headings_are_found(page):
    assert links(page) == ["other.md#top", "#page"]
    assert anchors(page) == {"page", "the-second-part-at-last", "page-1"}


@pytest.mark.parametrize(
    "command", ["curl example.org", "make clean", "hwnas doctor | cat", "hwnas report $RUN", "hwnas no-such-command", "hwnas report NOWHERE", "python none.py"]
)
def test_a_command_that_cannot_be_run_fails(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(command, Reader(tmp_path, None, None))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("serach RUN", "no such command"),
        ("space shw ofa_mini", "no such command"),
        ("search RUN --budget 3", "No such option: --budget"),
        ("verify RUN --top many", "valid integer"),
        ("device list everything", "unexpected extra argument"),
        ("profile localhost --to DIR", "Missing option '--space'|Missing parameter: space"),
    ],
)
def test_a_command_that_the_parser_refuses_fails(command, words):
    with pytest.raises(AssertionError, match=words):
        check(command.split())


def test_a_name_of_a_command_is_told_from_one_that_is_run():
    assert all(is_name(text.split()) for text in ("", "space", "search", "table show"))
    assert not any(is_name(text.split()) for text in ("doctor", "space list", "search RUN", "search --searcher exact"))


def test_what_is_shortened_replaces_what_was_written():
    written = ["search", "RUN", "--table", "T", "--latency=<= 3ms", "--memory", "<= 1kB", "--seed", "3"]
    assert shortened(written)[:6] == ["search", "RUN", "--table", "T", "--seed", "3"] and "<= 3ms" not in " ".join(shortened(written))
    assert shortened(["device", "check", "D", "--json"]) == ["device", "check", "D", "--json", "--seconds", "2"]
    assert shortened(["report", "RUN"]) == ["report", "RUN"] and shortened(["search", "--help"]) == ["search", "--help"]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("12.5 % of 3 networks", "1e-3 % of 1,200 networks"),
        ("The search won against random search: +1.0 points", "a line\nThe search did not\nwin against random search: −0.2 points"),
        ("measured on Some(R) CPU (localhost/onnxruntime-1.2.3)", "24 measured on Another CPU (localhost/onnxruntime-1.30.0)"),
        ("one\n\ntwo", "one\nand\ntwo\nthree"),
    ],
)
def test_outputs_that_vary_are_alike_whatever_the_figures(shown, printed):
    assert_printed(shown, printed, varying=True)


@pytest.mark.parametrize(("shown", "printed"), [("one\ntwo", "two\none"), ("12 networks", "12 blocks"), ("latency 3 ms", "latency 3 s"), ("a\na", "a")])
def test_outputs_that_vary_differ_in_words_and_order(shown, printed):
    with pytest.raises(AssertionError, match="is not printed"):
        assert_printed(shown, printed, varying=True)


def test_other_outputs_are_equal_to_the_letter_but_for_what_is_left_out():
    assert_printed("3 blocks\ntwo\n", "3  blocks\ntwo", varying=False)
    assert_printed("...\ntwo\n...\n", "one\ntwo\nthree", varying=False)
    for shown, printed in (("3 blocks", "4 blocks"), ("two", "one\ntwo"), ("one", "one\ntwo"), ("one\n...\nthree", "one\ntwo")):
        with pytest.raises(AssertionError):
            assert_printed(shown, printed, varying=False)
