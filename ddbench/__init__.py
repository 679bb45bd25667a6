"""ddbench: one harness for dataset distillation methods, protocols and the tables that compare them."""

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("ddbench")
"""Marks a function as an implementation of one of the hooks in `ddbench.hookspecs`."""
