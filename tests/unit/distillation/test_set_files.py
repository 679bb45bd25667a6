"""Distilled sets in the layouts of other projects are read; files that are wrong are refused in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ddbench.config.given_sets import SPACES
from ddbench.core.errors import DDBenchError
from ddbench.distillation.set_files import Form, SetFile, read_set
from ddbench.results.export import export_set
from ddbench.results.stored_sets import StoredSet

SIZE = 16
FORM = Form(SIZE)
UNIT, CIFAR, IMAGENET = Form(SIZE, pixels="unit"), Form(SIZE, pixels="cifar10"), Form(SIZE, pixels="imagenet")


def image_bytes(count: int = 6, size: int = SIZE) -> Tensor:
    """Random images, uint8 [count, 3, size, size]."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def normalised(images: Tensor, space: str) -> Tensor:
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in SPACES[space])
    return (images.float() / 255 - mean) / std


def save_image(image: Tensor, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, **options)


LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("new{0:03d}/class{0:03d}_id{1:03d}.jpg", ("new000", "new001", "new002")),  # SRe2L, WMDD
        ("{0:05d}/class{0:05d}_id{1:05d}.jpg", ("00000", "00001", "00002")),  # RDED
        ("{0}/{1}.png", ("0", "1", "2")),
        ("n0144076{0}/img{1}.webp", ("n01440760", "n01440761", "n01440762")),
    ],
)
def test_class_folders_of_other_projects(path: str, names: tuple[str, ...], tmp_path: Path) -> None:
    images = image_bytes()
    for number, (image, label) in enumerate(zip(images, LABELS.tolist(), strict=True)):
        options = {"lossless": True} if path.endswith("webp") else {"quality": 95} if path.endswith("jpg") else {}
        save_image(image, tmp_path / path.format(label, number % 2), **options)
    read = read_set(tmp_path, FORM)
    assert (read.names, read.labels.tolist(), read.files, read.weights) == (names, LABELS.tolist(), 6, None)
    assert not read.notes
    if path.endswith("jpg"):
        decoded = [np.array(Image.open(file)) for file in sorted(tmp_path.rglob("*.jpg"))]
        assert torch.equal(read.images, torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2))
    else:
        assert torch.equal(read.images, images)


@pytest.mark.parametrize("form", ["imagefolder", "safetensors"])
def test_an_exported_set_keeps_order_names_and_weights(form: str, tmp_path: Path) -> None:
    images, labels = image_bytes(), torch.tensor([2, 0, 1, 0, 1, 2])
    weights = torch.tensor([0.25, 0.1, 0.5, 0.9, 0.5, 0.75])
    export_set(StoredSet(images, labels, weights, ["dog", "guinea pig", "cat"]), {}, tmp_path / "set", form)
    read = read_set(tmp_path / "set", FORM)
    assert read.weights is not None
    for actual, expected in zip((read.images, read.labels, read.weights), (images, labels, weights), strict=True):
        assert torch.equal(actual, expected)
    assert read.names == ("dog", "guinea pig", "cat")


def torch_file(content: Any) -> Callable[[Path], Path]:
    """Returns a function that writes a file of torch.save into a folder."""

    def write(folder: Path) -> Path:
        torch.save(content, folder / "set.pt")
        return folder / "set.pt"

    return write


def arrays(**content: Any) -> Callable[[Path], Path]:
    """Returns a function that writes an npz file into a folder."""

    def write(folder: Path) -> Path:
        np.savez(folder / "set.npz", **content)
        return folder / "set.npz"

    return write


def parts(images: Tensor, labels: Tensor) -> Callable[[Path], Path]:
    """Returns a function that writes the three files of MTT and DATM into a folder."""

    def write(folder: Path) -> Path:
        for name, value in {"images_best": images, "labels_best": labels, "lr": torch.tensor(0.02)}.items():
            torch.save(value, folder / f"{name}.pt")
        return folder

    return write


