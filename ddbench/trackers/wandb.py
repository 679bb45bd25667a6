"""Weights & Biases: one run of the project for each record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.api.tracker import Tracker, metrics_of
from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from wandb import Run


class WeightsAndBiases(Tracker):
    """Sends runs to the project `ddbench`, or keeps them in `RESULTS/tracking/wandb` with `WANDB_MODE=offline`.

    The other variables of the library, e.g. `WANDB_PROJECT`, apply too.

    Raises:
        DDBenchError: The mode is online, and nobody has logged in.
    """

    name = "wandb"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import wandb

        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
            raise DDBenchError("--track wandb: there is no key: run `wandb login`, or set WANDB_MODE=offline")
        self._runs: dict[str, Run] = {}

    def start(self, run: str, configuration: Mapping[str, Any]) -> None:
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        self._runs[run] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ddbench"),
            name=run,
            dir=self.folder,
            config=dict(configuration),
            reinit="create_new",  # cells that Ray computes at the same time have a run each
            # The output is left alone: results are on stdout.
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def log(self, run: str, values: Mapping[str, float], step: int) -> None:
        # Stages count their own steps, and the step of the library may not decrease.
        stages = {name.partition("/")[0] for name in values}
        for stage in stages:
            self._runs[run].define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._runs[run].log({**values, **{f"{stage}/step": step for stage in stages}})

    def image(self, run: str, path: Path) -> None:
        import wandb

        self._runs[run].log({"set": wandb.Image(str(path))})

    def finish(self, run: str, record: Mapping[str, Any] | None) -> None:
        current = self._runs.pop(run)
        if record:
            current.config.update({"record": dict(record)})
            current.summary.update(metrics_of(record))
        current.finish(exit_code=0 if record else 1)
