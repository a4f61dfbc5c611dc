"""A file that is damaged, or would do more than compute, is refused in one line before anything runs."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import qadv  # noqa: E402
from qadv.errors import FileFormatError, InvalidInputError, StorageError, UnsupportedModelError  # noqa: E402
from qadv.frontends.onnx import network  # noqa: E402
from qadv.frontends.onnx.runtime import Runtime  # noqa: E402
from tests.frontends.onnx.files import float_model, write  # noqa: E402


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    return onnx.load(write("qdq", tmp_path_factory.mktemp("files")))


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Takes a model, or bytes, and returns what is said of it; the runtime must not be asked."""
    monkeypatch.setattr(network.FileNetwork, "runtime", lambda *_: pytest.fail("the file was run"))

    def says(content, error=FileFormatError, **arguments):
        path = tmp_path / "net.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        with pytest.raises(error) as caught:
            qadv.QuantizedClassifier.from_file(path, **arguments)
        assert "net.onnx" in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return says


def with_scale(model, value):
    """The first scale of the file is another."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    name = next(node for node in changed.graph.node if node.op_type == "QuantizeLinear").input[1]
    scale = next(each for each in changed.graph.initializer if each.name == name)
    scale.CopyFrom(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
    return changed


def with_nodes(*nodes, **constants):
    model = float_model()
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return model


def test_damaged_files(refused, quantized, tmp_path):
    content = quantized.SerializeToString()
    assert "not a whole ONNX file" in refused(content[: len(content) // 2])
    assert "not a whole ONNX file" in refused(b"")
    assert "there is no graph" in refused(onnx.ModelProto(ir_version=8).SerializeToString())
    place = content.find(b"w3_quantized")
    assert "names in it are no text" in refused(content[: place + 1] + b"\xec" + content[place + 2 :])
    assert "which nothing before gives" in refused(content[: place + 1] + b"_" + content[place + 2 :])
    loop = onnx.ModelProto.FromString(content)
    last = loop.graph.output[0].name
    loop.graph.node.append(helper.make_node("Identity", [last], [last]))
    assert f"gives {last} once more" in refused(loop.SerializeToString())

    longer = float_model()
    longer.graph.initializer[0].dims.append(2**40)
    assert "damaged" in refused(longer)
    with pytest.raises(StorageError, match="there is no file"):
        qadv.QuantizedClassifier.load(tmp_path / "none.onnx")
    with open(tmp_path / "huge.onnx", "wb") as file:
        file.truncate(2**31 + 5)
    with pytest.raises(FileFormatError, match="has at most"):
        qadv.QuantizedClassifier.load(tmp_path / "huge.onnx")
    (tmp_path / "huge.onnx").unlink()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -0.1, []])
def test_scales_that_are_none(refused, quantized, value):
    assert "should be positive numbers" in refused(with_scale(quantized, value))


def test_weights_that_are_not_finite(refused):
    model = float_model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((8, 3, 3, 3), np.nan, np.float32), "w1"))
    assert "'w1' are not finite" in refused(model)


def test_graphs_that_are_no_image_classifiers(refused):
    two = float_model()
    two.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 3]))
    assert "takes 2 inputs (images, more)" in refused(two, UnsupportedModelError)
    several = float_model()
    several.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None))
    assert "output=, of logits, pooled" in refused(several, InvalidInputError)
    assert "output: " in refused(several, InvalidInputError, output="nothing")
    constant = with_nodes(helper.make_node("Identity", ["k"], ["logits"]), k=np.zeros((1, 5), np.float32))
    assert "does not depend on the images" in refused(constant)
    text = float_model()
    text.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    refused(text, UnsupportedModelError)
    open_sizes = float_model()
    open_sizes.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    assert "give input_shape" in refused(open_sizes, InvalidInputError)
    assert "takes images of sizes (3, 8, 8), got (3, 9, 8)" in refused(
        float_model(), InvalidInputError, input_shape=(3, 9, 8)
    )


def test_operators_of_somebodys_own(refused):
    custom = float_model()
    custom.graph.node[1].domain = "my.ops"
    custom.opset_import.append(helper.make_opsetid("my.ops", 1))
    assert "operators of its own, my.ops.Relu" in refused(custom, UnsupportedModelError)
    hidden = float_model()
    branch = helper.make_graph([custom.graph.node[1]], "then", [], [helper.make_tensor_value_info("r1", 1, None)])
    hidden.graph.node.append(helper.make_node("If", ["c1"], ["r9"], then_branch=branch, else_branch=branch))
    assert "my.ops.Relu" in refused(hidden, UnsupportedModelError)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "", "missing.bin"])
def test_data_outside_the_folder(refused, tmp_path, location):
    (tmp_path.parent / "secret.bin").write_bytes(bytes(1000))
    model = float_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "864"}.items():
        tensor.external_data.add(key=key, value=value)
    assert "no file in its own folder" in refused(model)


def test_data_in_the_folder_is_part_of_the_file(tmp_path):
    onnx.save(float_model(), tmp_path / "one.onnx")
    beside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(float_model(), tmp_path / "two.onnx", **beside)
    networks = [network.FileNetwork(tmp_path / name) for name in ("one.onnx", "two.onnx")]
    x = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
    answers = [net(network.torch.from_numpy(x)) for net in networks]
    assert network.torch.equal(*answers)
    before = networks[1].digest
    (tmp_path / "weights.bin").write_bytes(bytes((tmp_path / "weights.bin").stat().st_size))
    assert network.FileNetwork(tmp_path / "two.onnx").digest != before
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(FileFormatError):
        network.FileNetwork(tmp_path / "two.onnx")


def test_sizes_that_no_memory_holds(refused):
    sums = [helper.make_node("ReduceSum", ["big"], ["sum"]), helper.make_node("Flatten", ["images"], ["rows"]),
            helper.make_node("Add", ["rows", "sum"], ["logits"])]  # fmt: skip
    for kind, constants in (
        ("ConstantOfShape", {"shape": np.int64([10**5, 10**5, 100])}),
        ("Tile", {"one": np.float32([1]), "times": np.int64([10**11])}),
        ("Range", {"start": np.float32(0), "end": np.float32(1e12), "step": np.float32(1)}),
    ):
        model = with_nodes(helper.make_node(kind, list(constants), ["big"]), *sums, **constants)
        assert "too large to run" in refused(model), kind


@pytest.mark.parametrize("changed", [(b"Relu", b"Re\xaau"), (b"SAME", b"SA\nE")])
def test_what_the_runtime_refuses_is_said_in_one_line(changed, capfd):
    model = float_model()
    model.graph.node[0].attribute.append(helper.make_attribute("auto_pad", "SAME"))
    with pytest.raises(FileFormatError, match="onnxruntime can't load the net: ") as caught:
        Runtime(model.SerializeToString().replace(*changed), "the net")
    assert "\n" not in str(caught.value)
    assert not capfd.readouterr().out


def test_operator_sets_that_the_runtime_does_not_have(tmp_path):
    model = float_model()
    model.opset_import[0].version = 99
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(FileFormatError, match="onnxruntime can't load"):
        qadv.QuantizedClassifier.from_file(tmp_path / "net.onnx")


def test_operators_of_one_name_are_told_apart(quantized, tmp_path):
    model = onnx.ModelProto.FromString(quantized.SerializeToString())
    for node in model.graph.node:
        node.name = "node"
    onnx.save(model, tmp_path / "net.onnx")
    nodes = network.read_graph(tmp_path / "net.onnx").nodes
    assert len({node.name for node in nodes}) == len(nodes) == len(model.graph.node)


def test_names_that_no_front_end_knows(tmp_path):
    with pytest.raises(InvalidInputError, match=r"net\.tofu: no front end that is installed reads such files"):
        qadv.QuantizedClassifier.from_file(tmp_path / "net.tofu")
