"""A latency table: what each block takes on one device under one set of conditions, and the whole networks that calibrate their sum.

A folder of three files. `table.toml` says how the numbers came about and seals the other two by their hashes, itself by its first
line; `entries.csv` has a row per block, `networks.csv` a row per network. Loading is strict: what is damaged is refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from hwnas.architecture import Architecture
from hwnas.errors import DamagedFile, InputError, MissingLatency
from hwnas.files import csv_text, parse_json, parse_toml, read_text, write_whole
from hwnas.graph import Block, block_text, parse_block
from hwnas.variant import Variant, variants_of

FORMAT = "hwnas.latency_table/3"
_FORMAT_2 = "hwnas.latency_table/2"  # without predicted rows; read, no longer written
_FORMAT_1 = "hwnas.latency_table/1"  # without mean_ms and std_ms, and so without imported rows, too
TABLE, ENTRIES, NETWORKS = "table.toml", "entries.csv", "networks.csv"

#: measured by hwnas; emulated or simulated by it; imported from somebody else's data.
TableOrigin: TypeAlias = Literal["measured", "emulated", "simulated", "imported"]
Fact: TypeAlias = str | int | float | bool

_ENTRY_COLUMNS = ("price_ms", "mean_ms", "std_ms", "p10_ms", "p50_ms", "p90_ms", "visits", "accepted", "runs", "predicted", "error", "block")
_ENTRY_COLUMNS_2 = tuple(name for name in _ENTRY_COLUMNS if name != "predicted")
_ENTRY_COLUMNS_1 = tuple(name for name in _ENTRY_COLUMNS_2 if name not in ("mean_ms", "std_ms"))
_COLUMNS = {FORMAT: _ENTRY_COLUMNS, _FORMAT_2: _ENTRY_COLUMNS_2, _FORMAT_1: _ENTRY_COLUMNS_1}
_NETWORK_COLUMNS = ("space", "fingerprint", "p10_ms", "p50_ms", "p90_ms", "visits", "dropped", "architecture")
_SEAL = re.compile(r'sha256 = "([0-9a-f]{64})"\n')
_PREDICTED = re.compile(r"(interpolated|extrapolated) from ([1-9][0-9]{0,11}) blocks")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_MAX_DEPTH = 16  # of the facts in table.toml; a table merged from tables nests by one or two


@dataclass(frozen=True, slots=True)
class Conditions:
    """How everything in a table was run. `processor` is what the device said it is, `regime` when a run is timed."""

    device: str
    processor: str
    runtime: str
    version: str
    threads: int
    regime: str
    options: Mapping[str, Fact] = field(default_factory=dict, hash=False)

    @property
    def reach(self) -> str:
        """What the numbers stand for where that is less than the device, in the words of the agent; else empty."""
        return str(self.options.get("reach", ""))

    @property
    def emulated(self) -> str:
        """What stood in the place of the device's processor, in the words of the agent: an emulator; else empty."""
        return str(self.options.get("emulated", ""))

    def __str__(self) -> str:
        cores = f"-cores{self.options['cores']}" if "cores" in self.options else ""
        return f"{self.device}/{self.runtime}-{self.version}-{self.threads}thread{'s' * (self.threads > 1)}{cores}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One block. The price is the 25th percentile over accepted visits of the burst's best run; all else is over all runs.

    Mean and standard deviation are what other projects' tables hold; those written before format 2 lack them.
    """

    price_ms: float
    p10_ms: float
    p50_ms: float
    p90_ms: float
    visits: int
    accepted: int
    runs: int
    mean_ms: float | None = None
    std_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """One block as somebody else's table has it: mean and standard deviation over `runs` runs. No percentile is known, and none is made up."""

    mean_ms: float
    std_ms: float
    runs: int

    @property
    def price_ms(self) -> float:
        """The mean: what those tables are summed by."""
        return self.mean_ms


@dataclass(frozen=True, slots=True)
class Failure:
    """A block that could not be measured, and why: a row, too."""

    error: str


