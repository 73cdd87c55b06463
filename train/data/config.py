"""Which data, and how they are split."""

from dataclasses import dataclass

from train.data.readers import DataError

EMBEDDED_SOURCE = "fashion-mnist-5k"


@dataclass(frozen=True)
class DataConfig:
    """Which data to load, and how to split it.

    Raises:
        DataError: a number out of range, or not whole.
    """

    # "fashion-mnist-5k" (ships with the package), or a path: a folder of idx files (plain or .gz), a folder of
    # CIFAR-10 binary batches (.bin or .bin.xz), or an .npz file with x_train, y_train, x_test and y_test
    source: str = EMBEDDED_SOURCE
    image_size: int | None = 14  # pixels, the side after average pooling; must divide the side; None: as in the file
    score_images: int = 1000  # images of the training file held out as the score split, at least 1
    test_images: int | None = None  # use at most this many images, the first ones of the test file; None: all
    seed: int = 0  # of the draw of the score split, 0 or more

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, least in (
            ("image_size", self.image_size, 1),
            ("score_images", self.score_images, 1),
            ("test_images", self.test_images, 1),
            ("seed", self.seed, 0),
        ):
            optional = name in ("image_size", "test_images")
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                none = ", or None" if optional else ""
                raise DataError(f"{name}: found {value!r}; expected a whole number, {least} or more{none}")
