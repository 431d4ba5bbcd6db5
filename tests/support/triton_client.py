"""What Triton's own gRPC client sees of a server with room for two pictures; writes it as JSON.

It runs in the environment of tritonserver: grpcio wants an older protobuf than the tests' own environment has.
    python triton_client.py PORT
"""

import hashlib
import json
import sys
import threading
import time

import numpy as np
import tritonclient.grpc as triton

TYPES = {"BYTES": object, "UINT64": np.uint64}
LONG, SHORT = 1000, 2  # steps
PATIENCE = 60  # seconds


def inputs(steps):
    columns = {
        "prompt": ("BYTES", [b"a star"]),
        "num_inference_steps": ("UINT64", [steps]),
        "seed": ("UINT64", [7]),
    }
    made = []
    for name, (datatype, values) in columns.items():
        one = triton.InferInput(name, [len(values)], datatype)
        one.set_data_from_numpy(np.array(values, TYPES[datatype]))
        made.append(one)
    return made


class Asked:
    """A request under way."""

    def __init__(self, client, steps):
        self.ended = threading.Event()
        self.call = client.async_infer("demo", inputs(steps), self._told)

    def _told(self, result, error):
        self.error = error
        self.ended.set()


def refusal(client):
    """Why another picture is refused now; empty where it is drawn."""
    try:
        client.infer("demo", inputs(SHORT))
    except triton.InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    return ""


def until(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def main():
    told = {}
    with triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}") as client:
        answer = client.infer("demo", inputs(3))
        told["image"] = hashlib.sha256(answer.as_numpy("image").tobytes()).hexdigest()
        told["shape"] = list(answer.as_numpy("image").shape)
        first = Asked(client, LONG)
        client.infer("demo", inputs(SHORT))
        told["joined"] = not first.ended.is_set()  # the short one is drawn, the long one still under way
        second = Asked(client, LONG)
        until(lambda: "2 pictures are under way" in refusal(client))
        told["refused"] = refusal(client)
        for one in (first, second):
            one.call.cancel()
        until(lambda: "under way" not in refusal(client))  # long before 1000 steps are drawn
        client.infer("demo", inputs(SHORT))
        told["cancelled"] = [str(one.error) for one in (first, second) if one.ended.wait(PATIENCE)]
    sys.stdout.write(json.dumps(told))


main()
