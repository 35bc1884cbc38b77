"""What stands on the page: numbers as in the file, every text escaped, odd runs told as they are."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import fake_run
import numpy as np
import pytest
from fake_pictures import write_pictures
from PIL import Image
from read_page import Tags, figures_in, page_of, plots_in, views_in

from chanattr.errors import InputError, StoreError
from chanattr.evidence.sets import overlap
from chanattr.pictures.report import page, report
from chanattr.pictures.report.answer import Section, answer, sections, sentence, spread
from chanattr.pictures.report.gallery import choose
from chanattr.pictures.report.layer import class_rows, compared_area
from chanattr.pictures.report.likeness import likeness
from chanattr.pictures.report.markup import element, script_json
from chanattr.pictures.report.start import depth_of
from chanattr.pictures.report.view import shrunk
from chanattr.records import ClassAttribution, ImageAttribution
from chanattr.store import open_run

BUNDLE = 1_500_041  # bytes of plotly on every page


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.write_run(tmp_path_factory.mktemp("run") / "made.h5")


@pytest.fixture(scope="module")
def text(run_file: Path) -> str:
    with open_run(run_file) as run:
        return report(run, run_file.with_name("made.html")).read_text(encoding="utf-8")


def test_counts_of_what_is_on_the_page(text: str) -> None:
    tags = Tags(text)
    assert tags.counts["figure"] == 3 + 2 * (2 + 1 + 6 * 2) + 2 * (23 - 1)  # start; a layer's, its likeness, its classes'; views
    assert len(plots_in(text)) == 2 * (2 + 6 * 2)
    assert len(views_in(text)) == tags.counts["canvas"] == 2 * (23 - 1)
    assert tags.counts["img"] == 23
    assert tags.counts["svg"] == 3 + 2
    assert "23 of 24 images that have a thumbnail" in text
    assert text.count("This image was not run at") == 2
    assert text.count("keeps no energy by area of this image") == 2 * 1


def test_nothing_is_asked_of_the_network_and_the_policy_forbids_it(text: str) -> None:
    assert Tags(text).outside == []
    assert 'content="default-src &#x27;none&#x27;; script-src' in text
    assert text.count("plotly.js (cartesian") == 1


def test_template_is_said_once(text: str) -> None:
    drawn = plots_in(text)
    assert all("template" not in figure["layout"] and "title" not in figure["layout"] for figure in drawn)
    assert text.count('"gridcolor":"#e3e7ec","linecolor"') == 2  # of the two axes


def test_every_colour_of_the_figures_has_its_counterpart_in_the_dark(text: str) -> None:
    known = json.loads(text.partition('id="shared">')[2].partition("</script>")[0])["night"]
    used = set(re.findall(r'"(#[0-9a-fA-F]{6}|rgba?\([^"]*\))"', json.dumps(plots_in(text))))
    assert "#ffffff" in used
    assert {colour.lower() for colour in used if not colour.endswith(",0)")} <= set(known)


def test_size(text: str) -> None:
    rest = len(text.encode()) - BUNDLE
    assert rest / (23 * 2) < 15_000


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    names = ["</script><script>alert(3)</script>", "<img src=x onerror=alert(4)>", "\u202etxt", "a b",
             "'\"><svg onload=alert(5)>", "{x}"]
    path, layer = tmp_path / "hostile.h5", "<b>'\"&.1/a b#%"
    label = np.arange(24, dtype="i4") % 6
    found = fake_run.image_record(layer)
    keys = ("<img src=x onerror=alert(1)>.jpg", "</script>.png", *found.keys[2:])
    with open_run(path, "a") as run:
        run.set_attributes(model="<script>alert(6)</script>", class_names=names)
        fake_run.write(run, dataclasses.replace(found, keys=keys), label)
        run.write(dataclasses.replace(fake_run.class_record(found), names=tuple(names)))
        write_pictures(run, layer, keys)
        run.set_attributes(evaluations={layer: {"exact": {"lines": [{"method": "<script>alert(7)</script>", "share": {"value": 0.5},
                                                                     "smallest": {"value": None}}]}}})
    text = page_of(path)
    tags = Tags(text)
    assert tags.handlers == []
    assert all(word not in text for word in ("<script>alert", "<img src=x", "<svg onload"))
    assert "<script>alert(7)</script>" in tags.texts["th"]
    assert text.count("<img src=x onerror=alert(1)>.jpg".replace("<", "\\u003c").replace(">", "\\u003e")) > 0  # in the words of examples
    assert tags.counts["script"] == len(figures_in(text)) + 4 + 1  # and the store of a layer's cards
    assert tags.counts["svg"] == 3 + 1  # of the page itself
    assert "<img src=x onerror=alert(1)>.jpg" in tags.texts["h3"]
    assert "\u202e" not in text
    assert all("<" not in re.sub(r"</?(b|br)>|</?span[^>]*>", "", json.dumps(figure["layout"])) for figure in plots_in(text))


def test_markup_escapes_all_but_markup() -> None:
    assert element("p", "<&>", element("b", '"'), None, title='"<\n') == '<p title="&quot;&lt;\ufffd">&lt;&amp;&gt;<b>&quot;</b></p>'
    value = {"a": "</script><!--\u2028&"}
    data = script_json(value)
    assert data.count("<") == 2
    assert json.loads(data.partition(">")[2].rpartition("<")[0]) == value


def section(found: ImageAttribution | None, classes: ClassAttribution | None = None) -> Section:
    return Section("layer3", "exact", True, found, classes)


def small(**changes: object) -> ImageAttribution:
    """Six images with a* 2, 4, 8, none, the empty set and not run; the first five named rightly by the network."""
    found = fake_run.image_record(images=6)
    values = {"smallest_area": np.array([2, 4, 8, -1, 0, -2], "i4"), "predictions": np.array([0, 1, 2, 3, 4, 0], "i4"),
              "smallest_top1": np.array([True, True, False, False, True, False])}
    return dataclasses.replace(found, **(values | changes))


LABELS = np.arange(6, dtype="i4")


def test_answer_counts() -> None:
    given = answer(small(), LABELS)
    assert (given.run, given.median, given.not_reached, given.empty) == (5, 3.0, 1, 1)
    assert (given.right, given.kept, given.labelled) == (5, 3, True)
    wrong = answer(small(), np.array([0, 1, 5, 3, -1, -1], "i4"))
    assert (wrong.right, wrong.kept) == (3, 2)
    unknown = answer(small(), np.full(6, -1, "i4"))
    assert (unknown.right, unknown.kept, unknown.labelled) == (5, 3, False)


def test_answer_in_words() -> None:
    said = sentence(section(small()), LABELS)
    assert said == ("The median image needs 3 of 256 channels (1.2%) to score as high as with all of them. Those channels alone keep 3 "
                    "of the network's 5 right answers. 1 of 5 images never reach the level; 1 reaches it with no channel at all.")
    settings = dataclasses.replace(small().settings, game="delete", level="top1")
    said = sentence(section(small(settings=settings)), LABELS)
    assert "loses its answer when 3 of 256 channels (1.2%) are dropped. Without them 2 of the network's 5 right answers are gone." in said
    assert "No set of channels was found" in sentence(section(small(smallest_area=np.full(6, -1, "i4"))), LABELS)
    assert spread(section(small())) == "a* goes from 0 to 8 channels over 4 images; for the middle half of them from 1.5 to 5."
    alike = small(smallest_area=np.array([1, 1, 1, -1, 1, -2], "i4"))
    assert spread(section(alike)) == "a* is 1 channel for all 4 images."


def test_views_hold_the_records_numbers(run_file: Path, text: str) -> None:
    with open_run(run_file) as run:
        shown = [s.key for s in choose(run, run.images().label, 200)]
        found = run.per_image("layer3", rows=shown)
    views = iter(views_in(text))
    for row in np.flatnonzero(found.smallest_area != -2):
        one, smallest = next(views), int(found.smallest_area[row])
        places = [place for place, area in enumerate(one["area"]) if area != smallest or smallest < 1]
        kept = [place for place, area in enumerate(found.areas.tolist()) if area != smallest or smallest < 1]
        assert [one["area"][place] for place in places] == found.areas[kept].tolist()
        np.testing.assert_allclose([one["score"][place] for place in places], found.scores[row, kept], rtol=1e-4)
        assert [one["kept"][place] == "1" for place in places] == found.top1[row, kept].tolist()
        assert (one["star"] >= 0) == (smallest > 0)
        if smallest > 0:
            assert one["area"][one["star"]] == smallest
            assert one["score"][one["star"]] == pytest.approx(float(found.smallest_score[row]), rel=1e-4)
        assert one["part"] == [0.0625, 0.0625, 0.9375, 0.9375]
        by_area = np.isfinite(found.energy_by_area[row]).all()
        assert one["has"].count("1") == (len(one["area"]) if by_area else int(smallest > 0))
        with Image.open(io.BytesIO(base64.b64decode(one["strip"].partition(",")[2]))) as strip:
            assert strip.size == (14, 14 * one["has"].count("1"))


def test_large_grids_become_small_maps_of_the_same_mean() -> None:
    energy = np.random.default_rng(0).random((28, 30)).astype("f4")
    made = shrunk(energy)
    assert made.shape == (14, 14)
    np.testing.assert_allclose(made[0, 0], energy[:2, :2].mean(), rtol=1e-5)
    assert shrunk(energy[:9, :14]).tolist() == energy[:9, :14].tolist()


def test_start_says_what_is_and_what_is_not_known(text: str, tmp_path: Path) -> None:
    assert text.count('class="card start"') == 3
    assert "a* sets were not certified at <code>layer3, layer4.1.conv2</code>" in text
    assert "on images held out (mean over 5 classes)" in text
    assert "chanattr evaluate" in text
    found = fake_run.image_record()
    some = {"irreducible": np.where(found.smallest_area > 0, np.arange(24) % 2, -1).astype("i1")}
    path = tmp_path / "certified.h5"
    with open_run(path, "a") as run:
        fake_run.write(run, dataclasses.replace(found, settings=dataclasses.replace(found.settings, certify=True), **some),
                       np.full(24, -1, "i4"))
    count = int((found.smallest_area > 0).sum())
    assert f"{int((some['irreducible'] == 1).sum())} of {count} a* sets are irreducible" in page_of(path)


@pytest.mark.parametrize("held", [3, {"layer3": 3}, {"layer3": {"exact": {}}}, {"layer3": {"exact": {"lines": [{"method": "x"}]}}},
                                  {"layer3": {"exact": {"lines": [{"method": "x", "share": [], "smallest": "a"}]}}}])
def test_tables_of_methods_that_cannot_be_read_are_left_out(tmp_path: Path, held: object) -> None:
    path = fake_run.write_run(tmp_path / "odd.h5", images=6, layers=("layer3",), classes=False)
    with open_run(path, "a") as run:
        run.set_attributes(evaluations=held)
    assert "chanattr evaluate" in page_of(path)


def test_the_evidence_tells_of_the_joint_sets_that_the_table_compares(run_file: Path, text: str) -> None:
    with open_run(run_file) as run:
        classes = run.per_class("layer3")
    area = compared_area(classes)
    assert area is not None
    assert classes.areas.tolist().index(area) != len(classes.areas) // 2
    evidence = text.partition('id="evidence"')[2].partition("</section>")[0]
    assert f"joint sets of {area} channels score" in evidence
    assert f">{area} joint channels</th>" in text


def test_depth_is_of_the_records() -> None:
    found = small()
    assert depth_of(section(found)) == pytest.approx((0, 2 / 256 * 0.75, 3 / 256, 5 / 256, 8 / 256))
    assert np.isnan(depth_of(section(small(smallest_area=np.full(6, -1, "i4")))).median)


def test_the_matrix_is_of_the_joint_sets(run_file: Path) -> None:
    with open_run(run_file) as run:
        first = sections(run)[0]
    assert first.classes is not None
    area = compared_area(first.classes)
    drawn = Tags(str(likeness(first, area, {0, 1, 2, 3, 4})))
    shared = overlap(first.classes, area)
    assert drawn.counts["rect"] == 6 * 6 + 6
    assert drawn.counts["a"] == 5  # one class has no place of its own
    row = shared.jaccard[3].copy()
    row[3] = -1
    best = int(row.argmax())
    assert f"{fake_run.NAMES[3]}: most like {fake_run.NAMES[best]}, {row[best]:.0%} shared" in drawn.texts["title"]
    assert likeness(first._replace(classes=first.classes[[0]]), area, {0}) is None
    assert likeness(first._replace(classes=None), area, set()) is None


def test_class_rows_are_the_records_numbers(run_file: Path) -> None:
    with open_run(run_file) as run:
        first = sections(run)[0]
        labels, classes = run.images().label, run.per_class("layer3")
        whole = run.per_image("layer3")
    assert first.found is not None
    assert first.found.smallest_area.tolist() == whole.smallest_area.tolist()
    rows = class_rows(first, labels)
    place = classes.areas.tolist().index(compared_area(classes))
    for number, row in enumerate(rows):
        mine = (labels == row.target) & (whole.smallest_area >= 0) & (whole.targets == row.target)
        right = (labels == row.target) & (whole.predictions == row.target) & (whole.smallest_area != -2)
        assert row.median == np.median(whole.smallest_area[mine])
        assert (row.kept, row.right) == (int((right & whole.smallest_top1).sum()), int(right.sum()))
        assert row.searched == pytest.approx(float(classes.joint_scores[number, place]))
        assert list(row.top) == classes.channels(row.target, 5, source="mean").tolist()
    assert np.isnan(rows[5].held_out)


@pytest.mark.parametrize("unit", ["groups", "heads"])
def test_a_class_of_a_run_with_groups_tells_of_groups(tmp_path: Path, unit: str) -> None:
    found = fake_run.image_record(channels=16, seed=3)
    asked = dataclasses.replace(found.settings, group="given" if unit == "groups" else unit)
    grouped = {"settings": asked, "groups": np.arange(64, dtype="i4") // 4, "fill_values": np.zeros(64, "f4")}
    classes, found = dataclasses.replace(fake_run.class_record(found), **grouped), dataclasses.replace(found, **grouped)
    path = tmp_path / "groups.h5"
    with open_run(path, "a") as run:
        fake_run.write(run, found, np.arange(24, dtype="i4") % 6)
        run.write(classes)
    [article] = re.findall(r'<article data-class="1".*?</article>', page_of(path))
    said = re.sub(r"<script.*?</script>", "", article)
    assert f"The {int(classes.smallest_mask[1].sum())} {unit} of the joint a* set" in said
    assert re.search(rf" \d of the 5 top {unit} are in it. {compared_area(classes)} joint {unit} score ", said)
    assert f"{unit.capitalize()} its images need" in said
    assert f"<b>{unit[:-1]} {classes.channels(1, 1, source='mean')[0]}</b>" in said
    assert "channels" not in re.sub('class="channels"', "", said)


def test_images_come_in_turn_from_every_class(run_file: Path) -> None:
    with open_run(run_file) as run:
        labels = run.images().label
        assert [s.label for s in choose(run, labels, 8)] == [0, 0, 1, 1, 2, 3, 4, 5]
        assert len(choose(run, labels, 100)) == 23


def test_fewer_images_and_classes_are_told(run_file: Path) -> None:
    text = page_of(run_file, images=4, classes=2)
    assert "4 of 24 images that have a thumbnail, taken in turn from every class; the other 20 are in the file." in text
    assert text.count("4 of 6 classes are in the table only; the 2 with the most images have figures.") == 2
    assert Tags(text).counts["img"] == 4


def test_without_classes_thumbnails_labels_and_names(tmp_path: Path) -> None:
    text = page_of(fake_run.write_run(tmp_path / "bare.h5", layers=("layer3",), classes=False, thumbnails=False, labels=False, names=False))
    assert "No classes were searched at this layer" in text
    assert "The file keeps no thumbnails" in text
    assert "Those channels alone keep" in text
    assert "right answers" not in text.partition("<main>")[0].partition("<header>")[2]
    assert Tags(text).counts["figure"] == 3 + 1 + 23


def test_a_layer_without_a_grid_has_no_maps_and_says_why(tmp_path: Path) -> None:
    found = fake_run.image_record(grid=1)
    path = tmp_path / "linear.h5"
    with open_run(path, "a") as run:
        fake_run.write(run, found, np.full(24, -1, "i4"))
    text = page_of(path)
    assert "canvas" not in Tags(text).counts
    assert text.count("is one number for the whole image") == len(views_in(text)) == 22
    assert all("strip" not in one and "1" not in one["has"] for one in views_in(text))
    assert "glow: where" not in text
    assert "the map is that of a*" not in text


def test_only_the_smallest_was_asked(tmp_path: Path) -> None:
    found = fake_run.image_record()
    none = {"areas": found.areas[:0], "masks": found.masks[:, :0], "scores": found.scores[:, :0], "top1": found.top1[:, :0],
            "energy_by_area": found.energy_by_area[:, :0], "settings": dataclasses.replace(found.settings, areas=())}
    path = tmp_path / "smallest.h5"
    with open_run(path, "a") as run:
        fake_run.write(run, dataclasses.replace(found, **none), np.full(24, -1, "i4"))
    text = page_of(path)
    assert "none: only a* was asked" in text
    assert text.count("Only a* was searched") == 22
    assert {len(one["area"]) for one in views_in(text)} == {0, 1}


def test_scores_that_are_not_numbers(tmp_path: Path) -> None:
    found = fake_run.image_record(images=6)
    nan = {name: np.full_like(getattr(found, name), np.nan) for name in ("scores", "original", "empty", "smallest_score", "energy")}
    path = tmp_path / "nan.h5"
    with open_run(path, "a") as run:
        fake_run.write(run, dataclasses.replace(found, **nan), np.zeros(6, "i4"))
    text = page_of(path)
    assert "NaN" not in "".join(map(json.dumps, figures_in(text)))


def test_several_labels_at_a_layer_and_classes_alone(tmp_path: Path) -> None:
    found = fake_run.image_record()
    other = dataclasses.replace(found, settings=dataclasses.replace(found.settings, reward="contrastive"))
    path = tmp_path / "labels.h5"
    with open_run(path, "a") as run:
        fake_run.write(run, found, np.full(24, -1, "i4"))
        fake_run.write(run, other, np.full(24, -1, "i4"), under="a b/c")
        run.write(fake_run.class_record(found), "classes only")
    text = page_of(path)
    assert '"sections":["layer3","layer3/a%20b%2Fc","layer3/classes%20only"]' in text
    assert "Asked otherwise here: score: logit less the best other logit" in text
    assert "Only classes were searched here: 6 of them" in text


def test_more_classes_than_the_matrix_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.pictures.report.layer.CLASSES_IN_MATRIX", 3)
    text = page_of(fake_run.write_run(tmp_path / "many.h5", layers=("layer3",)))
    assert "The matrix shows the 3 classes with the most images, of 6." in text


def test_replaced_in_one_step_and_nothing_left_behind(run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    target.write_text("old")

    def fail(source: object, to: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.os, "replace", fail)
    with open_run(run_file) as run, pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); expected .*; choose"):
        report(run, target, images=1, classes=1)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert target.read_text() == "old"


def test_refusals(run_file: Path, tmp_path: Path) -> None:
    with open_run(run_file) as run:
        with pytest.raises(StoreError, match="would overwrite the run file"):
            report(run, run_file)
        for own in (".lock", ".merging", ".parts/000001.h5"):
            with pytest.raises(StoreError, match=r"would overwrite the run file .* or its lock or parts"):
                report(run, f"{run_file}{own}")
        with pytest.raises(StoreError, match="cannot be written"):
            report(run, tmp_path / "no" / "page.html")
        with pytest.raises(StoreError, match="cannot be written"):
            report(run, tmp_path)
        with pytest.raises(InputError, match="images=0; expected a whole number from 1"):
            report(run, tmp_path / "page.html", images=0)
    with open_run(tmp_path / "empty.h5", "a") as run, pytest.raises(StoreError, match="holds no answers yet"):
        report(run, tmp_path / "page.html")
