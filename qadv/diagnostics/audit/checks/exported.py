"""Check 11: what is measured on the simulated network holds for the integer model that is deployed."""

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from qadv.deployment.agreement import agreement
from qadv.deployment.export import export
from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.result import Finding, Grade
from qadv.errors import QadvError
from qadv.frontends.find import files, quantizers
from qadv.frontends.onnx.runtime import import_onnxruntime


class ExportedModel:
    """The ONNX graph (QCDQ) in onnxruntime against the classifier, on the images and on their PGD versions.

    Of a file it is the file, against the simulation that it was made from.
    """

    number = 11
    name = "exported integer model"
    rule = "same class as the simulated network on all but 1 point, clean and under PGD"

    def examine(self, case: AuditCase) -> Finding:
        classifier = case.target.classifier
        is_file = bool(files(classifier.model))
        if is_file and case.simulation is None:
            return Finding.none("the network is a file: what was examined is what ships")
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
                pair = agreement(
                    case.simulation or classifier,
                    path,
                    case.x,
                    labels,
                    eps=case.ball.side(case.x[0].size),
                    batch_size=case.target.batch_size,
                    as_written=True,
                )
        except QadvError as error:
            return Finding.none(str(error).splitlines()[0])
        except Exception as error:  # whatever exporter and runtime raise must not cost the audit its other findings
            reason = str(error).splitlines()[0] if str(error) else ""
            return Finding.none(f"the exported graph does not run: {type(error).__name__}: {reason}")
        others = [round((1 - each.same_class) * each.samples) for each in pair]
        figure = f"another class on {case.points(others[0])} clean, {case.points(others[1])} under PGD"
        return Finding.of(
            max(others) <= case.allowance, figure, grade=Grade.NOTHING, agreement=[each.to_dict() for each in pair]
        )


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
