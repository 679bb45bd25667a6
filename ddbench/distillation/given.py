"""The method of a distilled set that is given. Imports no torch."""

from __future__ import annotations

import functools

from ddbench.api.distiller import Distiller
from ddbench.config.given_sets import METHOD_PREFIX, digest_in
from ddbench.core.errors import DDBenchError


class Given(Distiller, frozen=True, extra="forbid"):
    """A distilled set that another program or an earlier run made. The stage `distill` copies it from the cache."""

    name = "given"
    version = "1"
    paper = "a distilled set that is given (ddbench evaluate)"
    needs_teacher = False

    def given_set(self) -> str | None:
        """Returns the name of the method, which contains the digest of the set."""
        return self.name


@functools.cache
def given_method(method: str) -> type[Given]:
    """Returns the class of the method `given:NAME@DIGEST`.

    Args:
        method: The name of the method.

    Raises:
        DDBenchError: The name has another form.
    """
    if digest_in(method) is None:
        raise DDBenchError(
            f"method '{method}': a given set is named {METHOD_PREFIX}NAME@DIGEST, as ddbench evaluate prints it"
        )

    class Named(Given, frozen=True, extra="forbid"):
        name = method

    return Named
