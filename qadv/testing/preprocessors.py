"""The checks for preprocessors."""

import copy
import pickle
from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch

from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import NotApplicable, check, expect, expect_array, expect_same, expect_subclass
from qadv.testing.gradients import disagreement
from qadv.testing.materials import digits_classifier, few
from qadv.testing.use import check_attackable, check_range, check_slope


class PreprocessorCase(ConformanceCase):
    kind = "preprocessor"
    of_classifier = False

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        return self.make(**changes)(inputs["x"], inputs["y"])


def _on_tensors(case: PreprocessorCase) -> PreprocessorPyTorch:
    made = case.make()
    if not isinstance(made, PreprocessorPyTorch):
        raise NotApplicable("it works on numpy arrays")
    return made


@check("preprocessor")
def contract(case: PreprocessorCase) -> None:
    """It subclasses ART's `PreprocessorPyTorch` (or `Preprocessor`), and a call gives images, and labels as given."""
    made = case.make()
    expect_subclass(made, Preprocessor, "from art.defences.preprocessor.preprocessor import PreprocessorPyTorch")
    x, y = few()
    result = made(x, y)
    do = "return x, y"
    expect(isinstance(result, tuple) and len(result) == 2, "a pair (images, labels)", type(result).__name__, do)
    expect_same(y, result[1], "the labels as given", do, "y")
    expect(made(x)[1] is None, "None for y=None", made(x)[1], do)


@check("preprocessor")
def shape_and_dtype(case: PreprocessorCase) -> None:
    """float32 images in, as many float32 images out, all finite; one by one they come out as in a batch."""
    made = case.make()
    x, _ = few()
    result = made(x)[0]
    do = "return an image for each; no float64 constants: np.float32(0.1), tensor.to(x.dtype)"
    expect_array(result, (len(x), *result.shape[1:]), do)
    singly = np.concatenate([made(x[i : i + 1])[0] for i in range(len(x))])
    came = f"differences of up to {np.abs(result - singly).max():.3g}"
    do = "take means and ranges over single images, not over the batch"
    expect(np.allclose(result, singly, atol=1e-5), "images that do not depend on the rest of their batch", came, do)


@check("preprocessor")
def range_of_pixels(case: PreprocessorCase) -> None:
    """Images within 0 and 1, black and white ones too, come out within 0 and 1."""
    x, _ = few()
    tried = np.concatenate([x, np.zeros_like(x[:1]), np.ones_like(x[:1])])
    result = case.make()(tried)[0]
    check_range(result, 0, 1, "stay in the range; standardisation is the classifier's `preprocessing=(mean, std)`")


@check("preprocessor")
def tensors(case: PreprocessorCase) -> None:
    """`forward` on a tensor gives what a call gives on an array."""
    made = _on_tensors(case)
    x, _ = few()
    with torch.no_grad():
        result = made.forward(torch.from_numpy(x))[0]
    expect(isinstance(result, torch.Tensor), "a tensor", type(result).__name__, "return tensors from forward")
    same = np.allclose(result.cpu().numpy(), made(x)[0], atol=1e-6)
    expect(same, "the same images", "others", "do not override __call__: ART's calls forward")


@check("preprocessor")
def gradient(case: PreprocessorCase) -> None:
    """The gradient of `forward` is its slope; a straight-through estimator is exempt by declaration."""
    made = _on_tensors(case)
    shape = few()[0].shape
    x = 0.1 + 0.8 * torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check_slope(disagreement(lambda images: made.forward(images)[0], x), "correct `backward`")


@check("preprocessor")
def gradient_not_masked(case: PreprocessorCase) -> None:
    """Some gradient comes through for every image: ART calls no `estimate_forward` where all steps are in torch."""
    made = case.make()
    x, _ = few()
    if isinstance(made, PreprocessorPyTorch):
        leaf = torch.from_numpy(x).requires_grad_()
        result = made.forward(leaf)[0]
        found = torch.autograd.grad(result.sum(), leaf)[0].numpy() if result.requires_grad else np.zeros_like(x)
    else:
        found = made.estimate_gradient(x, np.ones_like(made(x)[0]))
    live = (np.abs(found).reshape(len(x), -1).max(axis=1) > 0).all()
    expect(live, "a gradient that is not zero", "zero", "put a straight-through estimator inside `forward`")


@check("preprocessor")
def in_a_classifier(case: PreprocessorCase) -> None:
    """A `QuantizedClassifier` takes it among its `preprocessing_defences`, predicts, and is attacked by ART."""
    made = case.make()
    if made(few()[0])[0].shape != few()[0].shape:
        raise NotApplicable("its images have another shape: it needs a network for them")
    check_attackable(digits_classifier(preprocessing_defences=[made]))


@check("preprocessor", "postprocessor")
def pickling(case: ConformanceCase) -> None:
    """It can be pickled and copied, as attacks with processes of their own do with the whole classifier."""
    made, argument = case.make(), next(iter(case.inputs().values()))
    for twin in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        do = "keep no lambdas, handles or caches in it"
        expect_same(made(argument), twin(argument), "the same result from the copy", do)
