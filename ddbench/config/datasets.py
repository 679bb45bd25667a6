"""Names of datasets. An image folder is named by its own name and fingerprint, never by its path. Imports no torch."""

import os
import re
from pathlib import Path

from ddbench.core.errors import DDBenchError
from ddbench.core.files import expand_user
from ddbench.core.text import composed

FOLDER_PREFIX = "imagefolder:"
"""A dataset on the command line that starts with this is a folder of the user's images."""
_FINGERPRINT = re.compile(r"@[0-9a-f]{8}$")


def dataset_name(reference: str) -> str:
    """Returns the name of a dataset that is given on the command line. It contains no path.

    Args:
        reference: A registered name, `imagefolder:PATH`, or the name of an image folder in a record.

    Example:
        >>> dataset_name("imagefolder:/home/me/pets/"), dataset_name("imagefolder:pets@0123abcd")
        ('imagefolder:pets', 'imagefolder:pets@0123abcd')
    """
    if not reference.startswith(FOLDER_PREFIX) or is_recorded_folder(reference):
        return reference
    # Links are not followed, so that the name is one that the user knows.
    folder = os.path.normpath(expand_user(Path(reference.removeprefix(FOLDER_PREFIX))).absolute())
    own = composed(Path(folder).name)
    own = "".join(letter if letter.isprintable() else "_" for letter in own) or "images"
    return FOLDER_PREFIX + _FINGERPRINT.sub(lambda match: "_" + match.group()[1:], own)


def is_recorded_folder(reference: str) -> bool:
    """Tests whether a dataset is an image folder by its name in a record: `imagefolder:pets@0123abcd`."""
    folder = reference.removeprefix(FOLDER_PREFIX)
    is_path = "/" in folder or os.sep in folder
    return reference.startswith(FOLDER_PREFIX) and not is_path and _FINGERPRINT.search(folder) is not None


def own_name(name: str) -> str:
    """Returns the name of a dataset without the fingerprint of an image folder, as recipes write it.

    Example:
        >>> own_name("imagefolder:pets@0123abcd")
        'imagefolder:pets'
    """
    return _FINGERPRINT.sub("", name) if name.startswith(FOLDER_PREFIX) else name


def recorded_name(name: str, fingerprint: str) -> str:
    """Returns the name of a dataset in records: an image folder gets the first digits of its fingerprint.

    Args:
        name: The result of `dataset_name`.
        fingerprint: The fingerprint of the images.

    Raises:
        DDBenchError: The name has another fingerprint.

    Example:
        >>> recorded_name("imagefolder:pets", "0123abcd4567"), recorded_name("digits", "0123abcd4567")
        ('imagefolder:pets@0123abcd', 'digits')
    """
    if not name.startswith(FOLDER_PREFIX):
        return name
    recorded = f"{own_name(name)}@{fingerprint[:8]}"
    if is_recorded_folder(name) and name != recorded:
        raise DDBenchError(
            f"the folder that was found does not hold the images of {name}: its images have the fingerprint "
            f"{fingerprint[:8]}; give the folder of those images with --data-dir"
        )
    return recorded


def refers_to(reference: str, recorded: str) -> bool:
    """Tests whether a dataset on the command line is a dataset of the records.

    An image folder is compared by its own name, and by its fingerprint if `reference` has one.

    Args:
        reference: As for `dataset_name`.
        recorded: The name in a record.

    Example:
        >>> refers_to("imagefolder:/home/me/pets", "imagefolder:pets@0123abcd")
        True
    """
    name = dataset_name(reference)
    return name == (recorded if is_recorded_folder(name) else own_name(recorded))
