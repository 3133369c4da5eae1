"""Builds a TensorRT engine of a network exported by hwnas, on the device that it is going to run on.

    python build_engine.py                                       tensorrt/model.plan, for this GPU and this version of TensorRT
    python build_engine.py --runtime tensorrt_rtx                with TensorRT for RTX
    python build_engine.py --batch 1 8 32                        of a network with a free batch: smallest, best and largest
    python build_engine.py --timing-cache tactics.bin            builds again in seconds, and alike
    python build_engine.py --parse-only                          only read the model; needs no GPU with TensorRT for RTX

Networks are strongly typed: a layer's precision is what the ONNX file says. Exits 2 if a file is refused, or nothing can be built of it.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

import exported
from agent_contract import Refused as AgentRefused
from agent_contract import refuse_external_data
from tensorrt_engine import built, library, new_logger, parsed, problem_text

MAX_CACHE_BYTES = 1 << 30
LEVELS = ("none", "ampere_plus", "same_compute_capability")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent.parent, help="the exported folder (default: the one above)")
    parser.add_argument("--to", type=Path, default=Path(__file__).resolve().parent / "model.plan", help="the engine (default: model.plan beside this program)")
    parser.add_argument("--runtime", choices=("tensorrt", "tensorrt_rtx"), default="tensorrt")
    parser.add_argument("--batch", type=int, nargs=3, metavar=("LEAST", "BEST", "MOST"), default=(1, 1, 1), help="of a network with a free batch")
    parser.add_argument("--side", type=int, nargs=3, metavar=("LEAST", "BEST", "MOST"), default=(32, 224, 1024), help="of images of any size")
    parser.add_argument("--timing-cache", type=Path, help="file that keeps what trying out kernels took; read where it exists")
    parser.add_argument("--workspace-mib", type=int, help="memory for layers; all of the device's by default")
    parser.add_argument("--optimization-level", type=int, choices=range(6))
    parser.add_argument("--hardware", choices=LEVELS, help="run on more GPUs than this one, slower")
    parser.add_argument("--version-compatible", action="store_true", help="run with later versions of TensorRT; such a plan holds code")
    parser.add_argument("--parse-only", action="store_true", help="build nothing")
    arguments = parser.parse_args()
    try:
        print(build(arguments))
    except (exported.Refused, AgentRefused) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def build(arguments):
    """What is said at the end."""
    manifest = exported.read_manifest(arguments.folder)
    model = exported.model_bytes(arguments.folder, manifest)
    refuse_external_data(model)
    trt, dialect = library(arguments.runtime)
    log = new_logger(trt)
    builder = trt.Builder(log)
    network, onnx_parser, problems = parsed(trt, dialect, builder, log, model)
    if problems:
        raise exported.Refused(f"the parser of {arguments.runtime} {trt.__version__} refuses the model: {problem_text(problems[0])}")
    if arguments.parse_only:
        return f"read by the parser of {arguments.runtime} {trt.__version__}: {network.num_layers} layers; nothing was built or run"
    config, options = configured(trt, dialect, builder, network, arguments)
    plan = whole_plan(builder, network, config, log)
    del network, onnx_parser  # in this order: the parser owns the network's weights
    if dialect.timing_cache and arguments.timing_cache is not None:
        write_whole(arguments.timing_cache, bytes(config.get_timing_cache().serialize()))
    facts = {
        "format": "hwnas.plan/1",
        "runtime": arguments.runtime,
        "version": str(trt.__version__),
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "options": options,
    }
    write_whole(arguments.to, plan)
    write_whole(arguments.to.with_suffix(".json"), json.dumps(facts, indent=1).encode())
    return f"{arguments.to}  {len(plan) / 1e6:.1f} MB, {arguments.runtime} {trt.__version__}\nnext: python {Path(__file__).with_name('infer.py')}"


def configured(trt, dialect, builder, network, arguments):
    """The builder's configuration, and what is in force of it."""
    config, options = builder.create_builder_config(), {}
    if arguments.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, arguments.workspace_mib << 20)
        options["workspace_mib"] = arguments.workspace_mib
    for name, asked in (("optimization_level", arguments.optimization_level), ("hardware", arguments.hardware)):
        if asked is None:
            continue
        if dialect.rtx or (name == "hardware" and asked not in dialect.hardware):
            raise exported.Refused(f"{arguments.runtime} {trt.__version__} has no --{name.replace('_', '-')} {asked}")
        if name == "hardware":
            config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, asked.upper())
        else:
            config.builder_optimization_level = asked
        options[name] = asked
    if arguments.version_compatible:
        flag = getattr(trt.BuilderFlag, "VERSION_COMPATIBLE", None)
        if flag is None:
            raise exported.Refused(f"{arguments.runtime} {trt.__version__} builds no version-compatible engines")
        config.set_flag(flag)
        options["version_compatible"] = True
    if dialect.timing_cache and arguments.timing_cache is not None:
        known = arguments.timing_cache
        raw = known.read_bytes() if known.is_file() and known.stat().st_size <= MAX_CACHE_BYTES else b""
        if not config.set_timing_cache(config.create_timing_cache(raw), False):
            raise exported.Refused(f"{known} is no timing cache of this GPU and version; remove it")
    elif arguments.timing_cache is not None:
        raise exported.Refused("TensorRT for RTX times nothing when it builds: it has no timing cache")
    profile = free_shapes(builder, network, arguments)
    if profile is not None:
        config.add_optimization_profile(profile)
        options.update(batch=list(arguments.batch))
    return config, options


def free_shapes(builder, network, arguments):
    """The optimisation profile that a network with free dimensions needs; None where all are fixed."""
    tensor = network.get_input(0)
    shape = list(tensor.shape)
    if all(size > 0 for size in shape):
        return None
    if not 1 <= arguments.batch[0] <= arguments.batch[1] <= arguments.batch[2] or not 1 <= arguments.side[0] <= arguments.side[1] <= arguments.side[2]:
        raise exported.Refused("--batch and --side take the least, the best and the largest size, in that order")
    profile = builder.create_optimization_profile()
    sizes = [[size if size > 0 else (arguments.batch if axis == 0 else arguments.side)[i] for axis, size in enumerate(shape)] for i in range(3)]
    profile.set_shape(tensor.name, *map(tuple, sizes))
    return profile


def whole_plan(builder, network, config, log):
    if all(size > 0 for i in range(network.num_inputs) for size in tuple(network.get_input(i).shape)):
        return built(builder, network, config, log)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise exported.Refused(f"no engine can be built: {'; '.join(log.errors) or 'no reason given'}")
    return bytes(plan)


def write_whole(path, raw):
    """So that the file appears complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(raw)
        temporary.replace(path)
    except OSError as error:
        raise exported.Refused(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
