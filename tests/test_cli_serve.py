"""`afterclick serve` as a process: follows a directory, answers over a socket, stops well, and refuses what cannot be."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scorers import probability, tiny
from typer.testing import CliRunner

from streaming.adapters.directory import DirectoryPublisher
from streaming.cli import app, main

ROOT = Path(__file__).parents[1]


class Served:
    """A scorer in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        self.connection.request(method, path, data, {"content-type": "application/json"} | headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def serving(*arguments: str, environ: dict[str, str] | None = None) -> Iterator[Served]:
    command = [sys.executable, "-c", "from streaming.cli import main; main()", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)} | (environ or {}), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        told = []
        for line in process.stderr:
            told.append(line)
            if "serving scores" in line:
                break
        else:
            raise AssertionError("".join(told))
        found = Served(process, int(line.rpartition(":")[2].split()[0]))
        yield found
        found.connection.close()
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


def test_it_follows_a_directory_and_stops_well(tmp_path):
    publisher = DirectoryPublisher(tmp_path / "weights", versions_kept=3)
    (tmp_path / "settings.toml").write_text("[serving]\nfactors = {bid = 1.0}\n")
    asked = {"items": [{"user": "a", "factors": {"bid": 2}}]}
    with serving("--weights", str(tmp_path), "--poll-ms", "20", environ={"AFTERCLICK_SERVING__API_KEY": "k"}) as scorer:
        assert scorer.ask("GET", "/healthz")[0] == 200
        status, told = scorer.ask("GET", "/readyz")
        assert (status, json.loads(told)["ready"]) == (503, False)
        for version in (1, 2):
            publisher.publish(tiny(1, version, logit=float(version)))
            while json.loads(scorer.ask("GET", "/readyz")[1])["weights"] != f"000001-000000000{version}":
                pass
            status, told = scorer.ask("POST", "/score", asked, **{"x-api-key": "k"})
            assert status == 200
            assert json.loads(told)["items"][0]["score"] == pytest.approx(2 * probability(version) ** 2)
        assert scorer.ask("POST", "/score", asked)[0] == 401
        scorer.process.send_signal(signal.SIGTERM)
        assert scorer.process.wait(30) == 0


REFUSED = [
    (["--weights", "nowhere"], "--weights nowhere is no directory: name the run that publishes", 1),
    (["--weights", ".", "--host", "256.0.0.1"], "cannot be listened on", 1),
    (["--weights", ".", "--config", "nowhere.toml"], "--config nowhere.toml does not exist", 2),
]


@pytest.mark.parametrize(("arguments", "says", "code"), REFUSED)
def test_what_cannot_be_served_is_refused_with_what_to_do(tmp_path, monkeypatch, capsys, arguments, says, code):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["serve", *arguments])
    assert ended.value.code == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "says"), [("", "must not be empty"), ("clé", "must be printable ASCII"), ("k ", "a space")]
)
def test_a_key_that_no_client_could_send_is_refused(key, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AFTERCLICK_SERVING__API_KEY", key)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--weights", str(tmp_path)])
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "AFTERCLICK_SERVING__API_KEY must" in said
    assert says in said


def test_its_help_tells_of_the_key():
    told = CliRunner().invoke(app, ["serve", "--help"]).output
    assert "AFTERCLICK_SERVING__API_KEY" in told
