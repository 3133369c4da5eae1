"""All commands. Each is a thin wrapper over the verb of the same name; heavy imports happen inside."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas import __version__
from hwnas.cli.accuracy import accuracy_app
from hwnas.cli.bench_search import bench_search
from hwnas.cli.compare import compare
from hwnas.cli.data import data_app
from hwnas.cli.interruptible import interruptible, resumable
from hwnas.cli.specialize import specialize
from hwnas.cli.table import table_app
from hwnas.cli.weights import weights_app

if TYPE_CHECKING:
    from hwnas.profiling.forecast import Forecast

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
space_app = typer.Typer(no_args_is_help=True, help="Search spaces.")
device_app = typer.Typer(no_args_is_help=True, help="Devices that can be profiled.")
app.add_typer(space_app, name="space")
app.add_typer(device_app, name="device")
app.add_typer(table_app, name="table")
app.add_typer(accuracy_app, name="accuracy")
app.add_typer(weights_app, name="weights")
app.add_typer(data_app, name="data")
app.command("bench-search")(bench_search)
app.command()(compare)
app.command()(specialize)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Macs = Annotated[str | None, typer.Option(help="Budget on multiply-accumulates: '<= 300M', or '<= 60%' of the largest subnet.")]
Params = Annotated[str | None, typer.Option(help="Budget on parameters: '<= 4M'.")]
Memory = Annotated[str | None, typer.Option(help="Budget on the peak memory of the activations: '<= 512kB', '<= 2MiB'.")]
Size = Annotated[str | None, typer.Option(help="Budget on the size of the exported file: '<= 4MB'.")]
Also = Annotated[list[str] | None, typer.Option(help="Budget on latency on another device, by its table: 'TABLE <= 30ms p50'; may be given again.")]
Precision = Annotated[str | None, typer.Option(help="Which, where the table has prices for several: fp32, fp16, bf16, int8_u8s8, int8_s8s8, int8_fp16.")]
Batch = Annotated[int | None, typer.Option(help="Images of one run: which, where the table has prices for several.")]
Run = Annotated[Path, typer.Argument(help="Folder of the run; the same command again continues it.")]
Seed = Annotated[int, typer.Option(help="Of everything that is random.", min=0, max=2**32 - 1)]
Threads = Annotated[int | None, typer.Option(help="Threads of PyTorch; all cores by default.")]
Workers = Annotated[int, typer.Option(help="Subnets that are evaluated at a time, each by so many --threads.")]
Executor = Annotated[str | None, typer.Option(help="Where: processes, or \"ray(address='auto')\"; this process by default, of several workers processes.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hwnas {__version__}")
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Profile a device, search under a latency budget, ship a network that is measured to fit."""


@space_app.command("list")
def space_list(as_json: Json = False) -> None:
    """Names of the search spaces."""
    from hwnas import registry
    from hwnas.cli import show

    names = registry.names("spaces")
    if as_json:
        show.as_json(names)
    else:
        typer.echo("\n".join(names))


@space_app.command("show")
def space_show(
    name: Annotated[str, typer.Argument(help="Name, name(key=value), or path.py:name.")],
    table: Annotated[Path | None, typer.Option(help="Latency table, a folder or the name of a shipped one, that --latency is predicted from.")] = None,
    latency: Annotated[str | None, typer.Option(help="Budget to look at: '<= 12ms p50', or '<= 60% p50' of the largest subnet.")] = None,
    macs: Macs = None,
    params: Params = None,
    memory: Memory = None,
    size: Size = None,
    also: Also = None,
    precision: Precision = None,
    batch: Batch = None,
    as_json: Json = False,
) -> None:
    """Choices, size, MACs, parameters and memory of a search space; with budgets, whether and how far it can keep them."""
    from hwnas.cli import show
    from hwnas.report_words import budget_line, cost, share_line
    from hwnas.verbs.space import show_space as facts_of

    facts = facts_of(name, table=table, latency=latency, macs=macs, params=params, memory=memory, size=size, also=also or (), precision=precision, batch=batch)
    if as_json:
        show.as_json(facts)
        return
    at = f" at resolution {facts['resolution']}" if facts["resolution"] else ""
    roles: dict[tuple[str, str], int] = {}
    for choice in facts["choices"]:
        values = choice["values"]
        short = ", ".join(map(str, values)) if len(values) <= 8 else f"{values[0]}, {values[1]}, ... {values[-1]} ({len(values)} values)"
        key = (choice["name"].rpartition(".")[2], short)
        roles[key] = roles.get(key, 0) + 1
    show.table(
        f"{facts['name']}: {facts['layers']} layers, {facts['distinct_blocks']:,} distinct blocks",
        {"choice": "left", "how many": "right", "values": "left"},
        [[role, str(n), values] for (role, values), n in roles.items()],
    )
    bound = {key: "" if facts[f"{key}_exact"] else "at most " for key in ("encodings", "subnets")}
    typer.echo(f"encodings   {bound['encodings']}{facts['encodings']:.4g} (skipped layers collapsed, resolution excluded)")
    typer.echo(f"subnets     {bound['subnets']}{facts['subnets']:.4g}")
    typer.echo(f"MACs        {facts['macs']['min'] / 1e6:.4g} M to {facts['macs']['max'] / 1e6:.4g} M{at}")
    typer.echo(f"parameters  {facts['params']['min'] / 1e6:.3g} M to {facts['params']['max'] / 1e6:.3g} M (batch norm counted)")
    if facts["memory"]:
        ends = f"{cost('memory', facts['memory']['min'])} to {cost('memory', facts['memory']['max'])}"
        typer.echo(f"peak memory {ends} of activations{at} ({facts['precision']}, batch {facts['batch']})")
    typer.echo(f"model size  {cost('size', facts['size']['min'])} to {cost('size', facts['size']['max'])} ({facts['precision']})")
    if facts["references"]:
        columns = {"reference": "left", "MACs": "right", "published": "right", "by": "right", "parameters": "right", "published ": "right", "by ": "right"}
        show.table("", columns, [show.reference_row(each) for each in facts["references"]])
        for source in dict.fromkeys(each["source"] for each in facts["references"] if each["source"]):
            typer.echo(f"published in {source}")
    if found := facts.get("feasibility"):
        for each in found["budgets"]:
            typer.echo(budget_line(each))
        typer.echo(share_line(found["share"]))
        typer.echo(f"such as {found['in_words']}")
    typer.echo(f"next: hwnas profile localhost --space '{name}' --to DIR")


