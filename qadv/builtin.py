"""qadv's own components, registered through the same hooks as any plugin's."""

from collections.abc import Iterator

from qadv import __version__
from qadv.components import (
    Attack,
    Backbone,
    Dataset,
    Detector,
    Diagnostic,
    Postprocessor,
    Preprocessor,
    Quantizer,
    Trainer,
    Transformer,
)
from qadv.hookspecs import hookimpl


def version() -> str:
    """The version that `qadv plugins` shows for the built-ins."""
    return __version__


@hookimpl
def qadv_quantizers() -> Iterator[Quantizer]:
    uniform = "qadv.quantization.uniform"
    yield Quantizer(name="int", target=f"{uniform}:Int", summary="weights, 2-8 bits: symmetric uniform, per filter")
    yield Quantizer(name="bwn", target="qadv.quantization.binary:BWN", summary="weights, 1 bit: mean |W| x sign(W)")
    yield Quantizer(
        name="twn", target="qadv.quantization.ternary:TWN", summary="weights, ternary: 0 below 0.7 mean |W|"
    )
    yield Quantizer(
        name="int-per-tensor",
        target=f"{uniform}:IntPerTensor",
        summary="weights, 2-8 bits: as int, one scale per layer",
    )
    binary_net = "qadv.quantization.binary_net"
    yield Quantizer(
        name="binary-connect", target=f"{binary_net}:BinaryConnect", summary="weights, 1 bit: sign(W), latent W clipped"
    )
    yield Quantizer(
        name="binary-net", target=f"{binary_net}:BinaryNet", summary="weights and activations, 1 bit: signs"
    )
    yield Quantizer(
        name="dorefa", target="qadv.quantization.dorefa:DoReFa", summary="weights and activations, 1-8 bits: DoReFa-Net"
    )
    yield Quantizer(
        name="pact", target="qadv.quantization.pact:Pact", summary="activations, 1-8 bits: learned clip [0, alpha]"
    )
    yield Quantizer(
        name="tanh", target="qadv.quantization.tanh:Tanh", summary="activations, 1-8 bits: masks gradients, no defense"
    )
    yield Quantizer(
        name="pwlq",
        target="qadv.quantization.pwlq:PWLQ",
        summary="weights after training, 2-8 bits: piecewise linear, a fine centre and coarse tails",
    )
    stochastic = "qadv.quantization.stochastic"
    yield Quantizer(
        name="sq",
        target=f"{stochastic}:StochasticQuantization",
        summary="round a weight scheme, sq(bwn): in training some filters stay real, drawn by their error",
    )
    yield Quantizer(
        name="sq-inverse",
        target=f"{stochastic}:StochasticQuantizationByInverse",
        summary="as sq, but the quantized filters are drawn, by 1 / error",
    )
    clipped = "qadv.quantization.clipped_relu"
    yield Quantizer(name="relu", target=f"{clipped}:ReLU", summary="activations, 1-8 bits: [0, c], c from calibration")
    yield Quantizer(name="relu6", target=f"{clipped}:ReLU6", summary="activations, 1-8 bits: uniform levels of [0, 6]")
    yield Quantizer(name="relu1", target=f"{clipped}:ReLU1", summary="activations, 1-8 bits: uniform levels of [0, 1]")


@hookimpl
def qadv_backbones() -> Iterator[Backbone]:
    nets = "qadv.backbones"
    yield Backbone(name="resnet20", target=f"{nets}.resnet:resnet20", summary="ResNet-20, option-A shortcuts, 32x32")
    yield Backbone(name="wide-resnet", target=f"{nets}.wide_resnet:wide_resnet", summary="WRN-depth-width, 32x32")
    yield Backbone(name="vgg16", target=f"{nets}.vgg:vgg16", summary="VGG-16 with BatchNorm, 32x32")
    yield Backbone(name="mnist-cnn", target=f"{nets}.mnist_cnn:mnist_cnn", summary="two conv and two linear layers")
    yield Backbone(
        name="lowbit-convnet",
        target=f"{nets}.lowbit_convnet:lowbit_convnet",
        summary="six conv and three linear layers, table 8 of the low-bitwidth study",
    )
    yield Backbone(
        name="small-image-resnet",
        target=f"{nets}.small_image_resnet:small_image_resnet",
        summary="timm's ResNet-18 to -152 with a first layer for 32x32",
    )
    yield Backbone(
        name="timm",
        target=f"{nets}.timm_models:create",
        family=f"{nets}.timm_models:names",
        summary="any name of timm.list_models(); 'timm/vgg16' where a built-in has the name too",
    )


