"""Calls the observers of events and records so that they cannot change or end a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ddbench.core.errors import exception_line
from ddbench.registry.attribution import STOP_REQUESTS, place_of, print_warning
from ddbench.registry.hooks import CORE, Hooks


class Observers:
    """The implementations of the hooks `ddbench_event` and `ddbench_record`.

    Args:
        hooks: The registered plugins.

    Attributes:
        keep_traceback: Stores the traceback of an observer. Returns text for the message. The default stores nothing
            and returns the position in the code.
    """

    def __init__(self, hooks: Hooks) -> None:
        self.keep_traceback: Callable[[str, BaseException], str] = lambda _, error: place_of(error)
        self._hooks = hooks
        self._disabled: set[tuple[str, str]] = set()
        self._warnings: set[str] = set()

    def notify(self, hook: str, value: object) -> None:
        """Calls every implementation of an observer hook.

        An implementation that raises is reported once on stderr and is not called again. Global state that it
        changes, such as random generators, is restored.

        Args:
            hook: The name of the hook.
            value: The argument of the hook.
        """
        for implementation in self._hooks.implementations(hook):
            if (implementation.plugin, hook) in self._disabled:
                continue
            try:
                with self._restored_state(implementation.owner):
                    implementation(value)
            except STOP_REQUESTS:
                raise
            except BaseException as error:
                self._disabled.add((implementation.plugin, hook))
                where = self.keep_traceback(f"observer-{implementation.owner}", error)
                print_warning(
                    f"observer of {implementation.owner} failed and is not called again: "
                    f"{exception_line(error)} (in {hook}; {where})"
                )

    def _restored_state(self, owner: str) -> contextlib.AbstractContextManager[None]:
        """Restores global state after the block. The observers of the core run without this."""
        if owner == CORE:
            return contextlib.nullcontext()
        import torch

        from ddbench.nn.global_state import restore_global_state

        def report(changed: list[str], printed: bool) -> None:
            if changed:
                self._warn_once(f"observer of {owner} changed {', '.join(changed)}: restored")
            if printed:
                self._warn_once(f"observer of {owner} printed to stdout, which is for results: printed to stderr")

        return restore_global_state(torch.device("cuda" if torch.cuda.is_available() else "cpu"), report)

    def _warn_once(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.add(text)
            print_warning(text)
