"""The interface of image data: the real dataset, one split, a distilled set. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api.dataset import DatasetInfo


class Images(Protocol):
    """The decoded images of one split, sorted by class, at their stored size.

    Attributes:
        labels: int64 [n].
        sizes: int64 [n, 2], height and width of each image.
    """

    labels: Tensor
    sizes: Tensor

    def __len__(self) -> int: ...

    def of_class(self, label: int) -> Tensor:
        """Returns the indices of the images of one class.

        Args:
            label: The class.

        Returns:
            int64 [n], ascending.
        """

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Reads images.

        Args:
            indices: int64 [B].

        Returns:
            The images, uint8 [B, 3, H, W], and their sizes, int64 [B, 2] (height, width). H and W are the largest
            height and width; smaller images are padded with 0 at the bottom and the right.
        """

    def centre(self, indices: Tensor, size: int) -> Tensor:
        """Reads the central pixels of images: the view that accuracy is measured on.

        Args:
            indices: int64 [B].
            size: Side of the crop in pixels.

        Returns:
            uint8 [B, 3, size, size].
        """


class RealData(Protocol):
    """The real dataset: names, counts, both splits, and the normalisation of pixels.

    Attributes:
        mean: Mean of each channel for pixels in [0, 1], float32 [3].
        std: Standard deviation of each channel for pixels in [0, 1], float32 [3].
    """

    mean: Tensor
    std: Tensor

    @property
    def info(self) -> DatasetInfo:
        """Names, counts and sizes."""

    @property
    def train(self) -> Images:
        """The training images, without the held-out ones."""

    @property
    def val(self) -> Images:
        """The images that accuracy is measured on: the validation images, or the held-out images if there are any."""

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalises pixels for a network.

        Args:
            pixels: uint8, or float with 0 for black and 1 for white, [B, 3, H, W].

        Returns:
            Float32 [B, 3, H, W] on the device of `pixels`.
        """

    def evaluation_view(self, split: Literal["train", "val"], indices: Tensor) -> Tensor:
        """Reads and normalises the central pixels of images.

        Args:
            split: The split.
            indices: int64 [B].

        Returns:
            Float32 [B, 3, S, S], where S is the image size of the run.
        """


class DistilledImages(Protocol):
    """A distilled set: images, labels and weights in the same order.

    If the set has a decoder (`Distiller.decode_factor`), these are the decoded images.
    """

    @property
    def images(self) -> Tensor:
        """The images, uint8 [m, 3, S, S]. Those of a float set are rounded and clamped."""

    @property
    def pixels(self) -> Tensor:
        """The images in the type of the stored ones: uint8, or unbounded float32, 0 for black and 1 for white."""

    @property
    def soft_labels(self) -> Tensor | None:
        """The soft labels of the set, probabilities, float32 [m, K]. None: it has none."""

    @property
    def learning_rate(self) -> float | None:
        """The student's learning rate that belongs to the set. None: it has none."""

    @property
    def labels(self) -> Tensor:
        """The labels, int64 [m]."""

    @property
    def weights(self) -> Tensor:
        """The weights, float32 [m]. The weights of each class sum to 1."""

    @property
    def image_bytes(self) -> int:
        """Size of the images in bytes, as they are stored."""

    @property
    def images_per_stored(self) -> int:
        """Number of images that are parts of one stored image, and share its label; 1 without a decoder."""

    def part(self, rows: Tensor) -> DistilledImages:
        """Returns a subset.

        Args:
            rows: Positions in this set, int64 [n].

        Returns:
            A set of these images.
        """

    def __len__(self) -> int: ...
