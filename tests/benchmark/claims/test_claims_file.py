"""Files of claims: what they say, and what is refused, with its line."""

import pytest

from qadv.benchmark.claims.claims_file import Selection, read_claims
from qadv.benchmark.study_file import StudyError

TEXT = """
[papers]
P = "A paper"

[[claims]]
paper = "P"
claim = "more"
where = { study = "hand-small", attack = "{attack}-{eps}" }
each = { attack = ["PGD", "FGSM"], eps = ["2", "8"] }
more = { defense = "A" }
than = [{ defense = "B" }, { defense = "C{eps}" }]

[[claims]]
paper = "P"
claim = "who knows"
out_of_reach = "there are no such images"
"""


def read(folder, text):
    path = folder / "claims.toml"
    path.write_text(text)
    return read_claims(path)


def test_a_claim_is_a_comparison_for_each_case(tmp_path):
    file = read(tmp_path, TEXT)
    (first, *_, last), none = file.comparisons
    assert [each.case for each in file.comparisons[0]] == ["PGD, 2", "PGD, 8", "FGSM, 2", "FGSM, 8"]
    assert first.more == [Selection(study="hand-small", attack="PGD-2", defense="A")]
    assert last.than[1] == Selection(study="hand-small", attack="FGSM-8", defense="C8")
    assert none == ()
    assert {each.effect for each in file.comparisons[0]} == {None}
    file = read(tmp_path, TEXT.replace('claim = "more"', 'claim = "more"\neffect = [5, 6.5, -7, 0]'))
    assert [each.effect for each in file.comparisons[0]] == [5, 6.5, -7, 0]
    assert file.studies == ["hand-small"]


def test_lists_are_means(tmp_path):
    found = Selection(quantizer=["a", "b"], defense="d", attack=["x", "y"])
    assert [(each.quantizer, each.attack) for each in found.each()] == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


FAULTS = {
    "a paper that is not there": ('paper = "P"', 'paper = "Q"', 6, "no paper 'Q'"),
    "an unknown key": ("more = { def", "more = { quantizr = '', def", 10, "no key 'quantizr' here; did you mean"),
    "an unknown key of a claim": ("where = {", "were = {", 8, "no key 'were' here; did you mean where"),
    "three selections": ('{ defense = "B" },', '{ defense = "B" }, { defense = "B" },', 11, "at most 2 items"),
    "a name that each does not have": ("-{eps}", "-{epsilon}", 10, "{epsilon} is no entry of each"),
    "no study": ('study = "hand-small", ', "", 10, "names no study"),
    "a measure without a value": ('attack = "{attack}-{eps}"', 'measure = "audit"', 10, "a measure needs a value"),
    "no comparison": ("out_of_reach", "note", 13, "expected a comparison"),
    "effects of some cases": ('claim = "more"', 'claim = "more"\neffect = [1, 2]', 5, "effect: expected 4 numbers"),
    "an effect of no comparison": ('claim = "who', 'effect = [1]\nclaim = "who', 13, "effect: expected 0 numbers"),
    "no TOML": ("[papers]", "[papers", None, "claims.toml"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_has_its_line(what, tmp_path):
    old, new, line, message = FAULTS[what]
    with pytest.raises(StudyError) as caught:
        read(tmp_path, TEXT.replace(old, new, 1))
    assert message in str(caught.value)
    assert line is None or f"claims.toml:{line}:" in str(caught.value)