@dataclass(frozen=True, slots=True)
class Predicted:
    """One block that nobody measured: what a model of `blocks` measured ones says, and its standard deviation. No run is behind it.

    is_extrapolated: the block is larger, smaller or of another kind than all of those.
    """

    price_ms: float
    std_ms: float
    blocks: int
    is_extrapolated: bool


#: A row of entries.csv.
Entry: TypeAlias = Measurement | Imported | Predicted | Failure


@dataclass(frozen=True, slots=True)
class NetworkMeasurement:
    """A whole network, measured as `verify` measures: percentiles of all runs of the visits that nothing disturbed."""

    architecture: Architecture
    fingerprint: str
    p10_ms: float
    p50_ms: float
    p90_ms: float
    visits: int
    dropped: int


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """`entries` by block text. `protocol`, `provenance`, `anchor` and `quality` are facts for people, and for commands to compare."""

    conditions: Conditions
    entries: Mapping[str, Entry] = field(hash=False)
    networks: tuple[NetworkMeasurement, ...] = ()
    origin: TableOrigin = "measured"
    protocol: Mapping[str, Fact] = field(default_factory=dict, hash=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)
    anchor: Mapping[str, Any] = field(default_factory=dict, hash=False)
    quality: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def missing(self, blocks: Sequence[Block]) -> list[str]:
        """Texts of the blocks without a price, in order, each once; skipped layers need none."""
        texts = dict.fromkeys(block_text(block) for block in blocks if block)
        return [text for text in texts if not isinstance(self.entries.get(text), Measurement | Imported | Predicted)]

    def predicted(self, blocks: Sequence[Block] | None = None) -> list[str]:
        """Texts of those blocks whose price is predicted, or of all that are, in order, each once."""
        texts = self.entries if blocks is None else dict.fromkeys(block_text(block) for block in blocks if block)
        return [text for text in texts if isinstance(self.entries.get(text), Predicted)]

    def variants(self) -> list[Variant]:
        """The precisions and batches that its prices are for, sorted."""
        return variants_of(text for text, entry in self.entries.items() if not isinstance(entry, Failure))

    def variant(self, precision: str | None = None, batch: int | None = None) -> Variant:
        """What a space is priced in: the one variant that the table holds, of those that were asked for. Raises InputError where it holds several.

        Where it holds none of what was asked for, that is what is answered: whoever prices with it names the blocks that are missing.
        """
        asked = Variant(precision or "fp32", 1 if batch is None else batch)
        found = [each for each in self.variants() if precision in (None, each.precision) and batch in (None, each.batch)]
        if len(found) > 1:
            held = "; ".join(map(str, found))
            raise InputError(f"the table of {self.conditions} has prices for {held}: choose one of them with --precision and --batch")
        return found[0] if found else asked

    def price_ms(self, block: Block) -> float:
        """0 for a skipped layer. Raises MissingLatency."""
        entry = self.entries.get(block_text(block)) if block else None
        if isinstance(entry, Measurement | Imported | Predicted):
            return entry.price_ms
        if block:
            raise self.missing_latency([block_text(block)], 1, "SPACE")
        return 0.0

    def missing_latency(self, missing: Sequence[str], needed: int, space: str) -> MissingLatency:
        """The error for blocks without a price: how many, the first one, and the command that measures them."""
        options = variants_of(missing[:1])[0].options if variants_of(missing[:1]) else ""
        first = self.entries.get(missing[0])
        reason = f" (it failed: {first.error})" if isinstance(first, Failure) else ""
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return MissingLatency(
            f"{len(missing)} of {needed} blocks of {space} have no latency in the table of {self.conditions}: {missing[0]}{reason}{more}; "
            f"measure them with: hwnas profile {self.conditions.device} --space {space}{options} --to FOLDER"
        )

    def refuse_emulated(self, consequence: str) -> None:
        """Raises InputError where these are the times of an emulator. consequence: what is therefore not done, such as `they are not merged`."""
        if self.origin == "emulated":
            raise emulated(f"the table of {self.conditions}", self.conditions.emulated or "an emulator", consequence)

    # -- files ----------------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the three files, each whole or not at all, `table.toml` last. Equal tables give equal bytes."""
        import tomli_w

        entries = csv_text([_ENTRY_COLUMNS, *sorted(map(_entry_row, self.entries.items()), key=lambda row: row[-1])])
        networks = csv_text([_NETWORK_COLUMNS, *sorted(map(_network_row, self.networks))])
        table = {
            "format": FORMAT,
            "origin": self.origin,
            "conditions": asdict(self.conditions),
            "protocol": dict(self.protocol),
            "provenance": dict(self.provenance),
            "anchor": dict(self.anchor),
            "quality": dict(self.quality),
            "files": {ENTRIES: _digest(entries), NETWORKS: _digest(networks)},
        }
        text = tomli_w.dumps(table)
        write_whole(folder / ENTRIES, entries)
        write_whole(folder / NETWORKS, networks)
        write_whole(folder / TABLE, f'sha256 = "{_digest(text)}"\n{text}')

    @classmethod
    def load(cls, folder: Path) -> LatencyTable:
        """Raises DamagedFile, in one sentence, for whatever is not a complete and unchanged table of this format."""
        path = folder / TABLE
        if not path.is_file():
            raise DamagedFile(f"{folder} holds no latency table: there is no {TABLE} in it; a profile that was not finished is continued by the same command")
        table = _read_table(path)
        files = _section(table, "files", path)
        texts = {}
        for name in (ENTRIES, NETWORKS):
            texts[name] = read_text(folder / name)
            if _digest(texts[name]) != files.get(name):
                raise DamagedFile(f"{folder / name} is not the file that {TABLE} was written with: it was cut short or changed")
        if table.get("origin") not in get_args(TableOrigin):
            raise DamagedFile(f"{path}: origin must be one of {', '.join(get_args(TableOrigin))}, got {table.get('origin')!r}")
        entries: dict[str, Entry] = {}
        for where, row in _rows(folder / ENTRIES, texts[ENTRIES], _COLUMNS[table["format"]]):
            if row["block"] in entries:
                raise DamagedFile(f"{where}: this block has a row already")
            entries[row["block"]] = entry = _entry(row, where)
            if isinstance(entry, Imported) and table["origin"] != "imported":
                raise DamagedFile(f"{where}: a row without visits is imported, and this table is {table['origin']}")
        networks = tuple(_network(row, where) for where, row in _rows(folder / NETWORKS, texts[NETWORKS], _NETWORK_COLUMNS))
        if len({(each.fingerprint, json.dumps(dict(each.architecture.values))) for each in networks}) != len(networks):
            raise DamagedFile(f"{folder / NETWORKS}: a network has two rows")
        sections = (_section(table, name, path) for name in ("protocol", "provenance", "anchor", "quality"))
        conditions = _conditions(_section(table, "conditions", path), path)
        if conditions.emulated and table["origin"] == "measured":
            raise DamagedFile(f"{path}: the origin is measured, and the conditions say that the device was emulated by {conditions.emulated[:60]}")
        return cls(conditions, entries, networks, table["origin"], *sections)


