"""The guides to networks of one's own: each of their lines runs as it stands, on small images and a small network."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import qadv
from qadv.cli import app
from tests.test_docs import ROOT, commands

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short"), pytest.mark.filterwarnings("ignore")]

pictures = pytest.importorskip("skimage.data")
SMALLER = {
    "mobilenetv2_100": "resnet10t",
    "--checkpoint net.pth": "--checkpoint net.pth --image-size 32",
    "--nb-test 1000": "--nb-test 2",
    "--nb-test 100": "--nb-test 4",
    "max_iter=40": "max_iter=4",
    "max_iter=20": "max_iter=2",
    "--attack autoattack eps=8/255": "--attack autoattack eps=8/255 max_iter=2 nb_queries=2",
    "--epochs 10": "--epochs 1",
    "--epochs 15": "--epochs 2",
    "eps=2/255 lr=0.005": "eps=2/255 lr=0.005 max_iter=2",
}


def lines_of(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = [line for line in commands(text) if line.startswith("qadv ")]
    if not hasattr(torch.onnx, "ops"):
        found = [line for line in found if "onnx" not in line]
    return found


def run(line):
    for long, short in SMALLER.items():
        line = line.replace(long, short)
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    failed = result.exception is not None and not (result.exit_code == 2 and " audit " in line)
    assert not failed, f"{line}\n{result.output}\n{result.exception!r}"
    return result.stdout


@pytest.fixture
def folder(tmp_path, monkeypatch, only_checks):
    only_checks(lambda number: number == 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_engineers_half_hour(folder):
    random = np.random.default_rng(0)
    for name in ("astronaut", "cat", "coffee", "rocket"):
        picture = getattr(pictures, name)()
        for part, count in (("train", 6), ("val", 2)):
            (folder / "photos" / part / name).mkdir(parents=True)
            for index in range(count):
                top, left = random.integers(0, np.array(picture.shape[:2]) - 200)
                crop = Image.fromarray(picture[top : top + 200, left : left + 150])
                crop.save(folder / "photos" / part / name / f"{index}.jpg")
    network = timm.create_model("resnet10t", num_classes=4)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in network.state_dict().items()}}, "net.pth")

    said = {line: run(line) for line in lines_of("your-own.md")}
    assert "Accuracy on 8 test images" in said[next(line for line in said if "int:4" in line)]
    for name in ("net", "net8", "net4", "robust4"):
        assert qadv.open_classifier(f"{name}.safetensors").input_shape == (3, 32, 32)
    assert len(list(Path("fooled").glob("*.png"))) == 8
    header, *rows = Path("fooled/images.csv").read_text().splitlines()
    assert header == "file,class,clean,adversarial,l2,linf"
    assert {row.split(",")[1] for row in rows} == {"astronaut", "cat", "coffee", "rocket"}


def test_a_network_of_a_paper(folder, monkeypatch):
    random = np.random.default_rng(0)
    for part, key in [("test", "test"), *((f"train-{number}", "train") for number in range(1, 6))]:
        x, y = random.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8), np.arange(20) % 10
        np.savez(folder / f"cifar10-{part}.npz", **{f"x_{key}": x, f"y_{key}": y})
    monkeypatch.setenv("QADV_DATA_DIR", str(folder))
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    source = page.partition("```python\n")[2].partition("```")[0]
    Path("paper.py").write_text(source, encoding="utf-8")
    made = {}
    exec(source, made)
    torch.save(made["network"]().state_dict(), "paper.pth")

    lines = lines_of("paper.md")
    if not qadv.list_components("attack", "autoattack"):
        lines = [line for line in lines if "autoattack" not in line]
    said = {line: run(line) for line in lines}
    for line in lines:
        if "--json" in line:
            assert json.loads(said[line])["samples" if " attack " in line else "worst_case"]
    assert os.listdir(folder)
