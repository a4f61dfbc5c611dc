"""Preprocessors on pixels: forward values, gradients, and what ART makes of them."""

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.defences.preprocessor import FeatureSqueezing, SpatialSmoothing, SpatialSmoothingPyTorch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.errors import InvalidInputError

ALL = [
    qadv.BitDepthReduction(3),
    qadv.MedianSmoothing(2),
    qadv.MuLawCompanding(255.0),
    qadv.MuLawCompanding(15.0, bits=4),
    qadv.MuLawCompanding(15.0, bits=4, expand=True),
]


def images(shape=(3, 2, 6, 5), low=0.0, high=1.0, seed=0):
    values = np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)
    values[0, 0, 0, :4] = low, high, (low + high) / 2, low
    return values


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("clip_values", [(0.0, 1.0), (-1.0, 3.0), (0.0, 255.0)])
def test_bit_depth_gives_the_values_of_arts_feature_squeezing(bits, clip_values):
    x = images(low=clip_values[0], high=clip_values[1])
    expected, _ = FeatureSqueezing(clip_values=clip_values, bit_depth=bits)(x.astype(np.float64))
    found, labels = qadv.BitDepthReduction(bits, clip_values)(x, np.arange(3))
    step = (clip_values[1] - clip_values[0]) / (2**bits - 1)
    ties = np.abs(((x - clip_values[0]) / step) % 1 - 0.5) < 1e-4
    np.testing.assert_allclose(found[~ties], expected[~ties], atol=1e-5 * clip_values[1])
    assert found.dtype == np.float32
    assert len(np.unique(found.round(4))) <= 2**bits
    np.testing.assert_array_equal(labels, np.arange(3))


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5])
def test_the_median_gives_the_values_of_arts_spatial_smoothing(window):
    x = images((2, 3, 7, 9))
    expected, _ = SpatialSmoothing(window_size=window, channels_first=True)(x)
    np.testing.assert_array_equal(qadv.MedianSmoothing(window)(x)[0], expected)


def test_an_odd_median_inside_is_that_of_arts_own_in_torch():
    pytest.importorskip("kornia")
    x = images((2, 3, 7, 9))
    expected, _ = SpatialSmoothingPyTorch(window_size=3, channels_first=True)(x)
    np.testing.assert_array_equal(qadv.MedianSmoothing(3)(x)[0][:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])


@pytest.mark.parametrize("clip_values", [(0.0, 1.0), (-1.0, 3.0)])
def test_companding_is_the_mu_law_on_the_share_of_the_range(clip_values):
    low, high = clip_values
    x = images(low=low, high=high)
    u = (x.astype(np.float64) - low) / (high - low)
    companded = np.log1p(255 * u) / np.log(256)
    levels = np.rint(15 * companded) / 15
    expanded = (256**levels - 1) / 255
    for options, expected in (
        ({}, companded),
        ({"bits": 4}, levels),
        ({"bits": 4, "expand": True}, expanded),
    ):
        found, _ = qadv.MuLawCompanding(255.0, clip_values=clip_values, **options)(x)
        np.testing.assert_allclose(found, low + (high - low) * expected, atol=2e-5)


def test_companding_with_expansion_has_fine_levels_in_the_dark():
    levels = np.unique(qadv.MuLawCompanding(255.0, bits=3, expand=True)(np.linspace(0, 1, 5001, dtype=np.float32))[0])
    assert len(levels) == 8
    assert (np.diff(np.diff(levels)) > 0).all(), "each step is wider than the one before"
    assert levels[[0, -1]] == pytest.approx([0, 1])


@pytest.mark.parametrize("defence", ALL[:1] + ALL[3:], ids=repr)
def test_the_gradient_goes_straight_through_the_rounding_also_at_black_and_white(defence):
    x = torch.from_numpy(images()).requires_grad_()
    (found,) = torch.autograd.grad(defence.forward(x)[0].sum(), x)
    if isinstance(defence, qadv.BitDepthReduction):
        expected = np.ones(x.shape)
    else:
        u = x.detach().double().numpy()
        expected = 15 / (1 + 15 * u) / np.log(16)
        if defence.expand:  # F⁻¹'s slope where the rounded value is
            rounded = np.rint(15 * np.log1p(15 * u) / np.log(16)) / 15
            expected = expected * np.log(16) * 16**rounded / 15
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)


def test_the_medians_gradient_goes_to_the_pixel_that_was_taken():
    x = torch.tensor([[[[1.0, 5.0], [2.0, 9.0]]]], requires_grad=True)
    smooth, _ = qadv.MedianSmoothing(2).forward(x)
    assert smooth[0, 0, 1, 1].item() == 5.0
    (slope,) = torch.autograd.grad(smooth[0, 0, 1, 1], x)
    assert slope.tolist() == [[[[0.0, 1.0], [0.0, 0.0]]]]


@pytest.mark.parametrize("defence", ALL, ids=repr)
def test_arts_classifier_attacks_through_it(defence, digits, trained):
    """The gradient ART computes is that of the network at the preprocessed image, times the defence's."""
    assert isinstance(defence, PreprocessorPyTorch)
    x, y = digits.x_test[:16], digits.y_test[:16]
    defended = PyTorchClassifier(
        trained.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), preprocessing_defences=defence
    )
    np.testing.assert_allclose(defended.predict(x), trained.predict(defence(x)[0]), atol=1e-5)
    found = defended.loss_gradient(x, np.eye(10, dtype=np.float32)[y])
    inner = trained.loss_gradient(defence(x)[0], y)
    np.testing.assert_allclose(found, defence.estimate_gradient(x, inner), atol=1e-5)
    assert (found != 0).any(axis=(1, 2, 3)).all()
    attack = ProjectedGradientDescent(defended, eps=0.3, eps_step=0.05, max_iter=8, verbose=False)
    assert (defended.predict(attack.generate(x, y)).argmax(1) != y).mean() > 0.5


