"""What machines read under deploy/: the commands in it are commands, images are pinned, nothing runs as root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from streaming.cli import app
from streaming.settings import load

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
KUBERNETES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
PINNED = re.compile(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$")


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every container of the manifests, with the pod it is of."""
    for path in KUBERNETES:
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            for container in pod.get("containers", []):
                yield f"{path.name}:{container['name']}", pod, container


COMMANDS = [
    *((name, own["command"]) for name, own in COMPOSE["services"].items() if own["image"].startswith("afterclick")),
    *((name, container["args"]) for name, _, container in containers()),
]


@pytest.mark.parametrize(("name", "arguments"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_is_one(name: str, arguments: list[str]) -> None:
    assert all(isinstance(word, str) for word in arguments)
    command, words = get_command(app), list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(name, words)  # refuses what it does not know, and runs nothing


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_are_pinned_and_not_root(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["user"] not in ("root", "0")
    assert service["image"] == "afterclick:local" or PINNED.search(service["image"]), service["image"]
    waits = service.get("depends_on", {})
    for other, condition in waits.items():
        assert condition["condition"] != "service_healthy" or "healthcheck" in COMPOSE["services"][other]


def test_pods_are_not_root_and_write_nowhere_else() -> None:
    found = list(containers())
    assert len(found) >= 3
    for name, pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"], name
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert "limits" in container["resources"], name
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert {"tmp", "settings"} <= mounted, name


def test_the_files_that_are_mounted_are_there_and_can_be_read() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            if isinstance(volume, dict):
                assert (ROOT / volume["source"]).is_file()
    settings = load(ROOT / "deploy" / "compose" / "settings.toml", {})
    assert settings.kafka.topic("examples") == "shop.examples"
    assert settings.features
