"""Distributions whose plugin is written badly, changes the process, or is damaged on disk."""

import os
import random
import sys
from contextlib import redirect_stderr
from pathlib import Path

from qadv.plugins import discover
from qadv.process_state import read_settings
from qadv.registry import Registry

from .damage import damaged_bytes
from .trials import Trial

_GOOD = """
import qadv
from qadv.components import Attack
@qadv.hookimpl
def qadv_attacks():
    yield Attack(name={name!r}, target="{module}:value")
value = "loaded"
"""
_LINES = [
    "import random; random.seed(3)",
    "import numpy; numpy.random.seed(3)",
    "import torch; torch.manual_seed(3)",
    "import torch; torch.set_default_dtype(torch.float64)",
    "import torch; torch.set_grad_enabled(False)",
    "import torch; torch.set_num_threads(5)",
    "import os; os.chdir('/')",
    "import os; os.environ['QADV_FUZZ'] = '1'",
    "import os; os.environ.pop('QADV_FUZZ_KEPT', None)",
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "print('printed')",
    "raise RuntimeError('[bold] %s {}')",
    "raise SystemExit(0)",
    "raise BaseException",
    "import no_such_module_anywhere",
    "1 / 0",
    "class Odd(Exception):\n    def __str__(self): raise self\nraise Odd",
    "def qadv_attacks(): return 1",
    "import qadv\n@qadv.hookimpl\ndef qadv_backbones(): return 3",
    "import qadv\n@qadv.hookimpl\ndef qadv_trainers(x): return []",
    "import qadv\n@qadv.hookimpl\ndef qadv_detectors(): import random; random.random(); yield 'text'",
    "import qadv\n@qadv.hookimpl\ndef qadv_nothings(): return []",
]


def plugins(folder: Path) -> Trial:
    """One bad distribution beside a good one: named if it is at fault, put back, and never in the good one's way."""
    import torch  # noqa: F401  (its settings count among those that are changed)

    os.environ["QADV_FUZZ_KEPT"] = "1"  # some plugins remove it

    def trial(draws: random.Random) -> str:
        here = folder / f"{draws.getrandbits(64):x}"
        here.mkdir()
        name, good = f"bad{draws.getrandbits(40):x}", f"good{draws.getrandbits(40):x}"
        _install(here, good, _GOOD)
        source = [*draws.sample(_LINES, draws.randrange(3)), _GOOD]
        draws.shuffle(source)
        info = _install(here, name, "\n".join(source))
        if is_damaged := draws.random() < 0.5:
            path = draws.choice([info / "METADATA", info / "entry_points.txt", here / f"{name}_plugin.py"])
            path.write_bytes(damaged_bytes(path.read_bytes(), draws))
        before, path_before = read_settings(), list(sys.path)
        sys.path[:] = [str(here), *(entry for entry in path_before if "site-packages" not in entry)]
        try:
            with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
                found = {plugin.distribution: plugin for plugin in discover()}
                works = Registry(found.values()).load("attack", good) == "loaded"
        finally:
            sys.path[:] = path_before
        if not works or read_settings() != before or found[good].status != "ok":
            return "taken wrong"
        others = [plugin for distribution, plugin in found.items() if distribution not in (good, "qadv")]
        if any(plugin.faults for plugin in others):
            return "refused"
        # a plugin that nothing is said of gave its component, or is not declared any more
        is_whole = [component.name for plugin in others for component in plugin.components] == [name]
        return "same" if is_whole else "as written" if is_damaged else "taken wrong"

    return trial


def _install(folder: Path, name: str, source: str) -> Path:
    module = f"{name}_plugin"
    (folder / f"{module}.py").write_text(source.replace("{name!r}", repr(name)).replace("{module}", module))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[qadv]\nmain = {module}\n")
    return info
