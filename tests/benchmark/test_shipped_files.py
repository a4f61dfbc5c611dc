"""Studies of networks that are files: attacked, attacked from, measured, and not changed."""

import json

import numpy as np
import pytest

import qadv
from qadv.benchmark.command import BenchOptions, planned, run_bench
from qadv.benchmark.report.build import build_report
from qadv.benchmark.store import Store
from qadv.benchmark.study_file import StudyError, read_study

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SHIPPED = """[backbones.shipped]
file = "net.onnx"
options = { output = "logits" }
"""
STUDY = f"""
title = "shipped"
datasets = ["digits"]
nb_test = 12
[backbones.cnn]
backbone = "mnist-cnn"
options = {{ image_size = 8, width = 4 }}
{SHIPPED}[defenses.none]
[defenses.squeezed]
preprocessors = [{{ name = "bit-depth", options = {{ bit_depth = 1 }} }}]
[attacks.fgsm]
attack = "FastGradientMethod"
options = {{ eps = "2/10" }}
source = "each"
itself = true
[measures.error-amplification]
attack = "fgsm"
"""
NONE = "[defenses.none]"


@pytest.fixture
def study(tmp_path):
    """Writes a study and the file that it names, a linear network of the digits; returns what reads it."""

    def write(text=STUDY, seed=0):
        helper, rng = onnx.helper, np.random.default_rng(seed)
        weights = onnx.numpy_helper.from_array(rng.normal(0, 1, (64, 10)).astype(np.float32), "w")
        ends = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (("images", ["n", 1, 8, 8]), ("logits", ["n", 10]))
        ]
        nodes = [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"], "last"),
        ]
        graph = helper.make_graph(nodes, "linear", ends[:1], ends[1:], [weights])
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "net.onnx")
        (tmp_path / "shipped.toml").write_text(text)
        return read_study(tmp_path / "shipped.toml")

    return write


def keys(file, folder):
    return {cell.label: cell.key for cell in planned(file, folder)}


def test_a_file_is_attacked_and_measured_as_any_network(study, tmp_path):
    file = study()
    assert run_bench(BenchOptions(study=file.path, out=tmp_path / "out", data_dir=tmp_path))
    store = Store(tmp_path / "out")
    records = {cell.label: (cell.place, store.read(cell.key)) for cell in planned(file, tmp_path)}
    _, made = records["network shipped · none"]
    assert list(made.files) == ["net.onnx"]
    assert made.files["net.onnx"] == (tmp_path / "net.onnx").read_bytes()
    white = records["fgsm on shipped · none"][1].record
    assert white["accuracy"] <= white["clean_accuracy"]
    assert max(white["linf"]) == pytest.approx(0.2, abs=1e-4), "a gradient of the file's twin made them"
    for label in ("fgsm on cnn · none → shipped · none", "fgsm on shipped · none → cnn · none"):
        assert records[label][1].record["right"]
    behind = records["fgsm on shipped · squeezed"][1].record
    assert behind["clean_classes"] != white["clean_classes"], "the preprocessor stands in front of the file"
    made = build_report(tmp_path / "out")
    assert "net.onnx, undefended" in made.page.read_text()
    assert {json.loads(path.read_text())["architecture"] for path in made.models} == {"mnist-cnn", "net.onnx"}


def test_keys_have_the_content_of_the_file_and_of_no_other_network(study, tmp_path):
    before, after = keys(study(), tmp_path), keys(study(seed=1), tmp_path)
    changed = {label for label in before if before[label] != after[label]}
    assert changed == {label for label in before if "shipped" in label}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (NONE, f'{NONE}\ntrainer = "dq"\nfit = {{ nb_epochs = 1 }}', "net.onnx .*can not be trained.* export it again"),
        (NONE, f'[quantizers.w4]\nweights = "int:4"\n{NONE}', "net.onnx .*can not be quantized"),
        (NONE, f'{NONE}\ntransformers = ["mu-law"]', "can not be transformed"),
        (NONE, f'[defenses.both]\nmembers = ["float"]\nof = "none"\n{NONE}', "no member of an ensemble"),
        ("net.onnx", "net.safetensors", "expected a network by itself, .onnx"),
        ("net.onnx", "gone.onnx", "there is no file .*gone.onnx"),
        ('file = "net.onnx"', 'file = "net.onnx"\ncheckpoint = "a.pth"', "leave out backbone and checkpoint"),
        ("output =", "ouput =", "no option of a file 'ouput'; did you mean output"),
    ],
)  # fmt: skip
def test_what_would_make_another_network_of_it_is_refused_with_its_line(study, tmp_path, old, new, said):
    with pytest.raises(StudyError, match=rf"shipped.toml:\d+: backbones.shipped.*{said}"):
        planned(study(STUDY.replace(old, new, 1)), tmp_path)


@pytest.mark.parametrize(("to", "pixels"), [("onnx", "uint8"), ("qcdq", "float")])
def test_images_of_a_study_are_brought_to_the_pixels_that_a_file_notes(to, pixels, trained, digits, tmp_path):
    of_bytes = {"clip_values": (0, 255), "preprocessing": (0, 255)}
    classifier = qadv.QuantizedClassifier(trained.network, trained.loss, (1, 8, 8), 10, **of_bytes)
    qadv.export(classifier, tmp_path / "net.onnx", to=to, **({"pixels": pixels} if to == "onnx" else {}))
    network = '[backbones.shipped]\nfile = "net.onnx"\n[defenses.none]\n'
    (tmp_path / "noted.toml").write_text(f'title = "noted"\ndatasets = ["digits"]\nnb_test = 60\n{network}')
    assert run_bench(BenchOptions(study=tmp_path / "noted.toml", out=tmp_path / "out", data_dir=tmp_path))
    (clean,) = (each for each in planned(read_study(tmp_path / "noted.toml"), tmp_path) if each.kind == "clean")
    found = Store(tmp_path / "out").read(clean.key).record["accuracy"]
    expected = (trained.predict(digits.x_test[:60]).argmax(1) == digits.y_test[:60]).mean()
    assert found == pytest.approx(expected, abs=0.05)
