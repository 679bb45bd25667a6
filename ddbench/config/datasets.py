"""Names of datasets. A folder of the user is named by its own name and fingerprint, never by its path.

Imports no torch.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ddbench.core.errors import DDBenchError
from ddbench.core.files import expand_user
from ddbench.core.text import composed

FOLDER_PREFIX = "imagefolder:"
"""A dataset on the command line that starts with this is a folder of the user's images."""
HUB_PREFIX = "hf:"
"""A dataset that starts with this is on the Hugging Face hub, or in a local folder of parquet files."""
FINGERPRINTED = (FOLDER_PREFIX, HUB_PREFIX)
"""The names of these datasets in records end with the first digits of a fingerprint."""
_LOCAL = (".", "/", "~")
_HUB = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?(?::([\w.-]+))?", re.ASCII)
_SPLIT = re.compile(r":([\w.-]+)$", re.ASCII)
_FINGERPRINT = re.compile(r"@[0-9a-f]{8}$")


@dataclass(frozen=True)
class HubReference:
    """A dataset `hf:OWNER/NAME[@REVISION][:SPLIT]`, `hf:./FOLDER[:SPLIT]`, or a folder of a record.

    Attributes:
        repository: `OWNER/NAME`; None: a local folder.
        folder: The path of the local folder, or its own name in a record; None: a repository of the hub.
        revision: Branch, tag or commit; None: the main branch.
        split: The split; None: all.
    """

    repository: str | None
    folder: str | None
    revision: str | None
    split: str | None


def hub_reference(reference: str) -> HubReference:
    """Parses the name of a dataset that starts with `hf:`, with or without a fingerprint.

    Raises:
        DDBenchError: It has another form.

    Example:
        >>> hub_reference("hf:me/pets@v2:train")
        HubReference(repository='me/pets', folder=None, revision='v2', split='train')
    """
    text = reference.removeprefix(HUB_PREFIX)
    is_local = text.startswith(_LOCAL)
    if not is_local:
        text = own_name(reference).removeprefix(HUB_PREFIX)
        if match := _HUB.fullmatch(text):
            return HubReference(match[1], None, match[2], match[3])
    folder, split = _SPLIT.sub("", text), _SPLIT.search(text)
    if not folder or not (is_local or is_recorded_folder(reference)):
        raise DDBenchError(
            f"dataset '{reference}': expected hf:OWNER/NAME, hf:OWNER/NAME@REVISION:SPLIT, or hf:./FOLDER for a folder"
        )
    return HubReference(None, folder, None, split[1] if split else None)


def dataset_name(reference: str) -> str:
    """Returns the name of a dataset that is given on the command line. It contains no path.

    Args:
        reference: A registered name, `imagefolder:PATH`, `hf:OWNER/NAME`, `hf:./FOLDER`, or the name of such a dataset
            in a record.

    Example:
        >>> dataset_name("imagefolder:/home/me/pets/"), dataset_name("imagefolder:pets@0123abcd")
        ('imagefolder:pets', 'imagefolder:pets@0123abcd')
        >>> dataset_name("hf:me/pets:train"), dataset_name("hf:./data/pets:train")
        ('hf:me/pets:train', 'hf:pets:train')
    """
    if not reference.startswith(FINGERPRINTED) or is_recorded_folder(reference):
        return reference
    if reference.startswith(FOLDER_PREFIX):
        return FOLDER_PREFIX + _name_of_folder(reference.removeprefix(FOLDER_PREFIX))
    hub = hub_reference(reference)
    if hub.folder is None:
        return reference
    return HUB_PREFIX + _name_of_folder(hub.folder) + (f":{hub.split}" if hub.split else "")


def _name_of_folder(path: str) -> str:
    # Links are not followed, so that the name is one that the user knows.
    own = composed(Path(os.path.normpath(expand_user(Path(path)).absolute())).name)
    own = "".join(letter if letter.isprintable() else "_" for letter in own) or "images"
    return _FINGERPRINT.sub(lambda match: "_" + match.group()[1:], own)


def is_recorded_folder(reference: str) -> bool:
    """Tests whether a dataset is named as in a record, with a fingerprint: `imagefolder:pets@0123abcd`."""
    if not reference.startswith(FINGERPRINTED) or _FINGERPRINT.search(reference) is None:
        return False
    if reference.startswith(FOLDER_PREFIX):
        return not ("/" in reference or os.sep in reference)
    return not reference.removeprefix(HUB_PREFIX).startswith(_LOCAL)


def own_name(name: str) -> str:
    """Returns the name of a dataset without a fingerprint, as recipes write it.

    Example:
        >>> own_name("imagefolder:pets@0123abcd")
        'imagefolder:pets'
    """
    return _FINGERPRINT.sub("", name) if name.startswith(FINGERPRINTED) else name


def recorded_name(name: str, fingerprint: str) -> str:
    """Returns the name of a dataset in records: a folder or a dataset of the hub gets digits of its fingerprint.

    Args:
        name: The result of `dataset_name`.
        fingerprint: The fingerprint of the images.

    Raises:
        DDBenchError: The name has another fingerprint.

    Example:
        >>> recorded_name("imagefolder:pets", "0123abcd4567"), recorded_name("digits", "0123abcd4567")
        ('imagefolder:pets@0123abcd', 'digits')
    """
    if not name.startswith(FINGERPRINTED):
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

    A folder is compared by its own name, and by its fingerprint if `reference` has one.

    Args:
        reference: As for `dataset_name`.
        recorded: The name in a record.

    Example:
        >>> refers_to("imagefolder:/home/me/pets", "imagefolder:pets@0123abcd")
        True
    """
    name = dataset_name(reference)
    return name == (recorded if is_recorded_folder(name) else own_name(recorded))