BYTES = image_bytes()
NORMALISED = normalised(BYTES, "cifar10")
DC = {"data": [[NORMALISED, LABELS]], "accs_all_exps": {"ConvNet": [np.float64(0.5), 0.25]}}
LOGITS = torch.nn.functional.one_hot(LABELS, 3) * 4.0 - 1.5


@pytest.mark.parametrize(
    ("write", "form", "note"),
    [
        (torch_file({"images": BYTES, "labels": LABELS}), FORM, None),
        (torch_file({"data": BYTES.float() / 255, "labels": LABELS}), UNIT, None),
        (torch_file({"data": BYTES.half() / 255, "labels": LABELS.to(torch.uint16)}), UNIT, None),
        (torch_file([NORMALISED, LABELS]), CIFAR, None),
        (torch_file(DC), CIFAR, None),
        (
            torch_file({**DC, "data": [[NORMALISED, LABELS], [NORMALISED + 9, LABELS]]}),
            CIFAR,
            "holds 2 sets: the first",
        ),
        (parts(NORMALISED.requires_grad_(), LABELS), CIFAR, None),
        (parts(NORMALISED.detach(), LOGITS), CIFAR, None),
        (arrays(images=BYTES.numpy(), labels=LABELS.numpy()), FORM, None),
        (arrays(x=BYTES.permute(0, 2, 3, 1).numpy(), y=LABELS.view(-1, 1).numpy()), FORM, None),
        (torch_file({"images": normalised(BYTES, "imagenet"), "labels": LABELS.float()}), IMAGENET, None),
    ],
    ids=["dict", "unit", "half", "list", "DC", "DC-2", "MTT", "DATM", "npz", "npz-hwc", "imagenet"],
)
def test_tensor_files(write: Callable[[Path], Path], form: Form, note: str | None, tmp_path: Path) -> None:
    read = read_set(write(tmp_path), form)
    assert torch.equal(read.images, BYTES)
    assert (read.labels.tolist(), read.names) == (LABELS.tolist(), ("0", "1", "2"))
    if note:
        assert any(note in line for line in read.notes)
    else:
        assert read.notes == ()


def mtt_folder(folder: Path) -> Path:
    """The folder of a run of MTT with whitening: two steps, the best one, and copies of the steps before whitening."""
    for step in ("100", "200", "best"):
        torch.save(NORMALISED.detach(), folder / f"images_{step}.pt")
        torch.save(LABELS, folder / f"labels_{step}.pt")
    for step in ("100", "200"):
        torch.save(BYTES.float() / 255 * 1.2, folder / f"images_zca_{step}.pt")
    return folder


def test_images_before_whitening_are_read_and_whitened_ones_are_refused(tmp_path: Path) -> None:
    folder = mtt_folder(tmp_path)
    read = read_set(folder / "images_zca_200.pt", FORM)
    assert torch.equal(read.images, BYTES.float() / 255 * 1.2)
    assert (read.labels.tolist(), read.files) == (LABELS.tolist(), 2)
    for path, form, message in (
        (folder / "images_best.pt", CIFAR, "is whitened: give one of the images before whitening, e.g. images_zca_100"),
        (folder, CIFAR, "several sets: give one of the files images_zca_100.pt, images_zca_200.pt"),
        (folder / "images_zca_100.pt", CIFAR, "the space of .*images_zca_100.pt is unit"),
    ):
        with pytest.raises(DDBenchError, match=message):
            read_set(path, form)


def test_the_images_of_one_step_are_given_by_their_file(tmp_path: Path) -> None:
    for step in ("100", "best"):
        torch.save(NORMALISED.detach() if step == "100" else NORMALISED.detach() * 0, tmp_path / f"images_{step}.pt")
        torch.save(LABELS, tmp_path / f"labels_{step}.pt")
    torch.save(torch.tensor(0.02), tmp_path / "lr_100.pt")
    read = read_set(tmp_path / "images_100.pt", CIFAR)
    assert torch.equal(read.images, BYTES)
    assert read.extras["learning_rate"].item() == pytest.approx(0.02)


