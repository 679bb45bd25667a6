"""The iterations of DATM: soft labels that are learned with the images, and the images and logits they start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench.api import Unit, seeds
from ddbench_mtt.experts import snapshot
from ddbench_mtt.gradient import Synthetic
from ddbench_mtt.matching import Matching

if TYPE_CHECKING:
    from ddbench_mtt.datm import DATM


@dataclass(frozen=True)
class SoftMatching(Matching):
    """The iterations of DATM: labels are logits, float32 [classes * IPC, classes], learned with the images."""

    method: DATM

    def initial(self, unit: Unit) -> dict[str, Tensor]:
        """Returns the initial images, and the logits of experts for them as labels."""
        images = self.task.dataset.evaluation_view("train", self.initial_rows()).to(self.task.device)
        return {"images": images, "labels": self.initial_labels(images)}

    def targets(self, rows: Tensor, synthetic: Synthetic) -> Tensor:
        """Returns the probabilities of synthetic images, [B, K]."""
        return synthetic["labels"][rows].softmax(1)

    def initial_rows(self) -> Tensor:
        """Returns IPC training images of each class, int64 [classes * IPC]: those that an expert classifies correctly.

        The images of a class are in random order. If the first expert classifies too few of them correctly, the next
        one adds to them (released code). If all experts together do, other images of the class complete them.
        """
        task, method = self.task, self.method
        left = [task.sample(label, count, "initial") for label, count in enumerate(task.info.train_counts)]
        chosen = [rows[:0] for rows in left]
        for expert in range(method.experts if method.initial == "correct" else 0):
            final = self.final(expert)
            for label, every in enumerate(left):
                for rows in torch.split(every, method.expert_batch):
                    if len(chosen[label]) >= task.ipc:
                        break
                    images = task.dataset.evaluation_view("train", rows).to(task.device)
                    right = self.final_logits(final, images).argmax(1).cpu() == label
                    chosen[label] = torch.cat([chosen[label], rows[right]])
            left = [rows[~torch.isin(rows, own)] for rows, own in zip(left, chosen, strict=True)]
            if all(len(rows) >= task.ipc for rows in chosen):
                break
        missing = sum(max(0, task.ipc - len(rows)) for rows in chosen)
        if missing and method.initial == "correct":
            task.note(f"{method.name}: no expert classifies {missing} of the initial images correctly")
        return torch.cat([torch.cat([own, rest])[: task.ipc] for own, rest in zip(chosen, left, strict=True)])

    def initial_labels(self, images: Tensor) -> Tensor:
        """Returns the initial labels: the mean logits of the first experts that classify an image correctly, [n, K].

        If no expert does, or if the initial images are not selected, they are the logits of the first expert.

        Args:
            images: The initial images, sorted by class.
        """
        method, classes = self.method, torch.arange(len(images), device=images.device) // self.task.ipc
        first = self.final_logits(self.final(0), images)
        if method.initial == "real":
            return first
        total, used = torch.zeros_like(first), torch.zeros_like(classes)
        for expert in range(method.experts):
            logits = first if expert == 0 else self.final_logits(self.final(expert), images)
            taken = (logits.argmax(1) == classes) & (used < method.label_experts)
            total += logits * taken[:, None]
            used += taken
            if bool((used == method.label_experts).all()):
                break
        return torch.where(used[:, None] > 0, total / used.clamp(min=1)[:, None], first)

    def final(self, expert: int) -> Tensor:
        """Returns the parameters of an expert after its last epoch, [P]."""
        name = snapshot(self.method.expert_epochs)
        return self.task.tensors("experts", expert, (name,))[name].to(self.task.device)

    @torch.no_grad()
    def final_logits(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Returns the logits of an expert for images, [n, K], in batches."""
        seed = seeds.derive("distill", self.task.seed, "initial labels")
        parts = torch.split(images, self.method.expert_batch)
        return torch.cat([self.logits(parameters, part, seed) for part in parts])
