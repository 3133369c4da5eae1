"""Runs a network exported by hwnas with ONNX Runtime: checks it against its manifest, classifies images, times it.

    python infer.py                 check the files and the stored example, and time the network
    python infer.py digit.png       classify an image as well (.npy without Pillow)

Needs numpy and onnxruntime, Python 3.8 or later. Exits 1 if the network does not compute what it should, 2 if a file is refused.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path, PurePosixPath

import numpy as np

MAX_MANIFEST_BYTES = 16 << 20
MAX_FILE_BYTES = 4 << 30
MAX_INPUT_ELEMENTS = 1 << 28
MAX_PIXELS = 50_000_000
MIN_STD = 1e-12
LEAST_LOG = -60.0
EXTERNAL_DATA = b"\x0a\x08location"  # the key that only tensors with their values in another file carry
FREE = {"tensor": (0,), "pixels": (0,), "image": (0, 1, 2)}  # kind of input -> which of its dimensions may have a name in the place of a size


class Refused(Exception):
    """One sentence; exit code 2."""


class Mismatch(Exception):
    """One sentence; exit code 1."""


def main():
    arguments = parsed(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    return finished(lambda: check_and_time(arguments, load))


def parsed(parser):
    parser.add_argument("images", nargs="*", type=Path, help="image files; .npy holds pixels (h, w) or (h, w, c) as uint8")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent.parent, help="the exported folder (default: the one above)")
    parser.add_argument("--top", type=int, default=5, help="classes to print per image")
    parser.add_argument("--runs", type=int, default=100, help="timed runs, 0 for none")
    parser.add_argument("--within-bound", action="store_true", help="exit 1 where the network takes longer here than the certified bound")
    return parser.parse_args()


def finished(work):
    """Exit code of what is done; what is wrong is one sentence."""
    try:
        work()
    except (Refused, Mismatch) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 1 if isinstance(error, Mismatch) else 2
    print("ok")
    return 0


def check_and_time(arguments, loader):
    """loader: (folder, manifest) -> the network as a function of its input."""
    manifest = read_manifest(arguments.folder)
    run = loader(arguments.folder, manifest)
    example = check_example(arguments.folder, manifest, run)
    for path in arguments.images:
        classify(path, manifest, run, arguments.top)
    if arguments.runs > 0:
        report_latency(manifest, run, example, arguments.runs, arguments.within_bound)


def read_manifest(folder):
    """The manifest, after its fields and the hash of every file it names were checked."""
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise Refused(f"{path} is too large for a manifest ({path.stat().st_size:,} bytes)")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Refused(f"{path} is not readable JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != "hwnas.manifest/1":
        raise Refused(f"{path} is no manifest of this version (format 'hwnas.manifest/1')")
    try:
        fits = is_consistent(manifest)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        fits = False
    if not fits:
        raise Refused(f"{path} lacks fields, or its shapes, preprocessing, labels and example do not fit each other")
    for name, digest in manifest["files"].items():
        check_file(folder, name, digest)
    return manifest


def is_consistent(manifest):
    entering, leaving, preprocessing, labels = manifest["input"], manifest["output"], manifest["preprocessing"], manifest["labels"]
    kind, shape, classes = entering["kind"], entering["shape"], leaving["shape"][-1]
    (height, width), channels = preprocessing["resolution"], preprocessing["channels"]
    mean, std = (np.array(preprocessing[key], np.float64) for key in ("mean", "std"))
    low, high = map(float, preprocessing["range"])
    crop = preprocessing.get("crop")
    logits, tolerance = np.array(manifest["example"]["logits"], np.float64), float(manifest["example"]["tolerance_std"])
    sizes = {"tensor": [channels, height, width], "pixels": [height, width, channels], "image": ["height", "width", channels]}[kind]
    batch = shape[0] if isinstance(shape, list) and shape else None
    return (
        len(shape) == 4
        and shape[1:] == sizes
        and all(type(size) is int and size >= 1 for size in [height, width, channels, classes])
        and (batch == "batch" or (type(batch) is int and batch >= 1))
        and float(height) * width * channels * (1 if batch == "batch" else batch) <= MAX_INPUT_ELEMENTS
        and mean.shape == std.shape == (channels,)
        and np.isfinite([*mean, *std, low, high, tolerance]).all()
        and std.min() > MIN_STD
        and low < high
        and (crop is None or (type(crop) in (int, float) and 0 < crop <= 1))
        and 0 < tolerance < 1
        and logits.ndim == 2
        and logits.shape[0] == (len(logits) if batch == "batch" else batch)
        and len(logits) >= 1
        and logits.shape[1] == classes
        and np.isfinite(logits).all()
        and leaving["kind"] in ("logits", "probabilities")
        and entering["dtype"] == ("float32" if kind == "tensor" else "uint8")
        and isinstance(labels, list)
        and len(labels) == classes
        and all(isinstance(name, str) for name in [*labels, manifest["model"], entering["name"], leaving["name"], manifest["example"]["input"]])
        and isinstance(manifest["files"], dict)
        and {manifest["model"], manifest["example"]["input"]} <= set(manifest["files"])
    )


def check_file(folder, name, digest):
    parts, path = PurePosixPath(name), folder / name
    sha256 = hashlib.sha256()
    try:
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or folder.resolve() not in path.resolve().parents:
            raise Refused(f"the manifest names '{name[:80]}', which is not inside {folder}")
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise Refused(f"{path} is missing or too large; export the network again")
        with path.open("rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                sha256.update(piece)
    except (OSError, RuntimeError, ValueError):  # unreadable, a loop of links, a name no file can have
        raise Refused(f"cannot read {str(path)[:200]!r}") from None
    if sha256.hexdigest() != digest:
        raise Refused(f"{path} is cut short or was changed: its SHA-256 is not the manifest's; copy or export it again")


def model_bytes(folder, manifest):
    """The model's file, which must hold all its weights itself."""
    path = folder / manifest["model"]
    try:
        model = path.read_bytes()
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from None
    if EXTERNAL_DATA in model:
        raise Refused(f"{path} keeps weights in another file, which is not read; export the network again")
    return model


