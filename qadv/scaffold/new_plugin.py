"""`new_plugin`: writes the files of a plugin that works as it stands."""

import keyword
import os
import re
import sys
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from qadv import __version__
from qadv.components import component_type
from qadv.errors import InvalidInputError, StorageError
from qadv.registry import default_registry

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TAKEN = {"qadv", "art", "torch", "brevitas", "timm", "tests", "test", "plugin"}


def new_plugin(name: str, kind: str = "attack", out: str | os.PathLike[str] = ".") -> Path:
    """Writes a distribution with one component of a kind: it installs, is listed, and passes `qadv.testing`.

    `name` is lower case words joined by hyphens; without a leading `qadv-` it is the component's. Returns the
    distribution's folder, `out/name`.
    """
    descriptor = component_type(kind)
    words = _words(name, kind)
    folder = Path(out) / name
    if folder.exists():
        raise StorageError(f"{folder} exists already; choose another name, or another folder with --out")
    package, component, module = name.replace("-", "_"), "-".join(words), "_".join(words)
    values = {
        "name": name,
        "package": package,
        "module": module,
        "kind": kind,
        "descriptor": descriptor.__name__,
        "hook": descriptor.hook,
        "component": component,
        "class_name": "".join(word.capitalize() for word in words),
        "function": module,
        "version": __version__,
    }
    environment = Environment(
        loader=PackageLoader("qadv.scaffold"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    code = environment.get_template(f"components/{kind}.py.jinja")
    # a template says what `conformance` needs besides the name, and what its target is
    parts = code.make_module(values)
    target, options = str(getattr(parts, "target")), str(getattr(parts, "options", ""))  # noqa: B009
    values |= {"target": target, "options": options, "summary": str(getattr(parts, "summary"))}  # noqa: B009
    values["imports"] = f"{imports}\n" if (imports := str(getattr(parts, "imports", ""))) else ""
    files = {
        "pyproject.toml": "pyproject.toml.jinja",
        "README.md": "README.md.jinja",
        f"src/{package}/plugin.py": "plugin.py.jinja",
        f"src/{package}/{module}.py": f"components/{kind}.py.jinja",
        "tests/test_conformance.py": "test_conformance.py.jinja",
    }
    texts = {path: environment.get_template(template).render(values).lstrip("\n") for path, template in files.items()}
    texts[f"src/{package}/__init__.py"] = f'"""The {kind} `{component}` for qadv."""\n'
    try:
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder} can't be written: {error}; choose another folder with --out") from error
    return folder


def _words(name: str, kind: str) -> list[str]:
    """Returns the words of the component's name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInputError(f"NAME: expected lower case words joined by hyphens, as 'qadv-blur', got {name!r}")
    component = name.removeprefix("qadv-")
    package, module = name.replace("-", "_"), component.replace("-", "_")
    taken = {*keyword.kwlist, *sys.stdlib_module_names, *_TAKEN}
    if not module[0].isalpha() or {package, module} & taken:
        raise InvalidInputError(
            f"NAME: {name!r} can't be a Python module's name, or hides another module; try 'qadv-my-{component}'"
        )
    if any(entry.component.name == component for entry in default_registry().entries(kind)):
        raise InvalidInputError(
            f"NAME: another {kind} has the name {component!r}, and two of a name can't be used bare; "
            f"try 'qadv-my-{component}'"
        )
    return component.split("-")
