"""Running cells: order, failures, dying processes, kills, and the command itself."""

import io
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from qadv.benchmark.bench import Event, run_cells
from qadv.benchmark.cells import Cell, Finished, digest
from qadv.benchmark.command import _Shown, run_bench
from qadv.benchmark.engines import Failed, InProcess, Processes
from qadv.benchmark.given import Given
from qadv.benchmark.report.build import build_report
from qadv.benchmark.specs import Spec
from qadv.benchmark.store import Store
from qadv.benchmark.study_file import StudyError
from qadv.errors import InvalidInputError, QadvError
from qadv.evaluation import attack_classifier
from qadv.registry import create
from tests.benchmark.dying import work
from tests.benchmark.studies import TINY, options, planned, quiet, records, write_tiny

ANY = Spec(kind="unheard of", versions={}, seed=0)


def chain(*actions):
    """Cells of which each needs the one before."""
    cells = []
    for number, action in enumerate(actions):
        needs = (cells[-1].key,) if cells else ()
        cells.append(Cell("network", {"do": action, "number": number}, f"{number} {action}", {}, needs))
    return cells


class Fake:
    """Computes with `work` in this process, several cells at a time, the last submitted first."""

    def __init__(self, folder, slots=1):
        self.given, self.slots, self.running, self.most, self.order = Given(None, folder), slots, [], 0, []

    def submit(self, cell, needed):
        self.running.append((cell, needed))
        self.most = max(self.most, len(self.running))

    def finished(self):
        cell, needed = self.running.pop()
        self.order.append(cell.label)
        yield cell, work(cell.spec, needed, self.given, 1)

    def close(self):
        pass


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "results")
    with store.locked():
        yield store


def test_cells_get_the_results_they_need(store, tmp_path):
    cells = chain("a", "b", "c")
    result = run_cells(cells, store, Fake(tmp_path))
    assert result.complete
    assert result.computed == ["0 a", "1 b", "2 c"]
    assert store.read(cells[2].key).record["from"] == [cells[1].key]


def test_finished_cells_are_not_computed_again(store, tmp_path):
    cells = chain("a", "b")
    run_cells(cells, store, Fake(tmp_path))
    again = run_cells(cells, store, Fake(tmp_path))
    assert (again.computed, again.kept) == ([], 2)


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_damaged_cell_is_computed_again(damaged, store, tmp_path):
    cells = chain("a", "b", "c")
    run_cells(cells, store, Fake(tmp_path))
    (store.cells / cells[damaged].key / "record.json").write_bytes(b"")
    result = run_cells(cells, Store(store.folder), Fake(tmp_path))
    assert result.complete
    assert (result.computed, result.kept) == ([cells[damaged].label], 2)
    assert cells[damaged].key in result.damaged[cells[damaged].label]
    assert store.read(cells[2].key).record["from"] == [cells[1].key]


def test_an_input_that_turns_out_damaged_is_computed_again(store, tmp_path):
    cells = chain("a", "b", "c")
    run_cells(cells[:2], store, Fake(tmp_path))
    assert store.is_finished(cells[1].key)
    (store.cells / cells[1].key / "record.json").unlink()  # after it was looked at
    told = []
    result = run_cells(cells, store, Fake(tmp_path), lambda event: told.append((event.what, event.cell.label)))
    assert result.computed == ["1 b", "2 c"]
    assert result.complete
    assert ("damaged", "1 b") in told


