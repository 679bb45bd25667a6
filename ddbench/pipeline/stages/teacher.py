"""Stage `teacher`: classifiers that are trained on the real data ("squeeze"). Imports no torch at module level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.cost import Cost, Passes
from ddbench.api.stage import Stage

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.pipeline.pipeline import Pipeline


class TeacherTraining(Stage["Pipeline"]):
    """Trains the teachers, or loads the user's checkpoint, and measures their accuracy. Each part is one network."""

    name = "teacher"
    version = "1"
    outputs = ()
    distributed = True
    progress_unit = "epoch"

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Returns one part per network: the configured teacher, then the other ones of the pools; none if unused."""
        return range(len(run.pool.networks)) if run.needs_teacher else ()

    def key(self, run: Pipeline, part: int) -> Mapping[str, Any]:
        """Returns the real data, the training recipe or the checkpoint's content, device and precision."""
        return run.keys.teacher(run.pool.networks[part])

    def cost(self, run: Pipeline, part: int) -> Cost:
        """Counts every training image once per epoch, smaller ones by their area, and every validation image once."""
        config, networks = run.pool.config(part), (run.pool.networks[part],)
        epochs = 0 if config.checkpoint else config.full_size_epochs(run.info.image_size)
        trained = epochs * sum(run.info.train_counts)
        training = Passes(trained, "training", networks, config.batch_size)
        return Cost((training, Passes(sum(run.info.val_counts), "forward", networks)), stored_networks=networks)

    def label(self, run: Pipeline, part: int) -> str:
        """Returns the architecture, and the name of the checkpoint if there is one."""
        from ddbench.pipeline.keys import teacher_label

        return teacher_label(run.pool.config(part))

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns the weights. The metadata hold the accuracy on `dataset.val`.

        Raises:
            DDBenchError: The outputs of the user's checkpoint are in another order than the classes.
        """
        from ddbench.training.class_order import check_class_order
        from ddbench.training.teacher import accuracy_of, predictions, train_teacher

        config = run.pool.config(part)
        if config.checkpoint is None:
            network = train_teacher(run.dataset, config, run.device, run.precision, checkpoint, run.report)
        else:
            network = run.pool.checkpoint_network().to(run.device)
        predicted, labels = predictions(network, run.dataset, "val", run.device, "fp32"), run.dataset.val.labels
        top1, per_class = accuracy_of(predicted, labels, run.info.num_classes)
        if config.checkpoint is not None:
            name = self.label(run, part)
            check_class_order(name, predicted, labels, run.info.class_names)
            if top1 < 5 + 100 / run.info.num_classes:
                run.note(
                    f"{name} is near chance ({top1:.2f} %): do its image size, data.mean, data.std, teacher.stem and "
                    "class order (teacher.classes) fit?"
                )
        tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        return tensors, {"top1": top1, "per_class": per_class, "classes": list(run.info.class_names)}
