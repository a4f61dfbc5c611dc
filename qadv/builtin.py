"""qadv's own components, registered through the same hooks as any plugin's."""

from collections.abc import Iterator
from typing import Any

from qadv import __version__
from qadv.components import KINDS, Component
from qadv.hookspecs import hookimpl

_OWN = {  # by kind and name: the target, within the kind's package, and the summary
    ("quantizer", "qadv.quantization"): {
        "int": ("uniform:Int", "weights, 2-8 bits: symmetric uniform, per filter"),
        "bwn": ("binary:BWN", "weights, 1 bit: mean |W| x sign(W)"),
        "twn": ("ternary:TWN", "weights, ternary: 0 below 0.7 mean |W|"),
        "int-per-tensor": ("uniform:IntPerTensor", "weights, 2-8 bits: as int, one scale per layer"),
        "binary-connect": ("binary_net:BinaryConnect", "weights, 1 bit: sign(W), latent W clipped"),
        "binary-net": ("binary_net:BinaryNet", "weights and activations, 1 bit: signs"),
        "dorefa": ("dorefa:DoReFa", "weights and activations, 1-8 bits: DoReFa-Net"),
        "pact": ("pact:Pact", "activations, 1-8 bits: learned clip [0, alpha]"),
        "tanh": ("tanh:Tanh", "activations, 1-8 bits: masks gradients, no defense"),
        "pwlq": ("pwlq:PWLQ", "weights after training, 2-8 bits: piecewise linear, a fine centre and coarse tails"),
        "sq": (
            "stochastic:StochasticQuantization",
            "round a weight scheme, sq(bwn): in training some filters stay real, drawn by their error",
        ),
        "sq-inverse": (
            "stochastic:StochasticQuantizationByInverse",
            "as sq, but the quantized filters are drawn, by 1 / error",
        ),
        "relu": ("clipped_relu:ReLU", "activations, 1-8 bits: [0, c], c from calibration"),
        "relu6": ("clipped_relu:ReLU6", "activations, 1-8 bits: uniform levels of [0, 6]"),
        "relu1": ("clipped_relu:ReLU1", "activations, 1-8 bits: uniform levels of [0, 1]"),
    },
    ("backbone", "qadv.backbones"): {
        "resnet20": ("resnet:resnet20", "ResNet-20, option-A shortcuts, 32x32"),
        "wide-resnet": ("wide_resnet:wide_resnet", "WRN-depth-width, 32x32"),
        "vgg16": ("vgg:vgg16", "VGG-16 with BatchNorm, 32x32"),
        "mnist-cnn": ("mnist_cnn:mnist_cnn", "two conv and two linear layers"),
        "lowbit-convnet": (
            "lowbit_convnet:lowbit_convnet",
            "six conv and three linear layers, table 8 of the low-bitwidth study",
        ),
        "small-image-resnet": (
            "small_image_resnet:small_image_resnet",
            "timm's ResNet-18 to -152 with a first layer for 32x32",
        ),
        "timm": (
            "timm_models:create",
            "any name of timm.list_models(), with a tag or none; 'timm/vgg16' where a built-in has the name too",
        ),
    },
    ("trainer", "qadv.trainers"): {
        "dq": (
            "defensive_quantization:DefensiveQuantTrainer",
            "Defensive Quantization: orthogonal weights keep the network non-expansive",
        ),
        "eq": (
            "error_silenced:ErrorSilencedTrainer",
            "Error-silenced Quantization: pairs clean and adversarial activations while quantizing",
        ),
        "adversarial": (
            "adversarial:AdversarialQuantTrainer",
            "adversarial training: quantized networks on images of PGD, R+FGSM or FGSM",
        ),
        "feedback": (
            "feedback:FeedbackTrainer",
            "feedback learning: images from beyond the nearest decision boundaries, most for the weakest classes",
        ),
    },
    ("transformer", "qadv.transformers"): {
        "mu-law": ("mu_law:MuLawWeightMapping", "maps the weights of the last layers by the mu-law, after training"),
        "ptq": (
            "post_training_quantization:PostTrainingQuantization",
            "quantizes a trained float classifier, calibrated on natural or adversarial images",
        ),
    },
    ("preprocessor", "qadv.preprocessors"): {
        "bit-depth": ("bit_depth:BitDepthReduction", "fewer bits for each pixel, with BPDA"),
        "median-smoothing": (
            "median_smoothing:MedianSmoothing",
            "2x2 median filter, differentiable; with bit-depth it is feature squeezing",
        ),
        "mu-law-companding": (
            "mu_law_companding:MuLawCompanding",
            "pixels on a mu-law scale, which spreads the dark ones",
        ),
    },
    ("postprocessor", "qadv.postprocessors"): {
        "softmax": ("softmax:Softmax", "probabilities instead of logits, for the attacks that ask for them"),
    },
    ("detector", "qadv.detectors"): {
        "ensemble-agreement": (
            "ensemble_agreement:EnsembleAgreementDetector",
            "flags images on which fewer than m members of an ensemble agree",
        ),
    },
    ("attack", "qadv.attacks"): {
        "spsa": ("spsa:SPSA", "black-box, L-inf: Adam on estimated gradients"),
        "n-attack": ("n_attack:NAttack", "black-box, L-inf or L2: learns a distribution"),
        "square": ("square:Square", "black-box, L-inf: random squares, a query a step"),
        "ddn": ("ddn:DDN", "white-box: smallest L2, direction and norm apart"),
        "r-fgsm": ("random_fgsm:RandomFGSM", "white-box, L-inf: random step, then FGSM"),
        "uniform-noise": ("noise:UniformNoise", "uniform in [-eps, eps]"),
        "gaussian-noise": ("noise:GaussianNoise", "normal, by standard deviation"),
        "art": ("art_catalogue:create", "any attack of ART's, e.g. 'DeepFool', 'CopycatCNN'; 'pgd', 'fgsm'"),
    },
    ("dataset", "qadv.datasets"): {
        "corrupted": ("corrupted:corrupted", "another's test images with natural noise, as corrupted:fog:3:cifar10"),
        "decoded": (
            "systematic:decoded",
            "another's test images from JPEG by another decoder, as decoded:ffmpeg:cifar10",
        ),
        "resized": ("systematic:resized", "another's test images resized otherwise, as resized:opencv-nearest:cifar10"),
        "digits": ("arrays:digits", "scikit-learn's 1,797 digits, 1x8x8"),
        "mnist": ("arrays:mnist", "MNIST, 1x28x28, from DATA_DIR/mnist.npz"),
        "cifar10": ("arrays:cifar10", "CIFAR-10, 3x32x32, from DATA_DIR/cifar10-*.npz"),
        "cifar10-16": ("arrays:cifar10_16", "CIFAR-10 at half its size, 3x16x16: for short trainings"),
        "cifar100": ("arrays:cifar100", "CIFAR-100, 3x32x32, from DATA_DIR/cifar-100-binary/*.bin"),
        "huggingface": ("hugging_face:huggingface", "what `datasets` saved to DATA_DIR, or huggingface:FOLDER"),
        "image-folder": ("image_folder:image_folder", "photographs, from DATA_DIR/{train,val}/CLASS/*.jpg"),
        "svhn": ("arrays:svhn", "house numbers, 3x32x32, from DATA_DIR/{train,test}_32x32.mat"),
    },
    ("audit-check", "qadv.diagnostics.audit.checks"): {
        "zero-gradients": ("zero_gradients:ZeroGradients", "1: gradients lead somewhere"),
        "answers-repeat": ("answers_repeat:AnswersRepeat", "2: no noise in the network"),
        "black-box": ("black_box:BlackBox", "3: without gradients nothing more is found"),
        "no-bound": ("no_bound:NoBound", "4: without a bound every image is broken"),
        "strength": ("strength:Strength", "5: larger eps and more steps break more"),
        "convergence": ("convergence:Convergence", "6: PGD has climbed to the end"),
        "transfer": ("transfer:Transfer", "7: images of other networks find nothing more"),
        "other-gradients": (
            "other_gradients:OtherGradients",
            "8: other straight-through estimators and temperatures find nothing more",
        ),
        "more-work": ("more_work:MoreWork", "9: more steps and starts find nothing more"),
        "adaptive-attack": ("adaptive:AdaptiveAttack", "10: an attack on the defense's own objective"),
        "exported-model": ("exported:ExportedModel", "11: the exported integer model answers alike"),
        "eight-bit-images": ("eight_bit_images:EightBitImages", "12: adversarial images still are as 8-bit images"),
    },
    ("diagnostic", "qadv.diagnostics"): {
        "audit": ("audit.run:audit", "worst case over many attacks, and twelve checks for masked gradients"),
        "error-amplification": (
            "error_amplification:error_amplification",
            "normalised distance of clean and adversarial activations, layer by layer",
        ),
        "weight-error": (
            "weight_error:weight_error_norms",
            "norm of the weights' quantization error, layer by layer, as a matrix and as the operator it is",
        ),
        "error-split": (
            "error_split:error_split",
            "what of a layer's error comes from its input, from its weights, and from both",
        ),
        "logit-statistics": (
            "logit_statistics:logit_statistics",
            "variance of the logits, largest probability and that of the true class",
        ),
        "membership-inference": (
            "membership_inference:membership_inference",
            "how well ART's attacks tell images that the network was trained on from others",
        ),
        "extraction": (
            "extraction:extraction",
            "how often copies that ART's attacks make, with so many queries, predict what the network does",
        ),
        "inversion": (
            "inversion:inversion",
            "how much images that ART's MIFace draws from a network resemble the classes' mean images",
        ),
        "backdoor": ("backdoor:backdoor", "a copy trained on with a trigger in some images: accuracy, and its success"),
        "ensemble-agreement": (
            "ensemble_agreement:ensemble_agreement",
            "prediction rate and defense accuracy of an ensemble that predicts where m members agree",
        ),
        "source-agreement": (
            "ensemble_agreement:source_agreement",
            "how often the other members of an ensemble share the lot of the one that was attacked",
        ),
        "amplification-by-eps": (
            "amplification_by_eps:amplification_by_eps",
            "error amplification at several strengths of an attack, with and without quantizing",
        ),
        "value-shift": (
            "value_shift:value_shift",
            "share of quantized activations that a perturbation moves to another bucket, layer by layer",
        ),
        "gradient-similarity": (
            "gradient_similarity:gradient_similarity",
            "cosine similarity of input gradients between several classifiers",
        ),
        "transfer-matrix": (
            "transfer_matrix:transfer_matrix",
            "accuracy, L2 and L-inf of every attack from every classifier to every classifier",
        ),
        "accuracy-curve": (
            "accuracy_curve:accuracy_curve",
            "accuracy against the strength of an attack that keeps to a ball",
        ),
        "accuracy-by-distance": (
            "accuracy_curve:accuracy_by_distance",
            "accuracy against distance, from one run of an attack that looks for the nearest image",
        ),
    },
    ("frontend", "qadv.frontends"): {
        "qadv": ("own:OwnFrontend", "networks that qadv.quantize or freeze made"),
        "brevitas": ("brevitas:BrevitasFrontend", "networks with Brevitas's own layers, by hand or by its flows"),
        "torch-ao": ("torch_ao:TorchAoFrontend", "networks of torch.ao: QAT, converted to int8, dynamic"),
        "torchao": ("torchao:TorchaoFrontend", "networks of torchao: PT2E, quantize_, QAT"),
        "onnx": ("onnx.frontend:OnnxFrontend", "ONNX files: values from onnxruntime, gradients from a twin"),
    },
}
_FAMILIES = ("timm", "art")  # whose members a function `names` beside the target lists


def version() -> str:
    """The version that `qadv plugins` shows for the built-ins."""
    return __version__


def _hook(kind: type[Component], package: str, own: dict[str, tuple[str, str]]) -> Any:
    def hook() -> Iterator[Component]:
        for name, (target, summary) in own.items():
            family = f"{package}.{target.partition(':')[0]}:names" if name in _FAMILIES else ""
            yield kind(name=name, target=f"{package}.{target}", summary=summary, family=family)

    hook.__name__ = kind.hook
    return hookimpl(hook)


globals().update({KINDS[kind].hook: _hook(KINDS[kind], package, own) for (kind, package), own in _OWN.items()})
