"""The report of a folder whose figures are known: its tables, its page, its JSON files."""

import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from qadv.benchmark.report.build import build_report
from qadv.benchmark.report.content import Value
from qadv.benchmark.report.examples import example
from qadv.benchmark.report.numbers import plain_eps
from qadv.benchmark.report.opening import _sentence, bar
from qadv.benchmark.report.readable import bits as bits_said
from qadv.benchmark.report.readable import defended
from qadv.benchmark.report.rendering import escaped_markdown
from qadv.benchmark.report.threats import Threat, keeps_to, threat_of
from qadv.benchmark.report.worst_case import WorstCase
from qadv.benchmark.study import AttackSpec, Defense
from qadv.cli import app
from qadv.diagnostics.audit.result import interval
from qadv.errors import FileFormatError, InvalidInputError, UnknownNameError
from tests.benchmark.report_store import RIGHT, ROBUST, TITLE, W4, bits, write_store

# of the audited images of W4, seed 0: who is right under all attacks of the study in that ball
FIRST = [all(RIGHT[W4, 0, name][image] == "1" for name in ("clean", "fgsm", "pgd", "moved")) for image in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_store(folder)
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return build_report(folder)


class Page(HTMLParser):
    """Collects tables as rows of texts by caption, tags, and addresses."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.ids, self.tables, self.texts = [], [], [], {}, []
        self.inside, self.open, self.rows, self.caption = None, [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self.addresses += [found[name] for name in ("src", "href", "srcset", "data", "action") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        if tag not in ("meta", "img", "link", "br", "input"):
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        self.texts.append(data)
        if "caption" in self.open:
            self.caption += data
        elif "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data.strip("\n")


@pytest.fixture(scope="module")
def page(report):
    return Page(report.page.read_text())


def table(page, start):
    (found,) = [rows for caption, rows in page.tables.items() if caption.startswith(start)]
    return found


def markdown_tables(text):
    """Returns the tables of a Markdown file as rows of texts, escapes undone."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            rows.append(
                [re.sub(r"\\(.)", r"\1", cell.strip()).replace("&lt;", "<").replace("&gt;", ">") for cell in cells]
            )
        elif rows and not line.startswith("|---"):
            found, rows = [*found, rows], []
    return found


def test_the_page_opens_with_a_sentence_a_chart_and_a_row_for_each_network(page):
    assert next(text for text in page.texts if "under the worst of all" in text) == (
        "4-bit, behind median-smoothing, behind bit-depth: 0.0\u00a0% of 4 images are classified correctly under the "
        "worst of all attacks within L∞ 0.1, 100.0\u00a0% without one (1 of 2 seeds); but a check of its audit failed: "
        "stronger attacks are to be expected."
    )
    rows = table(page, "One row")
    float_row, w4_row = (dict(zip(rows[0], row, strict=True)) for row in rows[1:])
    assert (float_row["network"].split(",")[0], float_row["audit"]) == ("float", "not audited")
    share = f"{100 * np.mean(np.array(FIRST) & bits(ROBUST)):.1f}"
    assert w4_row["worst case, %"] == f"{share} (1 of 2 seeds)"
    assert w4_row["under the study's attacks, %"] == f"{100 * np.mean(FIRST):.1f}" == "25.0"
    assert w4_row["under the audit's, %"] == f"{100 * np.mean(bits(ROBUST)):.1f}" == "50.0"
    assert w4_row["they differ by, points"] == "25.0, the study's lower"
    assert [w4_row[name] for name in ("clean, %", "ball", "images", "in the study")] == ["100.0", "L∞ 0.1", "4", W4]
    apart = ("under the study's attacks, %", "under the audit's, %", "they differ by, points")
    assert [float_row[name] for name in apart] == ["20.0", "–", "–"], "nobody audited it"
    differ = (
        "The study's attacks and the audit differ on 1 of 2 networks, most on 4-bit, behind median-smoothing, behind "
    )
    assert f"{differ}bit-depth: the study's lower by 25.0 points." in page.texts
    (chart,) = [found["aria-label"] for tag, found in page.tags if tag == "figure" and "aria-label" in found]
    assert f"behind bit-depth (1 of 2 seeds) {share} %" in chart


