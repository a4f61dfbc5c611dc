"""The conformance kit: what a component has to hold to work with ART and with qadv, as tests for plugin authors.

    from qadv.testing import conformance

    test_my_attack = conformance("attack", "my-attack", eps=0.1)

Each check has a name, a rule of one line (`checks(kind)` lists them) and a message that says what was expected, what
came, and what to do.
"""

from importlib import import_module
from pkgutil import iter_modules

from qadv.testing.check import Check, ConformanceError, NotApplicable, checks
from qadv.testing.conformance import conformance, run_check
from qadv.testing.materials import digits_classifier

for _module in iter_modules(__path__):  # all checks are registered
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Check", "ConformanceError", "NotApplicable", "checks", "conformance", "digits_classifier", "run_check"]
