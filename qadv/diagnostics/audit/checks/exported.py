"""Check 11: what is measured on the simulated network holds for the integer model that is deployed."""

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from qadv.deployment.agreement import agreement
from qadv.deployment.export import export
from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.result import Finding, Grade, Scale
from qadv.errors import QadvError, describe
from qadv.frontends.find import files, quantizers
from qadv.frontends.onnx.runtime import import_onnxruntime


class ExportedModel(CountedCheck):
    """The ONNX graph (QCDQ) in onnxruntime against the classifier, on the images and on their PGD versions.

    Of a file it is the file, against the simulation that it was made from.
    """

    number = 11
    name = "exported integer model"
    rule = "same class as the simulated network on all but 1 point, clean and under PGD"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        classifier = case.target.classifier
        is_file = bool(files(classifier.model))
        if is_file and case.simulation is None:
            return Finding.none("the network is a file, and so nothing is exported")
        if not is_file and not quantizers(classifier.model):
            return Finding.none("the network is not quantized")
        if case.target.draws > 1:
            return Finding.none("the network is random")
        labels = None if case.target.targeted else case.y
        try:
            with tempfile.TemporaryDirectory() as folder, _silent():
                path: Any = classifier
                if not is_file:
                    import_onnxruntime()
                    path = Path(folder) / "network.onnx"
                    export(classifier, path, to="qcdq")
                given: Any = {"eps": case.ball.side(case.x[0].size), "batch_size": case.target.batch_size}
                pair = agreement(case.simulation or classifier, path, case.x, labels, as_written=True, **given)
        except QadvError as error:
            return Finding.none(str(error).splitlines()[0])
        except Exception as error:  # whatever exporter and runtime raise must not cost the audit its other findings
            return Finding.none(f"the exported graph does not run: {describe(error).splitlines()[0]}")
        return {"clean": [pair[0].to_dict()], "PGD": [pair[1].to_dict()]}

    def judge(self, counts: Any, of: Scale) -> Finding:
        pair = [_over_all(counts[images]) for images in ("clean", "PGD")]
        others = [round((1 - each["same_class"]) * each["samples"]) for each in pair]
        figure = f"another class on {of.points(others[0])} clean, {of.points(others[1])} under PGD"
        return Finding.of(max(others) <= of.allowance, figure, grade=Grade.NOTHING, agreement=pair)


def _over_all(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the agreement on all images, from that on parts of them: shares are means over images."""
    if len(parts) == 1:
        return parts[0]
    samples = [part["samples"] for part in parts]
    shares = [name for name, value in parts[0].items() if isinstance(value, float) and name != "largest_difference"]
    means = {name: float(np.average([part[name] for part in parts], weights=samples)) for name in shares}
    largest = max(part["largest_difference"] for part in parts)
    return {**parts[0], **means, "samples": sum(samples), "largest_difference": largest}


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps what torch's exporter prints and logs to itself: the graph, where it depends on the data."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
