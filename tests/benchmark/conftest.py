"""A study that several files look at."""

import pytest

from tests.benchmark.studies import options, quiet


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The tiny study at full size, computed once."""
    from qadv.benchmark.command import run_bench

    folder = tmp_path_factory.mktemp("finished")
    assert run_bench(options(folder, small=False), quiet())
    return folder
