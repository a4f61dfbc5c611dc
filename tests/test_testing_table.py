"""docs/conformance.md lists every check with its offenders; `python -m tests.test_testing_table` writes it anew."""

from pathlib import Path

import pytest

from qadv.components import KINDS
from qadv.testing import checks
from tests import (
    test_testing_attacks,
    test_testing_common,
    test_testing_data,
    test_testing_defences,
    test_testing_frontends,
    test_testing_networks,
)
from tests.planted import Offenders

PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"
MODULES = (
    test_testing_attacks, test_testing_common, test_testing_data, test_testing_defences,
    test_testing_frontends, test_testing_networks,
)  # fmt: skip
ON_DISK = {
    "listed": ["a component without summary", "a plugin with a fault"],
    "light": ["a plugin that imports torch"],
    "global-state": [f"changes `{name}`" for name in test_testing_common.DISTURB],
}


def table():
    """Returns the tables, one of the checks that kinds share and one of each kind's own."""
    planted = {}
    for module in MODULES:
        for offenders in [value for value in vars(module).values() if isinstance(value, Offenders)]:
            for check, component, *_ in offenders.planted:
                name = component.__name__.removesuffix("Scheme")
                planted.setdefault((offenders.kind, check), {})[f"`{name}`"] = None
    lines = []
    shared = list({each.name: each for kind in KINDS for each in checks(kind) if len(each.kinds) > 1}.values())
    for title, found in [("Of several kinds", shared), *((kind, _own(kind)) for kind in KINDS)]:
        lines += [f"## {title.capitalize()}", "", "| check | rule | planted offenders |", "|---|---|---|"]
        for each in found:
            kinds = each.kinds if title == "Of several kinds" else [title]
            names = [name for kind in kinds for name in planted.get((kind, each.name), ())]
            names += ON_DISK.get(each.name, []) if title == "Of several kinds" else []
            assert names, f"{title}, {each.name} has no offender"
            only = f" ({', '.join(each.kinds)})" if 1 < len(each.kinds) < len(KINDS) else ""
            lines.append(f"| `{each.name}` | {each.rule}{only} | {', '.join(names)} |")
        lines.append("")
    return "\n".join(lines)


def _own(kind):
    return [each for each in checks(kind) if len(each.kinds) == 1]


@pytest.mark.repository
def test_the_docs_have_these_tables():
    text = PAGE.read_text()
    assert text[text.index("## Of several kinds") :] == table()


if __name__ == "__main__":
    before = PAGE.read_text().partition("## Of several kinds")[0]
    PAGE.write_text(before + table())
