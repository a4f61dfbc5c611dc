"""Differences between versions of Python and of the toolkits, each with the versions that need it.

Importing this module imports none of the toolkits.
"""

from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from qadv.errors import MissingRequirementError

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def metadata_field(distribution: metadata.Distribution, field: str) -> str:
    """Returns a field of a distribution's metadata, empty where it is missing or can't be read.

    Python 3.11 answers None for a missing field, 3.12 and 3.13 warn, later ones will raise.
    """
    try:
        fields = distribution.metadata
    except Exception:  # not UTF-8, or in newer Pythons no file at all
        return ""
    return fields[field] if field in fields else ""  # noqa: SIM401  (no `get` in 3.11)


def progress_bar(*columns: "ProgressColumn", shown: bool) -> "Progress":
    """Returns rich's progress display; one that is not shown writes nothing.

    rich before 14.3 writes an empty line at the end of a display that is disabled.
    """
    from rich.progress import Progress

    from qadv.console import Console

    return Progress(*columns, console=None if shown else Console(quiet=True), disable=not shown)


def reads_old_files_safely() -> bool:
    """Whether `torch.load(weights_only=True)` runs no code of files from before torch 1.6: not so before torch 2.6."""
    import torch

    return Version(torch.__version__) >= Version("2.6")


def safe_globals(types: list[type]) -> AbstractContextManager[Any]:
    """Lets `torch.load(weights_only=True)` read objects of some plain classes too; torch 2.4 does not."""
    import torch

    return getattr(torch.serialization, "safe_globals", nullcontext)(types)


def require_onnx_export() -> None:
    """Raises where torch can't write operators such as QuantizeLinear into an ONNX graph: 2.4 to 2.7."""
    import torch

    if not hasattr(torch.onnx, "ops"):
        raise MissingRequirementError(f"exporting to ONNX needs torch 2.8 or newer, found {torch.__version__}")


class PlainTensors:
    """Mixed into Brevitas's proxies: their layers are given plain tensors, while `skip_create_quant_tensor` is true.

    Brevitas 0.12 and newer ask that switch themselves. 0.11 makes a QuantTensor of every weight and activation, and
    asks a quantizer that is switched off for a view that only Brevitas's own quantizers have.
    """

    def __init__(self, quant_layer: Any, quant_injector: Any) -> None:
        super().__init__(quant_layer, quant_injector)  # type: ignore[call-arg]
        self.skip_create_quant_tensor = True

    def create_quant_tensor(self, qt_args: Any, *more: Any, **named: Any) -> Any:
        if self.skip_create_quant_tensor:
            return qt_args[0]
        return super().create_quant_tensor(qt_args, *more, **named)  # type: ignore[misc]

    def apply_input_view(self, x: Any) -> Any:
        return x
