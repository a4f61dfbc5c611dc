"""Each bridge between versions, on whatever is installed: what the other versions have is imitated."""

import re
from importlib import metadata

import pytest

from qadv.errors import MissingRequirementError
from qadv.versions import PlainTensors, metadata_field, progress_bar, require_onnx_export

pytestmark = pytest.mark.core


@pytest.mark.filterwarnings("error")
def test_a_missing_field_is_empty(tmp_path):
    (tmp_path / "METADATA").write_text("Metadata-Version: 2.1\nName: half-removed\n")
    distribution = metadata.PathDistribution(tmp_path)
    assert metadata_field(distribution, "Name") == "half-removed"
    assert metadata_field(distribution, "Version") == ""


def test_a_bar_that_is_not_shown_writes_nothing(capfd):
    with progress_bar(shown=False) as progress:
        progress.advance(progress.add_task("steps", total=1))
    assert capfd.readouterr() == ("", "")
    assert progress.disable
    assert progress.console.quiet  # for older versions of rich
    with progress_bar(shown=True) as progress:
        progress.advance(progress.add_task("steps", total=1))
    assert "steps" in capfd.readouterr().out


def test_a_bar_has_the_columns_it_is_given():
    from rich.progress import TextColumn

    column = TextColumn("{task.description}")
    assert progress_bar(column, shown=True).columns == (column,)


def test_a_torch_that_cannot_export_is_named(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.delattr(torch.onnx, "ops", raising=False)
    with pytest.raises(
        MissingRequirementError, match=rf"needs torch 2\.8 or newer, found {re.escape(torch.__version__)}"
    ):
        require_onnx_export()
    monkeypatch.setattr(torch.onnx, "ops", object(), raising=False)
    require_onnx_export()


class OldProxy:
    """As in Brevitas 0.11, which has no switch."""

    def __init__(self, quant_layer, quant_injector):
        self.quant_layer = quant_layer

    def create_quant_tensor(self, qt_args, x=None):
        return "QuantTensor", *qt_args, x

    def apply_input_view(self, x):
        raise AttributeError("input_view_impl")


def test_proxies_give_plain_tensors_where_brevitas_has_no_switch():
    proxy = type("Proxy", (PlainTensors, OldProxy), {})("layer", "injector")
    assert proxy.quant_layer == "layer"
    assert proxy.create_quant_tensor(("value", "scale", "zero point", "bits")) == "value"
    assert proxy.create_quant_tensor(("value", None), x="passed through") == "value"
    assert proxy.apply_input_view("x") == "x"
    proxy.skip_create_quant_tensor = False
    for given in (
        proxy.create_quant_tensor(("value", "scale"), x="x"),
        proxy.create_quant_tensor(("value", "scale"), "x"),
    ):
        assert given == ("QuantTensor", "value", "scale", "x")


@pytest.mark.parametrize("training", [True, False])
def test_the_layers_of_a_quantized_network_give_plain_tensors(training):
    torch = pytest.importorskip("torch")
    import qadv

    layers = [torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)]
    network = qadv.quantize(torch.nn.Sequential(*layers), "int:4", "relu6:4")
    network.train(training)
    given = []
    for layer in network:
        layer.register_forward_hook(lambda module, inputs, output: given.append(type(output)))
    network(torch.rand(2, 6))
    assert given == [torch.Tensor] * 4
    assert type(network[2].quant_weight()) is torch.Tensor
