"""What the application on Ray Serve is told: one clear error for what is wrong, and Ray's own words for the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentrt.engines.errors import LatentrtError
from latentrt.runtime.serve.ray_arguments import RayArguments
from latentrt.runtime.serve.settings import LOOPBACK

DOCS = Path(__file__).resolve().parents[3] / "docs" / "cluster.md"

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown name": ({"max_row": 4}, "unknown argument 'max_row': did you mean 'max_rows'"),
    "no number": ({"replicas": "two"}, "Expected `int"),
    "no replica": ({"replicas": 0}, "`int` >= 1"),
    "a bundle that is nowhere": ({"bundle": "/nowhere"}, "/nowhere"),
    "a path that is each node's own": ({"bundle": "sd15"}, "the whole path of a folder"),
    "an unknown engine": ({"engine": "onnxrt"}, "unknown engine 'onnxrt': did you mean 'onnxruntime'"),
    "two ways to count": ({"replicas": 2, "max_replicas": 4}, "give one of them"),
    "a least without a most": ({"min_replicas": 2}, "need max_replicas"),
    "a least above the most": ({"min_replicas": 3, "max_replicas": 2}, "at most max_replicas, 2; got 3"),
    "a limit out of range": ({"max_steps": 100_000}, "max_steps is at most"),
    "keys that are nowhere": ({"api_key_file": "/nowhere"}, "API key file /nowhere"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_refused_by_name(demo_bundle: Path, name: str) -> None:
    wrong, words = WRONG[name]
    with pytest.raises(LatentrtError, match=re.escape(words)):
        RayArguments.read({"bundle": str(demo_bundle)} | wrong)


def test_a_missing_bundle_is_named() -> None:
    with pytest.raises(LatentrtError, match="missing required field `bundle`"):
        RayArguments.read({"replicas": 2})


def test_words_of_a_command_line_are_the_values_of_a_file(demo_bundle: Path) -> None:
    words = {"replicas": "2", "max_rows": "4", "previews": "false", "num_cpus": "0.5", "allowed_hosts": "A,b"}
    values = {"replicas": 2, "max_rows": 4, "previews": False, "num_cpus": 0.5, "allowed_hosts": ["a", "b"]}
    from_words, from_values = (RayArguments.read({"bundle": str(demo_bundle)} | given) for given in (words, values))
    assert from_words.settings() == from_values.settings()
    assert from_words.opening() == from_values.opening()
    assert from_words.deployment() == from_values.deployment()


def test_each_replica_has_a_gpu_or_its_share_of_the_processor(demo_bundle: Path) -> None:
    def actor(**given: Any) -> Any:
        found = RayArguments.read({"bundle": str(demo_bundle)} | given)
        return found.deployment()["ray_actor_options"], found.opening().wanted.threads

    assert actor() == ({"num_cpus": 1, "num_gpus": 0}, 1)
    assert actor(num_cpus=4) == ({"num_cpus": 4, "num_gpus": 0}, 4)
    assert actor(engine="tensorrt") == ({"num_cpus": 1, "num_gpus": 1}, 1)
    assert actor(engine="auto", num_gpus=0.5) == ({"num_cpus": 1, "num_gpus": 0.5}, 1)


def test_a_replica_refuses_before_ray_does(demo_bundle: Path) -> None:
    found = RayArguments.read({"bundle": str(demo_bundle), "max_rows": 8, "max_queue": 64})
    assert found.deployment()["max_ongoing_requests"] > found.settings().capacity
    assert found.deployment()["graceful_shutdown_timeout_s"] > found.settings().grace_seconds


def test_ray_may_choose_how_many_there_are(demo_bundle: Path) -> None:
    found = RayArguments.read({"bundle": str(demo_bundle), "max_replicas": 4}).deployment()
    assert "num_replicas" not in found
    assert found["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 4}


def test_another_number_of_replicas_is_no_other_replica(demo_bundle: Path) -> None:
    one, two = (RayArguments.read({"bundle": str(demo_bundle), "replicas": count}) for count in (1, 2))
    assert one.of_one_replica == two.of_one_replica


def test_only_this_machine_is_answered_unless_told_otherwise(demo_bundle: Path) -> None:
    assert RayArguments.read({"bundle": str(demo_bundle)}).settings().allowed_hosts == LOOPBACK
    assert RayArguments.read({"bundle": str(demo_bundle), "allowed_hosts": "*"}).settings().allowed_hosts is None


def test_the_file_in_the_docs_is_one_that_ray_takes(demo_bundle: Path, tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    [text] = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    [application] = config.applications
    assert application.import_path == "latentrt.runtime.serve.ray_app:app"
    keys = tmp_path / "keys.txt"
    keys.write_text("a-key-of-the-tests-alone")
    given = application.args | {"bundle": str(demo_bundle), "api_key_file": str(keys)}
    assert RayArguments.read(given).deployment()["ray_actor_options"]["num_gpus"] == 1
