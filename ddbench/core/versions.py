"""Versions of the core's numerics: part of every cache key.

Bump one when the numbers that it makes change by more than rounding, as another order of sums changes them.

LLOYD is in the keys of those methods alone that name it (`Distiller.numerics`), and was TRANSPORT's until its second.
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
