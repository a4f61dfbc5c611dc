"""Many runs of sequential code, each in a thread, of which exactly one moves at a time and in a fixed order."""

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from qadv.errors import InvalidInputError
from qadv.random_states import RandomStates


class _Stopped(BaseException):
    """Unwinds a run that nobody waits for any more."""


class Turns:
    """Hands the turn from run to run, and back to the caller when each has had its own."""

    def __init__(self) -> None:
        self._order: Iterator[Run] = iter(())
        self._caller: SimpleQueue[None] = SimpleQueue()
        self.refusal: BaseException | None = None

    def take(self, runs: Sequence["Run"]) -> None:
        """Lets each run move, one after the other, until it asks for something or ends; raises `refusal` at once."""
        self._order = iter(runs)
        self.hand_on()
        self._caller.get()
        if self.refusal is not None:
            raise self.refusal

    def hand_on(self) -> None:
        following = next(self._order, None)
        (following.turn if following is not None else self._caller).put(None)

    def refuse(self, error: BaseException) -> None:
        self.refusal = error
        self._caller.put(None)


class Run(threading.Thread):
    """One run: `work(run)` in a thread of its own, which waits for its turn whenever it asks for something.

    After a turn either `request` holds what it asked for, to be answered by setting `reply` before its next turn, or
    `done` is true, and `result` or `error` is set.
    """

    def __init__(self, index: int, work: Callable[["Run"], Any], turns: Turns, random_states: RandomStates) -> None:
        super().__init__(name=f"sample {index}", daemon=True)
        self.index = index
        self.turn: SimpleQueue[None] = SimpleQueue()
        self.request: Any = None
        self.reply: Any = None
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._turns = turns
        self._random_states = random_states
        self._stopped = False

    def ask(self, request: Any) -> Any:
        """Called from within the run: waits until the caller has answered.

        Where another thread asks, which no turn is for, that is an `InvalidInputError`, and whoever takes turns is told
        too.
        """
        if threading.current_thread() is not self:
            error = InvalidInputError(
                "attack: it asks the estimator from threads of its own; what these draw and when they ask can't be "
                "repeated. Call the attack itself"
            )
            self._turns.refuse(error)
            raise error
        if self._stopped:
            raise _Stopped
        self.request = request
        self._random_states.take_back()
        self._turns.hand_on()
        self._wait_for_turn()
        return self.reply

    def stop(self) -> None:
        """Makes the run unwind, at once where it waits, else when it next asks; does not wait for it."""
        self._stopped = True
        self.turn.put(None)

    def run(self) -> None:
        try:
            self._wait_for_turn()
            self.result = self._work(self)
        except _Stopped:
            return
        except BaseException as error:
            self.error = error
        self.done = True
        self._turns.hand_on()

    def _wait_for_turn(self) -> None:
        self.turn.get()
        if self._stopped:
            raise _Stopped
        self._random_states.put_in_place()
