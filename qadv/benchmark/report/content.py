"""What a report consists of, as plain data: the templates only lay it out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from qadv.benchmark.study import Study

_NUMBER = re.compile(r"[-+−]?\d[\d,.]*(e[-+]?\d+)?(/\d+)?( .{,30})?$")  # a sentence may begin with one, too


@dataclass(frozen=True)
class Value:
    """What stands in one place of a table, with the paper's beside it; `tone`: `"good"`, `"bad"`, `"muted"` or none."""

    text: str
    published: str = ""
    tone: str = ""

    @property
    def is_number(self) -> bool:
        return bool(_NUMBER.match(self.text))


Row = list[Value | str]


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows, notes stand below it. A folded one is shown when it is asked for."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()
    folded: bool = False
    kind: str = "table"

    def is_numeric(self, column: int) -> bool:
        """Whether a column is aligned right: numbers, and words in the place of missing ones."""
        values = [row[column] for row in self.rows]
        return any(v.is_number for v in values) and all(v.is_number or v.tone or v.text == "–" for v in values)

    @classmethod
    def of(cls, caption: str, columns: Sequence[str], rows: Sequence[Row], *notes: str, folded: bool = False) -> Self:
        """Returns a table; texts may stand for values."""
        made = (tuple(value if isinstance(value, Value) else Value(value) for value in row) for row in rows)
        return cls(caption, tuple(columns), tuple(made), notes, folded)


@dataclass(frozen=True)
class Figure:
    """A figure within the page; `source` is a `data:` address."""

    caption: str
    source: str
    folded: bool = False
    kind: str = "figure"


@dataclass(frozen=True)
class Text:
    """Text as it stands, in lines."""

    caption: str
    text: str
    folded: bool = True
    kind: str = "text"


@dataclass(frozen=True)
class Note:
    """A paragraph; `tone` as in `Value`."""

    text: str
    tone: str = ""
    kind: str = "note"


@dataclass(frozen=True)
class Example:
    """One attacked image and those beside it, `data:` addresses by what they show, with what the network says."""

    pictures: Mapping[str, str]
    caption: str
    tone: str = ""


@dataclass(frozen=True)
class Gallery:
    """Examples of one network."""

    caption: str
    examples: tuple[Example, ...]
    kind: str = "gallery"


@dataclass(frozen=True)
class Bar:
    """A network in a chart: percentages in the worst case and clean, the worst case's interval, and it as text."""

    label: str
    worst: float
    clean: float
    low: float
    high: float
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Bars:
    """A chart of networks."""

    caption: str
    bars: tuple[Bar, ...]
    kind: str = "bars"


Block = Table | Figure | Text | Note | Gallery | Bars


@dataclass(frozen=True)
class Section:
    """A part of a study's page."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        return slug(self.title)


@dataclass(frozen=True)
class About:
    """What stands above a page, in place of a study."""

    title: str
    about: str = ""
    paper: str = ""
    claims: Sequence[str] = ()


@dataclass(frozen=True)
class StudyPage:
    """A page: its plan's name, what the study says of itself, its settings, what was found, and that as a sentence."""

    name: str
    study: Study | About
    small: bool
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    lead: str = ""

    @property
    def anchor(self) -> str:
        return slug(self.name)


def slug(text: str) -> str:
    """Returns a text as part of a file's name or of an address: letters, digits and single hyphens."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-_") or "unnamed"