@device_app.command("list")
def device_list(as_json: Json = False) -> None:
    """The devices that ship with hwnas and your own; a device is one TOML file."""
    from hwnas.cli import show
    from hwnas.verbs.device import list_devices

    devices = list_devices()
    if as_json:
        show.as_json(devices)
        return
    rows = [
        [each["name"], each["origin"], "", "", f"cannot be read: {each['error']}"]
        if "error" in each
        else [each["name"], each["origin"], each["transport"], ", ".join(each["runtimes"]), each["description"]]
        for each in devices
    ]
    show.table("", {"device": "left", "origin": "left", "transport": "left", "runtimes": "left", "description": "left"}, rows)


@device_app.command("add")
def device_add(
    name: Annotated[str, typer.Argument(help="What it is called from now on.")],
    transport: Annotated[str, typer.Option(help="How it is reached: local, ssh, adb, adb_app.")] = ...,  # type: ignore[assignment]
    address: Annotated[str, typer.Option(help="Where: user@host, ssh://user@host:port, a name of your ssh configuration, or a serial number of adb.")] = "",
    python: Annotated[str, typer.Option(help="Python on the device, such as ~/venv/bin/python; python3 by default.")] = "",
    agent: Annotated[str, typer.Option(help="Folder with a program that is the agent there, and its libraries; the Python agent by default.")] = "",
    cores: Annotated[str, typer.Option(help="Cores that it is measured on, such as 4-7; the system's choice by default.")] = "",
    runtime: Annotated[list[str] | None, typer.Option(help="What it can run, the preferred one first; onnxruntime by default.")] = None,
    processor: Annotated[str, typer.Option(help="Which of its processors.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads it is measured with unless told otherwise.")] = 1,
    description: Annotated[str, typer.Option(help="A line for people.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Write over your device of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Write the file of a device of your own; nothing is connected to."""
    from hwnas.cli import show
    from hwnas.verbs.device import add_device

    path = add_device(
        name,
        transport=transport,
        address=address,
        python=python,
        agent=agent,
        cores=cores,
        runtimes=runtime or ["onnxruntime"],
        processor=processor,
        threads=threads,
        description=description,
        replace=replace,
    )
    if as_json:
        show.as_json({"name": name, "file": str(path)})
        return
    typer.echo(f"{path}\nnext: hwnas device check {name}")


@device_app.command("check")
@interruptible("nothing was kept: a check records nothing")
def device_check(
    device: Annotated[str, typer.Argument(help="Name of a device, or a TOML file.")] = "localhost",
    seconds: Annotated[float, typer.Option(help="How long it is measured.")] = 10.0,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime; the device's by default.")] = None,
    runtime: Annotated[str, typer.Option(help="One of its runtimes; the first by default.")] = "",
    as_json: Json = False,
) -> None:
    """What a device is, how finely and evenly it can be timed, and what to change for better numbers."""
    from hwnas.cli import show
    from hwnas.verbs.device import check_device

    with show.progress_bar() as progress:
        found = check_device(device, seconds=seconds, threads=threads, runtime=runtime, progress=progress)
    if as_json:
        show.as_json(found)
        return
    show.table(f"{found['device']}, measured for {found['seconds']:g} s", {"what": "left", "found": "left"}, show.device_rows(found))
    typer.echo("for better numbers:" if found["advice"] else "nothing to change for better numbers")
    for each in found["advice"]:
        typer.echo(f"- {each}")
    typer.echo(f"next: hwnas profile {device} --space ofa_mini --to DIR")


@device_app.command("serve")
def device_serve(
    host: Annotated[str, typer.Option(help="Where the page is served: by default to this machine alone; 0.0.0.0 to its network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the page; any free one by default.")] = 0,
    runtime_files: Annotated[Path | None, typer.Option(help="Folder with the files of the npm package onnxruntime-web; npm by default.")] = None,
) -> None:
    """Serve a page: any browser that opens it is a target for 'hwnas profile browser' and 'hwnas verify'."""
    from hwnas.profiling.transports.browser import qr_code
    from hwnas.verbs.serve import serve as act

    def announce(url: str) -> None:
        typer.echo(f"open this page in the browser that is to be measured:\n{url}\n{qr_code(url)}\nnext: hwnas profile browser --space ofa_mini --to DIR")

    def seen(peer: str | None) -> None:
        typer.echo(f"browser at {peer} is ready" if peer else "no browser now", err=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # of a service manager, or of a script, whose children do not hear Ctrl-C
    with suppress(KeyboardInterrupt):
        act(host=host, port=port, runtime_files=runtime_files, announce=announce, seen=seen)


@app.command()
@resumable
def profile(
    device: Annotated[str, typer.Argument(help="Name of a device, or a TOML file.")] = "localhost",
    space: Annotated[str, typer.Option(help="Search space whose blocks are measured.")] = ...,  # type: ignore[assignment]
    to: Annotated[Path | None, typer.Option(help="Folder of the table; with --plan, of an unfinished one, or none.")] = None,
    runtime: Annotated[str, typer.Option(help="One of the device's runtimes; its first by default.")] = "",
    precision: Annotated[str, typer.Option(help="Of weights and values: fp32, fp16, bf16, int8_u8s8 (CPUs), int8_s8s8, int8_fp16 (TensorRT).")] = "fp32",
    batch: Annotated[int, typer.Option(help="Images of one run.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime; the device's by default.")] = None,
    visits: Annotated[int, typer.Option(help="Visits of each block and network, at most: what is settled earlier needs fewer.", min=1)] = 16,
    networks: Annotated[int, typer.Option(help="Whole networks that calibrate the sum.", min=0)] = 60,
    regime: Annotated[str, typer.Option(help="Which latency: warm, steady, first-run, cold-start or sustained.")] = "warm",
    span: Annotated[float | None, typer.Option(help="Seconds over which the visits are spread at least, waiting where they take less; 30 by default.")] = None,
    seed: Seed = 0,
    budget_minutes: Annotated[float | None, typer.Option(help="At most so long: the blocks that tell most are measured, the others predicted.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be measured and about how long it takes.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the latency lookup table of a device for a space."""
    from hwnas.cli import show
    from hwnas.errors import InputError
    from hwnas.latency_table import Failure, Predicted
    from hwnas.verbs.profile import plan_profile
    from hwnas.verbs.profile import profile as act

    asked: dict[str, Any] = {"space": space, "runtime": runtime, "precision": precision, "batch": batch, "threads": threads, "visits": visits}
    asked |= {"networks": networks, "regime": regime, "span_s": span, "seed": seed, "budget_minutes": budget_minutes}
    if plan:
        with show.progress_bar() as progress:
            forecast = plan_profile(device, to=to, progress=progress, **asked)
        if as_json:
            show.as_json(asdict(forecast))
        else:
            typer.echo("\n".join(show.plan_lines(forecast, budget_minutes)))
        return
    if to is None:
        raise InputError("name the folder of the table with --to; only --plan can do without")
    with show.progress_bar() as progress:

        def tell(forecast: Forecast) -> None:
            for line in show.plan_lines(forecast, budget_minutes):
                progress.note(line)

        table = act(device, to=to, planned=tell, progress=progress, **asked)
    predicted = table.predicted()
    extrapolated = sum(isinstance(entry, Predicted) and entry.is_extrapolated for entry in table.entries.values())
    failed = [key for key, entry in table.entries.items() if isinstance(entry, Failure)]
    facts = {
        "table": str(to),
        "origin": table.origin,
        "conditions": str(table.conditions),
        "processor": table.conditions.processor,
        "entries": len(table.entries),
        "predicted": predicted,
        "extrapolated": extrapolated,
        "failed": len(failed),
        "networks": len(table.networks),
        "quality": dict(table.quality),
        "steadiness": dict(table.anchor.get("visits", {})),
    }
    if as_json:
        show.as_json(facts)
        return
    measured = len(table.entries) - len(predicted)
    typer.echo(f"{measured} blocks and {len(table.networks)} networks {table.origin} on {table.conditions.processor} ({table.conditions})")
    if predicted:
        figures = table.quality.get("predicted_blocks", {})
        expected = f"; measured ones, left out, are predicted with a mean error of {100 * figures['mape']:.1f} %" if figures else ""
        typer.echo(f"{len(predicted)} blocks predicted, {extrapolated} of them beyond what was measured{expected}: 'predicted' in {to / 'entries.csv'}")
    if failed:
        typer.echo(f"{len(failed)} failed, the first: {failed[0]}")
    steadiness = table.anchor.get("visits", {})
    for key, said in _UNSTEADY.items():
        if steadiness.get(key):
            typer.echo(f"{steadiness[key]} blocks {said}")
    _quality(table.quality)
    if table.conditions.reach:
        typer.echo(f"this table {table.conditions.reach}")
    if table.origin == "emulated":
        typer.echo(f"table in {to}; {table.conditions.device} is emulated by {table.conditions.emulated}: its times say nothing about any device")
        return
    typer.echo(f"table in {to}\nnext: hwnas train RUN --space '{space}' --data DATA, then: hwnas search RUN --table {to} --latency '<= 60% p50'")


#: Counts of `hwnas.profiling.tabulate.steadiness` that are worth a line, and what it says.
_UNSTEADY = {
    "disturbed_blocks": "were disturbed at every visit (accepted = 0 in entries.csv): measure them again on a quieter machine",
    "unsettled_blocks": "are not settled to 1 %: more --visits would tell",
    "uneven_blocks": "changed their latency while the anchor did not: hwnas table show tells which",
}


def _quality(quality: Mapping[str, Any]) -> None:
    from hwnas.cli import show

    names = {"calibrated": "table, calibrated", "table_sum": "table, plain sum", "macs_line": "line through MACs (baseline)"}
    rows = [
        [names.get(key, key), *(f"{100 * each[part]:.1f} %" for part in ("mape", "within_5pct", "within_10pct")), f"{each['kendall']:.3f}"]
        for key, each in quality.items()
        if isinstance(each, Mapping) and "kendall" in each
    ]
    if rows:
        columns = {"left-out networks predicted by": "left", "mean error": "right", "within 5 %": "right", "within 10 %": "right", "Kendall": "right"}
        show.table("", columns, rows)


@app.command()
@resumable
def train(
    run: Run,
    data: Annotated[str, typer.Option(help="Data set: a name, one of torchvision's, or a folder with a folder of images for each class.")] = ...,  # type: ignore[assignment]
    space: Annotated[str | None, typer.Option(help="Search space; with --init that of the run by default.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Phases: single_path (the default), small and ofa (progressive shrinking), fine_tune (that with --init), as_is (none).")
    ] = None,
    sharing: Annotated[str | None, typer.Option(help="What blocks of a layer have in common: slices, kernels, or paths (nothing).")] = None,
    length: Annotated[float, typer.Option(help="Multiplies the epochs of every phase.")] = 1.0,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
    shards: Annotated[int | None, typer.Option(help="Batches that make a step together; one for each process of torchrun by default.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="How to train, name=value: rate, ema, label_smoothing, precision, augment ...")] = None,
    init: Annotated[Path | None, typer.Option(help="Run or file of weights to begin with; its classifier is replaced where the classes differ.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Train this one alone: its file, a reference of the space, largest or smallest.")] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, or cuda (one GPU for each process).")] = "cpu",
    workers: Annotated[int | None, typer.Option(help="Processes that load images from disk.", min=0)] = None,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch a data set that is not there.")] = False,
    refit: Annotated[int | None, typer.Option(help="Subnets to measure afterwards for predictors of accuracy; 100 with --init.", min=0)] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard's logs into the run.")] = False,
    seed: Seed = 0,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train the weight-sharing supernet of a space, or one network of it alone."""
    from hwnas.cli import show
    from hwnas.verbs.train import train as act

    with show.progress_bar() as progress:
        result = act(
            run,
            space=space,
            data=data,
            schedule=schedule,
            sharing=sharing,
            length=length,
            batch=batch,
            shards=shards,
            options=options or (),
            init=init,
            architecture=architecture,
            device=device,
            workers=workers,
            download=download,
            tensorboard=tensorboard,
            refit=refit,
            seed=seed,
            threads=threads,
            progress=progress,
        )
    if not result:
        return  # one of several processes, and not the first
    if as_json:
        show.as_json(result)
        return
    ends = result["validation_accuracy_pct"]
    for line in show.training_notes(result):
        typer.echo(line)
    what = "supernet" if architecture is None else "network"
    typer.echo(f"{what} trained for {result['steps']} steps in {result['seconds']:.0f} s on {result['threads']} thread(s)")
    if architecture is not None:
        typer.echo(f"validation accuracy, measured: {ends['largest']:.1f} %\nnext: hwnas export {run} --to DIR")
        return
    typer.echo(f"validation accuracy, measured: smallest subnet {ends['smallest']:.1f} %, largest {ends['largest']:.1f} %")
    typer.echo(f"next: hwnas search {run} --table TABLE --latency '<= 60% p50'")


@app.command()
@resumable
def search(
    run: Run,
    table: Annotated[Path, typer.Option(help="Latency table: a folder, or the name of a shipped one.")] = ...,  # type: ignore[assignment]
    latency: Annotated[str, typer.Option(help="Budget: '<= 12ms p50', or '<= 60% p50' of the largest subnet.")] = ...,  # type: ignore[assignment]
    macs: Macs = None,
    params: Params = None,
    memory: Memory = None,
    size: Size = None,
    also: Also = None,
    precision: Precision = None,
    batch: Batch = None,
    space: Annotated[str | None, typer.Option(help="Search this space without a supernet, with --accuracy.")] = None,
    accuracy: Annotated[str | None, typer.Option(help="Predictor of accuracy: a name with arguments, or path.py:function.")] = None,
    accuracy_predictor: Annotated[
        str | None, typer.Option(help="Search by this predictor of what 'hwnas accuracy build' measured, and measure its best; or best, the best one.")
    ] = None,
    searcher: Annotated[str, typer.Option(help="Search algorithm.")] = "regularized_evolution",
    evaluations: Annotated[int, typer.Option(help="Subnets to evaluate.")] = 150,
    options: Annotated[list[str] | None, typer.Option("--set", help="Option of the searcher, name=value.")] = None,
    reward: Annotated[str | None, typer.Option(help="What to search by: a reward, such as 'mnasnet_soft(exponent=-0.07)'; feasible_first by default.")] = None,
    latency_source: Annotated[
        str, typer.Option(help="Where latency comes from: table, or measured: each candidate on the device, where it is no sum over blocks.")
    ] = "table",
    latency_device: Annotated[str | None, typer.Option(help="Device to measure candidates on, a name or a .toml file; by default the table's.")] = None,
    latency_seconds: Annotated[float, typer.Option(help="How long candidates that are asked for together are measured, in turns.")] = 5.0,
    baselines: Annotated[bool, typer.Option(help="Also random search at equal cost, and uniform scaling.")] = True,
    device: Annotated[str, typer.Option(help="Where the supernet is evaluated, and trained by searchers that do: cpu or cuda.")] = "cpu",
    seed: Seed = 0,
    threads: Threads = None,
    workers: Workers = 1,
    executor: Executor = None,
    as_json: Json = False,
) -> None:
    """Search the trained supernet under a latency budget, and others beside it."""
    from hwnas.cli import show
    from hwnas.report_words import budget_line, cost, cost_name, course, measured_line, share_line, surrogate_gap
    from hwnas.verbs.search import search as act

    with show.progress_bar() as progress:
        result = act(
            run,
            table=table,
            latency=latency,
            macs=macs,
            params=params,
            memory=memory,
            size=size,
            also=also or (),
            precision=precision,
            batch=batch,
            space=space,
            accuracy=accuracy,
            accuracy_predictor=accuracy_predictor,
            searcher=searcher,
            evaluations=evaluations,
            options=options or (),
            reward=reward,
            latency_source=latency_source,
            latency_device=latency_device,
            latency_seconds=latency_seconds,
            baselines=baselines,
            device=device,
            seed=seed,
            threads=threads,
            workers=workers,
            executor=executor,
            progress=progress,
        )
    if as_json:
        show.as_json(result)
        return
    networks = result.get("networks_measured")
    budgets = result.get("budgets") or ([_latency_alone(result)] if networks is None else [])
    if networks is not None:
        typer.echo(measured_line(result))
    for each in budgets:
        typer.echo(budget_line(each))
    if len(budgets) > 1 and networks is None:
        typer.echo(share_line(result["share"]))
    best = [("search", result["points"][0] if result["points"] else None, result["evaluations"])]
    best += [(name, each["points"][0] if each["points"] else None, each["evaluations"]) for name, each in result.get("baselines", {}).items()]
    others = {"params": "params", "memory": "memory_bytes", "size": "size_bytes"}
    shown = [(each["metric"], others[each["metric"]]) for each in budgets if each["metric"] in others]
    rows = [
        [name, f"{n:.0f}", f"{p['accuracy_pct']:.2f} %", f"{p['latency_ms']:.4g} ms", f"{p['macs'] / 1e6:.2f} M", *(cost(what, p[key]) for what, key in shown)]
        for name, p, n in best
        if p
    ]
    origin = result.get("accuracy_origin") or "measured"
    what = f"accuracy ({origin})" if accuracy else f"validation accuracy ({origin})"
    by_what = "predicted" if networks is None else "measured"
    columns = {"by": "left", "evaluations": "right", what: "right", f"latency ({by_what})": "right", "MACs": "right"}
    columns |= {cost_name(each): "right" for each, _ in shown}
    show.table("best within the budget", columns, rows)
    if by := result.get("predictor"):
        typer.echo(
            f"searched by {by['name']}, fitted to {by['samples']} measured subnets; "
            f"the {by['measured']} it proposed were measured, and are {by['error_points']:.2f} points from its predictions on average"
        )
    if trace := result.get("trace"):
        typer.echo(course(trace))
    if steps := result.get("weight_steps"):
        typer.echo(f"the supernet was trained for {steps} more steps; accuracies are of the weights after them, those of the baselines, too")
    if gap := result.get("surrogate"):
        typer.echo(surrogate_gap(gap))
    if not result["points"]:
        typer.echo(f"none of the candidates keeps the budget: allow more latency, or more --evaluations, in another run than {run}")
        raise typer.Exit(1)
    after = f"hwnas train RUN --space '{space}' --data DATA" if accuracy else f"hwnas verify {run}"
    typer.echo(f"front in {run / 'front.csv'}\nnext: {after}")


def _latency_alone(result: Mapping[str, Any]) -> dict[str, Any]:
    """The budget of a search that an older version recorded, as `hwnas.verbs.common.budget_facts` has it."""
    return {
        "metric": "latency",
        "budget": result["statistic"],
        "limit": result["budget_ms"],
        "origin": result["latency_origin"],
        "min": result["space_min_ms"],
        "max": result["space_max_ms"],
        "share": {"value": result["feasible_share"]},
    }


@app.command()
def solve(
    run: Annotated[Path, typer.Argument(help="Folder of a run that has evaluated networks; it is not changed.")],
    to: Annotated[Path, typer.Option(help="Folder of the new run.")] = ...,  # type: ignore[assignment]
    latency: Annotated[str, typer.Option(help="Budget: '<= 12ms p50', or '<= 60% p50' of the largest subnet.")] = ...,  # type: ignore[assignment]
    table: Annotated[Path | None, typer.Option(help="Latency table, a folder or the name of a shipped one; the run's own by default.")] = None,
    macs: Macs = None,
    params: Params = None,
    memory: Memory = None,
    size: Size = None,
    also: Also = None,
    precision: Precision = None,
    batch: Batch = None,
    as_json: Json = False,
) -> None:
    """Answer a new budget, device or precision from what a run has evaluated, in seconds and without training."""
    from hwnas.cli import show
    from hwnas.report_words import budget_line, share_line, surrogate_gap
    from hwnas.verbs.solve import solve as act

    budgets: dict[str, Any] = {"macs": macs, "params": params, "memory": memory, "size": size, "also": also or ()}
    result = act(run, to=to, latency=latency, table=table, precision=precision, batch=batch, **budgets)
    if as_json:
        show.as_json(result)
        return
    for each in result["budgets"]:
        typer.echo(budget_line(each))
    if len(result["budgets"]) > 1:
        typer.echo(share_line(result["share"]))
    best: dict[str, dict[str, Any]] = {}
    for point in result["points"]:
        best.setdefault(point["accuracy_origin"], point)
    rows = [
        [f"{point['accuracy_pct']:.2f} % {origin}", f"{point['latency_ms']:.4g} ms", f"{point['macs'] / 1e6:.2f} M", str(_count(result, origin))]
        for origin, point in best.items()
    ]
    columns = {"best accuracy": "left", "latency (predicted)": "right", "MACs": "right", "networks": "right"}
    show.table(f"within the budget, of {result['evaluations']} evaluated networks and the surrogate's optima", columns, rows)
    if gap := result.get("surrogate"):
        typer.echo(surrogate_gap(gap))
    typer.echo(f"solved in {result['seconds']:.1f} s\nnext: " + (f"hwnas verify {to}" if result["accuracy_origin"] == "measured" else "hwnas train RUN"))


def _count(result: Mapping[str, Any], origin: str) -> int:
    return sum(point["accuracy_origin"] == origin for point in result["points"])


@app.command()
@resumable
def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a run; or an exported folder, which is checked again.")],
    top: Annotated[int, typer.Option(help="Candidates to measure together.")] = 2,
    seconds: Annotated[float | None, typer.Option(help="Length of the measuring window, 60 by default; 0 measures no export.")] = None,
    device: Annotated[str | None, typer.Option(help="Device to measure on; the table's, or the certificate's, by default.")] = None,
    also: Annotated[list[str] | None, typer.Option(help="Another device of a run with budgets on several, to be measured too; may be given again.")] = None,
    use: Annotated[float, typer.Option(help="Try more accurate networks until so many per cent of the budget are used, in three windows at most.")] = 0.0,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Certify the latency of architectures that were searched by a predictor and have no weights yet.")
    ] = False,
    data: Annotated[str | None, typer.Option(help="Of an export: a data set with its classes, on whose test images the file is evaluated.")] = None,
    space: Annotated[str | None, typer.Option(help="Of an export: its search space, where hwnas has none of that name.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure the best candidates on the target against the budget; certify the most accurate that fits. Or check an exported folder again."""
    from hwnas.cli import show
    from hwnas.errors import InputError
    from hwnas.verbs.verify_export import is_export, require, verify_export

    if is_export(run):
        if also or use or random_weights:
            raise InputError(f"{run} is an exported folder: --also, --use and --random-weights are for runs")
        with show.progress_bar() as progress:
            found = verify_export(run, data=data, space=space, seconds=seconds, device=device, seed=seed, progress=progress)
        if as_json:
            show.as_json(found)
        else:
            typer.echo("\n".join(show.export_lines(found)))
        require(found)
        return
    if data is not None or space is not None:
        raise InputError(f"--data and --space are for exported folders, and {run} is none")
    from hwnas.verbs.verify import closest
    from hwnas.verbs.verify import verify as act

    with show.progress_bar() as progress:
        result = act(
            run,
            top=top,
            seconds=60.0 if seconds is None else seconds,
            device=device,
            also=also or (),
            use=use,
            random_weights=random_weights,
            seed=seed,
            progress=progress,
        )
    certificate = result["certificate"]
    if as_json:
        show.as_json(result)
    else:
        columns = {"network": "left", "predicted ms": "right", "measured ms": "right", "upper bound ms": "right", "visits": "right", "verdict": "left"}
        rows = [
            [
                each["role"] + (" (chosen)" if each.get("chosen") else ""),
                f"{each['latency_ms']:.4g}",
                f"{each['measured_ms']:.4g}",
                f"{each['upper_bound_ms']:.4g}" if each["upper_bound_ms"] else "-",
                str(each["visits"]),
                each["verdict"],
            ]
            for each in result["measured"]
        ]
        show.table(f"measured as files, budget {result['budget_ms']:.4g} ms", columns, rows)
    if certificate is None:
        typer.echo(f"error: {closest(result)}", err=True)
        raise typer.Exit(1)
    if stopped := result.get("stopped"):
        typer.echo(f"no further window was measured: {stopped}", err=True)
    open_ = [each for each in certificate.get("elsewhere", []) if each["origin"] == "predicted"]
    if not as_json:
        typer.echo(
            f"certified: {certificate['measured_ms']:.4g} ms {certificate['statistic']} measured, upper bound {certificate['upper_bound_ms']:.4g} ms "
            f"at {100 * certificate['confidence']:.4g} % confidence, budget {certificate['budget_ms']:.4g} ms"
        )
        for each in certificate.get("elsewhere", []):
            if each["origin"] == "measured":
                typer.echo(
                    f"on {each['where']}: {each['measured_ms']:.4g} ms {each['statistic']} measured, "
                    f"upper bound {each['upper_bound_ms']:.4g} ms, budget {each['budget_ms']:.4g} ms"
                )
        if reach := certificate["conditions"]["options"].get("reach"):
            typer.echo(f"this certificate {reach}")
        if published := certificate.get("published"):
            typer.echo(f"published networks: {published['said']}")
    for each in open_:
        typer.echo(
            f"error: not certified on {each['where']}: {each['predicted_ms']:.4g} ms {each['statistic']} of {each['budget_ms']:.4g} ms are predicted only "
            f"({each['reason']}); measure there with: hwnas verify {run} --also DEVICE",
            err=True,
        )
    if open_:
        raise typer.Exit(1)
    if not as_json:
        typer.echo("next: hwnas train RUN --space SPACE --data DATA" if random_weights else f"next: hwnas export {run} --to DIR")


@app.command()
@interruptible("what --zoo has measured is kept: the same command again continues; of files nothing is")
def bench(
    files: Annotated[list[str] | None, typer.Argument(help="ONNX files, measured against each other.")] = None,
    zoo: Annotated[bool, typer.Option("--zoo", help="Measure published networks instead of files.")] = False,
    device: Annotated[str, typer.Option(help="Name of a device, or a TOML file.")] = "localhost",
    runtime: Annotated[str, typer.Option(help="One of the device's runtimes; its first by default.")] = "",
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime; the device's by default.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length of the window: 60 for files, 20 for each few networks of the zoo.")] = None,
    batch: Annotated[str, typer.Option(help="Size of the free first dimension; several, as in 1,2,4, are a sweep.")] = "",
    shape: Annotated[list[str] | None, typer.Option(help="Of an input, NAME=1x3x224x224, or of a free dimension, NAME=224.")] = None,
    quantiles: Annotated[str, typer.Option(help="Comma-separated; p50,p90 by default, of the zoo the budget's.")] = "",
    confidence: Annotated[float, typer.Option(help="Of each interval.")] = 0.95,
    streams: Annotated[int, typer.Option(help="So many runs at once: throughput, and latency under load.", min=0)] = 0,
    regime: Annotated[str, typer.Option(help="Which latency: warm, steady, first-run, cold-start, sustained.")] = "warm",
    names: Annotated[str, typer.Option(help="With --zoo: networks, comma-separated, timm/NAME those of timm; torchvision's classifiers by default.")] = "",
    budget: Annotated[str | None, typer.Option(help="With --zoo: '<= 20ms p50'; says which is the best within it.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also what each operator takes, from a profile made after the timing.")] = False,
    seed: Seed = 0,
    to: Annotated[Path | None, typer.Option(help="Where to write the result: a JSON file; with --zoo the folder of the table.")] = None,
    as_json: Json = False,
) -> None:
    """Measure any ONNX files, or published networks, on a device: quantiles and throughput with confidence intervals."""
    from hwnas.cli import show
    from hwnas.errors import InputError
    from hwnas.verbs.bench import bench as act
    from hwnas.verbs.zoo import bench_zoo

    if zoo and (files or batch or shape or streams or layers):
        raise InputError("--zoo measures published networks one run at a time: leave out files, --batch, --shape, --streams and --layers")
    if not zoo and (names or budget):
        raise InputError("--names and --budget go with --zoo")
    sizes = [part.strip() for part in batch.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 10 for part in sizes):
        raise InputError(f"--batch is '{batch}', it must be whole numbers such as 1,2,4")
    wanted = [part.strip() for part in quantiles.split(",") if part.strip()]
    with show.progress_bar() as progress:
        if zoo:
            found = bench_zoo(
                names=[part.strip() for part in names.split(",") if part.strip()],
                budget=budget,
                device=device,
                runtime=runtime,
                threads=threads,
                seconds=20.0 if seconds is None else seconds,
                quantiles=wanted,
                confidence=confidence,
                regime=regime,
                seed=seed,
                to=to,
                progress=progress,
            )
        else:
            found = act(
                files or [],
                device=device,
                runtime=runtime,
                threads=threads,
                seconds=60.0 if seconds is None else seconds,
                batch=[int(part) for part in sizes],
                shape=shape or [],
                quantiles=wanted or ["p50", "p90"],
                confidence=confidence,
                streams=streams,
                regime=regime,
                seed=seed,
                layers=layers,
                to=to,
                progress=progress,
            )
    if as_json:
        show.as_json(found)
        return
    conditions = found["conditions"]
    where = f"{conditions['processor']} ({conditions['device']}, {conditions['runtime']} {conditions['version']}, {conditions['threads']} thread(s))"
    if zoo:
        show.zoo_table(found, where)
    else:
        show.bench_table(found, where)
        show.layer_tables(found)
    if to is not None or zoo:
        typer.echo(f"table in {found['file'] if zoo else to}")


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Architectures (JSON, or JSON Lines with one in each line) and ONNX models.")],
    table: Annotated[str, typer.Option(help="Latency table: a folder, or the name of a shipped one.")] = ...,  # type: ignore[assignment]
    space: Annotated[str, typer.Option(help="Search space of the architectures, where it is not the one they name, such as name(key=value).")] = "",
    statistic: Annotated[str, typer.Option(help="Latency that is predicted: p50 or p90.")] = "p50",
    level: Annotated[float, typer.Option(help="Of the interval: the share of networks like those measured that lie in it.")] = 0.9,
    like: Annotated[list[str] | None, typer.Option(help="Table of another device, two or more: the 5 to 20 networks of --table tell how alike.")] = None,
    by: Annotated[str, typer.Option(help="Predict what the table lacks: gaussian_process, kernel_forest, graph_network, or macs.")] = "",
    precision: Precision = None,
    batch: Batch = None,
    as_json: Json = False,
) -> None:
    """What networks take, with intervals, and how much of it was measured, interpolated or extrapolated."""
    from hwnas.cli import show
    from hwnas.report_words import plain, significant
    from hwnas.verbs.predict import predict as act

    found = act(files, table=table, space=space, statistic=statistic, level=level, by=by, like=like or (), precision=precision, batch=batch)
    if as_json:
        show.as_json(found)
        return
    columns = {"network": "left", f"{statistic} ms ({found['origin']})": "right", f"{100 * level:g} % interval": "right"}
    columns |= {"measured": "right", "interpolated": "right", "extrapolated": "right"}
    rows = []
    for each in found["networks"]:
        interval = "none" if each["low_ms"] is None else f"{significant(each['low_ms'], 4)} ... {significant(each['high_ms'], 4)}"
        shares = [f"{100 * each[key]:.0f} %" for key in ("measured", "interpolated", "extrapolated")]
        rows.append([plain(each["name"]), significant(each["value_ms"], 4), interval, *shares])
    show.table(plain(found["conditions"]), columns, rows)
    warned: dict[str, list[str]] = {}
    for each in found["networks"]:
        for warning in each["warnings"]:
            warned.setdefault(warning, []).append(each["name"])
    for warning, names in warned.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        typer.echo(plain(f"warning: {names[0]}{more}: {warning}"), err=True)


@app.command()
@resumable
def export(
    run: Run,
    to: Annotated[Path, typer.Option(help="Folder to write.")] = ...,  # type: ignore[assignment]
    kit: Annotated[str, typer.Option(help="Deployment kit to put beside the model.")] = "onnxruntime_python",
    takes: Annotated[
        str, typer.Option("--input", help="What the file is fed: tensor (prepared float32), pixels (uint8 of its own size), image (uint8 of any size).")
    ] = "tensor",
    softmax: Annotated[bool, typer.Option("--softmax", help="Probabilities in the place of logits.")] = False,
    free_batch: Annotated[bool, typer.Option("--free-batch", help="Any number of images at once.")] = False,
    opset: Annotated[int | None, typer.Option(help="Opset of the file; the oldest that will do by default.")] = None,
    input_name: Annotated[str, typer.Option(help="Name of the input.")] = "input",
    output_name: Annotated[str, typer.Option(help="Name of the output.")] = "output",
    metadata: Annotated[bool, typer.Option("--metadata", help="Labels and preprocessing in the file's metadata; so with any option above.")] = False,
    precision: Annotated[str | None, typer.Option(help="Another one than was measured: fp16, bf16, int8_u8s8 (CPUs), int8_s8s8, int8_fp16 (TensorRT).")] = None,
    calibration: Annotated[str, typer.Option(help="Of int8, on training images: minmax, percentile or entropy.")] = "minmax",
    calibration_images: Annotated[int, typer.Option(help="How many of them.", min=1)] = 128,
    seconds: Annotated[float, typer.Option(help="Length of the window in which both precisions are measured; 0: they are not.", min=0)] = 20.0,
    as_json: Json = False,
) -> None:
    """Write the certified network as a folder to ship: ONNX, manifest, certificate, model card, and a kit that runs it."""
    from hwnas.cli import show
    from hwnas.interface import Interface
    from hwnas.verbs.export import Conversion
    from hwnas.verbs.export import export as act

    face = Interface(takes, softmax, free_batch, opset, input_name, output_name, metadata)
    conversion = None if precision is None else Conversion(precision, calibration, calibration_images, seconds)
    with show.progress_bar() as progress:
        result = act(run, to=to, kit=kit, interface=face, conversion=conversion, progress=progress)
    if as_json:
        show.as_json(result)
        return
    worst = max(each["ratio"] for each in result["parity"].values())
    typer.echo(f"model.onnx ({result['size_bytes'] / 1e3:.0f} kB) equals the PyTorch subnet to {worst:.1e} of the logits' standard deviation")
    if found := result["conversion"]:
        typer.echo(
            f"accuracy {found['accuracy_before_pct']:.2f} % in {found['from']}, {found['accuracy_after_pct']:.2f} % in {found['to']} (test images, measured)"
        )
        if "ratio" in found:
            both = f"{found['before_ms']:.4g} ms in {found['from']}, {found['after_ms']:.4g} ms in {found['to']}"
            typer.echo(f"latency  {both}: {found['ratio']:.3g} ({found['statistic']}, measured interleaved)")
    for warning in result["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    check = f"python {to / kit / 'infer.py'}; " if kit == "onnxruntime_python" else f"{to / kit / 'README.md'}; " if kit else ""
    typer.echo(f"exported to {to}\nnext: {check}hwnas report {run}")


@app.command("export-module")
def export_module_command(
    module: Annotated[str, typer.Argument(help="path.py:function that returns a torch.nn.Module, trained; its code is run.")],
    to: Annotated[Path, typer.Option(help="ONNX file to write.")] = ...,  # type: ignore[assignment]
    shape: Annotated[str, typer.Option(help="Of an example input, such as 1x3x224x224.")] = ...,  # type: ignore[assignment]
    softmax: Annotated[bool, typer.Option("--softmax", help="Probabilities in the place of logits.")] = False,
    free_batch: Annotated[bool, typer.Option("--free-batch", help="Any number of images at once.")] = False,
    opset: Annotated[int, typer.Option(help="Opset of the file.")] = 17,
    input_name: Annotated[str, typer.Option(help="Name of the input.")] = "input",
    output_name: Annotated[str, typer.Option(help="Name of the output.")] = "output",
    dynamo: Annotated[bool, typer.Option("--dynamo", help="PyTorch's newer exporter; needs onnxscript.")] = False,
    as_json: Json = False,
) -> None:
    """Write any network of yours as one ONNX file, and compare what the file computes with the module."""
    from hwnas.cli import show
    from hwnas.interface import Interface
    from hwnas.verbs.export_module import export_module as act

    face = Interface("tensor", softmax, free_batch, None, input_name, output_name)
    result = act(module, shape, to, interface=face, opset=opset, dynamo=dynamo)
    if as_json:
        show.as_json(result)
        return
    typer.echo(
        f"{to} ({result['size_bytes'] / 1e3:.0f} kB, {result['nodes']} nodes, opset {result['opset']}) equals the module to "
        f"{result['parity']['ratio']:.1e} of its outputs' standard deviation\nnext: hwnas bench {to}"
    )


@app.command()
@resumable
def report(
    run: Run,
    to: Annotated[Path | None, typer.Option(help="The page; report.html in the run's folder by default.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also profile the operators of the chosen file, on its device; recorded in the run.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a run came to: one page without network, and the same in short here."""
    from rich.console import Console

    from hwnas.cli import show
    from hwnas.report_text import render_text
    from hwnas.verbs.report import report as act

    with show.progress_bar() as progress:
        made = act(run, to=to, layers=layers, progress=progress)
    if as_json:
        facts = asdict(made)
        for each in (*facts["points"], *facts["layers"]):
            each["origin"] = made.latency_origin
        show.as_json(facts)
        return
    Console(width=100).print(render_text(made))
    typer.echo(f"page: {to or run / 'report.html'}")


@app.command("check-tensorrt")
def check_tensorrt(
    what: Annotated[str, typer.Argument(help="An ONNX file (*.onnx), or a space: its smallest and largest subnet.")],
    build: Annotated[bool, typer.Option(help="Also build an engine.")] = True,
    as_json: Json = False,
) -> None:
    """A parser check: can TensorRT's parser read a model? Needs no GPU, and runs nothing."""
    from hwnas.cli import show
    from hwnas.verbs.parser_check import check_tensorrt as act

    with show.progress_bar() as progress:
        found = act(what, build=build, progress=progress)
    if as_json:
        show.as_json(found)
    else:
        columns = {"model": "left", "can be read": "left", "layers": "right", "engine": "right", "why not": "left"}
        rows = []
        for each in found["models"]:
            reasons = [f"{problem['operator'] or 'the file'}: {problem['reason']}" for problem in each["problems"]] + [each["build_error"]]
            engine = "-" if each["plan_bytes"] is None else f"{each['plan_bytes'] / 1e6:.1f} MB"
            rows.append([each["name"], "no" if each["problems"] else "yes", f"{each['layers']}", engine, "; ".join(filter(None, reasons))])
        show.table(f"parser check by {found['parser']}: nothing was run, no latency was measured", columns, rows)
    if not found["passed"]:
        names = sorted({name for each in found["models"] for name in each["unsupported"]})
        typer.echo("error: TensorRT cannot take it as it is" + (f"; operators: {', '.join(names)}" if names else ""), err=True)
        raise typer.Exit(1)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option(help="Where runs are going to be: its free disk is looked at.")] = Path(),
    as_json: Json = False,
) -> None:
    """What works on this machine, and which extra brings what is missing."""
    from hwnas.cli import show
    from hwnas.verbs.doctor import doctor as act
    from hwnas.verbs.doctor import healthy

    findings = act(folder)
    if as_json:
        show.as_json([asdict(each) for each in findings])
    else:
        columns = {"what": "left", "state": "left", "found": "left", "advice": "left"}
        show.table(f"hwnas {__version__} on this machine", columns, [[each.what, each.state, each.found, each.advice] for each in findings])
    if not healthy(findings):
        typer.echo("error: the main job needs what is missing or broken above", err=True)
        raise typer.Exit(1)
    if not as_json:
        typer.echo("next: hwnas profile localhost --space ofa_mini --to DIR")
