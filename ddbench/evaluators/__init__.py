"""The built-in protocols, registered through the same hook as anyone's. Imports no torch."""

from collections.abc import Iterable

from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import hookimpl
from ddbench.evaluators.protocols import FullData, HardLabels, KnowledgeDistillation, SiameseAugmentation, SoftLabels


@hookimpl
def ddbench_evaluators() -> Iterable[type[Evaluator]]:
    """The fkd, soft, hard and dsa protocols of a distilled set, and the full-data reference."""
    return [KnowledgeDistillation, SoftLabels, HardLabels, SiameseAugmentation, FullData]
