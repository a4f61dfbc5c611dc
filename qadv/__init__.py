"""qadv: quantized networks, attacked and defended through ART.

The public names below are imported on first use, so that `import qadv` loads neither torch, ART, Brevitas nor timm.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qadv.attacks.ddn import DDN as DDN
    from qadv.attacks.n_attack import NAttack as NAttack
    from qadv.attacks.noise import GaussianNoise as GaussianNoise
    from qadv.attacks.noise import UniformNoise as UniformNoise
    from qadv.attacks.random_fgsm import RandomFGSM as RandomFGSM
    from qadv.attacks.spsa import SPSA as SPSA
    from qadv.deployment.accelerate import accelerate as accelerate
    from qadv.deployment.export import export as export
    from qadv.diagnostics.error_amplification import error_amplification as error_amplification
    from qadv.estimators.classifier import QuantizedClassifier as QuantizedClassifier
    from qadv.estimators.query_coalescer import QueryCoalescer as QueryCoalescer
    from qadv.hookspecs import hookimpl as hookimpl
    from qadv.quantization.calibration import Calibration as Calibration
    from qadv.quantization.convert import quantize as quantize
    from qadv.quantization.stochastic import set_stochastic_ratio as set_stochastic_ratio
    from qadv.quantization.summary import summarize as summarize
    from qadv.registry import create as create
    from qadv.registry import list_components as list_components
    from qadv.registry import load as load
    from qadv.trainers.defensive_quantization import DefensiveQuantTrainer as DefensiveQuantTrainer

_PUBLIC = {
    "Calibration": "qadv.quantization.calibration",
    "DDN": "qadv.attacks.ddn",
    "DefensiveQuantTrainer": "qadv.trainers.defensive_quantization",
    "GaussianNoise": "qadv.attacks.noise",
    "NAttack": "qadv.attacks.n_attack",
    "QuantizedClassifier": "qadv.estimators.classifier",
    "QueryCoalescer": "qadv.estimators.query_coalescer",
    "RandomFGSM": "qadv.attacks.random_fgsm",
    "SPSA": "qadv.attacks.spsa",
    "UniformNoise": "qadv.attacks.noise",
    "accelerate": "qadv.deployment.accelerate",
    "create": "qadv.registry",
    "error_amplification": "qadv.diagnostics.error_amplification",
    "export": "qadv.deployment.export",
    "hookimpl": "qadv.hookspecs",
    "list_components": "qadv.registry",
    "load": "qadv.registry",
    "quantize": "qadv.quantization.convert",
    "set_stochastic_ratio": "qadv.quantization.stochastic",
    "summarize": "qadv.quantization.summary",
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
