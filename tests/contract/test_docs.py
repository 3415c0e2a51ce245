"""Docs claim only what is there."""

import re
from pathlib import Path

from docs.generate_recipe import PAGE, page

ROOT = Path(__file__).parents[2]


def test_the_recipe_page_is_what_the_specs_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m docs.generate_recipe"


def test_every_path_that_the_readmes_name_exists() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text) + re.findall(r'src="([^"]+)"', text):
            assert (ROOT / target).exists(), f"{name} names {target}"


def test_every_room_has_a_readme() -> None:
    for project in sorted((ROOT / "services").glob("*/pyproject.toml")):
        assert (project.parent / "README.md").is_file(), project.parent.name


def test_every_test_that_the_docs_name_exists() -> None:
    for page_of_docs in sorted((ROOT / "docs").glob("*.md")):
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page_of_docs.read_text(encoding="utf-8")):
            found = re.findall(r"^def (\w+)\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
            assert name in found, f"{page_of_docs.name} names {path}::{name}"


def test_every_test_that_the_trainer_s_page_names_exists() -> None:
    text = (ROOT / "docs" / "trainer.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)
    assert len(named) > 30
    for path, test in named:
        place = ROOT / path if path.startswith("tests/") else ROOT / "tests" / "trainer" / path
        assert f"def {test}(" in place.read_text(encoding="utf-8"), f"{path} has no {test}"
    for path in re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py)`", text):
        place = ROOT / path if path.startswith("tests/") else ROOT / "tests" / "trainer" / path
        assert place.is_file(), path
