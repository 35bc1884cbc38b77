"""Contact sheets: what is cut where words are longer than a picture is wide."""

from __future__ import annotations

import numpy as np

import chanattr as ca
from chanattr.cli.pictures import inversion_rows
from chanattr.pictures.sheet import SheetRow, contact_sheet
from chanattr.runs.pictures import Inverted

BEFORE = "256.ObjectCategories/101.head-phones-and-much-more-of-it/101_image_"
GREY = np.full((8, 8, 3), 128, np.uint8)


def drawn(words: str, keys: bool) -> np.ndarray:
    return contact_sheet([SheetRow("", (GREY,), (words,), keys)], side=120)


def test_keys_that_differ_at_their_end_are_told_apart() -> None:
    assert not np.array_equal(drawn(BEFORE + "0003.jpg", keys=True), drawn(BEFORE + "0004.jpg", keys=True))
    assert np.array_equal(drawn("a/" + BEFORE + "0003.jpg", keys=True), drawn("b/" + BEFORE + "0003.jpg", keys=True))
    assert np.array_equal(drawn("...e_0003.jpg", keys=True), drawn("...e_0003.jpg", keys=False))  # what fits is not cut
    assert not np.array_equal(drawn("", keys=True), drawn(BEFORE, keys=True))


def test_other_words_lose_their_end() -> None:
    assert np.array_equal(drawn("0.87 " + BEFORE + "0003.jpg", keys=False), drawn("0.87 " + BEFORE + "0004.jpg", keys=False))
    assert not np.array_equal(drawn("0.87 " + BEFORE, keys=False), drawn("0.88 " + BEFORE, keys=False))


def test_the_sheet_of_inversions_says_which_of_its_words_are_keys() -> None:
    ones = np.ones(1, np.float32)
    made = ca.Inversion(layer="mix", settings=ca.PictureSettings(), keys=(BEFORE,), masks=np.ones((1, 4), np.float32), pictures=GREY[None],
                        originals=GREY[None], value=ones, cosine=ones, kept_cosine=ones, targets=np.zeros(1, np.int32),
                        predictions=np.zeros(1, np.int32), probability=ones)
    assert [row.keys for row in inversion_rows(Inverted(made, made), ())] == [True, False, False]
