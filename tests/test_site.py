"""The documentation site builds without a warning, asks nobody for anything, and has a page for each component."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qadv.components import KINDS
from qadv.registry import default_registry

pytestmark = pytest.mark.repository

pytest.importorskip("material", reason="pip install 'qadv[docs]'")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
HEADINGS = {
    "defenses": ["What it does", "Equation", "When it helps", "When it masks", "Example"],
    "attacks": ["What it does", "Equation", "When it helps", "What it does not tell", "Example"],
}
UNRENDERED = re.compile(r"\n *(?:[-*] |\d\. |#+ |\|[ -])|```|\*\*|\]\(|^python |^qadv [a-z-]+ --")
METHOD_PAGES = [
    page
    for folder in HEADINGS
    for page in sorted((DOCS / folder).glob("*.md"))
    if page.stem not in ("index", "art", "families", "toolkits")
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


class Requests(HTMLParser):
    """Collects what a browser loads by itself with a page: all addresses but those of links to click on."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        for attribute, value in attrs:
            if attribute in ("src", "srcset", "data", "poster") or (attribute == "href" and tag != "a"):
                self.found.append(value)
            if attribute == "style":
                self.found += re.findall(r"url\((.*?)\)", value)


def outside(address):
    return re.match(r"[\"']?(?:https?:)?//", address.strip()) is not None


def test_what_is_an_outside_address():
    parser = Requests()
    parser.feed('<a href="https://a"></a><link href="//b"><script src="https://c"></script><img src="d.png">')
    assert [address for address in parser.found if outside(address)] == ["//b", "https://c"]


def test_nothing_is_loaded_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        parser = Requests()
        parser.feed(text)
        assert parser.found
        assert not [address for address in parser.found if outside(address)], page
        assert 'class="mermaid"' not in text  # the theme would fetch mermaid
        assert 'data-md-component="source"' not in text  # the theme would ask GitHub for stars
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_markdown_is_rendered_as_on_the_forge(site):
    """mkdocs wants four spaces where GitHub takes two, and a blank line before a list: else the marks stay text."""
    for page in sorted(site.rglob("*.html")):
        text = re.sub(r"<(pre|code|svg|script)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for paragraph in re.findall(r"<(?:p|li|td)>(.*?)</(?:p|li|td)>", text, re.DOTALL):
            plain = re.sub(r"<.*?>", "", paragraph)
            assert not UNRENDERED.search(plain), (page, plain)


def test_what_is_unrendered_markdown():
    for text in (
        "after them.\n- Corrections",
        "one\n| a | b",
        "see [this](that.md)",
        "qadv audit --dataset x",
        "**bold**",
    ):
        assert UNRENDERED.search(text), text
    assert not UNRENDERED.search("qadv is 2 - 1\n= 1 | 2")


@pytest.mark.parametrize("kind", ["attack", "trainer", "transformer", "preprocessor", "detector"])
def test_each_component_has_a_page(site, kind):
    folder = "attacks" if kind == "attack" else "defenses"
    entries = [entry for entry in default_registry().entries(kind) if entry.distribution == "qadv"]
    assert entries
    for entry in entries:
        page = site / folder / f"{entry.component.name}.html"
        assert page.exists(), f"write docs/{folder}/{entry.component.name}.md, and name it in mkdocs.yml"
        assert f"../{folder}/{entry.component.name}.html" in (site / "reference" / "components.html").read_text()


@pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)
def test_each_method_is_described_alike(page):
    text = re.sub(r"```.*?```", "```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [heading for heading in headings if heading in HEADINGS[page.parent.name]] == HEADINGS[page.parent.name]
    for heading, section in zip(headings, re.split(r"^## .+$", text, flags=re.MULTILINE)[1:], strict=True):
        assert len(section.split()) > 5 or "```" in section, heading
    assert "```python" in page.read_text(encoding="utf-8")


def test_hooks_commands_and_components_are_those_of_the_code(site):
    hooks = (site / "reference" / "hooks.html").read_text(encoding="utf-8")
    commands = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    components = (site / "reference" / "components.html").read_text(encoding="utf-8")
    for kind, component_type in KINDS.items():
        assert f'id="{component_type.hook}"' in hooks
        assert f'id="{kind}"' in components
    assert "def encode(" in re.sub(r"<.*?>", "", hooks)  # the example plugin's quantizer
    for command, option in (("audit", "--float-parent"), ("bench", "--dry-run"), ("new-plugin", "--kind")):
        assert f'id="qadv-{command}"' in commands
        assert option in commands


def test_readmes_of_plugins_become_pages_with_links_that_lead_somewhere(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("site_pages", DOCS / "site_pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for path in ("docs/plugins.md", "docs/attacks/spsa.md", "plugins/a/README.md", "plugins/b/README.md", "tox.ini"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("# Title")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "DOCS", tmp_path / "docs")

    assert pages.plugin_pages() == {"plugins/a.md": "# Title", "plugins/b.md": "# Title"}
    config = pages.on_config({"nav": [{"Plugins": ["plugins.md"]}, "index.md"]})
    assert config["nav"] == [{"Plugins": ["plugins.md", "plugins/a.md", "plugins/b.md"]}, "index.md"]
    for page, link, expected in (
        ("plugins/a.md", "../../docs/plugins.md#x", "../plugins.md#x"),
        ("plugins/a.md", "../b/README.md", "b.md"),
        ("plugins/a.md", "../../tox.ini", pages.SOURCE + "tox.ini"),
        ("plugins/a.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("attacks/spsa.md", "../plugins.md", "../plugins.md"),
        ("attacks/spsa.md", "../../tox.ini", pages.SOURCE + "tox.ini"),
        ("attacks/spsa.md", "../../plugins/b/README.md#c", "../plugins/b.md#c"),
        ("attacks/spsa.md", "not-there.md", "not-there.md"),
    ):
        assert pages.site_links(f"see [this]({link}).", page) == f"see [this]({expected})."
