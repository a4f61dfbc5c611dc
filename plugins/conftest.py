"""Lets all plugins' tests run together: with `--import-mode importlib` a test does not see the modules beside it."""

import sys
from pathlib import Path

sys.path[:0] = [str(folder) for folder in sorted(Path(__file__).parent.glob("*/tests"))]
