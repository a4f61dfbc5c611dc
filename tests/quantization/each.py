"""Runs a test for schemes of several bit widths as one test a scheme, with the width in the message of what fails."""

import inspect
import re

import pytest


def each(names, values):
    """As `pytest.mark.parametrize(names, values)`, but a scheme's bit widths come one after the other in one test.

    The first name, or the only one, is the spec of a scheme, e.g. `"int:4"`.
    """
    names = [names] if isinstance(names, str) else list(names)
    groups = {}
    for value in values:
        value = (value,) if len(names) == 1 else value
        groups.setdefault(re.sub(r":\d+", "", value[0]), []).append(dict(zip(names, value, strict=True)))

    def decorate(test):
        others = [found for name, found in inspect.signature(test).parameters.items() if name not in names]

        def looped(group, *args, **kwargs):  # Hypothesis gives what it draws by position
            drawn = {**dict(zip((other.name for other in others), args, strict=False)), **kwargs}
            for arguments in group:
                try:
                    test(**arguments, **drawn)
                except BaseException as error:
                    error.add_note(f"with {arguments}")
                    raise

        first = inspect.Parameter("group", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        looped.__signature__ = inspect.Signature([first, *others])
        looped.__name__, looped.__doc__, looped.__module__ = test.__name__, test.__doc__, test.__module__
        return pytest.mark.parametrize("group", groups.values(), ids=groups)(looped)

    return decorate
