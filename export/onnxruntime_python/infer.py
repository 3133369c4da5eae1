"""Runs a network exported by hwnas with ONNX Runtime: checks it against its manifest, classifies images, times it.

    python infer.py                 check the files and the stored example, and time the network
    python infer.py digit.png       classify an image as well (.npy without Pillow)

Needs numpy and onnxruntime, Python 3.8 or later. Exits 1 if the network does not compute what it should, 2 if a file is refused.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path, PurePosixPath

import numpy as np

MAX_MANIFEST_BYTES = 16 << 20
MAX_FILE_BYTES = 4 << 30
MAX_INPUT_ELEMENTS = 1 << 28
MAX_PIXELS = 50_000_000
MIN_STD = 1e-12


class Refused(Exception):
    """One sentence; exit code 2."""


class Mismatch(Exception):
    """One sentence; exit code 1."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path, help="image files; .npy holds pixels (h, w) or (h, w, c) as uint8")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent.parent, help="the exported folder (default: the one above)")
    parser.add_argument("--top", type=int, default=3, help="classes to print per image")
    parser.add_argument("--runs", type=int, default=100, help="timed runs, 0 for none")
    arguments = parser.parse_args()
    try:
        manifest = read_manifest(arguments.folder)
        run = load(arguments.folder, manifest)
        example = check_example(arguments.folder, manifest, run)
        for path in arguments.images:
            classify(path, manifest, run, arguments.top)
        if arguments.runs > 0:
            report_latency(manifest, run, example, arguments.runs)
    except (Refused, Mismatch) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 1 if isinstance(error, Mismatch) else 2
    print("ok")
    return 0


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
        shape, classes = manifest["input"]["shape"], manifest["output"]["shape"][-1]
        preprocessing, labels = manifest["preprocessing"], manifest["labels"]
        mean, std = (np.array(preprocessing[key], np.float64) for key in ("mean", "std"))
        low, high = map(float, preprocessing["range"])
        crop = preprocessing.get("crop")
        logits, tolerance = np.array(manifest["example"]["logits"], np.float64), float(manifest["example"]["tolerance_std"])
        fits = (
            isinstance(shape, list)
            and len(shape) == 4
            and all(type(size) is int and size >= 1 for size in [*shape, classes])
            and np.prod(np.array(shape, np.float64)) <= MAX_INPUT_ELEMENTS
            and mean.shape == std.shape == (shape[1],)
            and np.isfinite([*mean, *std, low, high, tolerance]).all()
            and std.min() > MIN_STD
            and low < high
            and (crop is None or (type(crop) in (int, float) and 0 < crop <= 1))
            and 0 < tolerance < 1
            and logits.shape == (shape[0], classes)
            and np.isfinite(logits).all()
            and isinstance(labels, list)
            and len(labels) == classes
            and all(isinstance(name, str) for name in [*labels, manifest["model"], manifest["input"]["name"], manifest["example"]["input"]])
            and {manifest["model"], manifest["example"]["input"]} <= set(manifest["files"])
            and isinstance(manifest["files"], dict)
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        fits = False
    if not fits:
        raise Refused(f"{path} lacks fields, or its shapes, preprocessing, labels and example do not fit each other")
    for name, digest in manifest["files"].items():
        check_file(folder, name, digest)
    return manifest


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


def load(folder, manifest):
    """The network as a function: input -> logits; ONNX Runtime on one CPU thread, as its latency was measured."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    path = folder / manifest["model"]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Refused(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {str(error).splitlines()[0]}") from None
    name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    if name != manifest["input"]["name"] or list(shape) != manifest["input"]["shape"] or len(session.get_outputs()) != 1:
        raise Refused(f"{path} takes '{name}' {shape}, the manifest says '{manifest['input']['name']}' {manifest['input']['shape']}")
    return lambda x: session.run(None, {name: x})[0]


def check_example(folder, manifest, run):
    example = read_array(folder / manifest["example"]["input"])
    if list(example.shape) != manifest["input"]["shape"] or example.dtype != np.float32:
        raise Refused(f"the stored example is {example.dtype} {example.shape}, the manifest says float32 {manifest['input']['shape']}")
    expected, got = np.array(manifest["example"]["logits"]), run(example)
    if got.shape != expected.shape:
        raise Mismatch(f"the network returns {got.shape}, the manifest says {expected.shape}")
    ratio = np.abs(got - expected).max() / max(expected.std(), MIN_STD)
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
    batch, channels, height, width = manifest["input"]["shape"]
    preprocessing = manifest["preprocessing"]
    pixels = centre(read_pixels(path, channels), preprocessing.get("crop"))
    low, high = preprocessing["range"]
    image = resized(pixels.transpose(2, 0, 1) / 255 * (high - low) + low, height, width)
    mean, std = (np.array(preprocessing[key])[:, None, None] for key in ("mean", "std"))
    normalised = ((image - mean) / std).astype(np.float32)
    logits = run(np.ascontiguousarray(np.broadcast_to(normalised, (batch, channels, height, width))))[0].astype(np.float64)
    share = np.exp(logits - logits.max())
    share /= share.sum()
    best = np.argsort(-share)[:top]
    print(f"{path.name}  " + "  ".join(f"{manifest['labels'][i]} {100 * share[i]:.1f} %" for i in best))


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


def report_latency(manifest, run, example, runs):
    for _ in range(10):
        run(example)
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        run(example)
        times.append((time.perf_counter_ns() - start) / 1e6)
    print(f"latency  {np.median(times):.3g} ms here (p50 of {runs} runs, one thread)")
    certified = manifest.get("latency")
    if isinstance(certified, dict) and all(isinstance(certified.get(key), (int, float)) for key in ("measured_ms", "upper_bound_ms")):
        where, statistic = str(certified.get("conditions"))[:200], str(certified.get("statistic"))[:8]
        print(f"         {certified['measured_ms']:.3g} ms certified ({statistic}, at most {certified['upper_bound_ms']:.3g} ms) on {where}")


if __name__ == "__main__":
    sys.exit(main())
