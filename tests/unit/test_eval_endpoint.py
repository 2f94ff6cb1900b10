"""An endpoint that never comes up, fails, or dies ends with a sentence that names the log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from eval.endpoint import Server, identity, read_key, wait_for
from octupus.config import ServeSection
from octupus.errors import ConfigError, JobError
from octupus.runs import Endpoint, Run, StageState

NOBODY = "http://127.0.0.1:9"


def endpoint(**more: object) -> Endpoint:
    return Endpoint.model_validate({"url": NOBODY, "model": "m", "instance": "i", "heartbeat_at": time.time()} | more)


def test_never_comes_up(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.publish_endpoint("0", endpoint())  # published, but nobody listens there
    with pytest.raises(JobError, match=rf"no endpoint came up .* 0\.3 s .*{run.path}/serve/log.*make serve RUN=r"):
        wait_for(run, ServeSection(ready_timeout_s=0.3))


def test_its_stage_failed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.stage("baseline").set_state(StageState(status="failed", reason="out of memory"))
    with pytest.raises(JobError, match=r"stage baseline failed: out of memory; see its log in .*/baseline/log"):
        wait_for(run, ServeSection(), "baseline")


@pytest.mark.parametrize(("beats", "why"), [(True, "nobody listens"), (False, "its heartbeat stopped")])
def test_it_dies(tmp_path: Path, beats: bool, why: str) -> None:
    run = Run(tmp_path)
    if beats:
        run.publish_endpoint("0", endpoint())
    with pytest.raises(JobError, match=rf"died while it was being measured \({why}.*/serve/log"):
        Server(run, "serve", endpoint(), "none").check()


def test_addresses(tmp_path: Path) -> None:
    for url in (NOBODY, f"{NOBODY}/", f"{NOBODY}/v1", f"{NOBODY}/v1/"):
        server = Server(Run(tmp_path), "serve", endpoint(url=url), "none")
        assert (server.root_url, server.base_url) == (NOBODY, f"{NOBODY}/v1")


def test_identity_follows_the_weights(tmp_path: Path) -> None:
    run, found = Run(tmp_path), []
    for folder, content in (
        ("surgery/model", b"0"),
        ("stage2/export", b"1" * 2_000_000),
        ("stage2/export", b"2" * 2_000_000),
    ):
        (run.path / folder).mkdir(parents=True, exist_ok=True)
        (run.path / folder / "model.safetensors").write_bytes(content)
        found.append(identity(Server(run, "serve", endpoint(instance=str(len(found))), "none")))
    assert len(set(found)) == 3
    assert identity(Server(run, "baseline", endpoint(), "none")) == found[0], "a restarted server is the same model"


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCTUPUS_API_KEY", raising=False)
    path = tmp_path / "keys"
    path.write_text("first\nsecond\n")
    assert read_key(ServeSection(api_key_file=str(path))) == "first" and read_key(ServeSection()) == "none"
    with pytest.raises(ConfigError, match="api_key_file"):
        read_key(ServeSection(api_key_file=str(tmp_path / "absent")))
