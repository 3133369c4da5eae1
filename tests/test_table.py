"""hwnas/verbs/table.py and `hwnas table`: facts of tables, tables from tables, exit codes; and every shipped table."""

import json
import sys
from dataclasses import replace

import pytest
from lookup_yaml import BY_DIALECT, OFA
from simulated_tables import simulated_table

from hwnas import cli, registry
from hwnas.data import shipped
from hwnas.errors import CheckFailed, DamagedFile, InputError
from hwnas.flat_yaml import read_flat_yaml
from hwnas.index import BlockIndex
from hwnas.latency_table import Failure, Imported, LatencyTable, Measurement, seal
from hwnas.predictors.calibrated import calibrated
from hwnas.testing import check_shipped_table
from hwnas.variant import Variant
from hwnas.verbs.table import check_table, diff_tables, export_table, import_table, list_tables, merge_tables, show_table

SPACE = "ofa_mini(resolutions=(24,))"
STATED = {"source": "the authors", "licence": "MIT", "device": "phone", "runtime": "tflite", "threads": 1}


@pytest.fixture(scope="module")
def index():
    return BlockIndex(registry.create("spaces", SPACE))


@pytest.fixture(scope="module")
def simulated(index):
    """Each network takes 0.8 of the sum of its blocks, and 10 us."""
    return simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total, networks=12)


@pytest.fixture
def folder(simulated, tmp_path):
    simulated.save(tmp_path / "table")
    return tmp_path / "table"


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hwnas", "table", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return ended.value.code, captured.out, captured.err

    return run


def saved(folder, table, **changes):
    replace(table, **changes).save(folder)
    return folder


# -- precision and batch ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(index, simulated, folder, tmp_path):
    """A merged table: the simulated one, and the same device in fp16, batch 8, where each network takes half of the sum of its blocks."""
    simulated_table(Variant("fp16", 8).index(index), lambda total, layers, activations: 0.5 * total, networks=12).save(tmp_path / "half")
    merge_tables(folder, tmp_path / "half", to=tmp_path / "both")
    return tmp_path / "both"


def test_a_table_is_used_in_the_precision_and_batch_of_its_rows(index, simulated, tmp_path, command):
    simulated_table(Variant("fp16", 8).index(index), lambda total, layers, activations: 0.5 * total, networks=12).save(tmp_path / "half")
    facts = check_table(tmp_path / "half", space=SPACE)
    assert (facts["precision"], facts["batch"], facts["problems"], facts["networks"]) == ("fp16", 8, [], 12)
    assert facts["quality"]["calibrated"]["mape"] < 1e-4
    assert show_table(tmp_path / "half")["variants"] == [{"precision": "fp16", "batch": 8}]
    assert "prices for fp16, batch 8" in command("show", tmp_path / "half")[1] and "fp16, batch 8" in command("list", tmp_path / "half")[1]
    half, whole = (calibrated(LatencyTable.load(tmp_path / "half"), index), calibrated(simulated, index))
    assert half.index is index and half(index.space.largest()) > whole(index.space.largest())  # eight images


def test_one_table_holds_both_kinds_of_rows_and_is_asked_which(both, simulated, index, command):
    assert [(each["precision"], each["batch"]) for each in show_table(both)["variants"]] == [("fp16", 8), ("fp32", 1)]
    code, _, error = command("check", both, "--space", SPACE)
    assert code == 2 and "has prices for fp16, batch 8; fp32, batch 1: choose one of them with --precision and --batch" in error
    for arguments, variant in ((("--precision", "fp16"), ("fp16", 8)), (("--batch", 1), ("fp32", 1))):
        code, out, error = command("check", both, "--space", SPACE, *arguments, "--json")
        assert code == 0, error
        assert (json.loads(out)["precision"], json.loads(out)["batch"]) == variant
    table = LatencyTable.load(both)
    chosen, alone = calibrated(table, index, variant=Variant()), calibrated(simulated, index)
    assert chosen(index.space.smallest()) == pytest.approx(alone(index.space.smallest()), rel=1e-4)  # tables keep six digits


