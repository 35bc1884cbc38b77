"""Files, folders and globs become keys and labels; a folder that is no class is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import chanattr as ca
from chanattr.images import class_of, find_images
from tests.images.make import IDS, NAMES, fill


def found(paths: object, **options: object) -> dict[str, int]:
    return {one.key: one.label for one in find_images(paths, class_names=NAMES, wordnet_ids=IDS, **options)}  # type: ignore[arg-type]


def test_class_folders_by_number_name_and_wordnet_id(tmp_path: Path) -> None:
    fill(tmp_path, "0_whatever/a.png", "red fox/b.png", "n02110958/c.png", "002_crane/deep/er/d.png", "003_crane/e.png")
    assert found(tmp_path) == {"0_whatever/a.png": 0, "red fox/b.png": 1, "n02110958/c.png": 4, "002_crane/deep/er/d.png": 2,
                               "003_crane/e.png": 3}


@pytest.mark.parametrize("name", ["crane", "fox", "Tench", "5_none", "1", "0x1_a", "n00000000"])
def test_any_other_class_folder_is_refused_never_numbered_by_the_alphabet(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "tench/a.png", f"{name}/b.png")
    with pytest.raises(ca.InputError, match=rf"1 of 2 folders in .* name no class: '{name}'; expected NNN_name \(NNN from 0 to 4\), "
                                            "a class name .*, or a WordNet id such as n02110341; rename"):
        find_images(tmp_path, class_names=NAMES, wordnet_ids=IDS)


def test_where_no_classes_are_known_a_number_will_do(tmp_path: Path) -> None:
    fill(tmp_path, "007_bond/a.png")
    assert [one.label for one in find_images(tmp_path)] == [7]
    fill(tmp_path, "tench/a.png")
    with pytest.raises(ca.InputError, match="this model tells no names"):
        find_images(tmp_path)


def test_the_listing_of_wrong_folders_is_short(tmp_path: Path) -> None:
    fill(tmp_path, *(f"class{number:02}/a.png" for number in range(30)))
    with pytest.raises(ca.InputError, match=r"30 of 30 folders .* 'class07' \.\.\.; expected"):
        find_images(tmp_path, class_names=NAMES)


def test_pictures_directly_in_a_folder_have_no_label(tmp_path: Path) -> None:
    fill(tmp_path / "holiday", "b.png", "a.png", "4_pug/c.png")
    assert found(tmp_path / "holiday") == {"a.png": -1, "b.png": -1, "4_pug/c.png": 4}


def test_a_class_folder_by_itself_has_its_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "red fox", "a.png", "more/b.png")
    assert found(tmp_path / "red fox") == {"a.png": 1, "more/b.png": 1}
    monkeypatch.chdir(tmp_path / "red fox")
    assert found(".") == {"a.png": 1, "more/b.png": 1}


def test_files_and_globs_have_no_label_and_folders_of_a_glob_have(tmp_path: Path) -> None:
    fill(tmp_path, "0_tench/a.png", "0_tench/b.png", "1_fox/c.png")
    assert found(str(tmp_path / "*" / "*.png")) == {"0_tench/a.png": -1, "0_tench/b.png": -1, "1_fox/c.png": -1}
    assert found(str(tmp_path / "*")) == {"0_tench/a.png": 0, "0_tench/b.png": 0, "1_fox/c.png": 1}
    assert found(tmp_path / "0_tench" / "a.png") == {"a.png": -1}
    assert found(str(tmp_path / "**" / "a.png")) == {"a.png": -1}


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    fill(tmp_path, "a[1].png", "a1.png")
    assert list(found(tmp_path / "a[1].png")) == ["a[1].png"]


def test_the_root_of_keys(tmp_path: Path) -> None:
    fill(tmp_path, "x/0_a/a.png", "x/1_b/b.png", "y.png")
    assert list(found([tmp_path / "x" / "0_a", tmp_path / "x" / "1_b"])) == ["0_a/a.png", "1_b/b.png"]
    assert list(found([tmp_path / "x" / "0_a" / "a.png", tmp_path / "y.png"])) == ["x/0_a/a.png", "y.png"]
    assert list(found(tmp_path / "x", root=tmp_path)) == ["x/0_a/a.png", "x/1_b/b.png"]
    with pytest.raises(ca.InputError, match="does not lie under the root"):
        found(tmp_path / "x", root=tmp_path / "x" / "0_a")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path / "store", "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0_tench").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "round").symlink_to(tmp_path / "store")
    assert found(tmp_path / "set") == {"0_tench/a.png": 0}


def test_files_of_another_kind_and_hidden_ones_are_left_out_of_a_folder(tmp_path: Path) -> None:
    fill(tmp_path, "a.PNG", "._a.png", ".cache/b.png")
    (tmp_path / "notes.txt").write_text("notes")
    assert list(found(tmp_path)) == ["a.PNG"]


@pytest.mark.parametrize("again", ["a.png", ".", "../images/a.png", "*.png"])
def test_a_file_given_twice_is_refused(tmp_path: Path, again: str) -> None:
    folder = fill(tmp_path / "images", "a.png", "b.png")
    with pytest.raises(ca.InputError, match=r"a\.png came twice, with key 'a\.png'; expected every image once"):
        find_images([folder / "a.png", str(folder / again)], root=folder)


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ca.InputError, match=r"holds no picture; expected files ending in \.bmp, \.gif, \.jp2, \.jpeg"):
        find_images(tmp_path)
    with pytest.raises(ca.InputError, match=r"x\*\.png' is not there, looked for from .*; expected a glob that matches something"):
        find_images(str(tmp_path / "x*.png"))
    with pytest.raises(ca.InputError, match=r"nothere' is not there, .* expected a file, a folder or a glob"):
        find_images(tmp_path / "nothere")
    with pytest.raises(ca.InputError, match=r"paths=\[\]; expected a list of picture files"):
        find_images([])


def test_a_class_of_two_names_needs_its_number() -> None:
    assert class_of("crane", NAMES, IDS) is None
    assert class_of("3_crane", NAMES, IDS) == 3
    assert class_of("pug", NAMES, IDS) == 4
