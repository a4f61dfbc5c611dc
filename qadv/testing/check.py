"""Checks: a name, a rule of one line, and a function whose error says what to do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from qadv.components import KINDS, component_type
from qadv.errors import QadvError, UnknownNameError, closest, describe
from qadv.testing.compare import difference


class ConformanceError(QadvError, AssertionError):
    """A component breaks a rule of its kind."""


class NotApplicable(Exception):  # noqa: N818  # no error: the reason why a check has nothing to look at
    """A check has nothing to look at in this component; the text says why."""


class _Broken(Exception):  # noqa: N818
    """What `expect` raises; `Check.run` completes it with component, check and rule."""


@dataclass(frozen=True)
class Check:
    """A rule for components of some kinds; `function` takes a `ConformanceCase` and raises where the rule is broken."""

    name: str
    kinds: tuple[str, ...]
    rule: str
    function: Callable[[Any], None]

    def run(self, case: Any) -> None:
        """Runs the check; a broken rule, or an error of the component's, is a `ConformanceError`."""
        head = f"{case}, check {self.name!r}: {self.rule}"
        try:
            self.function(case)
        except _Broken as broken:
            raise ConformanceError(f"{head}\n{broken}") from None
        except NotApplicable:
            raise
        except (Exception, SystemExit) as error:
            do = "look at the error above: the component raised it, or was not made"
            raise ConformanceError(f"{head}\n{_message('that it works', describe(error), do)}") from error

    def __str__(self) -> str:
        return self.name


_CHECKS: list[Check] = []


def check(*kinds: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Makes a function a check, of all kinds if none is given.

    Its name, with hyphens, is the check's, the first line of its docstring the rule.
    """

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        name = function.__name__.strip("_").replace("_", "-")
        rule = (function.__doc__ or "").strip().partition("\n")[0]
        _CHECKS.append(Check(name, kinds or tuple(KINDS), rule, function))
        return function

    return register


def checks(kind: str) -> list[Check]:
    """Returns the checks for components of a kind, those that other kinds share first; no such kind is an error."""
    component_type(kind)
    return sorted((each for each in _CHECKS if kind in each.kinds), key=lambda each: len(each.kinds) == 1)


def find_check(kind: str, name: str) -> Check:
    """Returns the check of a kind by its name, or names the closest ones in an `UnknownNameError`."""
    known = {each.name: each for each in checks(kind)}
    if name not in known:
        raise UnknownNameError(f"no check {name!r} for {kind}{closest(name, known)} Checks: {', '.join(known)}")
    return known[name]


def expect(holds: Any, expected: str, came: object, do: str) -> None:
    """Fails the check unless `holds`: says what was expected, what came, and what to do."""
    if not holds:
        fail(expected, came, do)


def expect_same(a: Any, b: Any, expected: str, do: str, where: str = "result") -> None:
    """Fails the check unless two results are equal to the bit."""
    changed = difference(a, b, where)
    expect(changed is None, expected, changed, do)


def expect_array(made: Any, shape: tuple[int, ...], do: str, kind: Any = np.ndarray) -> None:
    """Fails the check unless something is an array, or a tensor, of finite float32 numbers of this shape."""
    came = f"{type(made).__name__} {tuple(getattr(made, 'shape', ()))}, {getattr(made, 'dtype', '')}"
    right = isinstance(made, kind) and made.shape == shape and str(made.dtype).removeprefix("torch.") == "float32"
    expect(right, f"{kind.__name__} {shape}, float32", came, do)
    finite = np.isfinite(np.asarray(made)).all()
    expect(finite, "finite numbers", "NaN or infinity", "look for divisions by zero and for overflow")


def expect_subclass(made: object, base: type, do: str) -> None:
    """Fails the check unless a component is one of ART's kind."""
    expect(isinstance(made, base), f"a subclass of {base.__module__}.{base.__name__}", type(made).__name__, do)


def fail(expected: str, came: object, do: str) -> NoReturn:
    """Fails the check."""
    raise _Broken(_message(expected, came, do))


def refused(call: Callable[[], Any], what: str, do: str) -> None:
    """Fails the check unless `call()` raises an error."""
    try:
        result = call()
    except (Exception, SystemExit) as error:
        expect(str(error), f"an error that says what is wrong with {what}", f"{type(error).__name__} without text", do)
        return
    fail(f"an error for {what}", f"{type(result).__name__}, as if nothing was wrong", do)


def _message(expected: str, came: object, do: str) -> str:
    return f"  expected: {expected}\n  came: {came}\n  do: {do}"
