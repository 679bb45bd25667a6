"""The hook implementations of the registered plugins. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pluggy

from ddbench.api import hookspecs

CORE = "ddbench"
"""The distribution of the core."""


@dataclass(frozen=True)
class HookImplementation:
    """One plugin's implementation of a hook.

    Attributes:
        plugin: The name under which the plugin is registered.
        owner: The distribution that provides the plugin.
        function: The implementation.
        num_arguments: The number of the hook's arguments that the implementation accepts.
    """

    plugin: str
    owner: str
    function: Callable[..., Any]
    num_arguments: int

    def __call__(self, *arguments: object) -> Any:
        """Calls the implementation with as many of the arguments as it accepts."""
        return self.function(*arguments[: self.num_arguments])


class Hooks:
    """The registered plugins and their hook implementations."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._owners: dict[str, str] = {}

    def add(self, plugin: object, name: str, owner: str) -> None:
        """Registers a plugin.

        Args:
            plugin: A module or an object with hook implementations.
            name: A unique name for the plugin.
            owner: The distribution that provides the plugin.

        Raises:
            pluggy.PluginValidationError: If the plugin implements an unknown hook or a hook with other arguments.
        """
        self._owners[name] = owner
        self._manager.register(plugin, name=name)
        self._manager.check_pending()

    def remove(self, name: str) -> None:
        """Removes the plugin called `name` if it is registered."""
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)
        self._owners.pop(name, None)

    def implementations(self, hook: str, plugin: str | None = None) -> list[HookImplementation]:
        """Returns the implementations of a hook.

        Args:
            hook: The name of the hook, e.g. "ddbench_event".
            plugin: The name of one plugin; None selects all plugins.
        """
        return [
            HookImplementation(
                implementation.plugin_name,
                self._owners[implementation.plugin_name],
                implementation.function,
                len(implementation.argnames),
            )
            for implementation in getattr(self._manager.hook, hook).get_hookimpls()
            if plugin in (None, implementation.plugin_name)
        ]
