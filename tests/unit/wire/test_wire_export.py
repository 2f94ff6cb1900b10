"""Law 6, and what stands beside the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from octupus.errors import WireError
from octupus.tokenizer import load_tokenizer, load_wire
from octupus.wire import Wire, check_fingerprint, make_dialect
from octupus.wire.dialect import OCTUPUS, OCTUPUS_V1
from tests.support.tiny import tiny_folder, tiny_tokenizer, tiny_wire


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder(), tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_wire_comes_back_from_its_folder(folder: Path) -> None:
    wire, tokenizer = load_wire(folder)
    assert wire.fingerprint == tiny_wire().fingerprint
    assert wire.dialect == OCTUPUS and tokenizer.digest == tiny_tokenizer().digest
    saved = json.loads((folder / "wire.json").read_text(encoding="utf-8"))
    assert sorted(saved) == ["dialect", "fingerprint", "format_version"]
    assert saved["fingerprint"] == wire.fingerprint and wire.fingerprint.startswith("sha256:")


def test_the_fingerprint_follows_texts_tokens_and_tokenizer(folder: Path) -> None:
    prints = {tiny_wire().fingerprint}
    prints.add(Wire(OCTUPUS.model_copy(update={"default_system": "other"}), tiny_tokenizer()).fingerprint)
    prints.add(Wire(OCTUPUS_V1, tiny_tokenizer()).fingerprint)
    edit(folder / "tokenizer.json", '"<|pad|>"', '"<|other|>"')
    edit(folder / "tokenizer_config.json", '"<|pad|>"', '"<|other|>"')
    prints.add(Wire(OCTUPUS, load_tokenizer(folder)).fingerprint)
    assert len(prints) == 4


def test_another_tokenizer_is_refused_with_both_values_and_the_remedy(folder: Path) -> None:
    edit(folder / "tokenizer.json", '"<|pad|>"', '"<|other|>"')
    with pytest.raises(WireError) as error:
        load_wire(folder)
    assert str(error.value).count("sha256:") == 2
    assert "make surgery" in str(error.value) and tiny_wire().fingerprint in str(error.value)


def test_check_fingerprint_names_both_and_the_command() -> None:
    check_fingerprint("sha256:a", "sha256:a", "shards", "make data")
    with pytest.raises(WireError, match=r"shards.*sha256:a.*sha256:b.*make data FRESH=1"):
        check_fingerprint("sha256:a", "sha256:b", "shards", "make data FRESH=1")


def test_a_folder_without_wire_needs_a_name(folder: Path) -> None:
    (folder / "wire.json").unlink()
    with pytest.raises(WireError, match=r"no wire\.json.*name it"):
        load_wire(folder)
    assert load_wire(folder, "octupus")[0].fingerprint == tiny_wire().fingerprint
    assert load_wire(folder, "octupus", system="hey")[0].dialect.default_system == "hey"


def test_a_name_that_contradicts_the_folder_is_refused(folder: Path) -> None:
    assert load_wire(folder, "octupus")[0].dialect.name == "octupus"
    with pytest.raises(WireError, match="says dialect 'octupus', but 'octupus-v1' was asked for"):
        load_wire(folder, "octupus-v1")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": 1, "fingerprint": "x", "dialect": {"a": 1}}'])
def test_a_broken_wire_file_gets_a_sentence(folder: Path, text: str) -> None:
    (folder / "wire.json").write_text(text, encoding="utf-8")
    with pytest.raises(WireError, match=r"wire\.json is not a wire file"):
        load_wire(folder)


def test_another_format_version_is_refused(folder: Path) -> None:
    edit(folder / "wire.json", '"format_version": 1', '"format_version": 2')
    with pytest.raises(WireError, match="format version 2, this code writes 1"):
        load_wire(folder)


def test_missing_tokens_are_named(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        edit(folder / file, "<|CONTENT|>", "<|CONTEND|>")
    with pytest.raises(WireError, match=r"lacks <\|CONTENT\|>, which dialect 'octupus' needs.*surgery"):
        Wire(OCTUPUS, load_tokenizer(folder))


def test_unknown_dialects_are_refused_with_the_known_ones() -> None:
    with pytest.raises(WireError, match="no dialect 'octopus'; choose one of: octupus, octupus-v1"):
        make_dialect("octopus", tiny_tokenizer())
