"""ONNX Runtime at the end of two pipes, for PipedEngine.java: it opens models, holds what they are fed, runs them, and gives what they gave."""

import struct
import sys

import numpy as np
import onnxruntime as ort

NAMES = {"float": "float32", "double": "float64", "string": "tensor(string)"}
given, taken = sys.stdout.buffer, sys.stdin.buffer


def read(layout):
    raw = taken.read(struct.calcsize(">" + layout))
    if not raw:
        sys.exit(0)
    return struct.unpack(">" + layout, raw)[0]


def text():
    return taken.read(read("H")).decode()


def utf(value):
    raw = value.encode()[:60_000]
    return struct.pack(">H", len(raw)) + raw


def sizes(shape):
    return struct.pack(f">i{len(shape)}q", len(shape), *(size if isinstance(size, int) else -1 for size in shape))


def ports(found):
    named = [(each.name, each.type.removeprefix("tensor(").removesuffix(")"), each.shape) for each in found]
    return struct.pack(">i", len(named)) + b"".join(utf(name) + utf(NAMES.get(kind, kind)) + sizes(shape) for name, kind, shape in named)


def opened():
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = read("i"), 1, 4
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = ort.InferenceSession(taken.read(read("i")), options, providers=["CPUExecutionProvider"])
    held.append(session)
    return struct.pack(">i", len(held) - 1) + ports(session.get_inputs()) + ports(session.get_outputs())


def bound():
    session, feeds = held[read("i")], {}
    for _ in range(read("i")):
        name, kind = text(), text()
        shape = [read("q") for _ in range(read("i"))]
        feeds[name] = np.frombuffer(taken.read(read("i")), kind).reshape(shape)
    held.append([session, feeds, session.run(None, feeds)])
    return struct.pack(">i", len(held) - 1)


def ran():
    each = held[read("i")]
    each[2] = each[0].run(None, each[1])
    return b""


def outputs():
    session, _, values = held[read("i")]
    found = zip([each.name for each in session.get_outputs()], map(np.asarray, values), strict=True)
    parts = [utf(name) + utf(str(value.dtype)) + sizes(value.shape) + struct.pack(">i", value.nbytes) + value.tobytes() for name, value in found]
    return struct.pack(">i", len(parts)) + b"".join(parts)


def closed():
    held[read("i")] = None
    return b""


held = []
given.write(utf(ort.__version__))
given.flush()
while True:
    work = {b"O": opened, b"B": bound, b"R": ran, b"G": outputs, b"C": closed}[read("c")]
    try:
        answer = b"\1" + work()
    except Exception as error:
        answer = b"\0" + utf(f"{type(error).__name__}: {error}")
    given.write(answer)
    given.flush()
