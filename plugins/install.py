"""Installs every plugin of this folder, and the example one, as wheels; `tox` runs it in each environment.

Usage: python plugins/install.py [options of pip install]
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PLUGINS = [*sorted(path.parent for path in HERE.glob("*/pyproject.toml")), HERE.parent / "examples" / "own_plugin"]

if __name__ == "__main__":
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--disable-pip-version-check"]
    sys.exit(subprocess.run([*pip, *sys.argv[1:], *map(str, PLUGINS)], check=False).returncode)