@hookimpl
def qadv_trainers() -> Iterator[Trainer]:
    yield Trainer(
        name="dq",
        target="qadv.trainers.defensive_quantization:DefensiveQuantTrainer",
        summary="Defensive Quantization: orthogonal weights keep the network non-expansive",
    )
    yield Trainer(
        name="eq",
        target="qadv.trainers.error_silenced:ErrorSilencedTrainer",
        summary="Error-silenced Quantization: pairs clean and adversarial activations while quantizing",
    )
    yield Trainer(
        name="adversarial",
        target="qadv.trainers.adversarial:AdversarialQuantTrainer",
        summary="adversarial training of quantized networks: PGD, R+FGSM or FGSM",
    )
    yield Trainer(
        name="feedback",
        target="qadv.trainers.feedback:FeedbackTrainer",
        summary="feedback learning: images from beyond the nearest decision boundaries, most for the weakest classes",
    )


@hookimpl
def qadv_transformers() -> Iterator[Transformer]:
    yield Transformer(
        name="mu-law",
        target="qadv.transformers.mu_law:MuLawWeightMapping",
        summary="maps the weights of the last layers by the mu-law, after training",
    )
    yield Transformer(
        name="ptq",
        target="qadv.transformers.post_training_quantization:PostTrainingQuantization",
        summary="quantizes a trained float classifier, calibrated on natural or adversarial images",
    )


@hookimpl
def qadv_preprocessors() -> Iterator[Preprocessor]:
    own = "qadv.preprocessors"
    yield Preprocessor(
        name="bit-depth", target=f"{own}.bit_depth:BitDepthReduction", summary="fewer bits for each pixel, with BPDA"
    )
    yield Preprocessor(
        name="median-smoothing",
        target=f"{own}.median_smoothing:MedianSmoothing",
        summary="2x2 median filter, differentiable; with bit-depth it is feature squeezing",
    )
    yield Preprocessor(
        name="mu-law-companding",
        target=f"{own}.mu_law_companding:MuLawCompanding",
        summary="pixels on a mu-law scale, which spreads the dark ones",
    )


@hookimpl
def qadv_postprocessors() -> Iterator[Postprocessor]:
    yield Postprocessor(
        name="softmax",
        target="qadv.postprocessors.softmax:Softmax",
        summary="probabilities instead of logits, for the attacks that ask for them",
    )


@hookimpl
def qadv_detectors() -> Iterator[Detector]:
    yield Detector(
        name="ensemble-agreement",
        target="qadv.detectors.ensemble_agreement:EnsembleAgreementDetector",
        summary="flags images on which fewer than m members of an ensemble agree",
    )


@hookimpl
def qadv_attacks() -> Iterator[Attack]:
    own = "qadv.attacks"
    yield Attack(name="spsa", target=f"{own}.spsa:SPSA", summary="black-box, L-inf: Adam on estimated gradients")
    yield Attack(
        name="n-attack", target=f"{own}.n_attack:NAttack", summary="black-box, L-inf or L2: learns a distribution"
    )
    yield Attack(
        name="square", target=f"{own}.square:Square", summary="black-box, L-inf: random squares, a query a step"
    )
    yield Attack(name="ddn", target=f"{own}.ddn:DDN", summary="white-box: smallest L2, direction and norm apart")
    yield Attack(
        name="r-fgsm", target=f"{own}.random_fgsm:RandomFGSM", summary="white-box, L-inf: random step, then FGSM"
    )
    yield Attack(name="uniform-noise", target=f"{own}.noise:UniformNoise", summary="uniform in [-eps, eps]")
    yield Attack(name="gaussian-noise", target=f"{own}.noise:GaussianNoise", summary="normal, by standard deviation")
    yield Attack(
        name="art",
        target="qadv.attacks.art_catalogue:create",
        family="qadv.attacks.art_catalogue:names",
        summary="any class of art.attacks.evasion, e.g. 'ProjectedGradientDescent'",
    )


