"""Verdicts: what is compared, how many seeds it takes, and what is refused."""

import shutil

import pytest

from qadv.benchmark.cells import Finished
from qadv.benchmark.claims.claims_file import read_claims
from qadv.benchmark.claims.evidence import Evidence
from qadv.benchmark.claims.judging import judge
from qadv.benchmark.report.results import gather
from qadv.benchmark.study_file import StudyError
from tests.benchmark.claims.results import write_results


def evidence_in(store):
    return Evidence(store, {"hand-small": gather(store, "hand-small", store.plan("hand-small"), read=False)})


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return evidence_in(write_results(tmp_path_factory.mktemp("results")))


@pytest.fixture
def judged(evidence, tmp_path):
    def judged(comparison, study="hand-small", by=evidence):
        path = tmp_path / "claims.toml"
        where = f'where = {{ study = "{study}" }}\n'
        path.write_text(f'[papers]\nP = "p"\n\n[[claims]]\npaper = "P"\nclaim = "c"\n{where}{comparison}\n')
        return judge(read_claims(path), by)[0]

    return judged


FGSM = 'more = {{ defense = "{}", attack = "fgsm" }}\nthan = {{ defense = "{}", attack = "fgsm" }}'


def test_what_is_larger_is_confirmed_and_what_is_smaller_refuted(judged):
    claim = judged(FGSM.format("A", "B"))
    (found,) = claim.found
    assert (found.more, found.than, found.images, found.seeds) == (51.0, 31.0, 200, (0, 1, 2))
    assert 14 < found.low < 20 < found.high < 26
    assert claim.verdict == "confirmed"
    assert judged(FGSM.format("B", "A")).verdict == "refuted"


def test_no_difference_is_undecided(judged):
    assert judged('more = { defense = "A" }\nthan = { defense = "B" }').verdict == "undecided"


def test_a_margin_is_what_the_difference_has_to_exceed(judged):
    clean = 'more = {{ defense = "A" }}\nthan = {{ defense = "B" }}\nmargin = {}'
    assert judged(clean.format(-5)).verdict == "confirmed"
    assert judged(clean.format(5)).verdict == "refuted"
    assert judged('more = { defense = "A" }\nmargin = "80"').verdict == "confirmed"
    assert judged('than = { defense = "A" }\nmargin = -80').verdict == "refuted"


@pytest.mark.parametrize(
    ("effects", "said"), [([60], "smaller"), ([-60], "larger"), ([20], ""), ([60, -60], ""), ([60, 20], "")]
)
def test_the_published_difference_is_compared_with_the_interval(effects, said, judged):
    claim = judged(f"""each.other = {["B"] * len(effects)}
effect = {effects}
more = {{ defense = "A", attack = "fgsm" }}
than = {{ defense = "{{other}}", attack = "fgsm" }}""")
    assert claim.beside_published == said
    assert claim.verdict == "confirmed"


def test_two_seeds_say_nothing_of_the_published_difference(judged):
    claim = judged(
        'more = { defense = "A", attack = "fgsm" }\nthan = { defense = "C", attack = "fgsm" }\neffect = [900]'
    )
    assert len(claim.found[0].seeds) < 3
    assert claim.beside_published == ""


def test_a_difference_of_differences(judged):
    claim = judged("""more = [{ defense = "A" }, { defense = "A", attack = "fgsm" }]
than = [{ defense = "B" }, { defense = "B", attack = "fgsm" }]""")
    assert (claim.found[0].more, claim.found[0].than) == pytest.approx((40, 60))
    assert claim.verdict == "refuted"


def test_the_first_images_that_both_are_of_are_compared(judged):
    (found,) = judged('more = { defense = "A", attack = "few" }\nthan = { defense = "B", attack = "fgsm" }').found
    assert (found.images, found.more, found.than) == (100, 91.0, 62.0)


def test_a_list_is_the_mean_over_its_names(judged):
    (found,) = judged('more = { defense = ["A", "B"], attack = "fgsm" }').found
    assert found.more == pytest.approx(41)


def test_fewer_than_three_seeds_decide_nothing_and_none_is_not_run(judged):
    one = judged('more = { defense = "A", attack = "fgsm" }\nthan = { defense = "C", attack = "fgsm" }')
    assert one.found[0].seeds == (0,)
    assert one.found[0].low > 40
    assert one.verdict == "undecided"
    assert judged(FGSM.format("A", "B"), study="another").verdict == "not run"


def test_each_case_has_to_hold_and_one_against_it_refutes(judged):
    each = 'each.network = {}\nmore = {{ defense = "{{network}}", attack = "fgsm" }}\nmargin = {}'
    assert judged(each.format('["A", "B"]', 20)).verdict == "confirmed"
    assert judged(each.format('["A", "B"]', 40)).verdict == "refuted"
    assert judged(each.format('["A", "B"]', 31)).verdict == "undecided"
    assert judged(each.format('["A", "C"]', 20)).verdict == "undecided"


def test_a_missing_or_damaged_cell_is_no_evidence(judged, tmp_path):
    store = write_results(tmp_path / "others")
    first, second, *_ = (cell["key"] for cell in store.plan("hand-small")["cells"] if cell["kind"] == "measure")
    robust = 'more = { defense = "A", measure = "audit", value = "robust" }\nmargin = 10'
    assert judged(robust, by=evidence_in(store)).verdict == "confirmed"
    shutil.rmtree(store.cells / first)
    claim = judged(robust, by=evidence_in(store))
    assert (claim.found[0].seeds, claim.verdict) == ((1, 2), "undecided")
    (store.cells / second / "record.json").write_text("{}")
    assert judged(robust, by=evidence_in(store)).found[0].seeds == (2,)


