"""Cells on a Ray cluster: each is a remote task; results come back to the bench, which alone writes them."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from qadv.benchmark.cells import Cell
from qadv.benchmark.engines import Engine, Failed, InProcess, Outcome, Processes, attempt
from qadv.errors import InvalidInputError, MissingRequirementError, QadvError

# Of a cluster that is started here. It would report to Ray's makers, and wait minutes where there is no network; its
# workers would stand back (nice 15) behind whatever else the machine does.
_LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


class RayError(QadvError, RuntimeError):
    """The cluster can't be reached."""


class RayEngine:
    """Computes cells with Ray.

    Every machine of the cluster needs qadv in the same versions, and the images in the same folder.

    Args:
        address: of a running cluster (`"auto"`, `"ray://host:10001"`); `None` starts one on this machine.
        jobs: cells at a time; `None`: one per processor of the cluster.
        threads: torch threads, and processors that Ray reserves, for each.
        work: computes a cell, as `attempt` does.
    """

    def __init__(
        self,
        given: Any,
        address: str | None = None,
        jobs: int | None = None,
        threads: int = 1,
        work: Callable[..., Outcome] = attempt,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingRequirementError("--engine ray needs Ray; install it with: pip install 'qadv[ray]'") from error
        self.ray, self.given, self.threads = ray, given, threads
        _check_reachable(address)
        for name, value in _LOCAL.items():
            os.environ.setdefault(name, value)
        try:
            ray.init(
                address=address,
                num_cpus=None if address else (jobs or None),
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                ignore_reinit_error=True,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RayError(f"--address {address}: {error}; is the cluster running? (ray start --head)") from error
        self.slots = jobs or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        self.task = ray.remote(num_cpus=threads, max_retries=1)(work)
        self.running: dict[Any, Cell] = {}

    def submit(self, cell: Cell, needed: Mapping[str, Any]) -> None:
        self.running[self.task.remote(cell.spec, dict(needed), self.given, self.threads)] = cell

    def finished(self) -> Iterator[tuple[Cell, Outcome]]:
        done, _ = self.ray.wait(list(self.running), num_returns=1)
        for reference in done:
            cell = self.running.pop(reference)
            try:
                yield cell, self.ray.get(reference)
            except self.ray.exceptions.RayError as error:
                yield cell, Failed(f"{type(error).__name__}: {error}", "")

    def close(self) -> None:
        self.ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raises unless a server listens at the address: Ray itself tries for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError, ValueError) as error:  # the last two: no port has that number
        why = getattr(error, "strerror", None) or error
        raise RayError(f"--address {address}: {why}; is the cluster running? (ray start --head)") from error


def engine_of(
    name: str, given: Any, jobs: int, threads: int | None, address: str | None, work: Callable[..., Outcome] = attempt
) -> Engine:
    """Returns the engine `"local"` or `"ray"`; on a cluster, one job is one for each of its processors."""
    if address is not None and name != "ray":
        raise InvalidInputError(f"address: only engine='ray' works on a cluster, got engine={name!r}")
    if name == "ray":
        return RayEngine(given, address, None if jobs == 1 else jobs, threads or 1, work)
    return InProcess(given, threads, work) if jobs == 1 else Processes(jobs, given, threads, work)
