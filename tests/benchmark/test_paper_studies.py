"""The papers' studies: each table and figure has a file that names only what there is, and can be planned."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from qadv.benchmark.made_attacks import build_attack
from qadv.benchmark.names import faults
from qadv.benchmark.plan import plan
from qadv.benchmark.study_file import read_study
from qadv.datasets import Images

FOLDER = Path(__file__).parents[2] / "examples" / "studies"
TABLES = {  # docs/methods.md: what the studies have to show
    *(f"dq-table{n}" for n in range(1, 7)), *(f"dq-figure{n}" for n in (1, 3, 5, 6, 7)),
    *(f"eq-table{n}" for n in ("1", "2a", "2b", "3a", "3b", "4", "5")), *(f"eq-figure{n}" for n in range(1, 4)),
    *(f"feedback-table{n}" for n in range(1, 5)), "feedback-ablation-mu",
    *(f"feedback-{what}-{data}" for what in ("bits", "weight-error") for data in ("mnist", "cifar10")),
    *(f"lowbit-table{n}" for n in range(2, 8)), "lowbit-transfer", "lowbit-figure4", "pipelines",
}  # fmt: skip
CLAIMS = {f"claims-{n}" for n in ("dq", "bits", "eq", "feedback", "lowbit", "pipelines", "pipelines-grid", "mnist")}
OTHERS = {"digits", "audits-cifar10", "audits-mnist", "robust-resnet20", "families"}
COLOURS = (3, 32, 32)
SHAPES = {
    "mnist": ((1, 28, 28), 10),
    "cifar10": (COLOURS, 10),
    "cifar10-16": ((3, 16, 16), 10),
    "cifar100": (COLOURS, 100),
    "svhn": (COLOURS, 10),
}
PAPERS = {"dq": "Lin", "eq": "Tang", "feedback": "Song", "lowbit": "Bernhard", "pipelines": "Li"}


@pytest.fixture(scope="module")
def planned(datasets, data_dir):
    """Reads and plans a study by its name, each once."""

    @functools.cache
    def planned(name, small=False):
        file = read_study(FOLDER / f"{name}.toml", small=small)
        return file, plan(file, {dataset: datasets[dataset] for dataset in file.study.datasets}, data_dir)

    return planned


@pytest.fixture(scope="module")
def datasets():
    """One image each to train and to test on."""
    label = np.zeros(1, dtype=np.int64)
    return {
        name: Images(name, *2 * (np.zeros((1, *shape), np.float32), label), tuple(map(str, range(classes))))
        for name, (shape, classes) in SHAPES.items()
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "resnet20-cifar10.safetensors").write_bytes(b"planned, not read")
    return folder


@pytest.mark.repository
def test_every_table_and_figure_has_a_file():
    assert {path.stem for path in FOLDER.glob("*.toml")} == TABLES | CLAIMS | OTHERS


@pytest.mark.repository
def test_the_readme_lists_every_file_and_no_other():
    listed = set(re.findall(r"`([\w-]+)\.toml`", (FOLDER / "README.md").read_text(encoding="utf-8")))
    assert listed == TABLES | CLAIMS | OTHERS


@pytest.mark.parametrize("small", [False, True], ids=["paper", "small"])
@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_study_names_only_what_there_is_and_can_be_planned(name, small, planned):
    file, cells = planned(name, small)
    study = file.study
    assert list(faults(study)) == []
    assert study.paper.startswith(PAPERS[name.partition("-")[0]])
    assert study.claims
    keys, made_on = set(), {}
    for cell in cells:
        assert set(cell.needs) <= keys, f"{cell.label} comes before what it needs"
        keys.add(cell.key)
        if cell.kind == "attack":
            made_on[cell.key] = cell.spec.network
        if cell.kind == "transfer":
            assert cell.spec.network != made_on[cell.spec.made], f"{cell.label}: the network under attack"
    measured = {cell.kind for cell in cells} - {"network"}
    assert measured & ({"attack", "transfer", "measure"} if study.attacks or study.measures else {"clean"})


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_claims_are_judged_by_three_seeds(name, planned):
    file, cells = planned(name, small=True)
    assert list(faults(file.study)) == []
    assert len(file.study.seeds) == (1 if "grid" in name else 3)
    assert len({cell.place["seed"] for cell in cells}) == len(file.study.seeds)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_small_settings_are_small(name):
    study = read_study(FOLDER / f"{name}.toml", small=True).study
    assert set(study.datasets) <= {"mnist", "cifar10"}
    assert study.nb_train <= 6000
    assert study.nb_test <= 2000
    used = {d for grid in study.grid for d in grid.defenses or study.defenses}
    for defense in used:
        fit = study.defenses[defense].fit
        assert fit is None or fit.nb_epochs <= 6, defense


def published(name):
    study = read_study(FOLDER / f"{name}.toml").study
    return study.published


def test_published_accuracies_belong_to_cells_of_the_study(planned):
    for name in sorted(TABLES):
        file, cells = planned(name)
        places = [cell.place for cell in cells]
        for entry in file.study.published:
            axes = {a: getattr(entry, a) for a in ("dataset", "backbone", "quantizer", "defense") if getattr(entry, a)}
            chosen = [p for p in places if all(p.get(axis) == value for axis, value in axes.items())]
            if entry.source is not None:
                source = entry.source.model_dump(exclude_none=True)
                chosen = [p for p in chosen if p.get("source") and source.items() <= p["source"].items()]
            found = {p.get("attack", "clean") for p in chosen if "measure" not in p}
            assert {*entry.accuracy, *entry.distances} - {"clean"} <= found, f"{name}: {entry}"
            assert set(entry.measured) <= {p.get("measure") for p in chosen}, f"{name}: {entry}"
            assert all(0 <= value <= 100 for value in entry.accuracy.values())


@pytest.mark.parametrize("name", ["lowbit-table3", "lowbit-table4", "lowbit-transfer"])
def test_zoo_minimises_the_difference_of_the_logarithms(name, make_classifier, digits):
    """Eq. 10 of the low-bitwidth study, which for a softmax is the difference of the logits."""
    attack = read_study(FOLDER / f"{name}.toml").study.attacks["ZOO"]
    spec = attack.model_copy(update={"coalesce": False})
    classifier, x, c = make_classifier(), digits.x_test[:4], np.full(4, 0.9)
    logits = classifier.predict(x).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    own = np.eye(10)[[*logits[:3].argmax(1), 0]]
    expected = 0.9 * np.maximum((logs * own).sum(1) - np.where(own, -np.inf, logs).max(1), 0)
    _, l2, loss = build_attack(spec, 0, classifier)._loss(x, x, own, c)
    assert (expected[:3] > 0).all()
    np.testing.assert_allclose(loss - l2, expected, atol=1e-5)


@pytest.mark.repository
def test_published_figures_are_the_papers():
    """A few, looked up by hand in the papers."""
    table1 = {(p.defense, p.quantizer): p.accuracy for p in published("dq-table1")}
    assert len(table1) == 24
    assert table1["V", "a2"] == {"clean": 84.9, "FGSM": 8.5}
    assert table1["DQ-1e-3", "a5"] == {"clean": 95.8, "FGSM": 51.8}
    table3 = {p.defense: p.accuracy for p in published("dq-table3")}
    assert table3["Adversarial PGD + DQ"]["PGD-8"] == 50
    assert table3["Normal"]["FGSM-16 (B)"] == 36
    transfer = {(p.quantizer, p.defense): p.accuracy for p in published("eq-table2b")}
    assert transfer["float", "A"]["from NEB"] == 60.84  # the paper's own example
    transfer = {(p.quantizer, p.defense): p.accuracy for p in published("eq-table3b")}
    assert transfer["float", "A"]["from NEB"] == 36.80
    assert {p.defense: p.accuracy["PGD"] for p in published("feedback-table1")}["F.L.+mu (Q)"] == 55.24
    lowbit = {(p.dataset, p.quantizer): p.accuracy for p in published("lowbit-table3")}
    assert lowbit["svhn", "w4a4"] == {"FGSM": 40, "BIM": 10, "CWl2": 2, "SPSA": 4, "ZOO": 93}
    found = {(p.dataset, p.source.quantizer, p.quantizer): p for p in published("lowbit-transfer") if p.source}
    assert len(found) == 2 * 9 * 8
    assert found["cifar10", "w2a2", "w3a32"].accuracy["BIM"] == 21
    assert found["svhn", "w4a32", "w1a1"].accuracy["FGSM"] == 63
    assert found["cifar10", "w1a1", "w3a3"].distances["ZOO"] == (0.12, 0.06)
    assert "ZOO" not in found["svhn", "w1a1", "w4a4"].distances  # no image is adversarial
    lowbit = {(p.dataset, p.quantizer): p.distances for p in published("lowbit-table3")}
    assert lowbit["cifar10", "w4a4"]["ZOO"] == (1.09, 0.14)
    agreement = {p.dataset: p.measured for p in published("lowbit-table7")}
    assert agreement["svhn"]["SPSA on w1a1, 5 agree"] == {"prediction_rate": 0.5, "defense_accuracy": 0.97}
