"""TensorBoard: one folder of event files for each record. Imports no torch at module level."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.api.tracker import Tracker, metrics_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """Writes event files to `RESULTS/tracking/tensorboard/RECORD`, for `tensorboard --logdir`."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import tensorboard  # noqa: F401 (its error names the package)

        self._writers: dict[str, SummaryWriter] = {}

    def start(self, run: str, configuration: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writers[run] = SummaryWriter(str(self.folder / run))
        self._write_json(self._writers[run], "configuration", configuration)

    def log(self, run: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writers[run].add_scalar(name, value, step)

    def image(self, run: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            self._writers[run].add_image("set", np.asarray(picture.convert("RGB")), dataformats="HWC")

    def finish(self, run: str, record: Mapping[str, Any] | None) -> None:
        writer = self._writers.pop(run)
        if record:
            for name, value in metrics_of(record).items():
                writer.add_scalar(f"record/{name}", value)
            self._write_json(writer, "record", record)
        writer.close()

    @staticmethod
    def _write_json(writer: SummaryWriter, tag: str, content: Mapping[str, Any]) -> None:
        lines = json.dumps(content, indent=2).splitlines()
        writer.add_text(tag, "\n".join(f"    {line}" for line in lines))  # Markdown shows indented lines as code
