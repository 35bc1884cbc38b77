"""The pointing game over a run file: masks that see the boxes hit, masks that do not miss; other methods beside them; bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import chanattr as ca
from chanattr.evidence.saliency import SALIENCY, Heat, PictureSubject
from tests.attribution.test_spatial import Sees, region_of

SIDE = 64
BOX = [36, 8, 52, 24]  # x1, y1, x2, y2 of region_of(8, 36)


def preprocess(picture: Image.Image) -> Tensor:
    """64 x 64 pixels as a tensor: the whole picture, whatever its size."""
    return torch.from_numpy(np.asarray(picture.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32).copy()).permute(2, 0, 1) / 255 + 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sees, Tensor]:
    path, net = tmp_path_factory.mktemp("run") / "run.h5", Sees(region_of(8, 36))
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 1
    found = ca.spatial(net, images, targets=[1, 1, 0], areas=(0.06, 0.15), perturbation="fade", flip=False, refine=False,
                       search=ca.ExactSearch(relaxed_steps=20), keys=["x/a.jpg", "x/b.jpg", "x/c.jpg"])
    with ca.open_run(path, "a") as run:
        run.write(found)
    return path, net, images


def boxes(tmp_path: Path, box: list[int], names: tuple[str, ...] = ("a.jpg", "b.jpg")) -> Path:
    """Annotations of files twice as wide as high."""
    scaled = [box[0] * 4, box[1] * 2, box[2] * 4, box[3] * 2]
    entries = [{"file": name, "index": 1, "width": 256, "height": 128, "boxes": [scaled]} for name in names]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    return tmp_path / "boxes.json"


def test_masks_hit_the_region_that_the_network_sees(made: tuple[Path, Sees, Tensor], tmp_path: Path) -> None:
    path, _, _ = made
    with ca.open_run(path) as run:
        there = ca.pointing_run(run, ca.load_annotations(boxes(tmp_path, BOX)), preprocess)["masks"]
        elsewhere = ca.pointing_run(run, ca.load_annotations(boxes(tmp_path, [0, 50, 10, 60])), preprocess)["masks"]
    assert there.keys == ("x/a.jpg", "x/b.jpg")  # the third is not annotated
    assert there.hit.tolist() == [1, 1]
    assert there.distance.max() == 0
    assert 0.45 < there.energy.min() < 0.6  # a region of 6 % under masks of 6 and 15 % has (6 + 6) / 21 of them at most
    assert elsewhere.hit.tolist() == [0, 0]


def test_other_methods_lie_beside_them(made: tuple[Path, Sees, Tensor], tmp_path: Path) -> None:
    path, net, images = made
    loader = [(images[row:row + 1], torch.tensor([1]), [key]) for row, key in enumerate(("x/a.jpg", "x/b.jpg", "x/c.jpg"))]
    with ca.open_run(path) as run:
        found = ca.pointing_run(run, ca.load_annotations(boxes(tmp_path, BOX)), preprocess, methods=["centre", "gradient"], model=net,
                                loader=loader, progress=False)
    assert list(found) == ["masks", "centre", "gradient"]
    assert found["gradient"].hit.tolist() == [1, 1]
    assert found["centre"].hit.tolist() == [0, 0]


def test_a_heat_map_of_ones_own(made: tuple[Path, Sees, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def brightest(subject: PictureSubject) -> Heat:
        """Where the picture is brightest."""
        return Heat(subject.images.sum(1), 0.0)

    monkeypatch.setitem(SALIENCY, "brightest", brightest)  # all that a new one takes

    path, net, images = made
    lit = images.clone()
    lit[0, :, 60, 5] += 9
    lit[1, :, 16, 44] += 9  # in the box
    loader = [(part[None], torch.tensor([1]), [key]) for part, key in zip(lit, ("x/a.jpg", "x/b.jpg", "x/c.jpg"), strict=True)]
    with ca.open_run(path) as run:
        found = ca.pointing_run(run, ca.load_annotations(boxes(tmp_path, BOX)), preprocess, methods=["brightest"], model=net, loader=loader,
                                progress=False)
    assert ca.saliency(net, lit, "brightest").values[1].argmax().item() == 16 * SIDE + 44
    assert found["brightest"].hit.tolist() == [0, 1]


def test_what_cannot_be_played_is_refused(made: tuple[Path, Sees, Tensor], tmp_path: Path) -> None:
    path, net, images = made
    told = ca.load_annotations(boxes(tmp_path, BOX))
    with ca.open_run(path) as run:
        with pytest.raises(ca.InputError, match=r"none of 3 keys .* is among the 1 annotated pictures"):
            ca.pointing_run(run, ca.load_annotations(boxes(tmp_path, BOX, ("z.jpg",))), preprocess)
        with pytest.raises(ca.InputError, match="method='smear'; expected one of centre, gradient"):
            ca.pointing_run(run, told, preprocess, methods=["smear"], model=net)
        with pytest.raises(ca.InputError, match="methods centre without a model"):
            ca.pointing_run(run, told, preprocess, methods=["centre"])
        with pytest.raises(ca.InputError, match=r"1 annotated pictures of the run are not among the images, first 'x/b\.jpg'"):
            ca.pointing_run(run, told, preprocess, methods=["centre"], model=net, loader=[(images[:1], torch.tensor([1]), ["x/a.jpg"])],
                            progress=False)
        with pytest.raises(ca.StoreError):
            ca.pointing_run(run, told, preprocess, label="other")