@hookimpl
def qadv_datasets() -> Iterator[Dataset]:
    sets = "qadv.datasets"
    yield Dataset(name="digits", target=f"{sets}:digits", summary="scikit-learn's 1,797 digits, 1x8x8")
    yield Dataset(name="mnist", target=f"{sets}:mnist", summary="MNIST, 1x28x28, from DATA_DIR/mnist.npz")
    yield Dataset(name="cifar10", target=f"{sets}:cifar10", summary="CIFAR-10, 3x32x32, from DATA_DIR/cifar10-*.npz")
    yield Dataset(
        name="cifar100", target=f"{sets}:cifar100", summary="CIFAR-100, 3x32x32, from DATA_DIR/cifar-100-binary/*.bin"
    )
    yield Dataset(
        name="svhn", target=f"{sets}:svhn", summary="house numbers, 3x32x32, from DATA_DIR/{train,test}_32x32.mat"
    )


@hookimpl
def qadv_diagnostics() -> Iterator[Diagnostic]:
    yield Diagnostic(
        name="audit",
        target="qadv.diagnostics.audit.run:audit",
        summary="worst case over many attacks, and eleven checks for masked gradients",
    )
    yield Diagnostic(
        name="error-amplification",
        target="qadv.diagnostics.error_amplification:error_amplification",
        summary="normalised distance of clean and adversarial activations, layer by layer",
    )
    yield Diagnostic(
        name="weight-error",
        target="qadv.diagnostics.weight_error:weight_error_norms",
        summary="norm of the weights' quantization error, layer by layer, as a matrix and as the operator it is",
    )
    yield Diagnostic(
        name="ensemble-agreement",
        target="qadv.diagnostics.ensemble_agreement:ensemble_agreement",
        summary="prediction rate and defense accuracy of an ensemble that predicts where m members agree",
    )
    yield Diagnostic(
        name="source-agreement",
        target="qadv.diagnostics.ensemble_agreement:source_agreement",
        summary="how often the other members of an ensemble share the lot of the one that was attacked",
    )
    own = "qadv.diagnostics"
    yield Diagnostic(
        name="amplification-by-eps",
        target=f"{own}.amplification_by_eps:amplification_by_eps",
        summary="error amplification at several strengths of an attack, with and without quantizing",
    )
    yield Diagnostic(
        name="value-shift",
        target=f"{own}.value_shift:value_shift",
        summary="share of quantized activations that a perturbation moves to another bucket, layer by layer",
    )
    yield Diagnostic(
        name="gradient-similarity",
        target=f"{own}.gradient_similarity:gradient_similarity",
        summary="cosine similarity of input gradients between several classifiers",
    )
    yield Diagnostic(
        name="transfer-matrix",
        target=f"{own}.transfer_matrix:transfer_matrix",
        summary="accuracy, L2 and L-inf of every attack from every classifier to every classifier",
    )
    yield Diagnostic(
        name="accuracy-curve",
        target=f"{own}.accuracy_curve:accuracy_curve",
        summary="accuracy against the strength of an attack that keeps to a ball",
    )
    yield Diagnostic(
        name="accuracy-by-distance",
        target=f"{own}.accuracy_curve:accuracy_by_distance",
        summary="accuracy against distance, from one run of an attack that looks for the nearest image",
    )