def test_a_bench_goes_on_in_a_copy_of_records(store, tmp_path):
    class WithFiles(Fake):
        def finished(self):
            for cell, outcome in super().finished():
                yield cell, Finished(outcome.record, {"f": cell.label.encode()})

    cells = [*chain("a", "b", "c"), *chain("other")]
    run_cells([*cells[:2], cells[3]], store, WithFiles(tmp_path))
    store.write_plan("study", {"cells": [{"key": cell.key} for cell in cells]})
    store.copy_records(Store(tmp_path / "copy"), ["study"])
    with (copy := Store(tmp_path / "copy")).locked():
        nothing = run_cells([*cells[:2], cells[3]], copy, WithFiles(tmp_path))
        result = run_cells(cells, copy, WithFiles(tmp_path))
    assert (nothing.computed, nothing.kept) == ([], 3)
    assert result.computed == ["0 a", "1 b", "2 c"]  # of the inputs those that the new cell needs, of "other" nothing
    assert result.complete
    assert copy.read(cells[1].key).files == {"f": b"1 b"}


def test_an_input_that_is_damaged_again_and_again_has_failed(store, tmp_path):
    class Spoiling(Fake):
        def finished(self):
            yield from super().finished()
            for path in store.cells.glob("*/record.json"):
                path.write_bytes(b"")

    result = run_cells([*chain("a", "b", "c"), *chain("other")], store, Spoiling(tmp_path))
    assert not result.complete
    assert "is damaged" in result.failed["0 a"]
    assert {"1 b", "2 c"} <= {*result.left_out}


def test_a_failing_cell_stops_only_those_that_need_it(store, tmp_path):
    cells = [*chain("fail", "b", "c"), *chain("other", "fine")]
    result = run_cells(cells, store, Fake(tmp_path))
    assert result.failed == {"0 fail": "ValueError: no"}
    assert result.left_out == ["1 b", "2 c"]
    assert result.computed == ["0 other", "1 fine"]
    assert not result.complete
    assert store.failure(cells[0].key)["traceback"] == "trace"


def test_as_many_cells_run_as_there_are_slots(store, tmp_path):
    engine = Fake(tmp_path, slots=3)
    cells = [Cell("network", {"do": str(n)}, str(n), {}) for n in range(7)]
    assert run_cells(cells, store, engine).complete
    assert engine.most == 3


def test_a_cell_that_raises_has_failed(store, tmp_path):
    cell = Cell("network", ANY, "odd", {})
    result = run_cells([cell], store, InProcess(Given(None, tmp_path)))
    assert "KeyError" in result.failed["odd"]


def test_a_process_that_dies_takes_no_other_cell_along(store, tmp_path):
    engine = Processes(2, Given(None, tmp_path), work=work)
    try:
        cells = [Cell("network", {"do": do, "n": n}, do, {}) for n, do in enumerate(["fine", "die", "good", "well"])]
        result = run_cells(cells, store, engine)
    finally:
        engine.close()
    assert sorted(result.computed) == ["fine", "good", "well"]
    assert "killed, twice" in result.failed["die"]


def test_a_process_that_dies_once_is_tried_again(store, tmp_path):
    engine = Processes(1, Given(None, tmp_path), work=work)
    try:
        result = run_cells(chain("die once", "b"), store, engine)
    finally:
        engine.close()
    assert result.complete


def test_processes_end_by_themselves_where_nothing_is_left_to_do(store, tmp_path):
    engine = Processes(2, Given(None, tmp_path), work=work)
    result = run_cells([Cell("network", {"do": do}, do, {}) for do in ("fine", "good")], store, engine)
    processes = list(engine.pool._processes.values())
    engine.close()
    assert result.complete
    assert processes
    assert {process.exitcode for process in processes} == {0}  # killed ones leave what their libraries hold


def test_a_cell_that_is_handed_out_after_a_process_died_is_computed(tmp_path):
    engine = Processes(2, Given(None, tmp_path), work=work)
    first, second = (Cell("network", {"do": do}, do, {}) for do in ("die", "fine"))
    try:
        engine.submit(first, {})
        while not engine.pool._broken:
            time.sleep(0.01)
        engine.submit(second, {})
        found = {cell.label: outcome for cell, outcome in engine.finished()}
    finally:
        engine.close()
    assert isinstance(found["die"], Failed)
    assert found["fine"].record["did"] == "fine"