def test_what_a_table_lacks_is_named_with_the_command_that_measures_it(folder, command):
    code, _, error = command("check", folder, "--space", SPACE, "--precision", "int8_u8s8", "--batch", 4)
    assert code == 1 and "conv2d.int8_u8s8 4x" in error
    assert "measure them with: hwnas profile simulated_phone --space ofa_mini --precision int8_u8s8 --batch 4 --to FOLDER" in error.replace(SPACE, "ofa_mini")


def test_a_space_with_a_batch_of_its_own_is_priced_as_it_is(tmp_path, command):
    own = "ofa_mini(resolutions=(24,), batch=2)"
    index = BlockIndex(registry.create("spaces", own))
    simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total, networks=12).save(tmp_path / "own")
    assert not check_table(tmp_path / "own", space=own)["problems"]
    code, _, error = command("check", tmp_path / "own", "--space", own, "--precision", "fp16")
    assert code == 2 and "chooses precision and batch itself: leave out --precision and --batch" in error


# -- list and show ------------------------------------------------------------------------------------------------------------------


def test_tables_are_found_in_given_folders_and_below_them(folder, simulated, tmp_path):
    saved(tmp_path / "many" / "phone" / "ort-1thread", simulated)
    found = list_tables([folder, tmp_path / "many"])[-2:]
    assert [each["table"] for each in found] == [str(folder), str(tmp_path / "many" / "phone" / "ort-1thread")]
    assert found[0]["origin"] == "simulated" and found[0]["networks"] == {"ofa_mini": 12} and found[0]["blocks"] == len(simulated.entries)
    assert found[0]["date"] == ""


def test_a_folder_without_tables_is_refused_and_a_damaged_table_is_listed_as_such(folder, tmp_path, command):
    with pytest.raises(InputError, match=r"there is no latency table in .*nowhere"):
        list_tables([tmp_path / "nowhere"])
    (folder / "networks.csv").write_text("")
    assert "cut short or changed" in list_tables([folder])[-1]["error"]
    code, out, error = command("list", folder)
    assert code == 2 and "damaged" in out and error.startswith("error: ") and "networks.csv" in error


def test_the_slowest_and_fastest_blocks_and_the_failures_are_shown(folder, simulated):
    by_price = sorted(entry.price_ms for entry in simulated.entries.values())
    broken = min(simulated.entries)
    entries = dict(simulated.entries) | {broken: Failure("out of memory")}
    facts = show_table(saved(folder, simulated, entries=entries), top=3)
    assert [each["price_ms"] for each in facts["slowest"]] == pytest.approx(by_price[:-4:-1], rel=1e-5)
    assert facts["fastest"][0]["price_ms"] <= facts["fastest"][1]["price_ms"] <= facts["fastest"][2]["price_ms"]
    assert facts["failed"] == [{"block": broken, "error": "out of memory"}] and facts["blocks"] == len(entries) - 1
    assert facts["sha256"] == seal(folder) and facts["accepted_share"] == 1.0 and facts["never_at_full_speed"] == 0
    assert facts["conditions"]["processor"] == "a formula"
    with pytest.raises(InputError, match="--top is -1"):
        show_table(folder, top=-1)


def test_what_a_foreign_table_says_cannot_steer_the_terminal(folder, simulated, command):
    hostile = "\x1b[2J\nhwnas: all is well"
    conditions = replace(simulated.conditions, processor=hostile)
    saved(folder, simulated, conditions=conditions, provenance={hostile: hostile}, quality={hostile: {hostile: hostile, "mape": hostile}, "x": [hostile]})
    for arguments in (("show", folder), ("list", folder), ("check", folder, "--space", SPACE)):
        code, out, error = command(*arguments)
        assert code == 0 and "\x1b" not in out + error and "\nhwnas: all is well" not in out + error


def test_show_says_what_check_and_profile_know(folder, command):
    code, out, _ = command("show", folder, "--top", 1)
    assert code == 0 and "blocks simulated, 0 failed; networks: 12 of ofa_mini" in out and "a formula" in out
    code, out, _ = command("show", folder, "--json")
    assert code == 0 and json.loads(out)["sha256"] == seal(folder)


