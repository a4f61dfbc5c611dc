"""The checks for quantization schemes."""

import tempfile
from pathlib import Path

import numpy as np
import torch

import qadv
from qadv.estimators.protocol import Classifier
from qadv.evaluation import predicted
from qadv.quantization import ActivationQuantizer, Scheme, WeightQuantizer
from qadv.quantization.frozen import freeze
from qadv.testing.check import NotApplicable, check, expect, expect_array, expect_same, refused
from qadv.testing.global_state import from_seed
from qadv.testing.gradients import disagreement
from qadv.testing.materials import data, few, state, trained_on
from qadv.testing.quantizer_case import QuantizerCase, activations, weights
from qadv.testing.use import check_attackable, check_saved
from qadv.trainers.loop_trainer import LoopTrainer


@check("quantizer")
def contract(case: QuantizerCase) -> None:
    """It subclasses `qadv.quantization.Scheme` and names quantizers of weights, activations or both, and its bits."""
    target = case.target
    right = isinstance(target, type) and issubclass(target, Scheme)
    expect(right, "a subclass of qadv.quantization.Scheme", target, "class MyScheme(Scheme)")
    for role in ("weights", "activations", "inputs", "operands", "gates"):
        base, named = WeightQuantizer if role == "weights" else ActivationQuantizer, getattr(target, role)
        right = named is None or (isinstance(named, type) and issubclass(named, base))
        expected = f"{role}: None, or a subclass of qadv.quantization.{base.__name__}"
        expect(right, expected, named, f"{role} = MyQuantizer")
    both = target.weights is None and target.activations is None
    expect(not both, "a quantizer of weights or of activations", "neither", "weights = MyQuantizer")
    widths = case.widths
    right = widths == sorted(set(widths)) and all(isinstance(bits, int) and 1 <= bits <= 32 for bits in widths)
    expect(right and widths, "bits_choices, ascending whole numbers from 1", widths, "bits_choices = range(2, 9)")
    if target.takes_bits and not target.takes_scheme:
        refused(lambda: target(bits=max(widths) + 1), f"bits={max(widths) + 1}", "call super().__init__(bits, spec)")
        refused(lambda: target(bits=None), "bits=None", "call super().__init__(bits, spec)")


@check("quantizer")
def weight_codes(case: QuantizerCase) -> None:
    """Codes of weights are whole numbers among `code_values`, as many as its bits can tell apart or fewer."""
    for quantizer in case.weight_quantizers(weights()):
        known = quantizer.code_values().to(torch.float64)
        spec = f"at {quantizer.bits} bits"
        ascending = known.ndim == 1 and bool((known.diff() > 0).all()) and bool((known == known.round()).all())
        expect(ascending, f"code_values {spec}: whole numbers, ascending", known, "return torch.arange(low, high + 1)")
        do = "count the zero and the sign; store fewer levels, or give the quantizer the bits that it needs"
        expect(len(known) <= 2**quantizer.bits, f"at most {2**quantizer.bits} codes {spec}", len(known), do)
        with torch.no_grad():
            codes, _ = quantizer.encode(quantizer.latent(weights()))
        shape = tuple(weights().shape)
        expect(codes.shape == shape, f"codes {shape}", tuple(codes.shape), "one code for each weight")
        strange = sorted(set(codes.double().flatten().tolist()) - set(known.tolist()))
        do = "round and clip before you return them"
        expect(not strange, f"codes among code_values {spec}", f"also {strange[:5]}", do)


@check("quantizer")
def weight_values(case: QuantizerCase) -> None:
    """Quantized weights are `decode(*encode(latent))`, finite float32, also of filters that are zero or constant."""
    for quantizer in case.weight_quantizers(weights()):
        with torch.no_grad():
            value = quantizer(weights())[0]
            decoded = quantizer.decode(*quantizer.encode(quantizer.latent(weights())))
        names = ("normal", "zero", "constant", "tiny", "normal", "normal")
        bad = [name for name, part in zip(names, value, strict=True) if not bool(part.isfinite().all())]
        came = f"NaN or infinity in filters that are {', '.join(bad)}"
        expect(not bad, "finite weights", came, "divide by torch.where(scale > 0, scale, 1.0)")
        expect_array(value, weights().shape, "keep shape and dtype", torch.Tensor)
        do = "compute values in decode alone"
        expect_same(value, decoded, "the value that codes and scale stand for", do, "the value")


@check("quantizer")
def activation_levels(case: QuantizerCase) -> None:
    """Quantized activations are among `levels`, at most 2^bits of them, and keep the order of their inputs."""
    for quantizer in case.activation_quantizers():
        with torch.no_grad():
            out = quantizer.quantize(activations())
            levels = quantizer.levels().to(out)
        right = out.shape == activations().shape and bool(out.isfinite().all())
        expect(right, f"finite {tuple(activations().shape)}", tuple(out.shape), "keep the shape")
        right = len(levels) <= 2**quantizer.bits and bool((levels.diff() > 0).all())
        do = "2^bits levels are 2^bits - 1 steps"
        expect(right, f"levels, ascending, at most {2**quantizer.bits}", levels.tolist()[:10], do)
        apart = float((out.flatten()[:, None] - levels).abs().amin(dim=1).max())
        came, do = f"some that are {apart:.3g} from the next", "clip, then round, as levels() says"
        right = apart <= 1e-5 * float(levels.abs().max())
        expect(right, f"values among the levels at {quantizer.bits} bits", came, do)
        rises = bool((out.flatten()[activations().flatten().argsort()].diff() >= 0).all())
        expect(rises, "larger values for larger inputs", "smaller ones", "clip before you round")


