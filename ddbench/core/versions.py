"""Versions of the core's computations. They are part of every cache key.

Increase a version when its numbers change by more than rounding. Another order of a sum changes only the rounding.

LLOYD is part of the key of a method only if `Distiller.numerics` returns it. Before version 2 it was part of TRANSPORT.
"""

MODELS = "1"
VIEWS = "1"
TRAINING = "1"
STATISTICS = "1"
OBJECTIVES = "1"
RECOVER = "1"
TRANSPORT = "1"
LLOYD = "2"
DISTILLED = "1"
