"""Studies on a Ray cluster: a real one, of two workers on this machine."""

import pytest

from qadv.benchmark.given import Given
from qadv.benchmark.ray_engine import RayEngine, RayError
from tests.benchmark.test_bench import finished, options, quiet, records, run_bench  # noqa: F401

pytestmark = pytest.mark.slow

pytest.importorskip("ray")


def test_two_workers_find_the_same_as_one_process(finished, tmp_path):  # noqa: F811
    assert run_bench(options(tmp_path, small=False, engine="ray", jobs=2), quiet())
    assert records(tmp_path) == records(finished)


@pytest.mark.parametrize("port", ["1", "99999", "9" * 5000])
def test_a_cluster_that_is_not_there(port, tmp_path):
    with pytest.raises(RayError, match="is the cluster running"):
        RayEngine(Given(None, tmp_path), address=f"127.0.0.1:{port}")
