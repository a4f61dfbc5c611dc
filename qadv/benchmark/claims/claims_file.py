"""What a file of claims may say: comparisons of cells of studies, and the direction that a paper claims."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product, zip_longest
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from qadv.benchmark.study import Number, Source, StudyPart
from qadv.benchmark.study_file import Place, StudyError, located, read_toml, validated
from qadv.errors import InvalidInputError, closest

Names = str | Annotated[list[str], Field(min_length=1)]


class Selection(StudyPart):
    """Cells of a study, one for each seed, by its names; what the study has one of need not be said.

    A list of names is the mean over them. Without `value` it is the accuracy, in %.

    Attributes:
        study: as in the results' folder, `claims-dq-small`.
        attack: without it, accuracy on clean images.
        source: with attacks from each network (`source = "each"`), the one that the images were made on.
        measure, value: a diagnostic, and the place of a number in its result, as `distance.0`; a list of true and false
            is by image. `value` of an attack is in its record; of neither, in that of the network, as `seconds`.
    """

    study: str | None = None
    dataset: Names | None = None
    backbone: Names | None = None
    quantizer: Names | None = None
    defense: Names | None = None
    attack: Names | None = None
    source: Source | None = None
    measure: Names | None = None
    value: str | None = None

    def each(self) -> Iterator["Selection"]:
        """Yields the selections that this one is the mean of."""
        lists = {name: names for name, names in self if isinstance(names, list)}
        for chosen in product(*lists.values()):
            yield self.model_copy(update=dict(zip(lists, chosen, strict=True)))


_VARIABLE = re.compile(r"\{(\w+)\}")
_listed = BeforeValidator(lambda value: [value] if isinstance(value, dict) else value)
Side = Annotated[list[Selection], _listed, Field(max_length=2)]


class Claim(StudyPart):
    """A claim: `more` is larger than `than`, by more than `margin`, in every case of `each`.

    Attributes:
        paper: entry of `papers`.
        claim: one line.
        published: the paper's figures, and where they stand.
        effect: what `more` less `than` is there, for each case of `each`; how ours compares stands beside the verdict.
        where: what all selections have in common.
        more, than: a selection, or two: the first less the second. One of the sides may be left out, it is 0.
        margin: in the unit of the figures, points for accuracies; below 0: not worse by more than that.
        each: texts by a name of your choice; `{name}` in a selection stands for each of them.
        out_of_reach: why it can't be judged here; then there is no comparison.
        note: for the reader, e.g. that another data set stands in.
    """

    paper: str
    claim: str
    published: str = ""
    effect: list[Number] = []
    where: Selection = Selection()
    more: Side = []
    than: Side = []
    margin: Number = 0.0
    each: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    out_of_reach: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _compares(self) -> "Claim":
        if bool(self.more or self.than) is bool(self.out_of_reach):
            raise InvalidInputError("expected a comparison, more = … than = …, or out_of_reach = a reason")
        cases = 0 if self.out_of_reach else math.prod(map(len, self.each.values()))
        if len(self.effect) not in (0, cases):
            raise InvalidInputError(f"effect: expected {cases} numbers, one for each case, got {len(self.effect)}")
        return self


class Claims(StudyPart):
    """A file of claims.

    Attributes:
        about: stands above the tables.
        studies: folder of the study files, for the commands in the table.
        papers: titles by a short name, in their order.
    """

    about: str = ""
    studies: str = "examples/studies"
    papers: Annotated[dict[str, str], Field(min_length=1)]
    claims: Annotated[list[Claim], Field(min_length=1)]


@dataclass(frozen=True)
class Comparison:
    """One case of a claim, with the texts of `each` that it is for."""

    case: str
    more: list[Selection]
    than: list[Selection]
    margin: float
    effect: float | None = None


@dataclass(frozen=True)
class ClaimsFile:
    """Claims, the file that they came from, and its text; the comparisons of each claim."""

    claims: Claims
    path: Path
    text: str
    comparisons: tuple[tuple[Comparison, ...], ...]

    def complain(self, faults: Iterable[tuple[Place, str]]) -> StudyError:
        """Returns an error for what is wrong at some places."""
        return located(self.path, self.text, faults)

    @property
    def studies(self) -> list[str]:
        """Names of the studies that claims are about."""
        found = (each for one in self.comparisons for case in one for each in (*case.more, *case.than))
        return list(dict.fromkeys(str(each.study) for each in found))


def read_claims(path: str | os.PathLike[str]) -> ClaimsFile:
    """Reads claims from a TOML file; what it can't say is a `StudyError`, with its line."""
    path = Path(path)
    content, text = read_toml(path)
    claims = validated(Claims, content, path, text)
    if faults := [fault for index, claim in enumerate(claims.claims) for fault in _faults(claims, claim, index)]:
        raise located(path, text, faults)
    return ClaimsFile(claims, path, text, tuple(tuple(_comparisons(claim)) for claim in claims.claims))


def _faults(claims: Claims, claim: Claim, index: int) -> Iterator[tuple[Place, str]]:
    if claim.paper not in claims.papers:
        near = closest(claim.paper, claims.papers)
        yield ("claims", index, "paper"), f"no paper {claim.paper!r}{near} There are: {', '.join(claims.papers)}"
    for name in ("more", "than"):
        for given in getattr(claim, name):
            place, chosen = ("claims", index, name), _joined(claim.where, given)
            if unknown := set(_VARIABLE.findall(chosen.model_dump_json())) - claim.each.keys():
                yield place, f"{{{min(unknown)}}} is no entry of each"
            if chosen.study is None:
                yield place, "it names no study, and neither does where"
            if chosen.source is not None and chosen.attack is None:
                yield place, "a source is of an attack's images, and it names no attack"
            if chosen.measure is not None and (chosen.value is None or chosen.attack is not None):
                yield place, "a measure needs a value, and has no attack beside it"


def _comparisons(claim: Claim) -> Iterator[Comparison]:
    cases = product(*claim.each.values()) if claim.more or claim.than else ()
    for chosen, effect in zip_longest(cases, claim.effect):
        texts = dict(zip(claim.each, chosen, strict=True))
        more, than = (
            [_filled(_joined(claim.where, given), texts) for given in side] for side in (claim.more, claim.than)
        )
        yield Comparison(", ".join(chosen), more, than, claim.margin, effect)


def _joined(where: Selection, given: Selection) -> Selection:
    return where.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})


def _filled(selection: Selection, texts: Mapping[str, str]) -> Selection:
    """Returns a selection with the texts of one case for `{name}`."""
    text = _VARIABLE.sub(lambda match: json.dumps(texts[match[1]])[1:-1], selection.model_dump_json())
    return Selection.model_validate_json(text)
