"""Lays pages out as HTML and Markdown."""

import re
from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from qadv.benchmark.report.content import StudyPage

_MARKS = re.compile(r"([\\`*_\[\]|#~])")


def html_page(
    pages: Sequence[StudyPage], left_out: Mapping[str, str] | None = None, made_by: str = "qadv report"
) -> str:
    """Returns one page for all studies, which loads nothing from anywhere, and says which are left out, and why."""
    title = pages[0].study.title if len(pages) == 1 else f"{len(pages)} studies"
    page = _environment().get_template("page.html")
    return page.render(title=title, pages=pages, left_out=left_out or {}, made_by=made_by)


def markdown_page(page: StudyPage) -> str:
    """Returns the tables of one study."""
    text = _environment().get_template("study.md").render(page=page)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escaped_markdown(text: str) -> str:
    """Returns a text that Markdown shows as it is, on one line."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\1", plain)


def fence(text: str) -> str:
    """Returns what opens and closes a block with this text: more backticks than are in it."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qadv.benchmark.report"),
        autoescape=lambda name: name is None or not name.endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": escaped_markdown, "fence": fence}
    return environment