def test_floats_that_are_no_bytes_stay_floats(tmp_path: Path) -> None:
    beyond = normalised(BYTES, "cifar10") * 1.7
    read = read_set(torch_file({"images": beyond, "labels": LABELS})(tmp_path), CIFAR)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in SPACES["cifar10"])
    assert read.images.dtype == torch.float32
    assert torch.equal(read.images, beyond * std + mean)
    share = float(((read.images * 255 < -0.5) | (read.images * 255 > 255.5)).float().mean())
    assert read.notes == (f"the images are floats, {share:.1%} of their values beyond black or white",)


PROBABILITIES = torch.softmax(LOGITS, 1)


@pytest.mark.parametrize(
    ("write", "extras"),
    [
        (parts(BYTES, LOGITS), {"logits": LOGITS, "learning_rate": torch.tensor([0.02])}),
        (torch_file({"images": BYTES, "labels": PROBABILITIES}), {"probabilities": PROBABILITIES}),
        (
            torch_file({"images": BYTES, "labels": LABELS, "syn_lr": torch.tensor(0.125).requires_grad_()}),
            {"learning_rate": torch.tensor([0.125])},
        ),
        (
            torch_file({"images": BYTES, "labels": LABELS, "logits": LOGITS, "lr": 0.5}),
            {"logits": LOGITS, "learning_rate": torch.tensor([0.5])},
        ),
        (
            arrays(
                **{"images": BYTES.numpy(), "labels": PROBABILITIES.numpy(), "learning_rate": np.float64(3)},
                decode_factor=np.int32(2),
            ),
            {
                "probabilities": PROBABILITIES,
                "learning_rate": torch.tensor([3.0]),
                "decode_factor": torch.tensor([2.0]),
            },
        ),
    ],
    ids=["DATM", "probabilities", "MTT", "both", "npz"],
)
def test_soft_labels_and_the_learning_rate_belong_to_the_set(
    write: Callable[[Path], Path], extras: dict[str, Tensor], tmp_path: Path
) -> None:
    read = read_set(write(tmp_path), FORM)
    assert read.extras.keys() == extras.keys()
    assert all(torch.allclose(read.extras[name].float(), value, atol=1e-7) for name, value in extras.items())
    assert read.labels.tolist() == LABELS.tolist()
    assert read.names == ("0", "1", "2")


@pytest.mark.parametrize("form", ["imagefolder", "safetensors"])
def test_an_exported_float_set_is_read_again_exactly(form: str, tmp_path: Path) -> None:
    images, weights = torch.randn(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), torch.full((6,), 0.5)
    rate, factor = torch.tensor([0.02], dtype=torch.float64), torch.tensor([2])
    extras = {"logits": LOGITS, "learning_rate": rate, "decode_factor": factor}
    export_set(StoredSet(images, LABELS, weights, ["a", "b", "c"], extras), {}, tmp_path / "set", form)
    read = read_set(tmp_path / "set", FORM)
    assert torch.equal(read.images, images)
    assert read.extras.keys() == extras.keys()
    assert all(torch.equal(read.extras[name], value) for name, value in extras.items())
    with pytest.raises(DDBenchError, match="2 x 2 images in each image, so it cannot be resized to 32 px"):
        read_set(tmp_path / "set", Form(32))
    if form == "imagefolder":
        png = np.array(Image.open(tmp_path / "set" / "a" / "00000.png"))
        assert np.array_equal(png, (images[0] * 255).round().clamp(0, 255).permute(1, 2, 0).numpy())
        readme = (tmp_path / "set" / "README.md").read_text()
        assert "float32 pixels, logits, learning rate, decode factor" in readme
        assert "Each image holds 2 x 2 images of its class." in readme


