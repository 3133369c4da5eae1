"""Links between the documents lead to files and headings that are there, and the README leads to every page."""

from __future__ import annotations

import pytest
from documents import DOCUMENTS, ROOT, anchors, links, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_to_files_and_headings(path):
    for link in links(path):
        target, _, anchor = link.partition("#")
        file = path.parent / target if target else path
        assert file.exists(), f"{name(path)} links to {link}: no such file"
        if anchor:
            assert file.suffix == ".md" and anchor in anchors(file), f"{name(path)} links to {link}: no such heading"


def test_the_readme_links_to_every_page_of_the_guide():
    assert {name(path) for path in (ROOT / "docs").rglob("*.md")} <= set(links(ROOT / "README.md"))


def test_every_document_can_be_reached_from_the_readme():
    reached, ahead = set(), {ROOT / "README.md"}
    while ahead:
        path = ahead.pop()
        reached.add(path)
        targets = {(path.parent / link.partition("#")[0]).resolve() for link in links(path)}
        ahead |= {target for target in targets if target.suffix == ".md"} - reached
    assert set(DOCUMENTS) <= reached, f"nothing leads to {', '.join(name(path) for path in set(DOCUMENTS) - reached)}"