def test_an_attack_cell_is_what_the_attack_does(finished):
    store = Store(finished / "out")
    cells = {c["label"]: c for c in store.plan("tiny")["cells"]}
    network = store.read(cells["network w4a4 · none"]["key"])
    path = finished / "network.safetensors"
    path.write_bytes(network.files["network.safetensors"])
    from qadv import QuantizedClassifier

    classifier = QuantizedClassifier.load(path)
    data = create("dataset", "digits")
    x, y = data.x_test[:24], data.y_test[:24]
    clean = store.read(cells["clean images, w4a4 · none"]["key"]).record
    assert clean["right"] == (classifier.predict(x).argmax(1) == y).tolist()
    attack = create("attack", "FastGradientMethod", classifier, eps=0.2)
    expected, images = attack_classifier("FGSM", attack, classifier, x, y)
    record = store.read(cells["fgsm on w4a4 · none"]["key"]).record
    assert record["accuracy"] == pytest.approx(expected.adversarial_accuracy)
    assert record["cost"] == {"forward": 24, "backward": 24}
    broken = np.array(record["clean_right"]) & ~np.array(record["right"])
    assert np.array(record["l2"])[broken].mean() == pytest.approx(expected.mean_l2, abs=1e-5)
    other = store.read(cells["fgsm on w4a4 · none → float · none"]["key"]).record
    path.write_bytes(store.read(cells["network float · none"]["key"]).files["network.safetensors"])
    assert other["right"] == (QuantizedClassifier.load(path).predict(images).argmax(1) == y).tolist()


def test_diagnostics_get_what_their_arguments_ask_for(finished):
    found = records(finished)
    measured = found["error-amplification of w4a4 · tuned"][0]
    assert measured["spec"]["adversarial"] is not None
    assert len(measured["result"]["layers"]) == 4
    joint = found["gradient-similarity of 4 networks"][0]["result"]
    assert list(joint["names"] if "names" in joint else joint["classifiers"]) == [
        "float · none", "float · tuned", "w4a4 · none", "w4a4 · tuned",
    ]  # fmt: skip


def test_small_settings_share_what_is_the_same(finished, tmp_path):
    shutil.copytree(finished / "out", tmp_path / "out")
    assert run_bench(options(tmp_path), quiet())
    store = Store(tmp_path / "out")
    small, whole = (store.plan(name)["cells"] for name in ("tiny-small", "tiny"))
    shared = {c["key"] for c in small} & {c["key"] for c in whole}
    assert [c["kind"] for c in small if c["key"] in shared] == ["network"]


def test_a_dry_run_computes_nothing(tmp_path, capsys):
    assert run_bench(options(tmp_path, dry_run=True), Console(width=200))
    out = capsys.readouterr().out
    assert "network w4a4" in out
    assert "to do" in out
    assert not (tmp_path / "out").exists()


def test_wrong_options(tmp_path):
    for changes in ({"jobs": 0}, {"threads": 0}, {"engine": "rai"}, {"address": "auto"}):
        with pytest.raises(QadvError):
            run_bench(options(tmp_path, **changes), quiet())


def test_other_images_than_planned_are_refused(tmp_path):
    cells = planned(write_tiny(tmp_path), small=True)
    other = cells[0].spec.dataset.model_copy(update={"digest": "0" * 32})
    with pytest.raises(InvalidInputError, match="not the ones"):
        Given(None, tmp_path).images(other)


def test_a_cell_that_fails_is_told_and_tried_again(tmp_path):
    wild = TINY.replace('"2/10"', '"2/10", eps_step = -1.0')  # ART refuses it
    given = options(tmp_path, wild)
    assert not run_bench(given, quiet())
    store = Store(given.out)
    (failure,) = [store.failure(path.stem) for path in store.failures.iterdir()]
    assert "eps" in failure["message"]
    assert "Traceback" in failure["traceback"]
    network = list(store.cells.iterdir())
    assert not run_bench(given, quiet())
    assert sorted(network) == sorted(store.cells.iterdir())