def test_images_of_another_size_are_resized_and_values_beyond_white_are_clamped(tmp_path: Path) -> None:
    images = torch.full((2, 3, 20, 30), 3.5)
    images[1] = -1.0
    path = torch_file({"images": images, "labels": torch.tensor([0, 1])})(tmp_path)
    read = read_set(path, CIFAR)
    assert read.images.shape == (2, 3, SIZE, SIZE)
    assert bool((read.images[0] == 255).all())
    assert read.images[1, :, 0, 0].tolist() == [round(255 * (m - s)) for m, s in zip(*SPACES["cifar10"], strict=True)]
    assert read.notes == (
        "the images are floats, 50.0% of their values beyond black or white",
        "the floats are rounded to bytes and clamped, because the images are resized",
        "images of 30 x 20 pixels are resized to 16 x 16 (bilinear)",
    )


def test_images_of_16_bits_are_scaled_and_counted(tmp_path: Path) -> None:
    levels = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 257
    (tmp_path / "0").mkdir()
    Image.fromarray(levels).save(tmp_path / "0" / "a.png")
    save_image(BYTES[0], tmp_path / "0" / "b.png")
    read = read_set(tmp_path, FORM)
    assert read.images[0, 0].flatten().tolist() == [*range(SIZE * SIZE)]
    assert read.notes == ("1 image above 8 bits per channel: the range is scaled to 0 to 255",)


def test_gray_images_get_three_channels(tmp_path: Path) -> None:
    read = read_set(torch_file({"images": BYTES[:, :1], "labels": LABELS})(tmp_path), FORM)
    assert torch.equal(read.images, BYTES[:, :1].expand(-1, 3, -1, -1))


def test_the_digest_is_that_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    def read(folder: str, image: Tensor) -> SetFile:
        save_image(image, tmp_path / folder / "0" / "a.png")
        return read_set(tmp_path / folder, FORM)

    one, same, other = read("one", BYTES[0]), read("two/deep", BYTES[0]), read("three", BYTES[1])
    assert one.digest == same.digest != other.digest
    file = torch_file({"images": BYTES, "labels": LABELS})(tmp_path)
    assert read_set(file, FORM).digest == hashlib.sha256(file.read_bytes()).hexdigest()