def load(folder, manifest):
    """The network as a function: input -> output; ONNX Runtime on one CPU thread, as its latency was measured."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read as it is imported: nothing is sent from where the network is deployed
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    path = folder / manifest["model"]
    try:
        session = onnxruntime.InferenceSession(model_bytes(folder, manifest), options, providers=["CPUExecutionProvider"])
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {str(error).splitlines()[0]}") from None
    name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    if name != manifest["input"]["name"] or list(shape) != manifest["input"]["shape"] or len(session.get_outputs()) != 1:
        raise Refused(f"{path} takes '{name}' {shape}, the manifest says '{manifest['input']['name']}' {manifest['input']['shape']}")

    def run(x):
        try:
            return session.run(None, {name: x})[0]
        except Exception as error:
            raise Refused(f"ONNX Runtime cannot run {path}: {str(error).splitlines()[0]}") from None

    return run


def check_example(folder, manifest, run):
    example, about = read_array(folder / manifest["example"]["input"]), manifest["input"]
    expected = np.array(manifest["example"]["logits"])
    fits = example.ndim == 4 and all(i in FREE[about["kind"]] or got == size for i, (got, size) in enumerate(zip(example.shape, about["shape"])))
    if not fits or len(example) != len(expected) or str(example.dtype) != about["dtype"] or not 0 < example.size <= MAX_INPUT_ELEMENTS:
        raise Refused(f"the stored example is {example.dtype} {example.shape}, the manifest says {about['dtype']} {about['shape']}")
    got, spread = run(example), max(expected.std(), MIN_STD)
    if got.shape != expected.shape:
        raise Mismatch(f"the network returns {got.shape}, the manifest says {expected.shape}")
    if manifest["output"]["kind"] == "probabilities":  # their logarithms are logits but for a constant of each image
        got = np.maximum(np.log(np.maximum(got.astype(np.float64), 1e-300)), LEAST_LOG)
        shifted = expected - expected.max(axis=1, keepdims=True)
        expected = np.maximum(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), LEAST_LOG)
        spread = max(expected.std(), MIN_STD)
    ratio = np.abs(got - expected).max() / spread
    if not ratio <= manifest["example"]["tolerance_std"]:
        raise Mismatch(f"the logits of the stored example are off by {ratio:.2g} of their standard deviation; do not use this build of the network")
    print(f"example  logits agree to {ratio:.1e} of their standard deviation")
    return example


def read_array(path):
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # mapped first: a header cannot claim more than the file holds
    except Exception:  # numpy parses the header as Python literals, and many things can be wrong with those
        raise Refused(f"{path} is no readable .npy array") from None


def classify(path, manifest, run, top):
    kind, batch = manifest["input"]["kind"], manifest["input"]["shape"][0]
    preprocessing = manifest["preprocessing"]
    (height, width), channels = preprocessing["resolution"], preprocessing["channels"]
    pixels = read_pixels(path, channels)
    if kind == "image":  # the file does all of it
        fed = pixels.astype(np.uint8)[None]
    else:
        image = resized(centre(pixels, preprocessing.get("crop")).transpose(2, 0, 1), height, width)
        if kind == "pixels":
            fed = np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)[None]
        else:
            low, high = preprocessing["range"]
            mean, std = (np.array(preprocessing[key])[:, None, None] for key in ("mean", "std"))
            fed = ((image / 255 * (high - low) + low - mean) / std).astype(np.float32)[None]
    several = fed if batch == "batch" else np.broadcast_to(fed, (batch, *fed.shape[1:]))
    outputs = run(np.ascontiguousarray(several))[0].astype(np.float64)
    share = outputs
    if manifest["output"]["kind"] == "logits":
        share = np.exp(outputs - outputs.max())
        share /= share.sum()
    best = np.argsort(-share)[:top]
    print(f"{path.name}  " + "  ".join(f"{printable(manifest['labels'][i])} {100 * share[i]:.1f} %" for i in best))


def printable(text, most=80):
    """A label as it may be shown: it may come from anybody."""
    return "".join(c if c.isprintable() else "?" for c in text)[:most]


def read_pixels(path, channels):
    """Pixels 0 to 255, float64 (h, w, channels)."""
    if path.suffix.lower() == ".npy":
        pixels = read_array(path)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels or not 0 < pixels.size <= MAX_PIXELS:
            raise Refused(f"{path} must hold at most {MAX_PIXELS:,} uint8 pixels of shape (h, w, {channels}), it holds {pixels.dtype} {pixels.shape}")
        return pixels.astype(np.float64)
    if channels not in (1, 3):
        raise Refused(f"the network takes {channels} channels, which an image file does not have; give a .npy file")
    try:
        from PIL import Image
    except ImportError:
        raise Refused(f"reading {path} needs Pillow (pip install pillow); .npy files work without") from None
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Refused(f"{path} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise Refused(f"{path} is no readable image") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def centre(pixels, share):
    """The central square of (h, w, c) whose side is that share of the shorter side; None: the whole image."""
    if share is None:
        return pixels
    h, w = pixels.shape[:2]
    side = max(1, round(share * min(h, w)))
    top, left = (h - side) // 2, (w - side) // 2
    return pixels[top : top + side, left : left + side]


def resized(image, height, width):
    """Bilinear interpolation with antialiasing of (c, h, w), as in training."""
    return triangle_filter(image.shape[1], height) @ image @ triangle_filter(image.shape[2], width).T


def triangle_filter(size, target):
    """Resampling matrix (target, size)."""
    scale = size / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - centres[:, None]) / support)
    return weights / weights.sum(axis=1, keepdims=True)


def report_latency(manifest, run, example, runs, within_bound=False):
    for _ in range(10):
        run(example)
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        run(example)
        times.append((time.perf_counter_ns() - start) / 1e6)
    here = float(np.median(times))
    print(f"latency  {here:.3g} ms here (p50 of {runs} runs, one at a time)")
    compare_latency(manifest, here, within_bound)


def compare_latency(manifest, here, within_bound):
    """Prints what was certified, or measured before; with `within_bound` a longer time is a mismatch."""
    certified = manifest.get("latency")
    if isinstance(certified, dict) and all(isinstance(certified.get(key), (int, float)) for key in ("measured_ms", "upper_bound_ms")):
        where, statistic = printable(str(certified.get("conditions")), 200), printable(str(certified.get("statistic")), 8)
        of = f" for {printable(str(certified['covers']), 120)}," if "covers" in certified else ""
        bound, claim = certified["upper_bound_ms"], "measured" if certified.get("claim") == "measured" else "certified"
        print(f"         {certified['measured_ms']:.3g} ms {claim}{of} ({statistic}, at most {bound:.3g} ms) on {where}")
        if within_bound and here > bound:
            raise Mismatch(f"the network takes {here:.3g} ms here, longer than the {claim} bound of {bound:.3g} ms")


if __name__ == "__main__":
    sys.exit(main())
