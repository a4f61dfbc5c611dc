"""The page of claims: made from cells alone, and again from their records alone."""

import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qadv.benchmark.claims.build import build_claims
from qadv.cli import app
from tests.benchmark.claims.results import write_results

ROOT = Path(__file__).parents[3]
CLAIMS = """
about = "About them."

[papers]
P = "A paper | of 2020"

[[claims]]
paper = "P"
claim = "A is better"
published = "9 → 10"
note = "digits for photographs"
where = { study = "hand-small", attack = "fgsm" }
each.than = ["B", "C"]
more = { defense = "A" }
than = { defense = "{than}" }

[[claims]]
paper = "P"
claim = "B takes longer"
where = { study = "hand-small", value = "seconds" }
more = { defense = "B" }
than = { defense = "A" }
margin = -5
effect = [12]

[[claims]]
paper = "P"
claim = "not yet"
more = { study = "other-small" }

[[claims]]
paper = "P"
claim = "never"
out_of_reach = "no such images"
"""


@pytest.fixture
def claims(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS)
    return path


def test_the_page_says_figures_data_verdict_and_command(claims, tmp_path):
    write_results(tmp_path / "results")
    made = build_claims(tmp_path / "results", claims, tmp_path / "page.md")
    assert made.verdicts == ("undecided", "confirmed", "not run", "out of reach")
    assert "no such study" in made.not_there["other-small"]
    lines = made.page.read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    assert rows[:2] == [
        ["paper", "confirmed", "refuted", "undecided", "not run", "out of reach"], ["P", "1", "0", "1", "1", "1"]
    ]  # fmt: skip
    better, longer, later, never = rows[3:]
    assert better[:2] == ["A is better (digits for photographs)", "9 → 10"]
    assert better[2].startswith(r"B: +20.0 \[1")
    assert r"\] (51.0 against 31.0); C: +50.0 \[" in better[2]
    assert better[3] == "digits (1×8×8), 200 images, 3 seeds; digits (1×8×8), 200 images, 1 seed"
    assert better[4:] == ["undecided", "qadv bench examples/studies/hand.toml --small"]
    assert longer[2:4] == [
        r"+10 \[10, 10\], claimed above -5, published +12 (21 against 11)",
        "digits (1×8×8), 3 seeds",
    ]
    assert longer[4] == "confirmed, smaller than published"
    assert later[2:5] == ["not run", "–", "not run"]
    assert never[2:] == ["no such images", "–", "out of reach", "–"]
    assert "- cells behind the figures: 14, computed in 0.1 hours" in lines


def test_the_records_alone_make_the_same_page(claims, tmp_path):
    write_results(tmp_path / "results")
    (tmp_path / "results" / "studies" / "unasked.json").write_text("{")
    run = [tmp_path / "results", claims, "--out", tmp_path / "page.md", "--records", tmp_path / "records"]
    result = CliRunner().invoke(app, ["claims", *map(str, run)])
    assert result.exit_code == 0, result.output
    assert "1 undecided, 1 confirmed, 1 not run, 1 out of reach" in result.output
    assert "not run: other-small: there is no such study" in result.output
    again = build_claims(tmp_path / "records", claims, tmp_path / "again.md", tmp_path / "twice")
    assert again.page.read_text() == (tmp_path / "page.md").read_text()
    for copy in ("records", "twice"):
        files = [path for path in (tmp_path / copy).rglob("*") if path.is_file() and path.name != ".lock"]
        assert {path.name for path in files} == {"record.json.gz", "hand-small.json"}


def test_records_of_another_plan_of_the_same_name_give_way_with_a_warning(claims, tmp_path):
    for folder, prefix in (("one", ""), ("two", "f")):
        store = write_results(tmp_path / folder)
        plan = store.plan("hand-small")
        for cell in plan["cells"]:
            if store.is_finished(cell["key"]) and prefix:
                store.write(new := prefix + cell["key"][1:], store.read(cell["key"]))
                cell["key"] = new
            cell["needs"] = [prefix + need[len(prefix) :] for need in cell["needs"]]
        store.write_plan("hand-small", plan)
        copy = [tmp_path / folder, claims, tmp_path / "page.md", tmp_path / "records"]
        if prefix:
            with pytest.warns(UserWarning, match=r"records has 54 cells of another plan of study hand-small"):
                build_claims(*copy)
        with warnings.catch_warnings(action="error"):
            build_claims(*copy)  # nothing is lost


@pytest.mark.repository
def test_the_page_in_the_docs_is_what_its_results_make(tmp_path):
    folder = ROOT / "docs" / "claims"
    made = build_claims(folder / "results", folder / "claims.toml", tmp_path / "claims.md")
    assert made.page.read_text() == (ROOT / "docs" / "claims.md").read_text(), "qadv claims docs/claims/results"
