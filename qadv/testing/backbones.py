"""The checks for backbones."""

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

import qadv
from qadv.testing.case import Arrays, ConformanceCase, registered
from qadv.testing.check import check, expect, expect_array, expect_same
from qadv.testing.gradients import disagreement
from qadv.testing.use import check_attackable, check_saved, check_slope


class BackboneCase(ConformanceCase):
    kind = "backbone"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the images that it is tried with."""
        return self.input_shape or (3, 32, 32)

    def images(self, number: int = 2) -> torch.Tensor:
        """Returns random images, (number, *input_shape) in [0, 1]."""
        return torch.rand((number, *self.shape), generator=torch.Generator().manual_seed(0))

    def make(self, **changes: Any) -> Any:
        return self.target(**{"nb_classes": 10, "in_channels": self.shape[0], **self.options, **changes})

    def seeded(self, **changes: Any) -> Any:
        """Returns a network whose weights were drawn from seed 0, in evaluation mode."""
        torch.manual_seed(0)
        return self.make(**changes).eval()

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        model = self.make(**changes).eval()
        with torch.no_grad():
            return {"state": dict(model.state_dict()), "logits": model(self.images())}

    def quantized(self, name: str) -> Any:
        """Returns a 4-bit classifier with this backbone."""
        torch.manual_seed(0)
        return qadv.QuantizedClassifier.from_backbone(
            name, "int:4", "relu6:4", input_shape=self.shape, device_type="cpu", **self.options
        )


@check("backbone")
def contract(case: BackboneCase) -> None:
    """`(nb_classes, in_channels, **options)` gives a `torch.nn.Module` in training mode, with parameters."""
    model = case.make()
    expect(isinstance(model, nn.Module), "a torch.nn.Module", type(model).__name__, "return the network")
    expect(any(True for _ in model.parameters()), "parameters", "none", "make the layers in __init__")
    trainable = all(p.requires_grad for p in model.parameters())
    expect(trainable, "parameters that can be trained", "some with requires_grad=False", "freeze nothing")


@check("backbone")
def shape_and_dtype(case: BackboneCase) -> None:
    """Images (N, in_channels, H, W) float32 give logits (N, nb_classes) float32, for other numbers of both too."""
    for nb_classes in (10, 7):
        for channels in {case.shape[0], 1, 3}:
            images = torch.rand((2, channels, *case.shape[1:]), generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                logits = case.seeded(nb_classes=nb_classes, in_channels=channels)(images)
            do = "use nb_classes and in_channels in the last and first layer"
            expect_array(logits, (2, nb_classes), do, torch.Tensor)


@check("backbone")
def logits(case: BackboneCase) -> None:
    """It ends in logits, not in probabilities."""
    with torch.no_grad():
        out = case.seeded()(case.images())
    sums = [out.exp().sum(1), *([out.sum(1)] if out.min() >= 0 else [])]
    logits = all((each - 1).abs().max() >= 1e-4 for each in sums)
    expect(logits, "logits", "probabilities, or their logarithms", "leave the softmax out: the loss has it")


@check("backbone")
def batches(case: BackboneCase) -> None:
    """In evaluation mode an image's logits do not depend on the other images of its batch, nor on chance."""
    model, images = case.seeded(), case.images(3)
    with torch.no_grad():
        singly = torch.cat([model(images[i : i + 1]) for i in range(3)])
        same = torch.allclose(model(images), singly, atol=1e-4, rtol=1e-3)
    expect(same, "the same logits one by one", "others", "dropout and batch statistics are for training mode only")


@check("backbone")
def gradient(case: BackboneCase) -> None:
    """The gradient of the logits by the image is their slope; a straight-through estimator is exempt by declaration."""
    model = case.seeded().double()
    check_slope(disagreement(model, case.images().double()), "detach nothing and round nothing in forward")


@check("backbone")
def copies(case: BackboneCase) -> None:
    """Its state dict loads into a new network, and a deep copy gives the same logits."""
    model = case.seeded()
    other = case.make().eval()  # with the next random weights
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(case.images())
        for twin in (other, copy.deepcopy(model)):
            do = "keep all that decides them in parameters and buffers"
            expect_same(expected, twin(case.images()), "the same logits", do, "the logits")


@check("backbone")
def quantizes(case: BackboneCase) -> None:
    """`qadv.quantize` takes it, leaves no layer float that it should not, and its copy gives finite logits."""
    model = case.seeded()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantized = qadv.quantize(model, "int:4", "relu6:4")
    with torch.no_grad():
        expect_array(quantized(case.images()), (2, 10), "look at qadv.summarize(qadv.quantize(model))", torch.Tensor)
    do = "share no tensors between copies"
    expect_same(before, dict(model.state_dict()), "the float network as it was", do, "the float network")


@check("backbone")
def attacked(case: BackboneCase) -> None:
    """ART's FGSM and PGD run on a 4-bit classifier of it, and its input gradient is not zero."""
    with registered(case) as name:
        check_attackable(case.quantized(name), case.images().numpy().astype(np.float32))


@check("backbone")
def save_and_load(case: BackboneCase) -> None:
    """A 4-bit classifier of it that is saved and loaded, rebuilt by name and options, gives the same logits."""
    with registered(case) as name:
        check_saved(case.quantized(name))
