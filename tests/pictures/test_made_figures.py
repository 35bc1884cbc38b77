"""Figures of pictures that were made: panels and cards carry the records' numbers, names are escaped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from chanattr.errors import InputError
from chanattr.picture_records import ChannelImages, Examples, Inversion
from chanattr.picture_settings import CHANNEL, INVERSION, PictureSettings
from chanattr.pictures import figures
from tests.pictures.fake_run import image_record


def inversion(kept: int = 2, keys: tuple[str, ...] = ("a", "<b>")) -> Inversion:
    grey = np.arange(2 * 8 * 8 * 3, dtype=np.uint32).reshape(2, 8, 8, 3).astype(np.uint8)
    masks = np.zeros((2, 4), np.float32)
    masks[:, :kept] = 1
    return Inversion(layer="features.7", settings=PictureSettings(**INVERSION), keys=keys, masks=masks, pictures=grey, originals=255 - grey,
                     value=np.array([1.0, 2.0]), cosine=np.array([0.9, 0.5]), kept_cosine=np.array([0.9, 0.8]),
                     targets=np.array([0, 1]), predictions=np.array([0, 2]),
                     probability=np.array([0.7, 0.1]))


def channels(names: tuple[str, ...] = ("channel 3", "channel <9>")) -> ChannelImages:
    return ChannelImages(layer="features.7", settings=PictureSettings(**CHANNEL), names=names, weights=np.eye(4)[:2],
                         pictures=np.zeros((2, 3, 8, 8, 3), np.uint8), value=np.array([[1, 2, 3], [4, 5, 1234.5]]),
                         predictions=np.zeros((2, 3), int), probability=np.zeros((2, 3)))


def examples(kind: str = "needed") -> Examples:
    return Examples(layer="features.7", kind=kind, channels=np.array([3, 9]), names=("channel 3", "channel <9>"), keys=("a", "b"),
                    rows=np.array([[1, 0], [0, -1]]), value=np.array([[2.5, -0.5], [1.0, np.nan]]), position=np.zeros((2, 2, 2), int),
                    boxes=np.zeros((2, 2, 4), int), crops=np.full((2, 2, 6, 6, 3), 255, np.uint8))


def test_panels_are_of_every_image_and_record() -> None:
    data = figures.inversions_data([inversion(4), inversion(2)], names=["flamingo", "dog", "cat<i>"])
    assert data.titles == ("features.7: whole", "features.7: 2 of 4")
    assert data.pictures.shape == (2, 2, 8, 8, 3)
    assert data.cosine.tolist() == [[0.9, 0.9], [0.5, 0.5]]
    assert data.named == (("flamingo", "flamingo"), ("cat<i>", "cat<i>"))
    assert data.right.tolist() == [[True, True], [False, False]]


def test_the_figure_of_inversions() -> None:
    figure = figures.inversions([inversion(4), inversion(2)], ["whole", "a*"], names=["flamingo", "dog", "cat<i>"])
    said = [note.text for note in figure.layout.annotations]
    assert len(figure.layout.images) == 6
    assert said[:3] == ["<b>image</b>", "<b>whole</b>", "<b>a*</b>"]
    assert "cosine 0.90<br>flamingo" in said
    assert "cosine 0.50, in the set 0.80<br>cat&lt;i&gt;" in said
    assert "&lt;b&gt;" in said
    assert figure.layout.title.subtitle.text == "right class named · whole: 1 of 2 · a*: 1 of 2"


def test_answers_lay_their_energy_over_the_images() -> None:
    found = image_record(images=2)
    found = dataclasses.replace(found, keys=("<b>", "a"))
    figure = figures.inversions([inversion(2)], ["a*"], found=found)
    assert len(figure.layout.images) == 6
    said = [note.text for note in figure.layout.annotations]
    assert said[:3] == ["<b>image</b>", "<b>where a* is active</b>", "<b>a*</b>"]
    assert f"a* = {found.smallest_area[1]}" in said  # by key, not by row
    with pytest.raises(InputError, match="expected answers for all of these images"):
        figures.inversions([inversion(2)], found=found[[0]])


@pytest.mark.parametrize(("made", "titles", "message"), [
    ([], None, "0 inversions"), ([inversion(), inversion(keys=("a", "c"))], None, "expected one or more records of the same images"),
    ([inversion()], ["a", "b"], "2 titles for 1 inversions"),
])
def test_inversions_that_do_not_belong_together(made: list[Inversion], titles: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        figures.inversions(made, titles)


def test_cards_have_a_part_for_each_kind() -> None:
    data = figures.channel_cards_data(channels(), examples("driven"), examples("needed"))
    assert [part.head for part in data.parts] == ["made", "images that drive it", "images that need it"]
    assert data.parts[0].below[1] == ("4", "5", "1.23e+03")
    assert data.parts[1].below == (("2.5", "-0.5"), ("1", ""))
    assert data.parts[2].below == (("−2.50", "+0.50"), ("−1.00", ""))
    assert data.parts[2].there.tolist() == [[True, True], [True, False]]


def test_the_figure_of_cards() -> None:
    figure = figures.channel_cards(channels(), examples("driven"), title="<script>")
    assert len(figure.layout.images) == 6 + 3
    said = [note.text for note in figure.layout.annotations]
    assert "channel &lt;9&gt;" in said
    assert "script" in figure.layout.title.text
    assert "<script>" not in figure.layout.title.text


def test_cards_of_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match="expected the same channels in the same order"):
        figures.channel_cards(channels(("channel 1", "channel 2")), examples())


def test_grey_pictures_are_drawn() -> None:
    made = dataclasses.replace(channels(), pictures=np.zeros((2, 3, 8, 8, 1), np.uint8))
    assert figures.channel_cards_data(made).parts[0].pictures.shape == (2, 3, 8, 8, 3)
