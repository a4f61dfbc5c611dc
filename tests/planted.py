"""Planted offenders: components that break one rule each, and the test that the kit catches them."""

import pytest

from qadv.testing import ConformanceError, checks, run_check


class Offenders:
    """The offenders of one kind; `breaks` plants one, `test` makes the test."""

    def __init__(self, kind, **options):
        self.kind = kind
        self.options = options
        self.planted = []

    def breaks(self, check, came="", **options):
        """Marks a class or function as breaking a check, and what the message says came; `None` drops an option."""

        def plant(component):
            given = {**self.options, **options}.items()
            self.planted.append((check, component, came, {name: value for name, value in given if value is not None}))
            return component

        return plant

    def test(self):
        """Returns a test that each is caught by its check, with a message that says what to do; call it last."""
        assert self.planted

        @pytest.mark.filterwarnings("ignore")
        @pytest.mark.parametrize(
            ("check", "component", "came", "options"),
            [pytest.param(*each, id=f"{each[0]}-{each[1].__name__}") for each in self.planted],
        )
        def caught(check, component, came, options):
            with pytest.raises(ConformanceError) as error:
                run_check(check, self.kind, component, **options)
            text = str(error.value)
            assert text.startswith(f"{self.kind} {component.__name__!r}, check {check!r}: ")
            assert "\n  expected: " in text
            assert "\n  do: " in text
            assert came in text.partition("\n  came: ")[2].partition("\n  do: ")[0], text

        return caught

    def test_all_checks_have_one(self):
        """Returns a test that no check of this kind but the common ones lacks an offender."""

        def complete():
            planted = {check for check, *_ in self.planted}
            own = {each.name for each in checks(self.kind) if each.function.__module__ != "qadv.testing.common"}
            assert own <= planted

        return complete
