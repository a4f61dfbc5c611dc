"""Studies and audits on a Ray cluster: a real one, of two workers on this machine."""

import pytest

from qadv.benchmark.command import run_bench
from qadv.benchmark.given import Given
from qadv.benchmark.ray_engine import RayEngine, RayError
from tests.benchmark.studies import options, quiet, records
from tests.benchmark.test_audit_shards import audited, in_two_processes  # noqa: F401

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")


def test_two_workers_find_the_same_as_one_process(finished, tmp_path, monkeypatch, in_two_processes):  # noqa: F811
    """The bench leaves its cluster to the audit, whose workers need no start of their own."""
    with monkeypatch.context() as patch:
        patch.setattr(ray, "shutdown", lambda: None)
        assert run_bench(options(tmp_path, small=False, engine="ray", jobs=2), quiet())
    assert records(tmp_path) == records(finished)
    assert ray.is_initialized()
    in_two_processes("ray")
    assert not ray.is_initialized(), "what started the cluster ends it"


@pytest.mark.parametrize("port", ["1", "99999", "9" * 5000])
def test_a_cluster_that_is_not_there(port, tmp_path):
    with pytest.raises(RayError, match="is the cluster running"):
        RayEngine(Given(None, tmp_path), address=f"127.0.0.1:{port}")
