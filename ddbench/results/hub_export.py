"""Writes a distilled set as a dataset of the Hugging Face hub: parquet files, a card and Croissant metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddbench.core.errors import DDBenchError
from ddbench.core.files import file_digest
from ddbench.data.hub import require_packages

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.results.stored_sets import StoredSet

ROWS = 5000
"""Images in one parquet file. The hub advises files below 500 MB."""
GROUP = 100
"""Images in one row group, which a reader holds in memory. The hub advises 100 for images."""
_TERMS = (
    "citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS.split()},
}
"""The context that the specification prescribes."""


def write_hub_folder(folder: Path, stored: StoredSet, readme: str) -> None:
    """Writes `data/train-*.parquet`, `README.md` and `croissant.json` into an empty folder.

    Class names that are not distinct get their numbers in front, as the format requires.
    `datasets.load_dataset(FOLDER)` reads the parquet files. Their columns are `image` (lossless PNG of the images as
    bytes), `label`, `weight`, and one for each of the extras; a learning rate and the factor of a decoder are repeated
    in every row.

    Args:
        folder: An empty folder.
        stored: The set.
        readme: The text of the card, without metadata.

    Raises:
        DDBenchError: A package is not installed.
    """
    require_packages("--format huggingface")
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Image, List, Value

    from ddbench.distillation.distilled_set import as_bytes
    from ddbench.distillation.units import OF_WHOLE_SET

    names = _distinct(stored.class_names)
    columns = {"image": Image(), "label": ClassLabel(names=names), "weight": Value("float32")}
    for name, tensor in stored.extras.items():
        number = Value("float64" if tensor.is_floating_point() else "int64")
        columns[name] = number if name in OF_WHOLE_SET else List(Value("float32"))
    schema = Features(columns).arrow_schema
    (folder / "data").mkdir()
    images, count = as_bytes(stored.images), len(stored.labels)
    files = range(0, count, ROWS)
    paths = [folder / "data" / f"train-{number:05d}-of-{len(files):05d}.parquet" for number in range(len(files))]
    for path, begin in zip(paths, files, strict=True):
        with pq.ParquetWriter(path, schema) as writer:
            for start in range(begin, min(begin + ROWS, count), GROUP):
                rows = slice(start, min(start + GROUP, begin + ROWS, count))
                values: dict[str, Any] = {
                    "image": [{"bytes": _png(image), "path": None} for image in images[rows]],
                    "label": stored.labels[rows].tolist(),
                    "weight": stored.weights[rows].tolist(),
                }
                for name, tensor in stored.extras.items():
                    values[name] = (tensor.expand(count) if name in OF_WHOLE_SET else tensor)[rows].tolist()
                writer.write_table(pa.Table.from_pydict(values, schema=schema))
    (folder / "README.md").write_text(_metadata(count) + readme, encoding="utf-8")
    croissant = json.dumps(_croissant(folder, paths, tuple(columns)), indent=2)
    (folder / "croissant.json").write_text(croissant + "\n", encoding="utf-8")


def push_folder(folder: Path, repository: str) -> str:
    """Uploads a folder as a dataset of the Hugging Face hub, in one commit.

    Args:
        folder: The folder, e.g. from `write_hub_folder`.
        repository: `OWNER/NAME`. It is created if it is not there.

    Returns:
        The address of the commit.

    Raises:
        DDBenchError: As in `require_push`; the hub cannot be reached, or it refuses the upload.
    """
    require_push()
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    hub = HfApi()
    try:
        hub.create_repo(repository, repo_type="dataset", exist_ok=True)
        message = "Upload of a distilled set by ddbench"
        commit = hub.upload_folder(repo_id=repository, folder_path=folder, repo_type="dataset", commit_message=message)
    except Exception as error:  # The library raises many types: HTTP errors, invalid names, lost connections.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DDBenchError(f"{repository} cannot be uploaded, the files are in {folder}: {reason[:300]}") from error
    return str(commit.commit_url)


def require_push() -> None:
    """Refuses an upload that cannot succeed, before anything is written.

    Raises:
        DDBenchError: A package is not installed, or there is no token of the hub.
    """
    require_packages("--push")
    from huggingface_hub import get_token

    if get_token() is None:
        raise DDBenchError("--push needs a token of the hub: run 'hf auth login', or set HF_TOKEN")


def _distinct(names: Sequence[str]) -> list[str]:
    if len(set(names)) == len(names):
        return list(names)
    digits = len(str(len(names) - 1))
    return [f"{number:0{digits}d}_{name}" for number, name in enumerate(names)]


def _png(image: Tensor) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(stream, "png")
    return stream.getvalue()


def _metadata(count: int) -> str:
    """Returns the YAML block of a dataset card."""
    from huggingface_hub import DatasetCardData

    sizes = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    data = DatasetCardData(
        pretty_name="A distilled set",
        task_categories=["image-classification"],
        size_categories=[next((name for limit, name in sizes if count < limit), "100K<n<1M")],
        tags=["dataset-distillation", "ddbench"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def _croissant(folder: Path, paths: Sequence[Path], columns: Sequence[str]) -> dict[str, Any]:
    """Returns metadata in the format Croissant 1.0 of MLCommons (https://docs.mlcommons.org/croissant)."""
    types = {"image": "sc:ImageObject", "label": "sc:Integer", "decode_factor": "sc:Integer"}
    transforms = {"image": {"transform": {"jsonPath": "bytes"}}}
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"images/{column}",
            "name": column,
            "dataType": types.get(column, "sc:Float"),
            "source": {"fileSet": {"@id": "parquet"}, "extract": {"column": column}, **transforms.get(column, {})},
            **({"repeated": True} if column in ("probabilities", "logits") else {}),
        }
        for column in columns
    ]
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": path.relative_to(folder).as_posix(),
            "name": path.name,
            "contentUrl": path.relative_to(folder).as_posix(),
            "encodingFormat": "application/x-parquet",
            "sha256": file_digest(path),
        }
        for path in paths
    ]
    files = {
        "@type": "cr:FileSet",
        "@id": "parquet",
        "encodingFormat": "application/x-parquet",
        "includes": "data/*.parquet",
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": "distilled-set",
        "description": "A distilled set, exported by ddbench. README.md says how it was made.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "distribution": [*objects, files],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": fields}],
    }