@check("quantizer")
def gradient(case: QuantizerCase) -> None:
    """The gradient is the slope of what is rounded: `latent` of weights, `squash` clipped of activations."""
    do = (
        "override `latent` (`squash`) where the definition is smooth up to the rounding; if its straight-through "
        "estimator is another on purpose, say so: conformance(..., exempt={'gradient': '...'})"
    )
    if case.target.weights is not None:
        w = weights()[[0, 4, 5]].double()
        for quantizer in case.weight_quantizers(w.float()):
            wrong = disagreement(lambda weight, of=quantizer: of(weight)[0], w, quantizer.latent)  # type: ignore[misc]
            expect(wrong is None, f"the slope of `latent` at {quantizer.bits} bits", wrong, do)
    if case.target.activations is not None:
        for each in case.activation_quantizers():
            if (grid := each.grid()) is None:
                continue
            clipped = lambda x, of=each, ends=grid[:2]: of.squash(x).clamp(*ends)  # noqa: E731
            wrong = disagreement(each.quantize, activations().double()[1:], clipped)
            expect(wrong is None, f"the slope of the clip at {each.bits} bits", wrong, do)


@check("quantizer")
def attacked(case: QuantizerCase) -> None:
    """ART's FGSM and PGD run on a network that it quantizes, and its input gradient is not zero."""
    with case.specs() as specs:
        for spec in specs:
            check_attackable(case.quantized(spec))


@check("quantizer")
def frozen_twin(case: QuantizerCase) -> None:
    """The frozen network, which is what is exported, gives the same logits and input gradients."""
    x = torch.from_numpy(few()[0])
    with case.specs() as specs:
        for spec in specs:
            model = case.quantized(spec).network.eval()
            results = []
            for network in (model, freeze(model).eval()):
                leaf = x.clone().requires_grad_()
                logits = network(leaf)
                results.append((logits.detach(), torch.autograd.grad(logits.square().sum(), leaf)[0]))
            for name, a, b in zip(("logits", "gradients"), *results, strict=True):
                apart = float((a - b).abs().max() / (a.abs().max() + 1e-12))
                do = "let quantized weights depend on latent weights and buffers alone; give `grid` only if it is one"
                expect(apart < 1e-5, f"the same {name} with {spec}", f"a relative difference of {apart:.2g}", do)


@check("quantizer")
def trains(case: QuantizerCase) -> None:
    """A network that it quantizes trains: weights change and stay finite, and the accuracy stays above 30 %."""
    with case.specs() as specs:
        for spec in specs:
            classifier = case.quantized(spec)
            before = state(classifier)
            _train(classifier, nb_epochs=4, images=300)
            after = state(classifier)
            learned = dict(classifier.model.named_parameters())
            names = list(learned)  # a bias before a BatchNorm has no gradient
            stuck = [name for name in names if learned[name].ndim > 1 and torch.equal(before[name], after[name])]
            do = "let gradients through: see `latent`"
            expect(not stuck, f"weights that change with {spec}", f"{stuck} do not", do)
            bad = [name for name in names if not bool(after[name].isfinite().all())]
            expect(not bad, "finite weights", f"NaN or infinity in {bad}", "guard divisions")
            share = (predicted(classifier, data().x_train[:300]) == data().y_train[:300]).mean()
            enough = share > 0.3 or spec != specs[-1]
            expect(enough, f"an accuracy above 30 % with {spec}", f"{share:.0%}", "look at its scale and range")


@check("quantizer")
def save_and_load(case: QuantizerCase) -> None:
    """A trained classifier that is saved and loaded gives the same logits."""
    with case.specs() as specs:
        for spec in specs:
            classifier = case.quantized(spec)
            _train(classifier, nb_epochs=1, images=64)
            check_saved(classifier)


@check("quantizer")
def packed(case: QuantizerCase) -> None:
    """What `qadv.export` packs into codes of so many bits gives the same logits when it is loaded."""
    if case.target.weights is None:
        raise NotApplicable("it quantizes no weights")
    x = few()[0]
    with case.specs() as specs, tempfile.TemporaryDirectory() as folder:
        for index, spec in enumerate(specs):
            classifier = case.quantized(spec)
            path = Path(folder) / f"{index}.safetensors"
            qadv.export(classifier, path)
            before, after = classifier.predict(x), qadv.QuantizedClassifier.load(path, device_type="cpu").predict(x)
            apart = float(np.abs(before - after).max())
            came = f"differences of up to {apart:.3g}"
            expect(apart == 0, f"the same logits with {spec}", came, "compute values in decode alone")


def _train(classifier: Classifier, nb_epochs: int, images: int) -> None:
    trainer = LoopTrainer(classifier, lr=0.02, weight_decay=0.0, verbose=False)
    from_seed(lambda: trainer.fit(**trained_on(images), nb_epochs=nb_epochs, batch_size=32))