@pytest.mark.parametrize(("robust", "by"), [("0000", "25.0, the audit's lower"), ("1000", "0.0")])
def test_the_opening_says_which_of_study_and_audit_is_lower(robust, by, tmp_path):
    write_store(tmp_path, worst_case={"robust": bits(robust)})
    page = Page(build_report(tmp_path).page.read_text())
    columns, _, row = table(page, "One row")
    assert row[columns.index("they differ by, points")] == by
    assert any("the audit's lower by 25.0 points" in text for text in page.texts) == (robust == "0000")


def test_networks_have_names_that_people_say():
    assert bits_said("float", "float") == "float"
    assert bits_said("int:4", "relu6:4") == "4-bit"
    assert bits_said("bwn", "dorefa:2") == "binary weights, 2-bit dorefa activations"
    assert bits_said({"*": "int:8", "fc": "int:4"}, "relu6:8") == "8-bit and 4-bit weights, 8-bit activations"
    plain, dq = ({"trainer": "dq", "options": {"beta": beta}} for beta in (0.0, 1e-3))
    assert defended(Defense.model_validate(plain)) == defended(Defense()) == "undefended"
    assert defended(Defense.model_validate(dq)) == "Defensive Quantization"
    assert defended(Defense(trainer="somebody/own")) == "somebody/own"


def test_accuracies_are_means_over_seeds_with_the_published_ones_beside_them(page):
    head, float_row, w4_row = table(page, "Accuracy in %")
    assert head == ["network", "clean (10)", "fgsm (10)", "pgd (10)", "weak (4)", "moved (10)", "far (10)"]
    sd = np.std([90, 100], ddof=1)
    assert float_row[:3] == ["float", f"95.0 ± {sd:.1f}", f"55.0 ± {sd:.1f} (published 44)"]
    assert w4_row[:3] == [W4, "80.0 ± 0.0 (published 83.25 [a])", "40.0 ± 0.0 (published 44)"]
    assert w4_row[3] == "20.0 (1 of 2 seeds) (published <12 [a])"
    assert not any("61" in value for value in w4_row)  # published for images made on the other network alone
    # per image the worst of both sources, of the seed that has both
    worst = np.array(bits(RIGHT["float", 0, "moved"])) & bits(RIGHT["float", 0, "moved back"])
    assert float_row[5] == f"{100 * worst.mean():.1f} (1 of 2 seeds)" == "20.0 (1 of 2 seeds)"


def test_the_worst_case_is_taken_image_by_image_over_the_attacks_of_one_ball(page):
    rows = table(page, "Share of images")[1:]
    of_w4 = {(row[1], row[6]): row for row in rows if row[0] == W4}

    def worst(quantizer, seed, attacks):
        return [all(RIGHT[quantizer, seed, a][i] == "1" for a in ("clean", *attacks)) for i in range(10)]

    first = worst(W4, 0, ["fgsm", "pgd", "moved"])
    row = of_w4["L∞ 0.1", "fgsm, pgd, moved from float (seed 0 alone)"]
    assert row[2] == f"{100 * np.mean(first):.1f}" == "10.0"
    assert row[4:6] == ["10", "80.0"]
    # with the audit, over the four images that it was run on
    row = of_w4["L∞ 0.1", "fgsm, pgd, moved from float, audit (seed 0 alone)"]
    assert row[2] == f"{100 * np.mean(np.array(first[:4]) & bits(ROBUST)):.1f}" == "0.0"
    assert row[4] == "4"
    # without the attack that failed, the other seed stands by itself
    other = worst(W4, 1, ["fgsm", "moved"])
    row = of_w4["L∞ 0.1", "fgsm, moved from float (seed 1 alone)"]
    assert row[2] == f"{100 * np.mean(other):.1f}" == "40.0"
    assert of_w4["L∞ 8/255", "weak"][2].startswith("62.5 ± ")
    assert not any("far" in row[6] for row in rows)


def test_a_failed_check_stands_beside_the_worst_case_with_the_grade(page):
    rows = table(page, "Share of images")[1:]
    assert {row[3] for row in rows if row[0] == W4} == {"not converged: check 3 failed"}
    assert {row[3] for row in rows if row[0] == "float"} == {"not audited"}
    head, row = table(page, "Checks for masked")
    assert head[1:] == ["1 zero gradients", "2 answers repeat", "3 black-box against white-box"]
    assert row == [f"{W4} · seed 0", "passed", "not evaluated", "failed"]
    cost = table(page, "What the audits say")[1]
    assert cost[1].endswith("not converged (check 3 failed)")
    assert cost[4:] == ["1,200", "800", "1.5"]


