"""Checkpoints of builds that are in progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.core import interruption
from ddbench.core.files import remove_abandoned
from ddbench.storage.artifacts import Built, Tensors, quarantine, read_meta, read_tensors, write_tensors


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint file of one build.

    It remains if the process is killed, and is deleted when the artifact is stored.

    Attributes:
        path: The file.
        warn: Called with a message if the checkpoint is unusable.
        source: The distribution and the digest of the code that builds, which are saved with the state.
    """

    path: Path
    warn: Callable[[str], None] = field(default=lambda text: None, compare=False)
    source: Mapping[str, str] | None = field(default=None, compare=False)

    def saved_by(self) -> Mapping[str, str] | None:
        """Returns the `source` of the code that saved the last state; None if it is not known."""
        source = read_meta(self.path).get("saved_by")
        return source if isinstance(source, dict) else None

    def set_aside(self) -> None:
        """Renames the checkpoint, so that the build starts again."""
        quarantine(self.path, "outdated")

    def load(self) -> Built | None:
        """Loads the last state.

        A damaged checkpoint, or one that was saved under another name, is renamed, with a warning.

        Returns:
            Tensors and metadata, or None if there is no usable checkpoint.
        """
        saved = read_tensors(self.path)
        if saved is None and not self.path.exists():
            return None
        if saved is None:
            self.warn(f"damaged checkpoint renamed: {quarantine(self.path)}; this part starts again")
            return None
        tensors, meta, _ = saved
        meta.pop("saved_by", None)
        if meta.pop("checkpoint_of", self.path.stem) != self.path.stem:
            self.warn(f"misnamed checkpoint renamed: {quarantine(self.path, 'misnamed')}; this part starts again")
            return None
        return tensors, meta

    def save(self, tensors: Tensors, meta: Mapping[str, Any]) -> None:
        """Replaces the checkpoint atomically. A requested stop does not interrupt the save.

        Args:
            tensors: The state by name.
            meta: JSON values.

        Raises:
            DDBenchError: The disk is full or the file cannot be written.
        """
        interruption.cancel_deadline()
        saved_by = {"saved_by": dict(self.source)} if self.source else {}
        write_tensors(self.path, tensors, {**meta, "checkpoint_of": self.path.stem, **saved_by})

    def clear(self) -> None:
        """Deletes the checkpoint and the leftovers of interrupted saves."""
        self.path.unlink(missing_ok=True)
        remove_abandoned(self.path)

    def clear_if_older(self, artifact: Path) -> None:
        """Deletes the checkpoint of a build that was killed after it stored the artifact.

        Args:
            artifact: The file of the artifact. A newer checkpoint belongs to a rebuild and stays.
        """
        with contextlib.suppress(OSError):
            if self.path.stat().st_mtime_ns <= artifact.stat().st_mtime_ns:
                self.clear()
