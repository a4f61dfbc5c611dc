"""What is added to docs/ when mkdocs builds the site: pages made from the code, and the README of each plugin.

Nothing of it is committed, so that it cannot be stale. `generated_pages` is plain Python and knows nothing of mkdocs;
the functions `on_…` at the end are called by it (mkdocs.yml, `hooks`).
"""

import inspect
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

from qadv import hookspecs
from qadv.cli import app
from qadv.components import KINDS, Component
from qadv.registry import default_registry

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SOURCE = "https://github.com/qadv/qadv/blob/main/"  # where links to files that are no pages lead
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def generated_pages() -> dict[str, str]:
    """Returns the Markdown of each generated page by its path in docs/."""
    return {
        "reference/hooks.md": hooks_page(),
        "reference/command-line.md": command_line_page(),
        "reference/components.md": components_page(),
        **plugin_pages(),
    }


def hooks_page() -> str:
    """The hooks, from their docstrings, and the example plugin, from its files."""
    parts = ["# Hooks", _fenced(inspect.getdoc(hookspecs) or "", "toml")]
    parts += ["What [`qadv.testing`](../conformance.md) checks on a target of each kind is on its page."]
    for component in KINDS.values():
        hook = getattr(hookspecs, component.hook)
        parts += [f"## `{hook.__name__}`", _fenced(inspect.getdoc(hook) or "", "python")]
    parts += ["## What a descriptor says", _arguments(Component), "## A complete plugin"]
    parts += [f"[`examples/own_plugin`]({SOURCE}examples/own_plugin) is installed and tested as it stands here."]
    example = ROOT / "examples" / "own_plugin"
    package = example / "src" / "qadv_pow2"
    for path in (example / "pyproject.toml", package / "plugin.py", package / "pow2.py", package / "sign_noise.py"):
        language = "toml" if path.suffix == ".toml" else "python"
        parts += [f"`{path.relative_to(example)}`", f"```{language}\n{path.read_text(encoding='utf-8').strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def command_line_page() -> str:
    """The commands, as their own `--help` describes them."""
    group: Any = typer.main.get_command(app)
    parts = ["# Command line", f"{group.help} `qadv COMMAND --help` says in a terminal what is said here."]
    parts += [
        "| command | what it does |\n|---|---|\n"
        + "\n".join(
            f"| [`qadv {name}`](#qadv-{name}) | {_cell(command.help)} |" for name, command in group.commands.items()
        )
    ]
    for name, command in group.commands.items():
        context = command.make_context(f"qadv {name}", [], resilient_parsing=True)
        usage = command.get_usage(context).removeprefix("Usage:").strip()
        parts += [f"## `qadv {name}` {{ #qadv-{name} }}", command.help, f"```\n{usage}\n```"]
        rows = [record for param in command.params if (record := param.get_help_record(context))]
        if rows:
            table = "\n".join(f"| `{_cell(names)}` | {_cell(text)} |" for names, text in rows)
            parts.append("| argument or option | what |\n|---|---|\n" + table)
    return "\n\n".join(parts) + "\n"


def components_page() -> str:
    """qadv's own components by kind; what has a page of its own is linked."""
    parts = [
        "# Components",
        "What `qadv list KIND` shows without any plugin. Each is made by "
        "`qadv.create(kind, name, …)`; the hook of its kind is what a [plugin](hooks.md) implements.",
    ]
    for component_type in KINDS.values():
        entries = [e for e in default_registry().entries(component_type.kind) if e.distribution == "qadv"]
        parts += [f"## {component_type.kind.capitalize()}", _text(component_type)]
        rows = [f"| {_linked(entry.component)} | {_cell(entry.component.summary)} |" for entry in entries]
        parts.append("| name | what |\n|---|---|\n" + "\n".join(rows) if rows else "qadv itself has none.")
    return "\n\n".join(parts) + "\n"


def plugin_pages() -> dict[str, str]:
    """The README of each distribution in plugins/."""
    found = sorted((ROOT / "plugins").glob("*/README.md"))
    return {f"plugins/{path.parent.name}.md": path.read_text(encoding="utf-8") for path in found}


def site_links(markdown: str, page: str) -> str:
    """Rewrites the links of a page, a path in docs/, that are right in the repository and would be wrong on the site.

    Pages are linked as pages, other files of the repository where their source is published.
    """
    plugin = re.fullmatch(r"plugins/(.+)\.md", page)
    here = ROOT / "plugins" / plugin[1] if plugin else (DOCS / page).parent

    def rewritten(match: re.Match[str]) -> str:
        start, target, anchor, end = match.groups(default="")
        path = Path(os.path.normpath(here / target))
        if re.match(r"[a-z]+:", target) or not path.exists():
            return match[0]
        if path.is_relative_to(DOCS):
            linked = path.relative_to(DOCS)
        elif path.name == "README.md" and path.parent.parent == ROOT / "plugins":
            linked = Path("plugins", f"{path.parent.name}.md")
        else:
            return f"{start}{SOURCE}{path.relative_to(ROOT).as_posix()}{anchor}{end}"
        return f"{start}{Path(os.path.relpath(linked, Path(page).parent)).as_posix()}{anchor}{end}"

    return _LINK.sub(rewritten, markdown)


def _fenced(docstring: str, language: str) -> str:
    """Returns the docstring with its indented blocks between fences."""
    block = re.compile(r"((?:^ {4}.*\n?|^\n(?= {4}))+)", re.MULTILINE)
    return block.sub(lambda m: f"```{language}\n{textwrap.dedent(m[1]).strip()}\n```\n", docstring)


def _arguments(documented: type) -> str:
    """Returns the section `Args:` of a docstring as a table."""
    section = (inspect.getdoc(documented) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"(\w+): (.*(?:\n {4,}.*)*)", textwrap.dedent(section))
    return "| field | what |\n|---|---|\n" + "\n".join(f"| `{name}` | {_cell(text)} |" for name, text in entries)


def _text(documented: type) -> str:
    return (inspect.getdoc(documented) or "").strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _linked(component: Component) -> str:
    page = f"{'attacks' if component.kind == 'attack' else 'defenses'}/{component.name}.md"
    return f"[`{component.name}`](../{page})" if (DOCS / page).exists() else f"`{component.name}`"


def on_config(config: Any) -> Any:
    """Adds the plugins' pages, and the developers' page if there is one, to the navigation."""
    sections = {name: pages for entry in config["nav"] if isinstance(entry, dict) for name, pages in entry.items()}
    sections["Plugins"] += sorted(plugin_pages())
    if (DOCS / "developing.md").exists():
        sections["Reference"].append("developing.md")
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages."""
    for path, markdown in generated_pages().items():
        files.append(File.generated(config, path, content=markdown))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mends links."""
    return site_links(markdown, page.file.src_uri)