def test_audits_count_in_their_own_balls_and_those_of_a_pair_of_classes_in_none(tmp_path):
    def rows(name, **audit):
        write_store(tmp_path / name, **audit)
        page = Page(build_report(tmp_path / name).page.read_text())
        found = [row for row in table(page, "Share of images")[1:] if "audit" in row[6]]
        return {row[1]: row[2] for row in found}, table(page, "What the audits say")[1][2]

    smaller = {"eps": 0.05, "norm": 2, "worst_case": {"robust": bits("1101")}}
    assert rows("curve", norm=2, smaller=[smaller]) == ({"L2 0.05": "75.0", "L2 0.1": "50.0"}, "L2 0.1")
    assert rows("pair", pair=[3, 5]) == ({}, "L∞ 0.1")


def test_a_check_that_failed_at_a_smaller_radius_alone_is_told(tmp_path):
    failed = {"number": 3, "name": "black-box against white-box", "rule": "r", "figure": "9 of 10", "verdict": "failed"}
    worst = {"robust": bits("1101")}
    smaller = {"eps": 0.05, "grade": "gradients unusable", "worst_case": worst, "checks": [failed], "seconds": 30.0}
    smaller["cost"] = {"forward": 300, "backward": 200}
    smaller |= {"cost": {"forward": 300, "backward": 200}, "seconds": 30.0}
    write_store(tmp_path, black_box="passed", smaller=[smaller])
    page = Page(build_report(tmp_path).page.read_text())
    labels = {row[3] for row in table(page, "Share of images")[1:] if row[0] == W4}
    assert labels == {"gradients unusable: check 3 failed"}
    assert table(page, "Checks for masked")[1] == [f"{W4} · seed 0", "passed", "not evaluated", "failed"]
    assert table(page, "What the audits say")[1][4:] == ["1,500", "1,000", "2.0"], "at both radii"


def test_the_label_stands_beside_the_figure_that_it_is_about(tmp_path):
    write_store(tmp_path, black_box="passed")
    report = build_report(tmp_path)
    page = Page(report.page.read_text())
    rows = [row[1:4] for row in table(page, "Share of images")[1:] if row[0] == W4]
    of_ball = [row[1:] for row in rows if row[0] == "L∞ 0.1"]
    assert of_ball[0] == ["0.0", "no check failed, 1 not evaluated"], "the audit's figure is the headline"
    assert of_ball[1:] == [["10.0", "without the audit; with it 0.0"], ["40.0", "without the audit; with it 0.0"]]
    assert [row[2] for row in rows if row[0] == "L∞ 8/255"] == ["not audited in this ball"]
    assert sum("no check failed" in row[2] for row in rows) == 1
    assert list(page.tables)[1].startswith("Missing")
    assert list(page.tables)[2].startswith("Share of images"), "headlines come before the single attacks"
    markdown = markdown_tables(report.tables[0].read_text())
    assert any(row[2:4] == ["0.0", "no check failed, 1 not evaluated"] for rows in markdown for row in rows)
    assert sum("no check failed" in cell for rows in markdown for row in rows for cell in row) == 2


def test_a_networks_preprocessors_are_shown_with_their_options(page):
    columns, *rows = table(page, "Networks")
    assert [row[columns.index("transformers, preprocessors")] for row in rows] == [
        "median-smoothing, bit-depth (bit_depth = 4)"
    ] * 2


def test_strength_and_cost(page):
    rows = {(row[0], row[1]): row for row in table(page, "What the attacks did")[1:]}
    assert rows["float", "fgsm"][3:] == ["10", "42.2 ± 3.1", "0.5", "0.1", "21", "20", "3.0"]  # 4 of 9, 4 of 10
    assert rows[W4, "weak"][3:5] == ["4", "37.5 ± 17.7"]
    assert rows["float", "far"][5:7] == ["0.5 (published 0.72 [a])", "0.4 (published 0.09 [a])"]
    assert rows[W4, "far"][5:7] == ["0.5", "0.4"]


def test_transfers(page):
    rows = table(page, "moved: accuracy")
    assert rows[0][1:] == ["float", W4]
    assert rows[2] == [
        "float",
        "30.0 ± 0.0 / 0.5 / 0.1 (published – / 1.65 / 0.03)",
        "70.0 ± 14.1 / 0.5 / 0.1 (published 61)",
    ]
    assert rows[3][1] == "80.0 (1 of 2 seeds) / 0.5 / 0.1"


