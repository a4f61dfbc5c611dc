"""The Python blocks of README and docs run as they stand, their commands exist, and their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from qadv.cli import app
from qadv.errors import MissingRequirementError

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = re.compile(r"\breference/(hooks|command-line|components)\.md$")  # by docs/site_pages.py; tests/test_site.py
SCRIPT = re.compile(r"python (?P<path>(?:examples|benchmarks)/\S+\.py)(?P<arguments>.*)")


def name(page):
    return page.relative_to(ROOT).as_posix()


def commands(text):
    """The commands in fenced blocks without a language and in indented blocks; what is chained comes one by one."""
    fence = None
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif fence == "" or (fence is None and line.startswith("    ")):
            for command in line.split("&&"):
                yield " ".join(command.partition(" #")[0].split()).removeprefix(".venv/bin/")


BLOCKS = [
    pytest.param(block, id=f"{name(page)}-{index}")
    for page in PAGES
    for index, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]
INLINE = re.compile(r"`(qadv [a-z][^`…]*)`")
QADV = sorted(
    {
        command
        for page in PAGES
        for command in [*commands(page.read_text(encoding="utf-8")), *INLINE.findall(page.read_text(encoding="utf-8"))]
        if command.startswith("qadv ")
    }
)
SCRIPTS = sorted(
    {
        match.group("path", "arguments")
        for page in PAGES
        for command in commands(page.read_text(encoding="utf-8"))
        if (match := SCRIPT.fullmatch(command)) is not None
    }
)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("block", BLOCKS)
def test_code_blocks_run(block, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "own_plugin" / "src"))
    try:
        exec(compile(block, "<documentation>", "exec"), {"__name__": "documentation"})
    except MissingRequirementError as error:
        pytest.skip(str(error))


def parse(command):
    """Parses a command line of qadv; what it lacks or has too much of raises typer's own usage error."""
    _, chosen, *arguments = shlex.split(command)
    found = typer.main.get_command(app).commands[chosen]
    if not arguments:  # the command's name in a sentence
        return
    found.make_context(f"qadv {chosen}", arguments)


@pytest.mark.parametrize("command", QADV)
def test_commands_parse(command):
    parse(command)


def test_a_command_that_does_not_exist_is_noticed():
    with pytest.raises(KeyError):
        parse("qadv defend net.safetensors")
    with pytest.raises(Exception, match="--strong"):
        parse("qadv audit net.safetensors --dataset digits --strong")
    with pytest.raises(Exception, match="dataset"):
        parse("qadv audit net.safetensors")


@pytest.mark.repository
@pytest.mark.parametrize(("path", "arguments"), SCRIPTS)
def test_options_of_scripts_exist(path, arguments):
    source = (ROOT / path).read_text(encoding="utf-8")
    for option in re.findall(r"--([a-z][\w-]*)", arguments):
        said = {f'"--{option}"', f"{option.replace('-', '_')}: "}
        said |= (
            {f"{option.removeprefix('no-').replace('-', '_')}: Annotated[bool"} if option.startswith("no-") else set()
        )
        assert any(text in source for text in said), option


@pytest.mark.repository
def test_commands_are_found():
    text = "```\nqadv list  # all\npython a.py \\\n    --b && qadv report x\n```\nqadv is prose\n\n    qadv demo\n"
    assert list(commands(text)) == ["qadv list", "python a.py --b", "qadv report x", "qadv demo"]
    assert len(QADV) > 15
    assert len(SCRIPTS) > 15


@pytest.mark.core
@pytest.mark.repository
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http") and not GENERATED.search(target):
            assert (page.parent / target).exists(), target


@pytest.mark.repository
def test_pages_that_code_names_exist():
    for source in [*(ROOT / "qadv").rglob("*.py"), *(ROOT / "examples").rglob("*"), ROOT / "CHANGELOG.md"]:
        if source.suffix in (".py", ".toml", ".md"):
            for page in re.findall(r"\bdocs/[\w/-]+\.md", source.read_text(encoding="utf-8")):
                assert (ROOT / page).exists(), f"{source}: {page}"


@pytest.mark.core
@pytest.mark.repository
def test_every_make_target_that_the_readme_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
