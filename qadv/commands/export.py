"""What `qadv export` does and prints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType

from qadv.command_options import ExportOptions
from qadv.commands.given import check_out, network_and_data, tell, test_images
from qadv.deployment.agreement import agreement
from qadv.deployment.export import Exported, export
from qadv.deployment.flips import apply_flips
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.opening import is_file
from qadv.estimators.protocol import Classifier
from qadv.frontends.find import file_writers
from qadv.frontends.onnx.runtime import import_onnxruntime
from qadv.strengths import check_eps
from qadv.tables import number, right, table
from qadv.units import Share, to_range

_SUFFIXES = {"onnx": ".onnx", "qcdq": ".onnx", "packed": ".packed.safetensors"}
_NB_TEST = 1000
_NB_FOR_RANGES = 256


def run_export(options: ExportOptions) -> None:
    """Exports a saved classifier and says how small it got and how well a graph agrees with it.

    Raises:
        InvalidInputError: unknown form or options.
        QadvError: what else went wrong with the files.
    """
    if options.flips is not None:
        _apply_flips(options, options.flips)
        return
    out = _target(options)
    writers = file_writers()
    compares = options.to in ("onnx", "qcdq", *writers)
    given = {"--dataset": options.dataset, "--data-dir": options.data_dir, "--nb-test": options.nb_test}
    unused = [name for name, value in {**given, "--eps": options.eps}.items() if value is not None]
    if unused and not compares:
        raise InvalidInputError(f"{', '.join(unused)}: only what has a runtime is compared on images; add --to onnx")
    classifier, data = network_and_data(options)
    if compares:  # what could fail fails before the file is written
        eps = check_eps("--eps", Share(8 / 255) if options.eps is None else options.eps, classifier.clip_values)
        import_onnxruntime()
        source, x, y, for_ranges = _images(classifier, data, options)
    more = {name: getattr(options, name) for name in ("float_ends", "packed_weights", "reduce_range", "pixels")}
    if options.to in ("onnx", *writers):
        more["images"] = for_ranges
    result = export(classifier, out, options.to, **more)
    report: dict[str, Any] = {"export": result.to_dict()}
    if compares:
        report["images"] = source
        deployed = _deployed(classifier, out) if options.to == "onnx" else None
        file: Any = out
        if options.to in writers:
            file = QuantizedClassifier.from_file(out, clip_values=classifier.clip_values)
        pair = agreement(classifier, file, x, y, eps, as_written=options.to == "qcdq", deployed=deployed)
        report["agreement"] = [each.to_dict() for each in pair]
    tell(options, report, *_sizes(result), *(_agreement(report) if "agreement" in report else ()))


def _apply_flips(options: ExportOptions, flips: Path) -> None:
    """Writes the same file with other codes, and nothing else that `export` does."""
    default = ExportOptions(model=options.model, flips=flips, out=options.out, as_json=options.as_json)
    if others := [name for name, value in vars(options).items() if value != getattr(default, name)]:
        raise InvalidInputError(f"--flips: the file stays as it is but for its codes; leave out {', '.join(others)}")
    if options.out is None or options.out.resolve() == Path(options.model).resolve():
        raise InvalidInputError("--flips: say with --out which other file to write")
    applied = apply_flips(options.model, flips, options.out)
    did = "Undid" if applied.undone else "Applied"
    said = f"{did} {applied.flips} flips in {applied.layers} layers; wrote {applied.path}"
    tell(options, {"flips": applied.to_dict()}, said)


def _target(options: ExportOptions) -> Path:
    model = Path(options.model)
    ends = _SUFFIXES | {name: writer.suffixes[0] for name, writer in file_writers().items()}
    if options.out is None:
        if not is_file(options.model):
            raise InvalidInputError(f"{options.model} is no file that another could stand beside; say which with --out")
        stem = model.name.removesuffix(".safetensors").removesuffix(".packed")
        out = model.with_name(stem + ends.get(options.to, ""))
    else:
        out = options.out
    check_out(out, options.model, Path(f"{model.stem}{ends.get(options.to, out.suffix)}").suffix)
    return out


def _images(classifier: Classifier, data: Any, options: ExportOptions) -> tuple[str, Any, Any, Any]:
    count = options.nb_test or _NB_TEST
    if data is None:
        noise = np.random.default_rng(0).random((count, *classifier.input_shape), dtype=np.float32)
        return "uniform noise (--dataset takes real images)", to_range(noise, classifier.clip_values), None, None
    x, y = test_images(classifier, data, count)
    for_ranges = to_range(data.take("train", _NB_FOR_RANGES)[0], classifier.clip_values)
    return f"{len(x):,} test images of {options.dataset}", x, y, for_ranges


def _deployed(classifier: Classifier, path: Path) -> Classifier | None:
    try:
        return QuantizedClassifier.from_file(
            path, classifier.input_shape, clip_values=classifier.clip_values, deploy=True
        )
    except UnsupportedModelError:  # of which the export has warned
        return None


def _sizes(result: Exported) -> Iterator[RenderableType]:
    yield f"Wrote {result.path}"
    rows = [("whole file", result.file_bytes, result.float_bytes)]
    if result.code_bytes is not None and result.scale_bytes is not None:
        full = 4 * result.weights
        rows.insert(0, ("quantized weights", result.code_bytes, full))
        rows.insert(1, ("with their scales", result.code_bytes + result.scale_bytes, full))
    shown = ((name, f"{small:,}", f"{full:,}", f"1/{full / small:.2f}") for name, small, full in rows)
    yield table(["", *right("bytes", "float32", "ratio")], shown)
    if result.runtime:
        kernels = ", ".join(f"{name} {count}" for name, count in result.kernels.items())
        yield f"{result.runtime}; kernels: {kernels}"
        if result.standardisation:
            yield f"Standardisation is a step of its own, {result.standardisation:.1%} of an image's time"


def _agreement(report: dict[str, Any]) -> Iterator[RenderableType]:
    def shown(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:.2f} %"

    rows = []
    for row in report["agreement"]:
        accuracies = (shown(row[name]) for name in ("classifier_accuracy", "onnx_accuracy"))
        rows.append([row["images"], shown(row["same_class"]), number(row["largest_difference"]), *accuracies])
        if row["deployed_same_class"] is not None:
            same, accuracy = shown(row["deployed_same_class"]), shown(row["deployed_accuracy"])
            rows.append(["… with deploy=True", same, "", accuracy, ""])
    yield table(["images", "same class", "logits differ by", "accuracy", "of the file"], rows)
    yield f"Classifier against the runtime of the file on {report['images']}."
