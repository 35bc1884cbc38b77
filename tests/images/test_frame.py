"""Where the network's input lies in a file, held against torchvision's own boxes, and what boxes become."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

import chanattr as ca
from chanattr.images.boxes import ImageBoxes
from chanattr.images.frame import Frame, Side, measured_frame, regions_of, resize_and_crop

SIZES = [(384, 288), (288, 391), (100, 400), (33, 31)]
STEPS: list[tuple[Side | None, Side | None]] = [(256, 224), ((256, 200), 226), (64, None), (None, 20), (40, (64, 30))]
# Padded unevenly, where torchvision moves boxes one pixel further than the picture; and nothing done at all.
ODD: list[tuple[Side | None, Side | None]] = [((256, 200), 227), (None, None)]


def steps_of(resize: Side | None, crop: Side | None) -> list[v2.Transform]:
    return [*([] if resize is None else [v2.Resize(resize, antialias=True)]), *([] if crop is None else [v2.CenterCrop(crop)])]


def preprocess_of(resize: Side | None, crop: Side | None, *more: v2.Transform) -> v2.Compose:
    return v2.Compose([*steps_of(resize, crop), *more, v2.PILToTensor(), v2.ToDtype(torch.float32)])


def move_boxes(boxes: np.ndarray, frame: Frame) -> np.ndarray:
    """Boxes of the file in pixels of the network's input, clipped to it."""
    left, top, right, bottom, height, width = frame
    scale = np.array([width / (right - left), height / (bottom - top)] * 2)
    return np.clip((boxes - np.array([left, top] * 2)) * scale, 0, [width, height] * 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), STEPS)
def test_boxes_move_as_torchvision_moves_them(size: tuple[int, int], resize: Side | None, crop: Side | None) -> None:
    width, height = size
    boxes = np.array([[0, 0, width, height], [width * 0.4, height * 0.3, width * 0.7, height * 0.9], [0, 0, 2, 3]], np.float32)
    given = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(height, width))
    theirs = v2.Compose(steps_of(resize, crop))(given)
    frame = resize_and_crop(size, resize, crop)
    assert (frame.height, frame.width) == theirs.canvas_size
    np.testing.assert_allclose(move_boxes(boxes, frame), theirs.as_subclass(Tensor).numpy(), atol=2e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [*STEPS, *ODD])
def test_a_frame_can_be_measured(size: tuple[int, int], resize: Side | None, crop: Side | None) -> None:
    told, measured = resize_and_crop(size, resize, crop), measured_frame(preprocess_of(resize, crop), size)
    assert measured[4:] == told[4:]
    coarser = max(1, (told.right - told.left) / told.width, (told.bottom - told.top) / told.height)
    whole = min((told.right - told.left) / size[0], (told.bottom - told.top) / size[1]) > 0.5
    assert np.abs(measured.region - told.region).max() < (0.25 if whole else 1) * coarser


def test_normalisation_and_the_order_of_colours_do_not_matter() -> None:
    shift = torch.tensor([123.0, 117.0, 104.0])[:, None, None]
    plain = preprocess_of(64, 48)
    told = resize_and_crop((90, 70), 64, 48)
    found = measured_frame(lambda picture: -(plain(picture) - shift)[[2, 1, 0]] / 58, (90, 70))
    assert np.abs(found.region - told.region).max() < 0.25 * 1.1


def test_what_is_no_scaling_and_cutting_is_refused() -> None:
    turned = v2.Lambda(lambda picture: picture.transpose(2))  # PIL's ROTATE_90
    with pytest.raises(ca.InputError, match="moves pixels in a way that is no resize and crop"):
        measured_frame(preprocess_of(None, None, turned), (60, 40))
    with pytest.raises(ca.InputError, match="moves pixels in a way that is no resize and crop"):
        measured_frame(preprocess_of(None, None, v2.RandomHorizontalFlip(1.0)), (60, 40))
    with pytest.raises(ca.InputError, match="gives the same for black and for white"):
        measured_frame(lambda picture: preprocess_of(8, 8)(picture) * 0, (60, 40))
    with pytest.raises(ca.InputError, match=r"preprocess gave shape \(\) for a picture"):
        measured_frame(lambda picture: torch.zeros(()), (60, 40))
    with pytest.raises(ca.InputError, match="2 x 2 pixels or more"):
        measured_frame(preprocess_of(8, 8), (60, 1))
    with pytest.raises(ca.InputError, match="crop=0; expected pixels from 1"):
        resize_and_crop((4, 4), None, 0)


def test_a_box_that_is_cropped_away_has_no_area() -> None:
    frame = Frame(100, 0, 200, 100, 50, 50)
    assert move_boxes(np.array([[0, 0, 90, 90], [90.0, 10, 120, 200]]), frame).tolist() == [[0, 0, 0, 45], [0, 5, 10, 50]]


def test_regions_of_pictures_by_their_size() -> None:
    def one(size: tuple[int, int]) -> ImageBoxes:
        return ImageBoxes(boxes=np.zeros((0, 4), np.float32), classes=np.zeros(0, np.int32), difficult=np.zeros(0, bool), size=size)

    asked: list[tuple[int, int]] = []

    def frame(size: tuple[int, int]) -> Frame:
        asked.append(size)
        return resize_and_crop(size, 20, 20)

    told = {"a": one((40, 20)), "b": one((0, 0)), "c": one((40, 20))}
    found = regions_of(frame, told, ["a", "x", "b", "c"], {"b": (20, 60)})
    np.testing.assert_array_equal(found, [[10, 0, 30, 20], [np.nan] * 4, [0, 20, 20, 40], [10, 0, 30, 20]])
    assert asked == [(40, 20), (20, 60)]
    with pytest.raises(ca.InputError, match="'b' has boxes, but its annotations do not tell its width and height"):
        regions_of(frame, told, ["b"])