@pytest.mark.slow
def test_a_killed_bench_of_two_processes_goes_on_to_the_same_results_as_one(finished, tmp_path):
    study = write_tiny(tmp_path)
    command = [sys.executable, "-m", "qadv.cli", "bench", str(study), "--out", str(tmp_path / "out"), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    folder = tmp_path / "out" / "cells"
    while process.poll() is None and len(list(folder.glob("[!.]*"))) < 6:
        time.sleep(0.01)
    assert process.poll() is None, "it was killed before its end"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run_bench(options(tmp_path, small=False), quiet())
    assert records(tmp_path) == records(finished)


class Wordless(Exception):  # noqa: N818
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("[/x] $x$ \ud800"), r"ValueError: [/x] $x$ \ud800"),
        (Wordless(), "Wordless: (its message can't be shown)"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_whatever_a_cell_raises_is_text(error, said, store, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("qadv.benchmark.compute.compute", fail)
    result = run_cells([Cell("network", ANY, "odd", {})], store, InProcess(Given(None, tmp_path)))
    assert result.failed["odd"] == said
    assert said.encode() in store.failure(digest(ANY))["message"].encode()


ODD_NAMES = ["[/x]", "[bold]", "$x$", r"$\x$", "a" * 300, "back\\slash\\"]


def test_names_and_messages_that_look_like_markup(tmp_path, monkeypatch):
    """A study whose cells fail, under such names, is planned, run and reported to its end."""
    bits = zip(ODD_NAMES, (2, 3, 5, 6, 7, 8), strict=True)
    quantizers = "".join(f"[quantizers.'{n}']\nweights = 'int:{b}'\nactivations = 'relu6:{b}'\n" for n, b in bits)
    text = TINY.replace("[quantizers.w4a4]", quantizers + "[quantizers.w4a4]").partition("[defenses.tuned]")[0]

    def compute(spec, needed, given, threads):
        if spec.quantizer.weights == "int:2":
            raise ValueError("[/red] [bold] $x$ " + "y" * 3000)
        return Finished(
            {"spec": spec.model_dump(), "history": [{"epoch": 0, "loss": 1.0, "accuracy": 0.5}], "seconds": 1.0}
        )

    monkeypatch.setattr("qadv.benchmark.compute.compute", compute)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    given = options(tmp_path, text.replace('"tiny"', '"[/x]"') + "[attacks]\n", small=False)
    assert run_bench(options(tmp_path, text.replace('"tiny"', '"[/x]"'), small=False, dry_run=True), console)
    assert not run_bench(given, console)
    said = console.file.getvalue()
    assert "[/red] [bold] $x$" in said
    assert "[/x]" in said
    cell = Cell("network", {}, "network [/x]", {})
    with _Shown(console, [cell], {cell.key: 1.0}, 1) as shown:
        shown.tell(Event("started", cell))
        shown.refresh()
    report = build_report(given.out)
    page, tables = report.page.read_text(), report.tables[0].read_text()
    assert all(name in page for name in ODD_NAMES)
    assert "Missing and failed" in tables
    assert len(report.models) == len(ODD_NAMES) + 2


def test_a_network_that_does_not_take_the_images_is_one_line(tmp_path):
    wrong = TINY.replace("{ image_size = 8, width = 4 }", "{ width = 4 }")
    with pytest.raises(StudyError) as caught:
        run_bench(options(tmp_path, wrong, dry_run=True), quiet())
    place, _, said = str(caught.value).partition(" ")
    assert place.endswith("tiny.toml:9:")
    assert re.fullmatch(r"backbones\.mnist-cnn\.options: .* images of shape \(1, 8, 8\) .* the option image_size", said)


def test_failed_is_an_outcome():
    assert Failed("m", "t") != Finished({})
