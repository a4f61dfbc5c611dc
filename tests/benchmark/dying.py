"""Work for processes in tests: some of it kills the process that does it."""

import os
import signal
from pathlib import Path

from qadv.benchmark.cells import Finished
from qadv.benchmark.engines import Failed


def work(spec, needed, given, threads):
    """Does what the spec says: `"die"`, `"die once"`, `"fail"`, or anything else."""
    what = spec["do"]
    marker = Path(given.scratch) / "died"
    if what == "die" or (what == "die once" and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fail":
        return Failed("ValueError: no", "trace")
    return Finished({"did": what, "from": sorted(needed)})