def test_missing_and_failed_cells_are_listed_with_the_reason(page, report):
    rows = table(page, "Missing and failed")[1:]
    assert rows[0][:3] == [f"pgd on {W4} · seed 1", "failed", "the loss is <not> finite"]
    assert rows[1][1:3] == ["left out", f"it needs one that failed: pgd on {W4} · seed 1"]
    assert report.not_there == {"hand": 2}


def test_every_cell_can_be_traced_to_its_files(page, folder):
    for row in table(page, "Every cell")[1:]:
        assert (folder / "cells" / row[2] / "record.json").is_file() == (row[3] == "there")


def test_markdown_has_the_same_tables(page, report):
    text = report.tables[0].read_text()
    found = {tuple(rows[0]): rows for rows in markdown_tables(text)}
    assert len(found) == len(page.tables)
    for rows in page.tables.values():
        assert found[tuple(rows[0])][1:] == rows[1:]
    assert "<script>" not in text
    assert "````text\n" in text  # the study's text has a fence of three


def test_the_page_loads_nothing_and_runs_nothing(page):
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for address in page.addresses:
        assert address.startswith(("#", "data:image/svg+xml;base64,", "data:image/png;base64,"))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not any("url(" in data or "@import" in data for data in page.texts)
    assert all(found.get("alt") for tag, found in page.tags if tag == "img")
    assert TITLE in page.texts


def test_tables_name_their_rows_and_columns(page):
    scopes = [found.get("scope") for tag, found in page.tags if tag == "th"]
    assert set(scopes) == {"row", "col"}
    assert all(page.tables)  # each has a caption


def test_diagnostics_are_drawn_and_a_plugins_own_is_shown_as_text(page):
    figures = [found for tag, found in page.tags if tag == "img" and "svg" in found["src"]]
    captions = [found["alt"] for found in figures]
    assert sum(caption.startswith("accuracy-curve") for caption in captions) == 1  # both networks in one
    assert sum(caption.startswith("gradient-similarity") for caption in captions) == 1
    assert not any(caption.startswith("of-a-plugin") for caption in captions)
    assert "what <somebody> else's prints" in page.texts


def test_what_was_measured_stands_beside_what_is_published(page):
    assert table(page, "Ours and as published") == [
        ["measure", "samples", "norm"],
        ["accuracy-curve · float", "10.000 (published 50)", "– (published 2)"],
        [f"accuracy-curve · {W4}", "10.000 (published 50)", "– (published 2)"],
        ["gradient-similarity", "10.000 (published 7)", "–"],
    ]


def test_examples_show_clean_and_attacked_images_with_classes(page):
    pictures = [found["alt"] for tag, found in page.tags if tag == "img" and "png" in found["src"]]
    shown = ("clean;", "adversarial;", "difference × 10")
    assert [sum(text.startswith(what) for text in pictures) for what in shown] == [8] * 3
    assert "true: b; clean: b; adversarial: c; broken" in page.texts


def test_models_have_the_fields_of_robustbench(report):
    contents = {path.name: json.loads(path.read_text()) for path in report.models}
    assert sorted(contents) == ["float-seed-0.json", "float-seed-1.json", "w4-i-seed-0.json", "w4-i-seed-1.json"]
    model = contents["w4-i-seed-0.json"]
    fields = "name authors venue dataset architecture eps clean_acc reported autoattack_acc additional_data"
    assert set(model) == {*fields.split(), "number_forward_passes", "footnote", "unreliable", "qadv"}
    assert (model["eps"], model["clean_acc"], model["reported"]) == ("0.1", "80.0", "44")
    assert (model["autoattack_acc"], model["unreliable"], model["additional_data"]) == (None, True, False)
    assert contents["float-seed-0.json"]["unreliable"] is None
    own = model["qadv"]
    assert (own["weights"], own["activations"], own["bytes"]["packed"]) == ("int:4", "relu6:4", 1234)
    assert [(case["eps"], case["samples"], case["accuracy"]) for case in own["worst_case"]] == [
        (pytest.approx(8 / 255), 4, 0.5), (0.1, 4, 0.0), (0.1, 10, 0.1),
    ]  # fmt: skip
    assert own["audit"][0]["failed"] == [3]
    assert contents["w4-i-seed-1.json"]["qadv"]["not_there"] == {
        f"pgd on {W4} · seed 1": "failed", f"moved on {W4} · 1": "failed",
    }  # fmt: skip


