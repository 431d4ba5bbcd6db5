"""The application on a real Ray, on this machine: the same pictures and answers through Ray's proxy, and its deaths."""

from __future__ import annotations

import base64
import io
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from latentrt import Pipeline
from support.dying import DyingArguments
from support.serving import GENERATIONS, until

if TYPE_CHECKING:
    from latentrt.benchmarks.serving.clustered import Cluster

TESTS = str(Path(__file__).parents[2])  # replicas import from there too
KEY = "a-key-of-the-tests-alone"
LONG = {"prompt": "a star", "num_inference_steps": 150}


@pytest.fixture(scope="module")
def arguments(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two replicas, with a core and a picture each, and one picture that waits."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(KEY)
    return {
        "bundle": str(demo_bundle),
        "replicas": 2,
        "max_rows": 2,
        "max_queue": 1,
        "model_name": "demo",
        "api_key_file": str(keys),
        "max_body_bytes": 10_000,
        "health_check_period": 0.5,
    }


@pytest.fixture(scope="module")
def ray(arguments: dict[str, Any]) -> Iterator[Cluster]:
    from latentrt.benchmarks.serving.clustered import cluster, descendants  # Ray takes a while to import

    before = {pid for pid, _ in descendants(os.getpid())}
    with pytest.MonkeyPatch.context() as environment, ExitStack() as stack:
        environment.setenv("PYTHONPATH", os.pathsep.join([TESTS, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        started = stack.enter_context(cluster(cpus=2))
        started.deploy(arguments)
        yield started
    until(lambda: {pid for pid, _ in descendants(os.getpid())} <= before, "the end of all of Ray's processes")


@pytest.fixture
def client(ray: Cluster) -> Iterator[httpx2.Client]:
    with ray.client() as one:
        one.headers["Authorization"] = f"Bearer {KEY}"
        yield one


def picture(text: str | None) -> np.ndarray[Any, Any]:
    assert text is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def metric(client: httpx2.Client, line: str) -> float:
    """A figure of whichever replica answers."""
    found = [float(one.rpartition(" ")[2]) for one in client.get("/metrics").text.splitlines() if one.startswith(line)]
    return sum(found)


def test_a_replica_draws_the_picture_of_generate(ray: Cluster, demo_bundle: Path) -> None:
    fields = {"seed": 5, "num_inference_steps": 4, "guidance_scale": 3.0}
    with openai.OpenAI(base_url=f"{ray.url}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.images.generate(prompt="a red star", extra_body=fields)
        *partial, last = client.images.generate(prompt="a red star", stream=True, partial_images=1, extra_body=fields)
    with Pipeline.open(demo_bundle) as pipe:
        expected = np.asarray(pipe.generate("a red star", **fields).images[0])
    assert answer.data is not None
    np.testing.assert_array_equal(picture(answer.data[0].b64_json), expected)
    np.testing.assert_array_equal(picture(last.b64_json), expected)
    assert [event.type for event in partial] == ["image_generation.partial_image"] * len(partial)


def test_what_stands_before_the_routes_stands_behind_the_proxy_too(client: httpx2.Client) -> None:
    body = {"prompt": "a star", "num_inference_steps": 1}
    named = client.post(GENERATIONS, json=body, headers={"X-Request-ID": "mine"})
    assert (named.status_code, named.headers.get_list("x-request-id")) == (200, ["mine"])
    keyless = client.post(GENERATIONS, json=body, headers={"Authorization": ""})
    assert (keyless.status_code, keyless.json()["error"]["code"]) == (401, "invalid_api_key")
    large = client.post(GENERATIONS, json=body | {"user": "x" * 20_000})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    strange = client.post(GENERATIONS, json=body, headers={"Host": "elsewhere.example"})
    assert (strange.status_code, strange.json()["error"]["code"]) == (421, "unknown_host")
    wrong = client.post(GENERATIONS, json=body | {"sampler": "eular"})
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("path", ["/", "/readyz", "/v1/models", "/sdapi/v1/samplers", "/v2/health/ready", "/api/model"])
def test_every_api_is_there(client: httpx2.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_the_page_hears_of_each_step_through_the_proxy(client: httpx2.Client) -> None:
    with client.stream("POST", "/api/pictures", json={"prompt": "a star", "num_inference_steps": 20}) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("event:")]
    assert events[-1] == "event: picture"
    assert events.count("event: progress") > 3


def test_a_client_that_goes_away_frees_its_rows(client: httpx2.Client) -> None:
    line = 'latentrt_request_seconds_count{outcome="cancelled"}'
    with client.stream("POST", "/api/pictures", json=LONG) as answer:
        next(answer.iter_lines())  # it is being drawn
    until(lambda: metric(client, line) > 0, "a request that was called off")


def asked(client: httpx2.Client, body: dict[str, Any]) -> httpx2.Response:
    return client.post(GENERATIONS, json=body)


def test_more_than_there_is_room_for_is_refused_in_one_way(client: httpx2.Client) -> None:
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: asked(client, LONG | {"num_inference_steps": 40}), range(10)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert Counter(answer.status_code for answer in answers).keys() == {200, 503}
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


@pytest.fixture
def load(ray: Cluster) -> Iterator[Callable[[], Counter[int]]]:
    """Clients that ask on and on; what they were answered so far."""
    answers: Counter[int] = Counter()
    ending = threading.Event()

    def ask_on() -> None:
        with ray.client() as one:
            one.headers["Authorization"] = f"Bearer {KEY}"
            while not ending.is_set():
                with suppress(httpx2.TransportError):
                    answers[asked(one, {"prompt": "a star", "num_inference_steps": 10}).status_code] += 1

    threads = [threading.Thread(target=ask_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield lambda: Counter(answers)
    ending.set()
    for thread in threads:
        thread.join()


@pytest.mark.full
def test_one_replica_dies_and_the_other_goes_on(ray: Cluster, load: Callable[[], Counter[int]]) -> None:
    until(lambda: load()[200] > 3, "pictures")
    victim, *others = sorted(ray.pids())
    os.kill(victim, signal.SIGKILL)
    killed = load()
    until(lambda: load()[200] > killed[200] + 3, "pictures of the other replica")
    until(lambda: len(ray.pids() - {victim, *others}) == 1 and ray.running() == 2, "a new replica")
    back = load()
    until(lambda: load()[200] > back[200] + 6, "pictures of both")
    assert load().keys() <= {200, 500, 503}  # 500: Ray's answer for what the dead one was drawing
    assert load()[500] <= 3  # each client's one at most


@pytest.mark.full
def test_a_replica_that_is_no_longer_wanted_finishes_what_it_draws(
    ray: Cluster, client: httpx2.Client, arguments: dict[str, Any]
) -> None:
    with ThreadPoolExecutor(2) as threads:
        drawn = [threads.submit(asked, client, LONG) for _ in range(2)]
        time.sleep(0.5)  # both are being drawn
        ray.deploy(arguments | {"replicas": 1})
        assert [one.result().status_code for one in drawn] == [200, 200]
    until(lambda: len(ray.pids()) == 1, "the end of the other")
    assert client.get("/readyz").status_code == 200


@pytest.mark.full
def test_ray_tells_the_figures_of_every_replica(ray: Cluster, client: httpx2.Client) -> None:
    assert asked(client, {"prompt": "a star", "num_inference_steps": 1}).status_code == 200
    until(lambda: ray.figures().count("ray_latentrt_ready{") == len(ray.pids()), "the figures of each")
    assert "ray_latentrt_turn_seconds_bucket{" in ray.figures()


@pytest.mark.full
def test_a_replica_whose_engines_died_is_replaced(ray: Cluster, demo_bundle: Path, tmp_path: Path) -> None:
    from ray import serve

    from latentrt.runtime.serve.ray_app import NAME, Replica

    died = tmp_path / "died"
    given = DyingArguments(bundle=str(demo_bundle), died=str(died), health_check_period=0.5, replicas=1)
    serve.run(serve.deployment(Replica, name=NAME, **given.deployment()).bind(given), name=NAME)
    until(lambda: len(ray.pids()) == 1, "the end of others")
    [first] = ray.pids()
    with ray.client() as client:
        assert asked(client, {"prompt": "a star"}).status_code == 200
        died.touch()
        lost = asked(client, {"prompt": "a star"})
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "engine_failed")
        until(lambda: first not in ray.pids(), "the end of the first")
        died.unlink()
        until(lambda: ray.running() == 1 and first not in ray.pids(), "another")
        assert asked(client, {"prompt": "a star"}).status_code == 200
