"""Draws docs/images/methods/METHOD.jpg: the last distilled image of each class, for every method.

    python docs/scripts/pictures.py [METHOD ...] [--teacher FILE] [--cache-dir FOLDER] [--data-dir FOLDER]

Nothing is evaluated. On one core, sets of IPC 10 take up to an hour, the others minutes. The data folder holds
ImageNette. The comment of each file states what it shows, and docs/methods.md prints it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.results.preview import scale_image, tile_images
from ddbench.storage.cache import Cache

FOLDER = Path(__file__).parents[1] / "images" / "methods"
RECIPE = "quick"
IMAGENETTE: dict[str, tuple[int, tuple[str, ...]]] = {
    **dict.fromkeys(("random", "confidence", "full"), (1, ())),
    "dm": (1, ("dm.steps=60", "dm.real_batch=16")),
    "dc": (1, ("dc.real_batch=8",)),
    "dsa": (1, ("dsa.real_batch=8",)),
    **dict.fromkeys(("herding", "k-center", "kmeans", "rded"), (10, ())),
    "wmdd": (10, ("wmdd.crop_per_image=false",)),
}
"""Methods that are shown on ImageNette at 64 px: the IPC, and settings that differ from the recipe."""
DIGITS: dict[str, tuple[int, tuple[str, ...]]] = {
    "dm-rbf": (1, ("dm-rbf.steps=30", "dm-rbf.real_batch=16")),
    "datadam": (1, ("datadam.steps=30", "datadam.real_batch=16")),
    "idm": (1, ()),
    "mtt": (1, ("mtt.iterations=40",)),
    "datm": (1, ("datm.iterations=80",)),
    "wmdd-sliced": (1, ("wmdd-sliced.iterations=10",)),
}
"""The same for digits, which show the other methods."""
QUALITY = 88


def draw(method: str, registry: PluginRegistry, workspace: Workspace, teacher: Path | None) -> Path:
    """Distils a set and draws its last image of each class.

    Args:
        method: The name of the method.
        registry: The installed methods.
        workspace: The cache and the datasets.
        teacher: The checkpoint of the teacher for ImageNette; None: the recipe trains one.

    Returns:
        The path of the picture.
    """
    dataset, size, precision = ("imagenette", 64, "bf16") if method in IMAGENETTE else ("digits", None, "fp32")
    ipc, changed = IMAGENETTE.get(method) or DIGITS.get(method, (1, ()))
    given = (f"teacher.checkpoint={teacher}",) if teacher and dataset == "imagenette" else ()
    request = Request(
        methods=(method,),
        datasets=(dataset,),
        ipcs=(ipc,),
        recipes=(RECIPE,),
        image_size=size,
        device="cpu",
        precision=precision,
        assignments=("runtime.threads=1", *given, *changed),
    )
    pipeline = Pipeline(workspace, experiments(request, registry)[0])
    images, labels = pipeline.distilled.head(ipc)
    row = [scale_image(images[labels == label][-1].numpy()) for label in range(pipeline.info.num_classes)]
    path = FOLDER / f"{method}.jpg"
    path.parent.mkdir(exist_ok=True)
    count = "all images" if pipeline.experiment.ipc is None else f"IPC {ipc}"
    facts = [f"{dataset} at {pipeline.info.image_size} px", f"recipe `{RECIPE}`", count]
    facts += [f"`{', '.join(changed)}`"] if changed else []
    Image.fromarray(tile_images([row])).save(path, quality=QUALITY, subsampling=0, comment=", ".join(facts))
    return path


def main() -> None:
    """Draws the pictures of the named methods, or of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    registry = PluginRegistry()
    workspace = Workspace(registry, Cache(options.cache_dir), options.data_dir)
    for method in options.methods or [cls.name for cls in registry.distillers()]:
        path = draw(method, registry, workspace, options.teacher)
        print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
