"""What a source distribution and a package index show of the project: every link leads somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = ["README.md", "CONTRIBUTING.md", *(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def links(page: str) -> list[str]:
    return LINK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_the_source_distribution_holds_what_a_page_links_to(page: str) -> None:
    included = SETTINGS["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for link in [page, *(link for link in links(page) if "://" not in link)]:
        target = ((ROOT / page).parent / link).resolve() if link != page else ROOT / page
        assert target.exists(), f"{page} links to {link}, which is not there"
        inside = f"/{target.relative_to(ROOT).as_posix()}"
        assert any(inside == rule or inside.startswith(f"{rule}/") for rule in included), f"{link} is not included"


def test_the_page_on_a_package_index_needs_no_other_file() -> None:
    assert links("README.md").count("docs/blocks.png") == 1  # which is why it is another page
    page = SETTINGS["project"]["readme"]
    assert all(link.startswith("https://") for link in links(page))
    assert "![" not in (ROOT / page).read_text(encoding="utf-8")
