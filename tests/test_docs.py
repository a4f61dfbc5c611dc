"""The Python blocks of README and docs run as they stand, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from qadv.errors import MissingRequirementError

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{index}")
    for page in PAGES
    for index, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_code_blocks_run(block, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "own_plugin" / "src"))
    try:
        exec(compile(block, "<documentation>", "exec"), {"__name__": "documentation"})
    except MissingRequirementError as error:
        pytest.skip(str(error))


@pytest.mark.core
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.core
def test_every_make_target_that_the_readme_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
