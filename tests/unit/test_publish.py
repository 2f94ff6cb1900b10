"""What goes to the hub: weights, card and records; data only where the licence clearly allows it; DRY sends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from octupus.config import ModelSection, Recipe, ScratchModel
from octupus.errors import ConfigError, JobError
from octupus.publish import publish_json
from octupus.runs import Run, StageState
from octupus.train.card import SCORES
from slurm.publish import OPEN, publish
from slurm.stage import Frozen
from tests.unit.eval_finished_run import finished_run


class FakeHub:
    """Notes what it is sent."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.sent: dict[str, str] = {}
        self.private: bool | None = None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        if self.broken:
            raise OSError("401 for a test")
        self.private = private

    def upload_file(self, *, path_or_fileobj: str, path_in_repo: str, repo_id: str) -> Any:
        assert Path(path_or_fileobj).is_file() and repo_id == "me/demo"
        self.sent[path_in_repo] = path_or_fileobj


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    made = finished_run(tmp_path / "demo", monkeypatch)
    recipe = Recipe.model_validate(
        {
            **Recipe(name="demo", model=ModelSection(scratch=ScratchModel())).model_dump(),
            "data": {"heldout": [{"name": "talk"}]},
        }
    )
    publish_json(made.path / "recipe.json", Frozen(recipe=recipe))
    export = made.path / "stage2/export"
    export.mkdir(parents=True)
    (export / "model.safetensors").write_bytes(b"weights")
    (export / "config.json").write_text("{}")
    (export / "README.md").write_text(f"---\ntags: []\n---\n# demo\n\ntold by training\n\n## Scores\n\n{SCORES}\n")
    made.stage("stage2").set_state(StageState(status="done"))
    licences = {
        "talk(split=train)": "Apache-2.0",
        "talk(split=heldout)": "Apache-2.0",
        "web": "none stated on the card; check",
        "closed": "CC-BY-NC-4.0",
    }
    for number, (source, licence) in enumerate(licences.items()):
        folder = made.path / f"data/clean/{number}"
        publish_json(folder / "report.json", {"source": source, "licence": licence})
        (folder / "conversations.jsonl").write_text("{}\n")
    return made


def test_dry_lists_files_and_licences_and_sends_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    hub = FakeHub()
    publish(run, {"REPO": "me/demo", "DRY": "1", "DATA": "1"}, hub)
    out = capsys.readouterr().out
    assert hub.sent == {} and hub.private is None
    for name in ("model.safetensors", "README.md", "recipe.json", "bfcl/scores.json", "data/0.jsonl"):
        assert name in out
    assert "not uploaded" in out and "web: none stated" in out and "closed: CC-BY-NC-4.0" in out
    assert "data/1.jsonl" not in out, "what is held out stays unseen"
    assert "nothing was sent" in out


def test_it_sends_what_dry_lists(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    hub = FakeHub()
    publish(run, {"REPO": "me/demo"}, hub)
    assert hub.private is True and {"model.safetensors", "README.md", "bfcl/scores.json"} <= set(hub.sent)
    assert not any(name.startswith("data/0") for name in hub.sent), "no data unless asked for"
    card = Path(hub.sent["README.md"]).read_text()
    assert "told by training" in card and SCORES not in card and "octupus.serve --model me/demo" in card
    assert "| BFCL category |" in card and card.startswith("---\n")


def test_what_cannot_be_published_is_a_sentence(run: Run) -> None:
    for repo in ("", "demo", "a/b/c", "a b/c"):
        with pytest.raises(ConfigError, match="no hub name"):
            publish(run, {"REPO": repo})
    with pytest.raises(JobError, match="HF_TOKEN"):
        publish(run, {"REPO": "me/demo"}, FakeHub(broken=True))
    (run.path / "bfcl/scores.json").unlink()
    with pytest.raises(JobError, match="has not been measured"):
        publish(run, {"REPO": "me/demo", "DRY": "1"})


@pytest.mark.parametrize("text", ["CC-BY-NC-4.0", "none stated; from WildChat (ODC-BY)", "AI2 ImpACT-LR", "as stated"])
def test_an_unclear_licence_is_none(text: str) -> None:
    assert not OPEN.match(text)