def emulated(what: str, emulator: str, consequence: str) -> InputError:
    """The error for times that are none of a device."""
    return InputError(f"{what} is emulated by {emulator}: its times say nothing about any device, and {consequence}; measure on the device itself")


def seal(folder: Path) -> str:
    """SHA-256 in the first line of a table's `table.toml`: it covers all three files, and so names the table. Raises DamagedFile."""
    first = read_text(folder / TABLE).partition("\n")[0]
    found = _SEAL.match(first + "\n")
    if found is None:
        raise DamagedFile(f"{folder / TABLE} has no hash in its first line")
    return found[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _number(value: float) -> str:
    return f"{value:.6g}"


def _entry_row(item: tuple[str, Entry]) -> list[str]:
    block, entry = item
    if isinstance(entry, Failure):
        return [""] * 10 + [entry.error, block]
    if isinstance(entry, Predicted):
        how = f"{'extrapolated' if entry.is_extrapolated else 'interpolated'} from {entry.blocks} blocks"
        return [_number(entry.price_ms), "", _number(entry.std_ms), *[""] * 6, how, "", block]
    if isinstance(entry, Imported):  # every digit: they are not ours to round
        return [repr(entry.mean_ms), repr(entry.mean_ms), repr(entry.std_ms), *[""] * 5, str(entry.runs), "", "", block]
    numbers = (entry.price_ms, entry.mean_ms, entry.std_ms, entry.p10_ms, entry.p50_ms, entry.p90_ms)
    return [*("" if value is None else _number(value) for value in numbers), str(entry.visits), str(entry.accepted), str(entry.runs), "", "", block]


def _network_row(network: NetworkMeasurement) -> list[str]:
    numbers = [_number(value) for value in (network.p10_ms, network.p50_ms, network.p90_ms)]
    values = json.dumps(dict(network.architecture.values), separators=(",", ":"))
    return [network.architecture.space, network.fingerprint, *numbers, str(network.visits), str(network.dropped), values]


def _read_table(path: Path) -> dict[str, Any]:
    text = read_text(path)
    seal = _SEAL.match(text)
    if seal is None or seal[1] != _digest(text[seal.end() :]):
        raise DamagedFile(f"{path} does not match the hash in its first line: it was cut short or changed")
    table = parse_toml(text, path)
    if not isinstance(said := table.get("format"), str) or said not in _COLUMNS:
        raise DamagedFile(f"{path} has the format {str(said)[:60]!r}; this version reads {', '.join(map(repr, _COLUMNS))}")
    return table


def _section(table: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = table.get(name)
    if not isinstance(section, dict):
        raise DamagedFile(f"{path} lacks the section [{name}]")
    if (wrong := _not_plain(section, name)) is not None:
        raise DamagedFile(f"{path}: {wrong}")
    return section


def _not_plain(value: Any, at: str, depth: int = 0) -> str | None:
    """What is in a section of TOML that JSON has no place for, or that is too much of a number; None where nothing is."""
    if depth > _MAX_DEPTH:
        return f"{at[:80]} is nested more than {_MAX_DEPTH} deep"
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return next((wrong for key, each in items if (wrong := _not_plain(each, f"{at}.{key}", depth + 1))), None)
    if isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) < 2**63):  # false for NaN
        return None
    return f"{at[:80]} must be text, a number, true, false, or made of these, got {str(value)[:40]}"


