"""Built-in evaluators: the protocols for distilled sets, and the full-data reference. Imports no torch."""

from collections.abc import Iterable

from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import hookimpl
from ddbench.evaluators.committee import CommitteeLabels
from ddbench.evaluators.edc import AveragedStudent, EnsembleStudent
from ddbench.evaluators.minimax import MinimaxHardLabels
from ddbench.evaluators.own import DifficultyAlignedLabels, OwnLabels, TrajectoryLabels
from ddbench.evaluators.protocols import FullData, HardLabels, KnowledgeDistillation, SiameseAugmentation, SoftLabels
from ddbench.evaluators.rded import PatchShuffling
from ddbench.evaluators.replay import Replay


@hookimpl
def ddbench_evaluators() -> Iterable[type[Evaluator]]:
    """Returns the built-in evaluators."""
    return [
        KnowledgeDistillation,
        SoftLabels,
        HardLabels,
        SiameseAugmentation,
        PatchShuffling,
        CommitteeLabels,
        AveragedStudent,
        EnsembleStudent,
        OwnLabels,
        TrajectoryLabels,
        DifficultyAlignedLabels,
        MinimaxHardLabels,
        Replay,
        FullData,
    ]
