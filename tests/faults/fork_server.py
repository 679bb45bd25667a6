"""Runs `ddbench ARGUMENTS` in a process of its own as often as it is asked to, without a start-up each: by forking.

Started with the arguments of a first run, which it makes itself, so that all is imported. Then reads orders, a JSON
line each, and answers with a line: {"run": [...], "log": path, "threads": 1, "flock": null, "pause": null,
"environment": {}} starts a process, whose number it answers; {"wait": number, "block": true} answers its exit code
(minus the signal that ended it), or null; {"import": module} has it for all that are started from then on.

The runs print every event and save their training after every epoch. With `flock`, an error number, the kernel
answers so whenever a lock is asked for; with 0 it says that the lock is held, to everybody. With `pause`, a text, the
process stops itself (SIGSTOP) at the first message that contains the text. PYTHONPATH of the environment holds plugins
of this process alone.
"""

import ctypes
import importlib
import json
import os
import platform
import signal
import struct
import sys
from typing import TextIO

import torch

from ddbench.cli.main import main
from ddbench.training import loop


def ddbench(arguments: list[str]) -> int:
    """The command; its exit code."""
    sys.argv = ["ddbench", "-v", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def answer_flock_with(number: int) -> None:
    """Lets the kernel answer flock(2) with an error number (0: done) in this process, without doing it: seccomp."""
    flock = {"x86_64": 73, "aarch64": 32}[platform.machine()]
    load, unless_equal, answer = 0x20, 0x15, 0x06  # BPF
    instead, allow = 0x50000 | number, 0x7FFF0000
    filters = ((load, 0, 0, 0), (unless_equal, 0, 1, flock), (answer, 0, 0, instead), (answer, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in filters))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(filters), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, by_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, by_filter, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


class Pausing:
    """A stream that stops this process after the first message that contains a text."""

    def __init__(self, stream: TextIO, text: str) -> None:
        self._stream, self._text = stream, text

    def write(self, message: str) -> int:
        """Writes the message at once."""
        count = self._stream.write(message)
        self._stream.flush()
        if self._text in message:
            sys.stderr = self._stream
            os.kill(os.getpid(), signal.SIGSTOP)
        return count

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def child(
    arguments: list[str], log: str, threads: int, flock: int | None, pause: str | None, environment: dict[str, str]
) -> None:
    """The forked process: never returns."""
    code = 1
    try:
        for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
            os.dup2(os.open(path, mode, 0o666), number)
        os.dup2(1, 2)
        torch.set_num_threads(threads)
        os.environ |= environment
        sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        if flock is not None:
            answer_flock_with(flock)
        if pause is not None:
            sys.stderr = Pausing(sys.stderr, pause)  # type: ignore[assignment]
        code = ddbench(arguments)
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
        os._exit(code)


torch.set_num_threads(1)  # a process with threads cannot be forked
loop.SAVE_SECONDS = 0.0
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
if ddbench(sys.argv[1:]):
    sys.exit("fork server: the first run failed")
print("ready", file=answers, flush=True)
running = set()
for line in sys.stdin:
    order = json.loads(line)
    if "run" in order:
        how = [order[name] for name in ("run", "log", "threads", "flock", "pause", "environment")]
        answer = os.fork() or child(*how)
        running.add(answer)
    elif "import" in order:
        answer = importlib.import_module(order["import"]).__name__
    else:
        number, status = os.waitpid(order["wait"], 0 if order["block"] else os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if number else None
        running.discard(number)
    print(json.dumps(answer), file=answers, flush=True)
for number in running:
    os.kill(number, signal.SIGKILL)
