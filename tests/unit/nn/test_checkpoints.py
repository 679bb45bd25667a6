"""Weights that fit are loaded, and weights that do not are refused whole, with a hint where a setting would help."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ddbench.core.errors import DDBenchError
from ddbench.nn.build import build_network
from ddbench.nn.checkpoint_files import read_checkpoint
from ddbench.nn.checkpoints import has_one_channel, load_checkpoint, output_count
from ddbench.nn.taps import TappedNetwork

Refused = Callable[[Path, nn.Module], str]


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_checkpoints_that_do_not_fit_are_refused_whole(tmp_path: Path, refused: Refused) -> None:
    network = build_network("resnet18", 4, 32)
    path = tmp_path / "teacher.safetensors"

    save_file(state_of(build_network("resnet18", 1000, 32)), path)
    assert "has 1000 classes, the dataset 4" in refused(path, network)

    state = state_of(network)
    del state["layer1.0.conv1.weight"]
    save_file(state, path)
    assert "is missing 'layer1.0.conv1.weight'" in refused(path, network)

    save_file(state_of(network) | {"extra.weight": torch.zeros(1)}, path)
    assert "has unexpected 'extra.weight'" in refused(path, network)

    save_file(state_of(build_network("resnet18", 4, 32, "imagenet")), path)
    assert "has another shape of 'conv1.weight'" in refused(path, network)

    state = state_of(network)
    state["bn1.weight"][0] = torch.nan
    save_file(state, path)
    assert "NaN or infinity in 'bn1.weight'" in refused(path, network)

    save_file(state_of(build_network("resnet50", 4, 32)), path)
    assert " more" in refused(path, network)


@pytest.mark.real
def test_a_real_teacher_loads_as_it_is() -> None:
    root = os.environ.get("DDBENCH_DATA")
    path = Path(root or "") / "teacher-resnet18-imagenette64.safetensors"
    if root is None or not path.is_file():
        pytest.skip("DDBENCH_DATA names no folder with teacher-resnet18-imagenette64.safetensors")
    network = build_network("resnet18", 10, 64)
    load_checkpoint(network, read_checkpoint(path))
    means, variances = TappedNetwork(network).running_statistics()
    assert len(means) == 20
    assert all((variance > 0).all() for variance in variances)
    assert any(mean.abs().max() > 0 for mean in means)
    with pytest.raises(DDBenchError, match="has 10 classes, the dataset 200"):
        load_checkpoint(build_network("resnet18", 200, 64), read_checkpoint(path))


class Small(nn.Module):
    """A network with the first convolution of a ResNet."""

    def __init__(self, kernel: int, channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, kernel, bias=False)
        self.fc = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv1(images).relu().mean((2, 3)))
        return logits


IMAGES = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("given", "built", "hint"),
    [
        (3, 7, "; its first convolution is 3x3: try --set teacher.stem=small (or tiny-released)"),
        (7, 3, "; its first convolution is 7x7: try --set teacher.stem=imagenet"),
        (5, 7, ""),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stem_of_another_shape_names_the_setting(
    tmp_path: Path, refused: Refused, given: int, built: int, hint: str, channels: int
) -> None:
    path = tmp_path / "resnet18_modified.pth"
    torch.save(Small(given, channels).state_dict(), path)
    assert refused(path, Small(built)).endswith(f"has another shape of 'conv1.weight'{hint}")
    load_checkpoint(Small(given), read_checkpoint(path))


def test_a_teacher_of_gray_images_gives_the_same_logits_on_them_in_rgb(tmp_path: Path) -> None:
    path, gray, network = tmp_path / "gray.pth", Small(3, channels=1), Small(3)
    torch.save(gray.state_dict(), path)
    checkpoint = read_checkpoint(path)
    assert has_one_channel(network, checkpoint)
    load_checkpoint(network, checkpoint)
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGES[:, :1].expand(-1, 3, -1, -1)), gray(IMAGES[:, :1]))
        torch.testing.assert_close(network(IMAGES), gray(IMAGES.mean(1, keepdim=True)))
    torch.save(network.state_dict(), path)
    assert not has_one_channel(network, read_checkpoint(path))


def test_outputs_are_selected_in_the_order_of_the_classes(tmp_path: Path, refused: Refused) -> None:
    path, whole, part = tmp_path / "six.pth", Small(3, classes=6), Small(3)
    torch.save(whole.state_dict(), path)
    assert output_count(part, read_checkpoint(path)) == 6
    load_checkpoint(part, read_checkpoint(path), (5, 0, 2, 1))
    with torch.no_grad():
        torch.testing.assert_close(part(IMAGES), whole(IMAGES)[:, [5, 0, 2, 1]])
    assert refused(path, part).endswith("has 6 classes, the dataset 4; name its classes: --set teacher.classes=FILE")
    torch.save(Small(3, classes=3).state_dict(), path)
    assert refused(path, part).endswith("has 3 classes, the dataset 4")


def test_a_classifier_of_any_size_is_not_unpacked_for_a_selection(tmp_path: Path) -> None:
    path = tmp_path / "wide.pt"
    torch.save(Small(3, classes=6).state_dict() | {"fc.weight": torch.zeros(1).expand(6, 2**40)}, path)
    with pytest.raises(DDBenchError, match=r"has another shape of 'fc\.weight'"):
        load_checkpoint(Small(3), read_checkpoint(path), (5, 0, 2, 1))