def test_the_same_results_give_the_same_bytes(folder, report, tmp_path):
    again = build_report(folder, tmp_path)
    for one, other in zip(
        [report.page, *report.tables, *report.models], [again.page, *again.tables, *again.models], strict=True
    ):
        assert one.read_bytes() == other.read_bytes()


def test_nothing_but_the_plan(tmp_path):
    store = write_store(tmp_path)
    shutil.rmtree(store.cells)
    text = build_report(tmp_path).tables[0].read_text()
    assert "| missing |" in text
    assert "cells: 0 of 33 computed" in text


def test_a_damaged_cell_is_listed(tmp_path):
    store = write_store(tmp_path)
    key = sorted(path.name for path in store.cells.iterdir())[2]
    (store.cells / key / "record.json").write_text("{")
    assert "| damaged |" in build_report(tmp_path).tables[0].read_text()


def test_what_holds_out_is_shown_once_and_no_bar_is_good():
    clean, answers = np.zeros((1, 4, 4), dtype=np.float32), [(1, 0.9), (1, 0.9)]
    held = example(None, clean, 1, answers, ["cat", "dog"], "holds out", "good")
    assert held.pictures.keys() == {"clean"}
    assert held.caption == "true: dog; clean: dog (90 %); holds out"
    assert example(clean, clean, 1, answers, None, "broken", "bad").pictures.keys() == {
        "clean", "adversarial", "difference × 10",
    }  # fmt: skip
    abstains = example(clean, clean, 1, [(1, None), (2, None)], ["cat", "dog"], "broken", "bad")
    assert "adversarial: abstains" in abstains.caption
    assert [bar("net", [0.0], [1.0], 8, tone).tone for tone in ("good", "bad")] == ["", "bad"]


def test_the_range_of_a_bar_is_over_images_and_over_seeds():
    def ends(*worst):
        drawn = bar("net", worst, [1.0], 100)
        return drawn.low / 100, drawn.high / 100

    assert ends(0.5) == ends(0.5, 0.5, 0.5) == pytest.approx(interval(50, 100)), "the same images are no more images"
    far, (low, high) = 4.303 * np.std([0.4, 0.5, 0.6], ddof=1) / 3**0.5, interval(50, 100)
    assert ends(0.4, 0.5, 0.6) == pytest.approx((0.5 - np.hypot(0.5 - low, far), 0.5 + np.hypot(high - 0.5, far)), 1e-3)
    assert ends(0.0, 1.0) == (0, 1)


def test_what_is_damaged_is_left_out_and_said(tmp_path):
    store = write_store(tmp_path)
    by_label = {cell["label"]: cell["key"] for cell in store.plan("hand")["cells"]}
    (store.cells / by_label["network float · seed 0"] / "record.json").unlink()
    for label in ("clean images, float · seed 0", "fgsm on float · seed 0", "curve 0"):
        found = store.read(by_label[label])
        found.record.pop("right", None), found.record.pop("text", None)
        store.write(by_label[label], found)
    images = store.cells / by_label["pgd on float · seed 0"] / "adversarial.safetensors"
    images.write_bytes(images.read_bytes()[:-1])
    (store.studies / "other.json").write_text("{")
    report = build_report(tmp_path)
    assert report.not_there["hand"] == 2 + 5
    assert "other.json is damaged" in report.left_out["other"]
    assert "Left out: other" in report.page.read_text()
    text = report.tables[0].read_text()
    assert text.count("| damaged |") >= 5
    assert "its record has no right" in text
    with pytest.raises(FileFormatError, match=r"other\.json is damaged"):
        build_report(tmp_path, study="other")


def test_several_studies_in_one_page_or_one_of_them(tmp_path):
    store = write_store(tmp_path)
    store.write_plan("other", store.plan("hand"))
    both = build_report(tmp_path)
    assert [path.name for path in both.tables] == ["hand.md", "other.md"]
    page = Page(both.page.read_text())
    assert len(page.ids) == len(set(page.ids))
    assert {"hand", "other"} <= set(page.ids)
    assert [path.name for path in build_report(tmp_path, tmp_path / "out", "other").tables] == ["other.md"]
    with pytest.raises(UnknownNameError, match="hand, other"):
        build_report(tmp_path, study="ohter")