def test_what_is_no_table_is_refused_with_exit_code_2(tmp_path, command):
    for arguments in (
        ("show", tmp_path),
        ("check", tmp_path, "--space", SPACE),
        ("diff", tmp_path, tmp_path),
        ("merge", tmp_path, tmp_path, "--to", tmp_path / "c"),
    ):
        code, out, error = command(*arguments)
        assert code == 2 and out == "" and "holds no latency table" in error and error.count("\n") == 1


# -- check --------------------------------------------------------------------------------------------------------------------------


def test_a_whole_table_is_assessed_by_its_own_networks(folder, command):
    """The truth is a line through the sum, so the calibrated table is exact; the sum alone is not, and neither are MACs."""
    facts = check_table(folder, space=SPACE)
    assert not facts["problems"] and not facts["missing"] and facts["networks"] == 12 and facts["of_other_spaces"] == 0
    calibrated, plain_sum, line = (facts["quality"][name] for name in ("calibrated", "table_sum", "macs_line"))
    assert calibrated["mape"] < 1e-4 and calibrated["rmse_ms"] < 1e-4 and calibrated["within_5pct"] == calibrated["kendall"] == 1.0
    assert plain_sum["mape"] > 0.05 and line["mape"] > calibrated["mape"]
    code, out, error = command("check", folder, "--space", SPACE)
    assert code == 0 and error == "" and "RMSE" in out and "line through MACs" in out
    assert json.loads(command("check", folder, "--space", SPACE, "--json")[1])["quality"]["calibrated"] == calibrated


def test_p90_is_assessed_on_p90(folder, command):
    """Simulated p90 are twice the p50, so the same sum is off by another factor."""
    by_statistic = {name: check_table(folder, space=SPACE, statistic=name)["quality"]["table_sum"]["bias"] for name in ("p50", "p90")}
    assert 1 + by_statistic["p90"] == pytest.approx((1 + by_statistic["p50"]) / 2, abs=1e-3)
    code, _, error = command("check", folder, "--space", SPACE, "--statistic", "p99")
    assert code == 2 and "it must be p50 or p90" in error


def test_missing_and_failed_blocks_are_counted_and_end_with_exit_code_1(folder, simulated, command):
    gone, failed, *_ = sorted(simulated.entries)
    entries = {text: entry for text, entry in simulated.entries.items() if text != gone} | {failed: Failure("out of memory")}
    facts = check_table(saved(folder, simulated, entries=entries), space=SPACE)
    assert set(facts["missing"]) == {gone, failed}
    assert facts["failed"] == 1 and facts["quality"] is None
    code, out, error = command("check", folder, "--space", SPACE)
    assert code == 1 and f"{len(simulated.entries) - 2} of {len(simulated.entries)} blocks" in out
    assert error.startswith(f"error: 2 of {len(simulated.entries)} blocks") and "hwnas profile simulated_phone" in error


def test_a_table_without_networks_prices_no_budget(folder, simulated, command):
    code, _, error = command("check", saved(folder, simulated, networks=simulated.networks[:7]), "--space", SPACE)
    assert code == 1 and "has 7 whole networks" in error


def test_a_table_that_predicts_no_better_than_macs_is_of_no_use(folder, index, command):
    """Networks take 1 ms per 10 M MACs, which is what is left of the simulated prices without layers and activations; every block costs the same."""
    truth = simulated_table(index, lambda total, layers, activations: total - 0.002 * layers - activations / 1e6, networks=12)
    entries = {text: Measurement(1.0, 1.0, 1.0, 1.0, 8, 8, 80) for text in truth.entries}
    facts = check_table(saved(folder, truth, entries=entries), space=SPACE)
    assert facts["quality"]["macs_line"]["mape"] < 0.01 < facts["quality"]["calibrated"]["mape"]
    code, _, error = command("check", folder, "--space", SPACE)
    assert code == 1 and error == f"error: {facts['problems'][0]}\n" and "predicts no better than a line through MACs" in error


