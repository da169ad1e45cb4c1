"""Issue templates and the workflow are valid, and run what the project says that it runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

import celeb_basis

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FIELDS = {"markdown", "textarea", "input", "checkboxes", "dropdown"}


@pytest.mark.parametrize(
    "path", [path for path in TEMPLATES if path.name != "config.yml"], ids=lambda path: str(path.stem)
)
def test_an_issue_template_is_a_form(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    assert form["name"]
    assert form["description"]
    assert {part["type"] for part in form["body"]} <= FIELDS
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(set(ids)) == len(ids)
    assert all(part["attributes"].get("label") or part["type"] == "markdown" for part in form["body"])


def test_the_workflow_lints_and_tests_on_the_oldest_and_the_newest_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))
    jobs = workflow["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python-version"] == ["3.10", "3.13"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == ["python bootstrap.py lint", "python bootstrap.py test"]


def test_the_front_page_is_short_and_its_pictures_are_small() -> None:
    """People read a thousand words and do not wait for megabytes."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.split()) <= 1000
    pictures = [ROOT / part.partition(")")[0] for part in text.split("](")[1:] if part.startswith("docs/images/")]
    assert pictures
    assert sum(picture.stat().st_size for picture in pictures) < 2_000_000


def test_the_front_page_and_the_changelog_name_the_version() -> None:
    readme, changelog = ((ROOT / name).read_text("utf-8") for name in ("README.md", "CHANGELOG.md"))
    assert (
        f"![Version {celeb_basis.__version__}](https://img.shields.io/badge/version-{celeb_basis.__version__}-"
        in readme
    )
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] in (celeb_basis.__version__, "Unreleased")