def test_a_folder_without_results_or_with_a_foreign_plan(tmp_path):
    with pytest.raises(InvalidInputError, match="no study"):
        build_report(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "old.json").write_text('{"study": {"titel": "x"}, "cells": []}')
    with pytest.raises(FileFormatError, match=r"old\.json"):
        build_report(tmp_path)


def test_the_command_says_where_the_report_is(folder, tmp_path):
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert str(tmp_path / "out" / "index.html") in result.output
    assert "2 cells are missing, damaged or failed" in result.output


@pytest.mark.parametrize(
    ("attack", "ball"),
    [
        ({"attack": "ProjectedGradientDescent", "options": {"eps": 0.1}}, "L∞ 0.1"),
        ({"attack": "ProjectedGradientDescent", "options": {"eps": 0.5, "norm": 2}}, "L2 0.5"),
        ({"attack": "FastGradientMethod", "options": {}}, "L∞ 0.3"),  # ART's default
        ({"attack": "BasicIterativeMethod", "options": {"eps": 8 / 255}}, "L∞ 8/255"),
        ({"attack": "SquareAttack", "options": {"eps": 0.1, "norm": "inf"}}, "L∞ 0.1"),
        ({"attack": "somebody-elses", "options": {"eps": 0.1}}, "L∞ 0.1"),
        ({"attack": "CarliniL2Method", "options": {}}, "None"),
        ({"attack": "BoundaryAttack", "options": {"epsilon": 0.1}}, "None"),
    ],
)
def test_the_ball_of_an_attack_follows_from_its_options(attack, ball):
    assert str(threat_of(AttackSpec(**attack))) == ball


def test_images_outside_of_the_ball_are_noticed():
    inside, outside = {"linf": np.array([0.1, 0.0999999, np.nan])}, {"linf": np.array([0.1, 0.11])}
    assert keeps_to(Threat(np.inf, 0.1), inside)
    assert not keeps_to(Threat(np.inf, 0.1), outside)


def test_an_attack_that_leaves_its_ball_is_not_counted(tmp_path):
    store = write_store(tmp_path)
    for cell in store.cells.iterdir():
        found = store.read(cell.name)
        if found.record.get("linf", [0])[0] == 0.1:
            found.record["linf"][3] = 0.2
            store.write(cell.name, found)
    text = build_report(tmp_path).tables[0].read_text()
    assert "Not counted, because images leave the ball that the options say: fgsm on float" in text
    assert "| fgsm, pgd" not in text


def test_texts():
    assert [plain_eps(eps) for eps in (0.1, 0.2, 8 / 255, 1, 2.5, 0.123456789)] == [
        "0.1", "0.2", "8/255", "1", "2.5", "0.123457",
    ]  # fmt: skip
    numbers = ("1,234", "95.0 ± 1.0", "8/255", "1e-05", "80.0 (1 of 2 seeds) / 0.5 / 0.1", "95.0 ± 7.1 (published 44)")
    words = ("0af3", "clean", "3 passes differ by 0 of the largest logit; one level of one pixel moves the logits")
    assert all(Value(text).is_number for text in numbers)
    assert not any(Value(text).is_number for text in words)
    assert escaped_markdown("a|b\n*c* <d>") == r"a\|b \*c\* &lt;d&gt;"


def test_networks_are_ranked_among_those_that_the_same_attacks_met_on_as_many_images():
    def case(name, over, samples, share):
        worst = WorstCase(Threat(np.inf, 0.1), over, (0,), samples, (0.9,), (share,), False)
        return SimpleNamespace(axes=(name,)), worst

    found = [case("a", "2 attacks", 5000, 0.5), case("b", "3 attacks", 40, 0.8), case("c", "2 attacks", 5000, 0.3)]
    results, names = SimpleNamespace(study=SimpleNamespace(seeds=[0])), {(name,): name for name in "abc"}
    assert _sentence(results, names, found).startswith("A holds out best of 2 networks: 50.0")
    near = [*found, case("d", "2 attacks", 5000, 0.49)]
    names["d",] = "d"
    assert "A holds out best of 3 networks (the interval of 1 other overlaps its own): 50.0" in _sentence(
        results, names, near
    )
