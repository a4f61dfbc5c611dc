"""The demo from end to end, with few black-box images."""

import json
import re
import warnings
from dataclasses import replace

import pytest
from PIL import Image
from rich.console import Console

from qadv.demo import run, settings
from qadv.errors import PixelRangeWarning


@pytest.fixture
def quick(monkeypatch):
    full = settings._SETTINGS["digits"]
    monkeypatch.setitem(
        settings._SETTINGS,
        "digits",
        replace(
            full,
            options={**full.options, "width": 8},
            nb_epochs=6,
            nb_gradient=40,
            nb_black_box=2,
            eps_curve=(0.05, 0.2),
            zoo={**full.zoo, "max_iter": 5, "binary_search_steps": 1},
            boundary={**full.boundary, "max_iter": 5},
        ),
    )


@pytest.mark.slow
def test_the_demo_writes_its_table_results_and_figures(quick, tmp_path):
    console = Console(record=True, width=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PixelRangeWarning)
        path = run.run_demo(out=tmp_path, console=console)
    text = console.export_text()
    for word in ("float", "vanilla 4-bit", "DQ 4-bit", "FGSM", "PGD", "ZOO", "Boundary", "mean L2"):
        assert word in text
    lowest = re.findall(r"not audited *│ lowest *│ *40 │ *[\d.]+% │ *([\d.]+)%", text)
    report = json.loads(path.read_text())
    assert [network["label"] for network in report["networks"]] == ["float", "vanilla 4-bit", "DQ 4-bit"]
    for network in report["networks"]:
        assert [attack["attack"] for attack in network["attacks"]] == ["FGSM", "PGD", "ZOO", "Boundary"]
        assert network["clean_accuracy"] > 0.8
        fgsm, pgd = network["attacks"][:2]
        assert pgd["adversarial_accuracy"] <= fgsm["adversarial_accuracy"] + 0.05
        assert float(lowest.pop(0)) == pytest.approx(
            100 * min(a["adversarial_accuracy"] for a in (fgsm, pgd)), abs=0.06
        )
        assert pgd["mean_linf"] == pytest.approx(0.1, abs=1e-4)
        curve = network["pgd_accuracy_by_eps"]
        assert curve[0] > curve[1]
        assert len(network["error_amplification"]["layers"]) == 4
        assert len(network["history"]) == 6
    assert report["networks"][1]["bytes"]["packed"] < report["networks"][0]["bytes"]["packed"] / 3
    assert report["versions"]["qadv"]
    names = {"results.json", "accuracy-against-eps.png", "error-amplification.png", "images.png"}
    assert names <= {file.name for file in tmp_path.iterdir()}
    assert not list(tmp_path.glob("*.ckpt"))
    for figure in tmp_path.glob("*.png"):
        with Image.open(figure) as image:
            assert image.width > 500
            assert len(image.convert("L").getcolors()) > 10
