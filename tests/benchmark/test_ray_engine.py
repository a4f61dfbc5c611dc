"""Studies on a Ray cluster: a real one, of two workers on this machine."""

import pytest

from qadv.benchmark.given import Given
from qadv.benchmark.ray_engine import RayEngine, RayError
from tests.benchmark.test_bench import options, quiet, records, run_bench

pytestmark = pytest.mark.slow

pytest.importorskip("ray")


def test_two_workers_find_the_same_as_one_process(tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        folder.mkdir()
    assert run_bench(options(one), quiet())
    assert run_bench(options(many, engine="ray", jobs=2), quiet())
    assert records(many) == records(one)


def test_a_cluster_that_is_not_there(tmp_path):
    with pytest.raises(RayError, match="is the cluster running"):
        RayEngine(Given(None, tmp_path), address="127.0.0.1:1")