# -- import and export --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", BY_DIALECT)
def test_a_foreign_table_goes_in_and_out_through_the_command_line(tmp_path, command, dialect):
    file, to, back = tmp_path / "lut.yaml", tmp_path / "table", tmp_path / "back.yaml"
    file.write_text(BY_DIALECT[dialect])
    words = [part for name, value in STATED.items() for part in (f"--{name}", str(value))]
    code, out, _ = command("import", file, "--dialect", dialect, "--to", to, *words)
    assert code == 0 and "0 entries have no counterpart" in out
    code, out, _ = command("export", to, "--dialect", dialect, "--to", back)
    assert code == 0 and "(imported), 0 have no key" in out
    assert read_flat_yaml(back) == read_flat_yaml(file)
    code, out, _ = command("export", to, "--dialect", dialect, "--to", back)
    assert code == 2 and out == ""


def test_an_imported_table_says_whose_it_is_and_what_was_left_out(tmp_path):
    file = tmp_path / "lut.yaml"
    file.write_text(OFA + "Softmax-input:1x1x1000-output:1000:\n  count: 3\n  mean: 0.1\n  std: 0.01\n")
    made = import_table(file, dialect="ofa", to=tmp_path / "table", **STATED)
    table = LatencyTable.load(tmp_path / "table")
    assert table.origin == "imported" and set(map(type, table.entries.values())) == {Imported}
    assert (table.provenance["source"], table.provenance["licence"], table.provenance["file"]) == ("the authors", "MIT", "lut.yaml")
    assert len(table.provenance["file_sha256"]) == 64
    assert [each["key"] for each in table.provenance["left_out"]] == ["Softmax-input:1x1x1000-output:1000"] == list(made["left_out"])
    assert table.conditions.processor == table.conditions.regime == "not stated" and table.conditions.device == "phone"
    problems = check_table(tmp_path / "table", space="ofa_mobilenet_v3(width=1.2, resolutions=(224,))")["problems"]
    assert len(problems) == 1 and "have no latency in the table of phone/tflite-not stated-1thread" in problems[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": " "}, "--source must be"),
        ({"licence": "M\nIT"}, "--licence must be"),
        ({"threads": 0}, "--threads is 0"),
        ({"device": "x" * 501}, "--device"),
    ],
)
def test_an_import_needs_somebody_s_word(tmp_path, change, message):
    (tmp_path / "lut.yaml").write_text(OFA)
    with pytest.raises(InputError, match=message):
        import_table(tmp_path / "lut.yaml", dialect="ofa", to=tmp_path / "table", **STATED | change)
    assert not (tmp_path / "table").exists()


def test_a_folder_that_holds_a_table_is_never_written_over(folder, tmp_path):
    (tmp_path / "lut.yaml").write_text(OFA)
    (tmp_path / "under_way").mkdir()
    (tmp_path / "under_way" / "profile.sqlite").write_bytes(b"")
    for to, name in ((folder, "table.toml"), (tmp_path / "under_way", "profile.sqlite")):
        with pytest.raises(InputError, match=f"holds {name} already: name another folder"):
            import_table(tmp_path / "lut.yaml", dialect="ofa", to=to, **STATED)
        with pytest.raises(InputError, match=f"holds {name} already"):
            merge_tables(folder, folder, to=to)


def test_a_measured_table_is_exported_with_its_means_and_what_has_no_key_is_listed(tmp_path):
    index = BlockIndex(registry.create("spaces", "ofa_mobilenet_v3(resolutions=(128,))"))
    table = simulated_table(index, lambda total, layers, activations: total, networks=0)
    entries = {text: replace(entry, mean_ms=2 * entry.price_ms, std_ms=0.5) for text, entry in table.entries.items()}
    saved(tmp_path / "table", table, entries=entries)
    made = export_table(tmp_path / "table", dialect="ofa", to=tmp_path / "lut.yaml")
    assert made["blocks"] == 90 and made["origin"] == "simulated"
    assert sorted(text.split(" = ")[0] for text in made["left_out"]) == ["0.conv", "expand"], "stem and head, which are one block each"
    assert {(each["count"], each["std"]) for each in read_flat_yaml(tmp_path / "lut.yaml").values()} == {(80, 0.5)}


