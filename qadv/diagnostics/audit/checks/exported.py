"""Check 11: what was measured on the simulated network holds for the integer model that is deployed."""

import tempfile
from pathlib import Path

from qadv.deployment.agreement import agreement, import_onnxruntime
from qadv.deployment.export import export
from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.result import Finding, Grade
from qadv.errors import QadvError
from qadv.frontends.find import quantizers


class ExportedModel:
    """The ONNX graph (QCDQ) in onnxruntime against the classifier, on the images and on their PGD versions."""

    number = 11
    name = "exported integer model"
    rule = "same class as the simulated network on all but 1 point, clean and under PGD"

    def examine(self, case: AuditCase) -> Finding:
        classifier = case.target.classifier
        if not quantizers(classifier.model):
            return Finding.none("the network is not quantized")
        if case.target.draws > 1:
            return Finding.none("the network's answers are random")
        try:
            import_onnxruntime()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "network.onnx"
                export(classifier, path, to="onnx")
                pair = agreement(classifier, path, case.x, case.y, eps=case.eps, batch_size=case.target.batch_size)
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