def test_seeds_of_the_same_networks_are_one(judged, tmp_path):
    store = write_results(tmp_path / "others")
    networks = [cell for cell in store.plan("hand-small")["cells"] if cell["kind"] == "network"]
    for number, (defense, seeds) in enumerate([("B", (0, 1)), ("A", (0, 1)), ("A", (2,)), ("B", (2,))]):
        for cell in networks:
            if cell["place"]["defense"] == defense and cell["place"]["seed"] in seeds:
                store.write(cell["key"], Finished(store.read(cell["key"]).record, {"f.bin": defense.encode()}))
        claim = judged(FGSM.format("A", "B"), by=evidence_in(store))
        seeds, verdict = [((0, 1, 2), "confirmed"), ((0, 2), "undecided"), ((0, 2), "undecided"), ((0,), "undecided")][
            number
        ]
        assert (claim.found[0].seeds, claim.verdict) == (seeds, verdict)


def test_images_of_other_data_by_the_same_name_are_not_paired(judged, tmp_path):
    store = write_results(tmp_path / "others")
    plan = store.plan("hand-small")
    for digest, name in (("one", "hand-small"), ("one", "same-small"), ("two", "other-small")):
        cells = []
        for cell in plan["cells"]:
            record = store.read(cell["key"], files=False).record if store.is_finished(cell["key"]) else None
            cells.append({**cell, "key": f"{name[0]}{cell['key'][1:]}"})
            cells[-1]["needs"] = [f"{name[0]}{need[1:]}" for need in cell["needs"]]
            if record is not None:
                spec = {"input_shape": [1, 8, 8], "dataset": {"name": "digits", "digest": digest}}
                spec = spec if cell["kind"] == "network" else {}
                store.write(cells[-1]["key"], Finished({**record, "spec": spec}))
        store.write_plan(name, {**plan, "cells": cells})
    names = ("hand-small", "same-small", "other-small")
    evidence = Evidence(store, {name: gather(store, name, store.plan(name), read=False) for name in names})
    across = FGSM.format("A", "B").replace("than = {", 'than = { study = "{}",')
    assert judged(across.replace("{}", "same-small"), by=evidence).verdict == "confirmed"
    with pytest.raises(StudyError, match="hand-small and other-small have other images by the name of digits"):
        judged(across.replace("{}", "other-small"), by=evidence)


def test_images_from_other_networks(judged):
    def of(selection):
        return judged(f"more = {selection}").found[0].more

    assert of('{ defense = "B", attack = "moved" }') == 31  # on itself
    assert of('{ defense = "B", attack = "moved", source = { defense = "A" } }') == 20
    assert of('{ defense = "B", attack = "from A" }') == 20
    assert of('{ defense = "A", attack = "moved", source = { defense = "B" } }') == 10
    assert of('{ defense = "A", attack = "moved", source = { defense = "A" } }') == 51


def test_values_of_measures_attacks_and_networks(judged):
    (found,) = judged('more = { defense = "A", measure = "audit", value = "distance.-1" }\nmargin = 0.5').found
    assert (found.images, found.more, found.verdict) == (None, pytest.approx(0.51), "undecided")
    assert judged('more = { defense = "A", measure = "audit", value = "robust" }').found[0].more == 25
    assert judged('more = { defense = "A", attack = "fgsm", value = "seconds" }').found[0].more == 2
    seconds = judged('more = { defense = "B", value = "seconds" }\nthan = { defense = "A", value = "seconds" }')
    assert (seconds.found[0].more, seconds.found[0].than, seconds.verdict) == (21, 11, "confirmed")
    assert judged('more = { defense = "A", measure = "audit", value = "none" }').verdict == "not run"


REFUSED = {
    'more = { defense = "D" }': "study hand-small has no defense 'D'",
    'more = { attack = "fgsm" }': "3 cells of study hand-small are that (attack",
    'more = { defense = "C", attack = "few" }': "no cell of study hand-small is that: study hand-small, defense C",
    'more = { defense = "A", attack = "fgsm", source = { defense = "B" } }': "defense A, attack fgsm, source",
    'more = { defense = "A", source = { defense = "B" } }': "a source is of an attack's images",
    'more = { defense = "A", measure = "audit", value = "distance.7" }': "at '7' there are 2 entries",
    'more = { defense = "A", measure = "audit", value = "dist" }': "at 'dist' there are distance, robust, none",
    'more = { defense = "A", measure = "audit", value = "distance" }': "is no number",
    'more = { defense = "A", measure = "audit", value = "text" }': "is no number",
    'more = { defense = "A", measure = "of all", value = "similarity" }': "of several networks, and not of one defense",
    'more = { defense = "A" }\nthan = { defense = "A", value = "seconds" }': "with numbers in another unit",
}  # fmt: skip


@pytest.mark.parametrize("comparison", REFUSED)
def test_what_the_study_does_not_have_is_refused_with_its_line(comparison, judged):
    with pytest.raises(StudyError, match=r"claims\.toml:8: claims\.0\.more: ") as caught:
        judged(comparison)
    assert REFUSED[comparison] in str(caught.value)
