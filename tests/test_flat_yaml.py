"""hwnas/flat_yaml.py: the numbers of flat YAML as PyYAML reads and writes them; everything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import DamagedFile
from hwnas.flat_yaml import MAX_BYTES, MAX_ENTRIES, flat_yaml, read_flat_yaml

NUMBERS = st.one_of(st.integers(0, 10**12), st.floats(0, 1e12))
TABLES = st.dictionaries(
    st.from_regex(r"[A-Z][a-z]{1,4}(-[a-z]{1,9}:[0-9]{1,3}){0,9}", fullmatch=True),
    st.dictionaries(st.sampled_from(["count", "mean", "std", "var"]), NUMBERS, min_size=1),
    min_size=1,
    max_size=8,
)


def read(folder, text):
    (folder / "a.yaml").write_text(text)
    return read_flat_yaml(folder / "a.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a-b:1x2:\n  mean: 1.5\n  count: 3\nc:\n  x: 2\n",
        "---\n# made by hand\n\na-b:1x2:   # first\n    mean: 1.5\n\n    count: 3\nc:\n  x: 2\n",
        "a-b:1x2: {mean: 1.5, count: 3}\nc: {x: 2}\n",
        "'a-b:1x2': {mean: 1.5,\n  count:  3 }\n\"c\":\n x: 2\n",
        "a-b:1x2:\r\n  mean: 1.5\r\n  count: 3\r\nc:\r\n  x: 2\r\n",
    ],
)
def test_block_style_flow_style_quotes_and_comments_are_read_alike(folder, text):
    assert read(folder, text) == {"a-b:1x2": {"mean": 1.5, "count": 3}, "c": {"x": 2}}


@given(TABLES)
def test_what_is_written_comes_back_equal_and_of_the_same_types(folder, table):
    found = read(folder, flat_yaml(table))
    assert repr(found) == repr({key: table[key] for key in sorted(table)})


@given(TABLES, st.sampled_from([None, False]))
def test_what_pyyaml_writes_is_read_and_what_is_written_pyyaml_reads(folder, table, style):
    yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra 'test', is not installed")
    assert read(folder, yaml.safe_dump(table, default_flow_style=style)) == table
    assert yaml.safe_load(flat_yaml(table)) == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not end with a line break"),
        ("a:\n  x: 1\n  y: 2", "does not end with a line break: it was cut short"),
        ("\n# nothing\n---\n", "holds no entries"),
        ("a:\nb:\n  x: 1\n", r"yaml:1: this entry has no numbers"),
        ("a:\n  x: 1\n   y: 2\n", "yaml:3 is not indented as the line before it"),
        ("a:\n  x:\n    y: 2\n", "expected 'name: number', got 'x:'"),
        ("a:\n\tx: 1\n", "this entry has no numbers"),
        ("a:\n  x: 1\n\ty: 1\n", "expected 'key:'"),
        ("a: 1\n", "expected a mapping of numbers, got '1'"),
        ("a: {x: 1\nb: {x: 2}\n", r"expected '\{name: number, ...\}', got '\{x: 1'"),
        ("a: {x: 1\n", r"expected '\{name: number, ...\}'"),
        ("a: {x: 1, y: {z: 2}}\n", "expected 'name: number'"),
        ("a: {}\n", "expected 'name: number', got ''"),
        ("a:\n  x: 1\n  x: 2\n", "yaml:3: 'x' is given twice"),
        ("a:\n  x: 1\na:\n  x: 1\n", "yaml:3: 'a' has an entry already"),
        ("- a\n", "expected 'key:', got '- a'"),
        ("a:\n  x: 1\n---\nb:\n  x: 1\n", "expected 'key:', got '---'"),
        ("%YAML 1.1\na:\n  x: 1\n", "never tags, anchors or aliases"),
        ("a: &a\n  x: 1\n", "got '&a': .*never tags, anchors or aliases"),
        ("a: &a {x: 1}\nb: *a\n", "never tags, anchors or aliases"),
        ("a:\n  <<: *b\n", "never tags, anchors or aliases"),
        ("a:\n  x: !!float 1\n", "never tags, anchors or aliases"),
        ("a: !!python/object/apply:os.system ['touch canary']\n", "never tags, anchors or aliases"),
        ("!!python/object/apply:os.system ['touch canary']\n", "never tags, anchors or aliases"),
        ("? a\n:\n  x: 1\n", "expected 'key:'"),
        ("a:\n  x: |\n   1\n", "expected 'name: number'"),
        ("a:\n  x: .nan\n", "expected 'name: number', got 'x: .nan'"),
        ("a:\n  x: .inf\n", "expected 'name: number'"),
        ("a:\n  x: 1e999\n", "1e999 is out of range"),
        ("a:\n  x: " + "9" * 5_000 + "\n", "5,005 characters"),
        ("a:\n  x: " + "9" * 60 + "\n", "expected 'name: number'"),
        ("a:\n  x: 010\n", "got 'x: 010'"),
        ("a:\n  x: 1_0\n", "got 'x: 1_0'"),
        ("a:\n  x: 1:30\n", "got 'x: 1:30'"),
        ("a:\n  x: 0x10\n", "got 'x: 0x10'"),
        ("a:\n  x: '1'\n", "got 'x: '1''"),
        ("a:\n  x: ١\n", "expected 'name: number'"),
        ("\ufeffa:\n  x: 1\n", "expected 'key:'"),
        ("a:\n" + "  x: " + "[" * 100_000 + "\n", "100,005 characters"),
        ("a" * 2_000 + ":\n  x: 1\n", "2,001 characters"),
        ("a: {x: 1,\n" + " y: 1,\n" * 1_000, r"expected '\{name: number, ...\}'"),
    ],
)
def test_everything_else_is_refused_with_its_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DamagedFile, match=message):
        read(tmp_path, text)
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_a_file_of_more_entries_or_bytes_than_any_table_has_is_refused(tmp_path):
    with pytest.raises(DamagedFile, match="more than 100,000 entries"):
        read(tmp_path, "".join(f"k{i}: {{x: 1}}\n" for i in range(MAX_ENTRIES + 1)))
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DamagedFile, match="over the limit of 16,777,216"):
        read_flat_yaml(tmp_path / "a.yaml")