def test_a_rounding_without_bpda_would_give_no_gradient(trained, digits):
    class Bare(qadv.BitDepthReduction):
        def _apply(self, pixels):
            return (pixels * 31).round() / 31

    x, y = digits.x_test[:4], digits.y_test[:4]
    for defence, masked in ((Bare(5), True), (qadv.BitDepthReduction(5), False)):
        defended = qadv.QuantizedClassifier(
            trained.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing_defences=defence
        )
        assert (defended.loss_gradient(x, y) == 0).all() == masked


def test_feature_squeezing_is_not_masked_against_bpda(trained, digits):
    """PGD through both defences does as much harm as PGD on the bare network, whose gradient stands in for theirs."""
    x, y = digits.x_test[:100], digits.y_test[:100]
    squeezing = [qadv.BitDepthReduction(5), qadv.MedianSmoothing(2)]
    defended = qadv.QuantizedClassifier(
        trained.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing_defences=squeezing
    )
    settings = {"eps": 0.1, "eps_step": 0.02, "max_iter": 10, "verbose": False}
    through = ProjectedGradientDescent(defended, **settings).generate(x, y)
    past = ProjectedGradientDescent(trained, **settings).generate(x, y)
    clean, direct, transferred = ((defended.predict(images).argmax(1) == y).mean() for images in (x, through, past))
    assert direct <= transferred
    assert direct < clean - 0.2


def test_apply_fit_and_apply_predict_say_when(digits, make_classifier):
    for apply_fit, apply_predict in ((True, False), (False, True)):
        for defence in (
            qadv.BitDepthReduction(1, apply_fit=apply_fit, apply_predict=apply_predict),
            qadv.MedianSmoothing(2, apply_fit=apply_fit, apply_predict=apply_predict),
            qadv.MuLawCompanding(apply_fit=apply_fit, apply_predict=apply_predict),
        ):
            classifier = make_classifier(preprocessing_defences=defence)
            x = digits.x_test[:3]
            for fit, applied in ((True, apply_fit), (False, apply_predict)):
                given, _ = classifier._apply_preprocessing(x, None, fit=fit)
                np.testing.assert_allclose(given, defence(x)[0] if applied else x, atol=1e-6)


def test_training_on_companded_images(digits):
    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", input_shape=(1, 8, 8), image_size=8, width=8, preprocessing_defences=qadv.MuLawCompanding(15.0)
    )
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=4, batch_size=64)
    assert (classifier.predict(digits.x_test).argmax(1) == digits.y_test).mean() > 0.9
    x = digits.x_test[:8]
    assert np.abs(FastGradientMethod(classifier, eps=0.05).generate(x) - x).max() == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qadv.BitDepthReduction(0), "bit_depth: expected a whole number from 1 to 16, got 0"),
        (lambda: qadv.BitDepthReduction(2.0), "bit_depth"),
        (lambda: qadv.BitDepthReduction(clip_values=(1.0, 0.0)), "clip_values"),
        (lambda: qadv.BitDepthReduction(clip_values=None), "clip_values: expected the range"),
        (lambda: qadv.BitDepthReduction(apply_fit=1), "apply_fit: expected True or False"),
        (lambda: qadv.MedianSmoothing(apply_predict="no"), "apply_predict: expected True or False"),
        (lambda: qadv.MedianSmoothing(0), "window_size"),
        (lambda: qadv.MedianSmoothing(9)(images()), "at least 9×9 pixels"),
        (lambda: qadv.MedianSmoothing(2)(np.zeros((2, 3), np.float32)), "images \\(N, C, H, W\\)"),
        (lambda: qadv.MuLawCompanding(0.0), "mu: expected"),
        (lambda: qadv.MuLawCompanding(bits=17), "bits: expected a whole number from 1 to 16"),
        (lambda: qadv.MuLawCompanding(expand=True), "give bits too"),
        (lambda: qadv.BitDepthReduction(3).set_params(bit_depth=99), "bit_depth"),
    ],
)
def test_what_is_off_is_refused(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


@pytest.mark.parametrize("defence", ALL, ids=repr)
def test_a_repr_makes_it_again(defence):
    again = eval(repr(defence), vars(qadv), {name: getattr(qadv, name) for name in qadv.__all__})
    x = images()
    np.testing.assert_array_equal(again(x)[0], defence(x)[0])
    assert all(getattr(again, name) == getattr(defence, name) for name in defence.params)


@pytest.mark.parametrize("preprocessor", ALL, ids=repr)
def test_8_bit_images_are_refused(preprocessor):
    x = (images() * 255).astype(np.uint8)
    for call in (preprocessor, lambda x: preprocessor.forward(torch.from_numpy(x))):
        with pytest.raises(InvalidInputError, match=rf"^{type(preprocessor).__name__}: expected float pixels.*x / 255"):
            call(x)
        if hasattr(preprocessor, "clip_values"):
            with pytest.raises(InvalidInputError, match=r"expected pixels from 0 to 1 .*divide by 255: x / 255"):
                call(x.astype(np.float32))
    if hasattr(preprocessor, "clip_values"):
        preprocessor(images(low=-5, high=5))  # what attacks may ask


@pytest.mark.parametrize("preprocessor", [*ALL, qadv.MedianSmoothing(3)], ids=repr)
def test_nan_among_the_pixels_is_refused(preprocessor):
    """A median would hide a single one."""
    x = images()
    x[1, 0, 2, 2] = np.nan
    with pytest.raises(InvalidInputError, match="NaN"):
        preprocessor(x)
