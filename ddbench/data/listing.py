"""Lists class folders and image files, and counts the files and folders that are ignored."""

import os
from collections import Counter
from pathlib import Path

from ddbench.core.errors import DDBenchError
from ddbench.core.files import require_utf8
from ddbench.core.text import composed, path_text

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".bmp", ".tif", ".tiff", ".webp"),
)
_SYSTEM_FOLDERS = ("@eaDir", "#recycle", "__MACOSX")
"""Folders that storage systems and archivers add. They hold thumbnails and copies."""


class Listing:
    """Lists the class folders and the images below a folder.

    Args:
        root: The folder.

    Attributes:
        ignored: What was ignored so far: the number of files of each other suffix and of skipped folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ignored: Counter[str] = Counter()

    def classes(self, part: str) -> list[str]:
        """Lists the class folders of a part.

        Args:
            part: The folder of the part, relative to the root; empty: the root itself.

        Returns:
            Their names, sorted.

        Raises:
            DDBenchError: There are none, a name is not UTF-8, or two names differ only in their Unicode form.
        """
        folder = self.root / part
        if not folder.is_dir():
            raise DDBenchError(f"no folder {folder} (expected {folder}/CLASS/IMAGE)")
        entries = self._entries(folder)
        names = sorted(name for name, is_folder in entries if is_folder)
        images = sum(is_image(name) for name, is_folder in entries if not is_folder)
        if not names:
            contents = f"{images} images outside of class folders" if images else "nothing"
            raise DDBenchError(f"{folder} holds no class folders (expected {folder}/CLASS/IMAGE; found {contents})")
        if images:
            self.ignored["images outside of class folders"] += images
        known: dict[str, str] = {}
        for name in names:
            require_utf8(folder / name, "class folder")
            other = known.setdefault(composed(name), name)
            if other != name:
                raise DDBenchError(
                    f"{folder} holds two class folders '{name}' whose names differ only in their Unicode form "
                    f"({other!a}, {name!a}): move the images of both into one"
                )
        return names

    def images(self, folder: str) -> list[str]:
        """Lists the image files below a folder, at any depth.

        Args:
            folder: The folder, relative to the root.

        Returns:
            Their paths, relative to the root.

        Raises:
            DDBenchError: There are none, or a link points to a folder that was visited already.
        """
        files: list[str] = []
        others: Counter[str] = Counter()
        pending = [folder]
        visited: set[str] = set()
        while pending:
            current = pending.pop()
            real = os.path.realpath(self.root / current)
            if real in visited:
                raise DDBenchError(
                    f"{self.root / current} is a link to a folder that is already part of {self.root / folder}"
                )
            visited.add(real)
            for name, is_folder in self._entries(self.root / current):
                if is_folder:
                    pending.append(f"{current}/{name}")
                elif is_image(name):
                    files.append(f"{current}/{name}")
                else:
                    others[path_text(Path(name).suffix.lower()) or "files without a suffix"] += 1
        if not files:
            contents = f"; it holds {_counts(others)}" if others else ""
            raise DDBenchError(f"the folder {self.root / folder} holds no images ({', '.join(SUFFIXES)}){contents}")
        self.ignored += others
        return files

    def note(self) -> str | None:
        """Returns a line about what was ignored, or None."""
        if not self.ignored:
            return None
        return f"{path_text(self.root)}: ignored {_counts(self.ignored)} (read: {' '.join(SUFFIXES)})"

    def _entries(self, folder: Path) -> list[tuple[str, bool]]:
        """Returns name and type (whether it is a folder; links are followed) of the entries that are not skipped."""
        try:
            with os.scandir(folder) as scanned:
                entries = [(entry.name, entry.is_dir()) for entry in scanned]
        except OSError as error:
            raise DDBenchError(f"cannot list {folder}: {error.strerror or error}") from error
        kept = []
        for name, is_folder in entries:
            if is_folder and name in _SYSTEM_FOLDERS:
                self.ignored[f"folders {name}"] += 1
            elif not name.startswith("."):
                kept.append((name, is_folder))
            elif is_folder:
                self.ignored["hidden folders"] += 1
            elif is_image(name):
                self.ignored["hidden images"] += 1
        return kept


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def is_image(name: str) -> bool:
    """Returns whether a file is read as an image, by its suffix."""
    return name.lower().endswith(SUFFIXES)
