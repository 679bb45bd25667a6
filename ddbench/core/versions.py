"""Versions of the core's numerics. They are part of every cache key.

Increase a version when its numbers change by more than rounding does, e.g. by more than another order of a sum.

LLOYD is part of the keys of those methods only that name it in `Distiller.numerics`. Before version 2 it was part of
TRANSPORT.
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
