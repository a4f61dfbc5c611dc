"""Studies on a Ray cluster: a real one, of two workers on this machine."""

import pytest

from qadv.benchmark.given import Given
from qadv.benchmark.ray_engine import RayEngine, RayError
from tests.benchmark.test_bench import chain, options, quiet, records, run_bench, run_cells, store

pytest.importorskip("ray")

__all__ = ["store"]


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


def test_a_failing_cell_comes_back_as_one(store, tmp_path):
    engine = RayEngine(Given(None, tmp_path), jobs=2)
    try:
        result = run_cells(chain("a"), store, engine)
    finally:
        engine.close()
    assert "KeyError" in result.failed["0 a"]
