"""A parser check, without a GPU: can TensorRT for RTX read this model, and build an engine of it? Not an agent; hwnas starts it for each model.

It reads the model from stdin and writes one line of JSON: {"version", "problems": [{"operator", "node", "reason"}], "layers", and with the
argument `build` "plan_bytes", "plan_sha256" or "build_error"}, or {"error"}. A program of its own, because foreign models may end it.
"""

import hashlib
import json
import os
import sys

from agent_contract import MAX_MODEL_BYTES, Refused, limit_memory, refuse_external_data, sentence
from tensorrt_engine import built, library, new_logger, parsed


def checked(model, build):
    if len(model) > MAX_MODEL_BYTES:
        raise Refused(f"the model has more than {MAX_MODEL_BYTES} bytes")
    refuse_external_data(model)
    trt, dialect = library("tensorrt_rtx")
    log = new_logger(trt)
    builder = trt.Builder(log)
    network, _parser, problems = parsed(trt, dialect, builder, log, model)
    answer = {"version": trt.__version__, "problems": problems, "layers": 0 if problems else network.num_layers}
    if build and not problems:
        try:
            plan = built(builder, network, builder.create_builder_config(), log)
            answer.update(plan_bytes=len(plan), plan_sha256=hashlib.sha256(plan).hexdigest())
        except Refused as error:
            answer["build_error"] = str(error)
    return answer


def main():
    answers = os.dup(1)
    os.dup2(2, 1)  # native code may print
    limit_memory()
    try:
        answer = checked(sys.stdin.buffer.read(MAX_MODEL_BYTES + 1), "build" in sys.argv[1:])
    except Refused as error:
        answer = {"error": str(error)}
    except Exception as error:  # whatever the library throws at a foreign model is the answer for it
        answer = {"error": sentence(error)}
    os.write(answers, json.dumps(answer).encode("utf-8") + b"\n")
    os._exit(0)  # without tearing the library down, which may crash where there is no driver


if __name__ == "__main__":
    main()