def _conditions(data: Mapping[str, Any], path: Path) -> Conditions:
    texts = [data.get(key) for key in ("device", "processor", "runtime", "version", "regime")]
    threads, options = data.get("threads"), data.get("options")
    flat = isinstance(options, dict) and not any(isinstance(value, dict | list) for value in options.values())
    if not all(isinstance(text, str) for text in texts) or type(threads) is not int or threads < 1 or not flat:
        raise DamagedFile(f"{path}: [conditions] must say device, processor, runtime, version, threads, regime and options")
    assert isinstance(options, dict)
    device, processor, runtime, version, regime = map(str, texts)
    return Conditions(device, processor, runtime, version, threads, regime, options)


def _rows(path: Path, text: str, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """(where, values by column) of each row."""
    try:
        header, *rows = csv.reader(io.StringIO(text), strict=True)
    except (csv.Error, ValueError) as error:
        raise DamagedFile(f"{path} is not readable CSV: {error}") from None
    if tuple(header) != tuple(columns):
        raise DamagedFile(f"{path}: the columns must be {','.join(columns)}, got {','.join(header)[:200]}")
    named = []
    for i, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise DamagedFile(f"{path}:{i} has {len(row)} values, must have {len(columns)}")
        named.append((f"{path}:{i}", dict(zip(columns, row, strict=True))))
    return named


def _positive_ms(row: Mapping[str, str], key: str, where: str) -> float:
    try:
        value = float(row[key])
    except ValueError:
        value = math.nan
    if not 1e-9 <= value <= 1e12:  # false for NaN; what is far from any latency breaks the fit
        raise DamagedFile(f"{where}: {key} must be a positive number of milliseconds, 1e-9 to 1e12, got '{row[key][:40]}'")
    return value


def _std_ms(row: Mapping[str, str], where: str) -> float:
    """Unlike a latency it may be 0: of one run, or of equal ones."""
    try:
        value = float(row["std_ms"])
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e12:
        raise DamagedFile(f"{where}: std_ms must be a number of milliseconds, 0 to 1e12, got '{row['std_ms'][:40]}'")
    return value


def _count(row: Mapping[str, str], key: str, where: str, least: int) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", row[key], re.ASCII) or int(row[key]) < least:
        raise DamagedFile(f"{where}: {key} must be a whole number of at least {least}, got '{row[key][:40]}'")
    return int(row[key])


def _percentiles_ms(row: Mapping[str, str], where: str) -> tuple[float, float, float]:
    p10, p50, p90 = (_positive_ms(row, key, where) for key in ("p10_ms", "p50_ms", "p90_ms"))
    if not p10 <= p50 <= p90:
        raise DamagedFile(f"{where}: p10 <= p50 <= p90 must hold, got {p10:g}, {p50:g}, {p90:g}")
    return p10, p50, p90


def _checked(parse: Callable[[], Any], where: str) -> Any:
    try:
        return parse()
    except (InputError, ValueError, RecursionError) as error:
        raise DamagedFile(f"{where}: {str(error)[:200]}") from None


def _entry(row: Mapping[str, str], where: str) -> Entry:
    block = _checked(lambda: parse_block(row["block"]), where)
    if _checked(lambda: block_text(block), where) != row["block"]:
        raise DamagedFile(f"{where}: the block is not written as hwnas writes it")
    filled = {key for key, value in row.items() if value} - {"block"}
    if row["error"]:
        if filled != {"error"}:
            raise DamagedFile(f"{where}: a row has numbers or an error, not both")
        return Failure(row["error"])
    if how := row.get("predicted"):
        found = _PREDICTED.fullmatch(how)
        if found is None or filled != {"price_ms", "std_ms", "predicted"}:
            raise DamagedFile(f"{where}: a predicted row has a price, a std_ms and 'interpolated' or 'extrapolated from N blocks', got '{how[:60]}'")
        return Predicted(_positive_ms(row, "price_ms", where), _std_ms(row, where), int(found[2]), found[1] == "extrapolated")
    spread = {"mean_ms", "std_ms"} & filled
    mean, std = (_positive_ms(row, "mean_ms", where), _std_ms(row, where)) if spread else (None, None)
    if mean is not None and std is not None and filled == {"price_ms", "mean_ms", "std_ms", "runs"}:
        if row["price_ms"] != row["mean_ms"]:
            raise DamagedFile(f"{where}: the price of an imported row is its mean, got '{row['price_ms'][:40]}' and '{row['mean_ms'][:40]}'")
        return Imported(mean, std, _count(row, "runs", where, 1))
    visits, accepted, runs = (_count(row, key, where, least) for key, least in (("visits", 1), ("accepted", 0), ("runs", 1)))
    if accepted > visits or runs < visits:
        raise DamagedFile(f"{where}: accepted <= visits <= runs must hold, got {accepted}, {visits}, {runs}")
    return Measurement(_positive_ms(row, "price_ms", where), *_percentiles_ms(row, where), visits, accepted, runs, mean, std)


def _network(row: Mapping[str, str], where: str) -> NetworkMeasurement:
    values = _checked(lambda: parse_json(row["architecture"]), where)
    if not isinstance(values, dict) or not all(isinstance(value, str | int | float) and _not_plain(value, "") is None for value in values.values()):
        raise DamagedFile(f"{where}: the architecture must map choices to values")
    if not row["space"] or not _FINGERPRINT.fullmatch(row["fingerprint"]):
        raise DamagedFile(f"{where}: a network needs the name and the fingerprint of its space")
    visits, dropped = _count(row, "visits", where, 1), _count(row, "dropped", where, 0)
    return NetworkMeasurement(Architecture(row["space"], values), row["fingerprint"], *_percentiles_ms(row, where), visits, dropped)
