"""Networks by name: stems, seeds, and what cannot be built."""

import pytest
import torch
from torch import Tensor, nn

from ddbench.config.schema import Stem
from ddbench.core.errors import DDBenchError
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("stem", "size", "sides"),
    [
        ("imagenet", 64, (32, 16, 2)),
        ("small", 64, (64, 64, 8)),
        ("tiny-released", 64, (34, 34, 5)),  # floor((64 + 2 * 3 - 3) / 2) + 1 = 34; rounded up when halved
        ("auto", 64, (32, 16, 2)),
        ("auto", 32, (32, 32, 4)),
        ("auto", 8, (8, 8, 1)),
    ],
)
def test_stems_of_a_resnet(stem: Stem, size: int, sides: tuple[int, int, int]) -> None:
    for name in ("resnet18", "timm/resnet18"):
        maps = TappedNetwork(build_network(name, 3, size, stem))(torch.zeros(1, 3, size, size)).bn_inputs
        assert [maps[0].shape[2], maps[1].shape[2], maps[-1].shape[2]] == list(sides)
        assert {len(x.shape) for x in maps} == {4}


def test_small_stem_of_other_families_and_where_there_is_none() -> None:
    for name in ("densenet121", "mobilenet_v2", "shufflenet_v2_x1_0"):
        first = TappedNetwork(build_network(name, 3, 32))(torch.zeros(1, 3, 32, 32)).bn_inputs[0]
        assert first.shape[2:] == (32, 32)
    build_network("convnet-d3", 3, 64, "small")
    with pytest.raises(DDBenchError, match="needs a strided first convolution"):
        build_network("vit_tiny_patch16_224", 3, 64, "small")
    with pytest.raises(DDBenchError, match="needs a strided first convolution"):
        build_network("convnet-d3", 3, 64, "tiny-released")


def test_convnet_is_the_one_of_the_literature() -> None:
    # 3 blocks of (3x3 convolution, instance norm) at width 128, then 128 * 4 * 4 features for 10 classes.
    convolutions = (3 * 9 + 1 + 2) * 128 + 2 * (128 * 9 + 1 + 2) * 128
    network = build_network("convnet-d3", 10, 32)
    assert sum(p.numel() for p in network.parameters()) == convolutions + (128 * 16 + 1) * 10 == 320010
    for depth in range(1, 7):
        assert build_network(f"convnet-d{depth}", 2, 64)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnet-d3"])
def test_the_seed_fixes_every_weight_and_the_global_generator_is_left_alone(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = state_of(build_network(name, 4, 32, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = build_network(name, 4, 32, seed=1), build_network(name, 4, 32, seed=2)
    assert all(torch.equal(tensor, first[key]) for key, tensor in again.state_dict().items())
    assert any(not torch.equal(tensor, first[key]) for key, tensor in other.state_dict().items())
    assert again.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("torchvision/vgg11_nb", "did you mean 'torchvision/vgg11_bn'"),
        ("timm/vit_tinny_patch16_224", "did you mean 'timm/vit_tiny_patch16_224'"),
        ("convnet-d7", "did you mean 'convnet-d"),
        ("timm/hf-hub:someone/something", "unknown network"),
        ("qqqqqqqqqqqq", "known: convnet-bn-d3"),
        ("vit_tiny_patch16_224", "'vit_tiny_patch16_224' cannot be built for 8-pixel images"),
        ("convnet-d4", "needs images of 16 pixels or more, not 8"),
    ],
)
def test_what_cannot_be_built_is_one_line(name: str, message: str) -> None:
    with pytest.raises(DDBenchError, match=message) as caught:
        build_network(name, 10, 8)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
