"""What `qadv export` does and prints."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qadv.deployment.agreement import agreement
from qadv.deployment.export import Exported, export
from qadv.errors import InvalidInputError
from qadv.estimators.classifier import QuantizedClassifier
from qadv.registry import create


@dataclass(frozen=True)
class ExportOptions:
    """The options of `qadv export`; see there."""

    model: Path
    to: str
    out: Path | None
    dataset: str | None
    data_dir: Path | None
    nb_samples: int
    eps: float
    as_json: bool


def run_export(options: ExportOptions) -> None:
    """Exports a saved classifier and says how small it got and, for ONNX, how well the graph agrees with it.

    Raises:
        InvalidInputError: unknown form or options.
        QadvError: what else went wrong with the files.
    """
    if options.nb_samples < 1 or not options.eps > 0:
        raise InvalidInputError("--nb-samples and --eps: expected numbers above 0")
    classifier = QuantizedClassifier.load(options.model)
    suffix = {"onnx": ".onnx", "packed": ".packed.safetensors"}.get(options.to, "")
    result = export(classifier, options.out or options.model.with_suffix(suffix), options.to)
    report: dict[str, Any] = {"export": result.to_dict()}
    if options.to == "onnx":
        source, x, y = _images(classifier, options)
        report["images"] = source
        pair = agreement(classifier, result.path, x, y, eps=options.eps)
        report["agreement"] = [each.to_dict() for each in pair]
    if options.as_json:
        print(json.dumps(report, indent=1))
        return
    _print_sizes(result)
    if "agreement" in report:
        _print_agreement(report)


def _images(classifier: Any, options: ExportOptions) -> tuple[str, Any, Any]:
    if options.dataset is None:
        low, high = classifier.clip_values if classifier.clip_values is not None else (0.0, 1.0)
        noise = np.random.default_rng(0).uniform(low, high, (options.nb_samples, *classifier.input_shape))
        return "uniform noise (--dataset takes real images)", noise.astype(np.float32), None
    data = create("dataset", options.dataset, data_dir=options.data_dir)
    count = min(options.nb_samples, len(data.x_test))
    return f"{count:,} test images of {options.dataset}", data.x_test[:count], data.y_test[:count]


def _print_sizes(result: Exported) -> None:
    console = Console()
    console.print(f"Wrote {result.path}", soft_wrap=True)
    table = Table("", "bytes", "float32", "ratio")
    full = 4 * result.weights
    if result.weight_bytes is not None and result.scale_bytes is not None:
        codes = result.weight_bytes - result.scale_bytes
        table.add_row("quantized weights", f"{codes:,}", f"{full:,}", f"1/{full / codes:.2f}")
        table.add_row(
            "with their scales", f"{result.weight_bytes:,}", f"{full:,}", f"1/{full / result.weight_bytes:.2f}"
        )
    ratio = f"1/{result.float_bytes / result.file_bytes:.2f}"
    table.add_row("whole file", f"{result.file_bytes:,}", f"{result.float_bytes:,}", ratio)
    console.print(table)


def _print_agreement(report: dict[str, Any]) -> None:
    table = Table("images", "same class", "largest difference of a logit", "accuracy, classifier", "accuracy, ONNX")
    for row in report["agreement"]:
        accuracies = [row["classifier_accuracy"], row["onnx_accuracy"]]
        shown = ["–" if a is None else f"{100 * a:.2f} %" for a in accuracies]
        table.add_row(row["images"], f"{100 * row['same_class']:.2f} %", f"{row['largest_difference']:.3g}", *shown)
    console = Console()
    console.print(table)
    console.print(f"Classifier against onnxruntime on {report['images']}.")
