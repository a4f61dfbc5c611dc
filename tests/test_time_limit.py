"""A time limit ends what runs inside, and leaves alarms and threads as they were."""

import signal
import threading
import time

import pytest

from qadv.time_limit import TookTooLong, time_limit

pytestmark = [
    pytest.mark.core,
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs Unix's alarm signal"),
]


def alarm():
    return signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)


def test_what_takes_too_long_is_ended_and_no_alarm_is_left():
    assert not issubclass(TookTooLong, Exception)  # which plugins catch
    with pytest.raises(TookTooLong), time_limit(0.05, ""):
        time.sleep(20)
    assert alarm() == (signal.SIG_DFL, (0.0, 0.0))


def test_code_that_goes_on_is_ended_again():
    def goes_on():
        for _ in range(2):
            try:
                time.sleep(5)
            except TookTooLong:
                ends.append(True)

    ends = []
    with time_limit(0.05, ""):
        goes_on()
    assert len(ends) == 2


def test_a_timer_without_a_handler_is_somebody_elses():
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with time_limit(20, ""):
            assert alarm()[0] is signal.SIG_DFL
            assert alarm()[1][0] > 20
        assert alarm()[1][0] > 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_a_handler_without_a_timer_is_somebody_elses_too():
    def theirs(number, frame):
        pass

    signal.signal(signal.SIGALRM, theirs)
    try:
        with time_limit(20, ""):
            assert alarm() == (theirs, (0.0, 0.0))
        assert alarm() == (theirs, (0.0, 0.0))
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_nobody_is_warned_of_what_ended_in_time(monkeypatch):
    monkeypatch.delattr(signal, "setitimer")  # as on Windows
    before = set(threading.enumerate())
    with time_limit(20, "still waiting"):
        (watch,) = set(threading.enumerate()) - before
        assert watch.daemon
        assert not watch.finished.is_set()
    assert watch.finished.is_set()


def test_without_an_alarm_and_without_threads_it_runs_all_the_same(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.delattr(signal, "setitimer")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran = []
    with time_limit(20, ""):
        ran.append(True)
    assert ran
