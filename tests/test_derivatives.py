"""A derivative that quantizers have no rule for is an error, not the 0 of a rounding."""

import pytest
import torch
from brevitas.nn import QuantReLU
from torch import nn
from torch.autograd import forward_ad

import qadv
from qadv.frontends.fake_quantize import fake_quantize
from qadv.quantization.scheme import parse_scheme


def of_qadv():
    return qadv.quantize(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)))


def of_brevitas():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), QuantReLU(bit_width=4), nn.Linear(8, 3))


ROUNDED = {
    "relu6": parse_scheme("relu6:4", "activations").for_activation().quantize,
    "pact": parse_scheme("pact:4", "activations").for_activation().quantize,
    "torch.ao": lambda x: fake_quantize(x, 0.1, 0, 0, 15),
    "qadv's network": of_qadv,
    "Brevitas's network": of_brevitas,
}


def test_a_float_network_has_forward_derivatives():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(2, 1, 4, 4)
    model = qadv.QuantizedClassifier(net, nn.CrossEntropyLoss(), (1, 4, 4), 3).model.eval()
    with torch.no_grad():
        _, tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))
        torch.testing.assert_close(tangent, net[1].weight.sum(1).expand(2, -1))


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("name", ROUNDED)
def test_forward_derivatives_are_refused(name, recorded):
    x, run = torch.rand(2, 1, 4, 4), ROUNDED[name]
    if "network" in name:
        run = qadv.QuantizedClassifier(run(), nn.CrossEntropyLoss(), (1, 4, 4), 3).model.eval()
    with torch.set_grad_enabled(recorded):
        run(x)
        with pytest.raises(RuntimeError, match=r"autograd\.Function"):
            torch.func.jvp(run, (x,), (x,))
        with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"autograd\.Function"):
            run(forward_ad.make_dual(x, x))