class Attack:
    """A pickle that writes a file when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("attacked"),)


NAN = torch.where(torch.arange(6).view(6, 1, 1, 1) == 3, torch.nan, BYTES.float() / 255)


@pytest.mark.parametrize(
    ("write", "form", "message"),
    [
        (torch_file({"images": NAN, "labels": LABELS}), UNIT, "the images are not finite (NaN or infinity)"),
        (torch_file({"images": Attack(), "labels": LABELS}), FORM, "nothing else is unpickled"),
        (torch_file({"images": BYTES, "labels": LABELS[:5]}), FORM, "6 images with labels of the shape [5]"),
        (torch_file({"images": BYTES, "labels": LABELS + 0.5}), FORM, "the labels are not whole numbers"),
        (torch_file({"images": NORMALISED.detach(), "labels": LABELS}), Form(SIZE, pixels="zca"), "are whitened"),
        (torch_file({"images": BYTES, "labels": LOGITS * torch.nan}), FORM, "the labels are not finite"),
        (torch_file({"images": BYTES, "labels": LABELS, "lr": -0.5}), FORM, "has a learning rate that is not one"),
        (torch_file({"images": BYTES, "labels": LABELS, "logits": LOGITS[:5]}), FORM, "floats [6, 3] are needed"),
        (
            torch_file({"images": BYTES, "labels": PROBABILITIES, "logits": LOGITS}),
            FORM,
            "both probabilities and logits",
        ),
        (torch_file({"images": NORMALISED.detach(), "labels": LABELS}), FORM, "name their space with --pixels unit|"),
        (torch_file({"images": NORMALISED.detach(), "labels": LABELS}), UNIT, "contradicts --pixels unit (0 to 1)"),
        (
            torch_file({"images": BYTES / 255, "labels": LABELS}),
            CIFAR,
            "contradicts --pixels cifar10: they look like unit",
        ),
        (torch_file({"images": BYTES * 1.0 - 9, "labels": LABELS}), CIFAR, "they look like another space"),
        (torch_file({"images": BYTES, "labels": LABELS}), CIFAR, "are bytes, not normalised floats"),
        (
            torch_file({"images": BYTES.long(), "labels": LABELS}),
            FORM,
            "the images are integers of another type than uint8",
        ),
        (torch_file({"images": BYTES.to(torch.uint16), "labels": LABELS}), FORM, "integers of another type than uint8"),
        (torch_file({"images": BYTES.to(torch.cfloat), "labels": LABELS}), FORM, "does not hold images [n, 3, H, W]"),
        (torch_file({"images": BYTES.to_sparse(), "labels": LABELS}), FORM, "does not hold images [n, 3, H, W]"),
        (torch_file({"images": BYTES.to("meta"), "labels": LABELS}), FORM, "does not hold images [n, 3, H, W]"),
        (torch_file({"images": BYTES[:0], "labels": LABELS[:0]}), FORM, "does not hold images [n, 3, H, W]"),
        (torch_file({"images": BYTES, "labels": LABELS * float("inf")}), FORM, "the labels are not whole numbers"),
        (torch_file([BYTES, LABELS, LABELS]), FORM, "does not hold images [n, 3, H, W] and labels [n]"),
        (torch_file({"weights": BYTES}), FORM, "does not hold images [n, 3, H, W] and labels [n]"),
        (torch_file({"images": BYTES[:, :2], "labels": LABELS}), FORM, "the images have the shape [6, 2, 16, 16]"),
        (arrays(images=np.array([{}], dtype=object), labels=[0]), FORM, "it holds Python objects"),
        (lambda folder: folder / "absent.pt", FORM, "is neither a file nor a folder"),
        (lambda folder: folder, FORM, "holds no class folders"),
    ],
)
def test_wrong_files_are_refused_in_one_line(
    write: Callable[[Path], Path], form: Form, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DDBenchError) as refused:
        read_set(write(tmp_path), form)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "attacked").exists()


def broken(folder: Path, what: str) -> None:
    """Writes an exported folder, or one of SRe2L, with one fault."""
    stored = StoredSet(BYTES, LABELS, torch.full((6,), 0.5), ["a", "b", "c"])
    export_set(stored, {}, folder / "set", "imagefolder")
    listed = folder / "set" / "weights.csv"
    if what == "file":
        (folder / "set" / "a" / "00000.png").unlink()
    elif what == "label":
        listed.write_text(listed.read_text().replace("a/00000.png,0", "a/00000.png,x"))
    elif what == "weight":
        listed.write_text(listed.read_text().replace("0.5", "-1"))
    elif what == "damaged":
        (folder / "set" / "a" / "00000.png").write_bytes(b"\x89PNG")
    elif what == "number":
        save_image(BYTES[0], folder / "set" / "new000" / "class001_id000.jpg")
        listed.unlink()
    elif what == "names":
        names = {"class_names": '["a", "b"]'}
        save_file({"images": BYTES, "labels": LABELS}, folder / "set" / "distilled.safetensors", metadata=names)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("file", "does not list the images of the folder, e.g. a/00000.png"),
        ("label", "is not the file that ddbench export writes"),
        ("weight", "the weights are not one number >= 0 per image"),
        ("damaged", "00000.png cannot be read: its header is truncated or damaged"),
        ("number", "the folder names class 0, and the file 1"),
        ("names", "the labels are from 0 to 2, and there are 2 class names"),
    ],
)
def test_wrong_folders_are_refused_in_one_line(what: str, message: str, tmp_path: Path) -> None:
    broken(tmp_path, what)
    with pytest.raises(DDBenchError, match=message.replace("(", r"\(")):
        read_set(tmp_path / "set", FORM)
