"""Ends a process of rank 1 or higher if it hangs in a step or rank 0 has ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator

from ddbench.core import interruption
from ddbench.execution.rendezvous import PATIENCE, Rendezvous


class Watchdog:
    """Polls the store from a thread, because Python runs no signal handlers while a library waits in a step.

    Ctrl-C and SIGTERM reach all processes at once. This process continues until rank 0 has saved its checkpoint, and
    ends when rank 0 ends.

    Attributes:
        running: The number of the stage that this process takes part in, or None.
    """

    def __init__(self, rendezvous: Rendezvous, wakeup: socket.socket) -> None:
        self.running: int | None = None
        self._rendezvous, self._wakeup = rendezvous, wakeup

    def watch(self) -> None:
        """Runs until the other end of `wakeup` is closed, or ends the process."""
        deadline = float("inf")
        while True:
            if select.select([self._wakeup], [], [], 1.0)[0]:
                if not self._wakeup.recv(100):
                    return
                deadline = min(deadline, time.monotonic() + interruption.GRACE_SECONDS + PATIENCE)
            try:
                abandoned = self.running is not None and self._is_abandoned(self.running)
            except RuntimeError:  # the store cannot be reached, so rank 0 has ended
                os._exit(1)
            if abandoned:
                with contextlib.suppress(RuntimeError):
                    self._rendezvous.set(f"exited/{self._rendezvous.rank}")
                os._exit(0)
            if time.monotonic() > deadline:
                os._exit(1)

    def _is_abandoned(self, number: int) -> bool:
        """Returns whether the run has ended in the middle of this stage."""
        finished = f"finished/{number}"
        done = self._rendezvous.has(finished) and self._rendezvous.get(finished) == "done"
        return self._rendezvous.has("end") and not done


@contextlib.contextmanager
def watchdog(rendezvous: Rendezvous) -> Iterator[Watchdog]:
    """Runs a watchdog in a thread while the block runs. Signals and the end of the block wake it."""
    wakeup, notify = socket.socketpair()
    notify.setblocking(False)
    dog = Watchdog(rendezvous, wakeup)
    thread = threading.Thread(target=dog.watch, name="watchdog", daemon=True)
    thread.start()
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {}
    if is_main:
        signal.set_wakeup_fd(notify.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield dog
    finally:
        if is_main:
            signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        notify.close()
        thread.join()
        wakeup.close()
