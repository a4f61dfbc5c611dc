"""Listing costs nothing: neither `import qadv` nor `qadv list` loads the toolkits."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.core
HEAVY = ("torch", "art", "brevitas", "timm", "sklearn", "matplotlib")


@pytest.mark.parametrize(
    "statement",
    [
        "import qadv",
        "import qadv; qadv.list_components('attack'); qadv.list_components('backbone', 'res*')",
        "import sys; sys.argv = ['qadv', 'list', 'quantizer']; from qadv.cli import app; app(standalone_mode=False)",
        "import sys; sys.argv = ['qadv', 'list']; from qadv.cli import app; app(standalone_mode=False)",
        "import sys; sys.argv = ['qadv', 'plugins', '--json']; from qadv.cli import app; app(standalone_mode=False)",
    ],
)
def test_no_toolkit_is_imported(statement):
    code = f"{statement}\nimport sys; print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


def test_public_names_resolve_and_are_listed():
    pytest.importorskip("torch")
    import qadv

    for name in qadv.__all__:
        assert getattr(qadv, name) is not None
    assert set(dir(qadv)) == set(qadv.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = qadv.no_such_name