def test_hostile_yaml_is_one_sentence_exit_code_2_and_no_table(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "lut.yaml"
    file.write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: !!python/object/apply:os.system ['touch canary']\n")
    words = [part for name, value in STATED.items() for part in (f"--{name}", str(value))]
    code, out, error = command("import", file, "--dialect", "ofa", "--to", tmp_path / "table", *words)
    assert code == 2 and out == "" and error.startswith("error: ") and error.count("\n") == 1 and "lut.yaml:1" in error
    assert [path.name for path in tmp_path.iterdir()] == ["lut.yaml"]


# -- merge and diff -----------------------------------------------------------------------------------------------------------------


def test_a_merged_table_names_both_sources_by_their_hashes_however_often_it_is_merged(folder, simulated, tmp_path, command):
    texts = sorted(simulated.entries)
    halves = [{text: simulated.entries[text] for text in part} for part in (texts[:40], texts[20:])]
    first = saved(tmp_path / "first", simulated, entries=halves[0], networks=simulated.networks[:6], provenance={"by": "hwnas 0.1.0", "date": "2030-01-01"})
    second = saved(tmp_path / "second", simulated, entries=halves[1], networks=simulated.networks[4:])
    code, out, _ = command("merge", first, second, "--to", tmp_path / "both")
    assert code == 0 and f"{len(texts)} blocks and 12 networks simulated" in out
    both = LatencyTable.load(tmp_path / "both")
    assert dict(both.entries) == dict(LatencyTable.load(folder).entries) and both.provenance["merge_common_blocks"] == len(texts[20:40])
    assert [each["sha256"] for each in both.provenance["sources"]] == [seal(first), seal(second)]
    assert both.provenance["sources"][0]["date"] == "2030-01-01"
    assert check_table(tmp_path / "both", space=SPACE)["problems"] == []
    merge_tables(tmp_path / "both", folder, to=tmp_path / "all")
    sources = LatencyTable.load(tmp_path / "all").provenance["sources"]
    assert [each["sha256"] for each in sources] == [seal(tmp_path / "both"), seal(first), seal(second), seal(folder)]


def test_tables_of_different_conditions_are_not_merged_and_only_shown_when_asked_for(folder, simulated, tmp_path, command):
    other = saved(tmp_path / "other", simulated, conditions=replace(simulated.conditions, threads=4))
    code, out, error = command("merge", folder, other, "--to", tmp_path / "both")
    assert code == 2 and out == "" and "threads is '1' in the first and '4' in the second" in error and not (tmp_path / "both").exists()
    code, out, error = command("diff", folder, other)
    assert code == 2 and out == "" and "threads is '1'" in error and "--across-conditions" in error
    code, out, _ = command("diff", folder, other, "--across-conditions")
    assert code == 0 and out.startswith("DIFFERENT CONDITIONS")
    facts = diff_tables(folder, other, across_conditions=True)
    assert not facts["same_conditions"] and facts["conditions"] == {"threads": (1, 4)}


def test_the_difference_of_tables_names_the_worst_block_and_what_only_one_holds(folder, simulated, tmp_path, command):
    first, worst, *_ = texts = sorted(simulated.entries)
    entries = {text: replace(entry, price_ms=1.5 * entry.price_ms if text == worst else entry.price_ms) for text, entry in simulated.entries.items()}
    del entries[first]
    other = saved(tmp_path / "other", simulated, entries=entries)
    facts = json.loads(command("diff", folder, other, "--json")[1])
    assert facts["same_conditions"] and facts["only_first"] == [first] and facts["only_second"] == []
    assert facts["common"]["n"] == len(texts) - 1 and facts["common"]["worst"] == worst and facts["common"]["median"] == 0
    assert facts["common"]["worst_relative"] == pytest.approx(0.5, rel=1e-4)
    code, out, _ = command("diff", folder, other)
    assert code == 0 and "worst +50.0 %" in out and "only in the first: 1" in out and "only in the second" not in out


# -- shipped tables -----------------------------------------------------------------------------------------------------------------


def test_every_shipped_table_is_measured_whole_and_where_its_conditions_say():
    root = shipped("latency_tables")
    tables = {path.parent for path in root.rglob("table.toml")}
    for folder in sorted(tables):
        check_shipped_table(folder, root)
    strays = [path for path in root.rglob("*") if path.is_file() and path.parent not in tables and path != root / "README.md"]
    assert not strays, f"{strays[0]} belongs to no table"


def as_shipped(simulated, **changes):
    provenance = {"by": "hwnas 0.1.0", "date": "2030-01-01", "agent_sha256": "ab" * 32}
    quality = {"calibrated": {"mape": 0.01}, "macs_line": {"mape": 0.08}}
    return replace(simulated, **{"origin": "measured", "provenance": provenance, "quality": quality} | changes)


PLACE = "simulated_phone/simulated-1-1thread"


@pytest.mark.parametrize("place", [PLACE, PLACE + "-sustained"])
def test_a_table_that_may_be_shipped(simulated, tmp_path, place):
    as_shipped(simulated).save(tmp_path / place)
    check_shipped_table(tmp_path / place, tmp_path)


@pytest.mark.parametrize(
    ("place", "changes", "fault"),
    [
        (PLACE, {"origin": "simulated"}, "only measured tables are shipped"),
        (PLACE, {"quality": {}}, r"must predict networks better than a line through MACs; \[quality\] says mape None and None"),
        (PLACE, {"quality": {"calibrated": {"mape": 0.08}, "macs_line": {"mape": 0.08}}}, "says mape 0.08 and 0.08"),
        (PLACE, {"quality": {"calibrated": 0.01, "macs_line": [0.08]}}, "says mape None and None"),
        (PLACE, {"provenance": {"by": "somebody"}}, "does not say in .* date, agent_sha256"),
        (PLACE, {"entries": {"identity": Failure("no")}}, "has no measured block"),
        ("simulated_phone/fast", {}, "was measured as simulated_phone/simulated-1-1thread"),
    ],
)
def test_a_table_that_may_not_be_shipped_is_told_why(simulated, tmp_path, place, changes, fault):
    as_shipped(simulated, **changes).save(tmp_path / place)
    with pytest.raises(CheckFailed, match=fault):
        check_shipped_table(tmp_path / place, tmp_path)


def test_an_edited_shipped_table_and_one_with_more_beside_it_are_told(simulated, tmp_path):
    folder = tmp_path / PLACE
    as_shipped(simulated).save(folder)
    (folder / "notes.txt").write_text("warm day")
    with pytest.raises(CheckFailed, match=r"holds entries.csv, networks.csv, notes.txt, table.toml"):
        check_shipped_table(folder, tmp_path)
    (folder / "notes.txt").unlink()
    (folder / "entries.csv").write_text((folder / "entries.csv").read_text().replace("0.0", "0.1", 1))
    with pytest.raises(CheckFailed, match=r"does not load: .*cut short or changed"):
        check_shipped_table(folder, tmp_path)


def test_shipped_tables_are_shown_by_name_and_names_do_not_leave_their_folder(simulated, tmp_path, monkeypatch):
    from hwnas.verbs import common, table

    as_shipped(simulated).save(tmp_path / "shipped" / PLACE)
    simulated.save(tmp_path / "outside")
    for module in (common, table):
        monkeypatch.setattr(module, "shipped", lambda folder: tmp_path / "shipped")
    assert [each["table"] for each in list_tables()] == [PLACE]
    assert show_table(PLACE)["origin"] == "measured"
    assert check_table(PLACE, space=SPACE)["folder"] == str(tmp_path / "shipped" / PLACE), "what search takes"
    with pytest.raises(DamagedFile, match="holds no latency table"):
        show_table("../outside")
