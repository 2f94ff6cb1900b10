"""Recipes: precedence, one level of extends, and refusals that name the key and what would be valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from octupus.config import RECIPES, TrainSection, load
from octupus.errors import ConfigError


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(
        "model: {base: some/model}\nstage1: {lr: 1e-4, clip: 3}\nstage2: {ranks_per_node: 2}\n"
    )
    (tmp_path / "child.yaml").write_text("extends: base\nstage1: {lr: 3e-4}\n")
    (tmp_path / "grandchild.yaml").write_text("extends: child\n")
    return tmp_path


def test_precedence_defaults_parent_recipe_override(recipes: Path) -> None:
    recipe = load("child", ["stage1.warmup_steps=7", "serve.port=0"], folder=recipes)
    assert (recipe.stage1.lr, recipe.stage1.clip, recipe.stage1.warmup_steps) == (3e-4, 3, 7)
    assert (recipe.stage1.weight_decay, recipe.stage2.ranks_per_node, recipe.serve.port) == (0, 2, 0)
    assert recipe.name == "child"


def test_numbers_that_yaml_reads_as_text_are_numbers(recipes: Path) -> None:
    assert load("base", ["stage1.lr=1e-5"], folder=recipes).stage1.lr == 1e-5


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("nothere", [], ["no recipe 'nothere'", "base", "child"]),
        ("grandchild", [], ["only one level"]),
        (
            "base",
            ["stage1.learning_rate=1"],
            ["stage1.learning_rate", "unknown key", "valid keys", "warmup_steps"],
        ),
        ("base", ["stage1.warmup_step=1"], ["did you mean 'warmup_steps'"]),
        ("base", ["stage1.lr=fast"], ["stage1.lr"]),
        ("base", ["stage1.lr"], ["not path=value"]),
        ("base", ["bfcl.categories={multiple:"], ["SET: bfcl.categories", "is not YAML", "quotation marks"]),
        ("base", ["stage1.global_batch=9"], ["global_batch 9 does not divide", "8 or 16 would"]),
        ("base", ["model.scratch={}"], ["exactly one"]),
        ("base", ["data.stage1.sources=[{name: a, epoch: 2}]"], ["data.stage1.sources.0.epoch", "epochs"]),
    ],
)
def test_refusals_say_what_where_and_what_next(recipes: Path, name: str, overrides: list[str], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(name, overrides, folder=recipes)
    for words in said:
        assert words in str(caught.value)


def test_broken_yaml_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("model: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml is not YAML"):
        load("bad", folder=tmp_path)


def test_accumulation_is_computed() -> None:
    section = TrainSection(nodes=4, ranks_per_node=8, micro_batch=4, global_batch=256)
    assert (section.world_size, section.accumulation) == (32, 2)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_that_ships_loads(path: Path) -> None:
    assert load(path.stem).name == path.stem


def test_a_recipes_name_is_its_files() -> None:
    with pytest.raises(ConfigError, match=r"name is that of its file; for a run of another name give RUN="):
        load("demo", ["name=x"])
