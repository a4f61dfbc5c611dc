"""The checks for diagnostics."""

import inspect
import pickle
from typing import Any

import numpy as np

from qadv.errors import InvalidInputError
from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import check, expect, expect_same
from qadv.testing.materials import digits_classifier, few
from qadv.testing.use import untouched


class DiagnosticCase(ConformanceCase):
    kind = "diagnostic"

    def inputs(self) -> Arrays:
        x, y = few()
        noise = np.random.default_rng(0).choice(np.array([-0.1, 0.1], dtype=np.float32), x.shape)
        images = {"x": x, "y": y, "x_adversarial": np.clip(x + noise, 0, 1)}
        return images | {"x_train": x[::-1].copy(), "y_train": y[::-1].copy()}

    def arguments(self, inputs: Arrays) -> dict[str, Any]:
        """Returns what the function asks for by name, as a study would."""
        several = {"4 bit": self.classifier(), "float": digits_classifier("float", "float")}
        known = {**inputs, "classifier": several["4 bit"], "classifiers": several, "untrained": several["float"]}
        given = {name: known[name] for name in self.parameters if name in known}
        needed = {name for name, each in self.parameters.items() if each.default is inspect.Parameter.empty}
        if missing := needed - set(given) - set(self.options):
            raise InvalidInputError(
                f"{self.name} needs {', '.join(sorted(missing))}: give it as an option, "
                f"conformance('diagnostic', {self.name!r}, {min(missing)}=...)"
            )
        return given

    def make(self, **changes: Any) -> Any:
        return self.run(**changes)

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        return self.target(**{**self.arguments(inputs), **self.options, **changes})


@check("diagnostic")
def contract(case: DiagnosticCase) -> None:
    """Its first arguments are `classifier`, or `classifiers` by name, and the images `x`; it returns a result."""
    names = list(case.parameters)
    right = names and names[0] in ("classifier", "classifiers") and (len(names) < 2 or names[1] == "x")
    expect(right, "(classifier, x, ...) or (classifiers, x, ...)", names, "name and order the parameters so")
    expect(case.run() is not None, "a result", "None", "return a frozen dataclass with what was measured")


@check("diagnostic")
def classifiers_untouched(case: DiagnosticCase) -> None:
    """The networks that it measures are the same afterwards, and no hooks are left on them."""
    arguments = case.arguments(case.inputs())
    given = arguments.get("classifiers") or {"": arguments["classifier"]}
    with untouched(*(each.model for each in given.values()), do="remove hooks in a `finally`; use evaluation mode"):
        case.target(**{**arguments, **case.options})


@check("diagnostic")
def result(case: DiagnosticCase) -> None:
    """The result can be printed and pickled, and its `repr` has no memory address."""
    found = case.run()
    text = f"{found!r}\n{found}"
    do = "return a frozen dataclass, or write __repr__"
    expect(" at 0x" not in text, "a result that says what was measured", text, do)
    do = "keep plain data in the result, no classifiers or lambdas"
    expect_same(found, pickle.loads(pickle.dumps(found)), "the same after pickling", do)
