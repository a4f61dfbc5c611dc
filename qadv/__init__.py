"""qadv: quantized networks, attacked and defended through ART.

The public names below are imported on first use, so that `import qadv` loads neither torch, ART, Brevitas nor timm.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qadv.attacks.ddn import DDN as DDN
    from qadv.attacks.function_attack import FunctionAttack as FunctionAttack
    from qadv.attacks.n_attack import NAttack as NAttack
    from qadv.attacks.noise import GaussianNoise as GaussianNoise
    from qadv.attacks.noise import UniformNoise as UniformNoise
    from qadv.attacks.random_fgsm import RandomFGSM as RandomFGSM
    from qadv.attacks.spsa import SPSA as SPSA
    from qadv.attacks.square import Square as Square
    from qadv.attacks.toolkit import SignatureAttack as SignatureAttack
    from qadv.attacks.toolkit import ToolkitAttack as ToolkitAttack
    from qadv.deployment.accelerate import accelerate as accelerate
    from qadv.deployment.export import export as export
    from qadv.detectors.ensemble_agreement import EnsembleAgreementDetector as EnsembleAgreementDetector
    from qadv.diagnostics.accuracy_curve import accuracy_by_distance as accuracy_by_distance
    from qadv.diagnostics.accuracy_curve import accuracy_curve as accuracy_curve
    from qadv.diagnostics.amplification_by_eps import amplification_by_eps as amplification_by_eps
    from qadv.diagnostics.audit.run import audit as audit
    from qadv.diagnostics.error_amplification import error_amplification as error_amplification
    from qadv.diagnostics.gradient_similarity import gradient_similarity as gradient_similarity
    from qadv.diagnostics.transfer_matrix import transfer_matrix as transfer_matrix
    from qadv.diagnostics.value_shift import value_shift as value_shift
    from qadv.diagnostics.weight_error import weight_error_norms as weight_error_norms
    from qadv.estimators.classifier import QuantizedClassifier as QuantizedClassifier
    from qadv.estimators.ensemble import EnsembleClassifier as EnsembleClassifier
    from qadv.estimators.module import as_module as as_module
    from qadv.estimators.query_coalescer import QueryCoalescer as QueryCoalescer
    from qadv.frontends.summary import summarize as summarize
    from qadv.hookspecs import hookimpl as hookimpl
    from qadv.preprocessors.bit_depth import BitDepthReduction as BitDepthReduction
    from qadv.preprocessors.median_smoothing import MedianSmoothing as MedianSmoothing
    from qadv.preprocessors.mu_law_companding import MuLawCompanding as MuLawCompanding
    from qadv.quantization.calibration import Calibration as Calibration
    from qadv.quantization.convert import quantize as quantize
    from qadv.quantization.stochastic import set_stochastic_ratio as set_stochastic_ratio
    from qadv.registry import create as create
    from qadv.registry import list_components as list_components
    from qadv.registry import load as load
    from qadv.trainers.adversarial import AdversarialQuantTrainer as AdversarialQuantTrainer
    from qadv.trainers.adversary import Adversary as Adversary
    from qadv.trainers.defensive_quantization import DefensiveQuantTrainer as DefensiveQuantTrainer
    from qadv.trainers.error_silenced import ErrorSilencedTrainer as ErrorSilencedTrainer
    from qadv.trainers.feedback import FeedbackTrainer as FeedbackTrainer
    from qadv.transformers.mu_law import MuLawWeightMapping as MuLawWeightMapping
    from qadv.transformers.post_training_quantization import PostTrainingQuantization as PostTrainingQuantization
    from qadv.units import Share as Share

_PUBLIC = {
    "AdversarialQuantTrainer": "qadv.trainers.adversarial",
    "Adversary": "qadv.trainers.adversary",
    "BitDepthReduction": "qadv.preprocessors.bit_depth",
    "Calibration": "qadv.quantization.calibration",
    "DDN": "qadv.attacks.ddn",
    "DefensiveQuantTrainer": "qadv.trainers.defensive_quantization",
    "EnsembleAgreementDetector": "qadv.detectors.ensemble_agreement",
    "EnsembleClassifier": "qadv.estimators.ensemble",
    "ErrorSilencedTrainer": "qadv.trainers.error_silenced",
    "FeedbackTrainer": "qadv.trainers.feedback",
    "FunctionAttack": "qadv.attacks.function_attack",
    "GaussianNoise": "qadv.attacks.noise",
    "MedianSmoothing": "qadv.preprocessors.median_smoothing",
    "MuLawCompanding": "qadv.preprocessors.mu_law_companding",
    "MuLawWeightMapping": "qadv.transformers.mu_law",
    "NAttack": "qadv.attacks.n_attack",
    "PostTrainingQuantization": "qadv.transformers.post_training_quantization",
    "QuantizedClassifier": "qadv.estimators.classifier",
    "QueryCoalescer": "qadv.estimators.query_coalescer",
    "RandomFGSM": "qadv.attacks.random_fgsm",
    "SPSA": "qadv.attacks.spsa",
    "Share": "qadv.units",
    "SignatureAttack": "qadv.attacks.toolkit",
    "Square": "qadv.attacks.square",
    "ToolkitAttack": "qadv.attacks.toolkit",
    "UniformNoise": "qadv.attacks.noise",
    "accelerate": "qadv.deployment.accelerate",
    "accuracy_by_distance": "qadv.diagnostics.accuracy_curve",
    "accuracy_curve": "qadv.diagnostics.accuracy_curve",
    "amplification_by_eps": "qadv.diagnostics.amplification_by_eps",
    "as_module": "qadv.estimators.module",
    "audit": "qadv.diagnostics.audit.run",
    "create": "qadv.registry",
    "error_amplification": "qadv.diagnostics.error_amplification",
    "export": "qadv.deployment.export",
    "gradient_similarity": "qadv.diagnostics.gradient_similarity",
    "hookimpl": "qadv.hookspecs",
    "list_components": "qadv.registry",
    "load": "qadv.registry",
    "quantize": "qadv.quantization.convert",
    "set_stochastic_ratio": "qadv.quantization.stochastic",
    "summarize": "qadv.frontends.summary",
    "transfer_matrix": "qadv.diagnostics.transfer_matrix",
    "value_shift": "qadv.diagnostics.value_shift",
    "weight_error_norms": "qadv.diagnostics.weight_error",
}
__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qadv' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
