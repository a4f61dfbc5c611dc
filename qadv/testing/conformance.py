"""`conformance`: the checks of one component as a test function for pytest."""

from collections.abc import Callable, Mapping
from typing import Any

from qadv.errors import QadvError
from qadv.testing.case import ConformanceCase
from qadv.testing.check import Check, ConformanceError, NotApplicable, checks, find_check
from qadv.testing.global_state import set_random_states, settings_restored


def conformance(
    kind: str,
    component: str | Callable[..., Any],
    *,
    exempt: Mapping[str, str] | None = None,
    classifier: Callable[[], Any] | None = None,
    input_shape: tuple[int, ...] | None = None,
    **options: Any,
) -> Callable[..., None]:
    """Returns a test function that runs each check for a component, one test per check.

        from qadv.testing import conformance

        test_sign_noise = conformance("attack", "sign-noise", eps=0.1, nb_draws=3)

    Args:
        kind: a component kind, e.g. `"attack"`.
        component: its name, as in `qadv list`, or the class or function itself, of a module, for one that is not
            installed.
        exempt: for checks that do not hold on purpose, the reason; they are shown as skipped.
        classifier: a function without arguments that makes the classifier it works on, a new one at each call;
            `digits_classifier` makes such ones. Images are scikit-learn's digits, 1×8×8 in [0, 1].
        input_shape: of a backbone's images, (3, 32, 32) without it.
        options: what the component is made with, or a function called with; small ones, so that the checks run in
            seconds.

    Raises:
        UnknownNameError: there is no such kind, or a check in `exempt` that the kind does not have.
    """
    import pytest

    for name in exempt or {}:
        find_check(kind, name)
    skipped = {name: (pytest.mark.skip(reason=f"exempt: {reason}"),) for name, reason in (exempt or {}).items()}
    parameters = [pytest.param(each, id=each.name, marks=skipped.get(each.name, ())) for each in checks(kind)]

    @pytest.mark.parametrize("check", parameters)
    def test(check: Check) -> None:
        message = ""
        try:
            run_check(check, kind, component, classifier=classifier, input_shape=input_shape, **options)
        except NotApplicable as reason:
            pytest.skip(str(reason))
        except ConformanceError as error:
            if error.__cause__ is not None:  # an error of the component's: where it came from matters
                raise
            message = str(error)
        if message:
            pytest.fail(message, pytrace=False)

    wrapped: Callable[..., None] = test
    vars(wrapped)["component"] = (kind, component)
    return wrapped


def run_check(
    check: Check | str,
    kind: str,
    component: str | Callable[..., Any],
    *,
    classifier: Callable[[], Any] | None = None,
    input_shape: tuple[int, ...] | None = None,
    **options: Any,
) -> None:
    """Runs one check outside pytest; arguments as of `conformance`, without `exempt`.

    Random states and settings of the process are as before afterwards, whatever the component did. A broken rule is a
    `ConformanceError`, nothing to check `NotApplicable`.
    """
    found = find_check(kind, check) if isinstance(check, str) else check
    case = ConformanceCase.kinds[kind](component, options, classifier, input_shape)
    try:
        _ = case.target
    except QadvError as error:
        raise ConformanceError(
            f"{case} can't be tried: {error}\n"
            "  do: pip install -e . in the plugin's folder; qadv plugins says what is installed, and what is wrong"
        ) from None
    with settings_restored():
        set_random_states(0)
        found.run(case)
