"""What a server decides for itself before it serves."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from octupus.config import ServeSection
from octupus.errors import ConfigError
from octupus.serve.operate import idle_minutes, listen, raise_file_limit, read_keys, url_of


@pytest.mark.parametrize(("given", "local", "slurm"), [(None, 0, 60), (0, 0, 0), (5, 5, 5)])
def test_an_unused_server_ends_on_slurm_and_never_here(
    given: float | None, local: float, slurm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = ServeSection(idle_minutes=given)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert idle_minutes(section) == local
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert idle_minutes(section) == slurm


def test_keys_come_from_a_private_file_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OCTUPUS_API_KEY", raising=False)
    assert read_keys(None) == ()
    file = tmp_path / "keys"
    with pytest.raises(ConfigError, match="does not exist"):
        read_keys(str(file))
    file.write_text("one\n\n two \n")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(str(file))
    file.chmod(0o600)
    monkeypatch.setenv("OCTUPUS_API_KEY", "three")
    assert read_keys(str(file)) == ("three", "one", "two")


def test_any_free_port_and_a_url_that_others_can_use() -> None:
    with listen("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        assert port > 0 and url_of("127.0.0.1", held) == f"http://127.0.0.1:{port}"
        assert "0.0.0.0" not in url_of("0.0.0.0", held)
        with pytest.raises(ConfigError, match="choose another"):
            listen("127.0.0.1", port)


def test_the_file_limit_is_raised_as_far_as_it_goes_and_too_low_a_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: made.append(limits))
    for limits, needed, expected in (
        ((1024, 4096), 500, [(4096, 4096)]),
        ((1024, resource.RLIM_INFINITY), 500, [(65_536, resource.RLIM_INFINITY)]),
        ((1024, 10**6), 100_000, [(100_000, 10**6)]),
        ((10**6, 10**6), 500, []),
    ):
        made.clear()
        monkeypatch.setattr(resource, "getrlimit", lambda which, limits=limits: limits)
        raise_file_limit(needed)
        assert made == expected
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1024))
    with pytest.raises(ConfigError, match=r"need 1300 open files, this system allows 1024; lower it"):
        raise_file_limit(1300)
