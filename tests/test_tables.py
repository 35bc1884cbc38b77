"""What records show of themselves in a notebook: their numbers, escaped, of bounded size, without colours of their own."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from chanattr import tables
from chanattr.attribution.bench import Bench, Way
from chanattr.attribution.explain import Between, Explanation
from chanattr.evidence.class_records import HeldOut, Specificity
from chanattr.evidence.compare import Comparison
from chanattr.evidence.curves import Curves
from chanattr.evidence.evaluation import Evaluation
from chanattr.evidence.joint import JointView
from chanattr.evidence.pixel_curves import PixelCurves
from chanattr.evidence.pointing import Pointing
from chanattr.evidence.randomised import Sanity
from chanattr.evidence.sets import Overlap
from chanattr.evidence.stability import Robust, Stability
from chanattr.network.explain import Layout
from chanattr.network.layers import Layer
from chanattr.picture_records import ChannelImages, Examples, Inversion
from chanattr.picture_settings import CHANNEL, INVERSION, PictureSettings
from tests.pictures.fake_run import class_record, image_record, settings
from tests.pictures.test_spatial_figures import made as spatial_record

KEY, NAME = "<img src=x onerror=alert(1)>.jpg", '</script><b title="x">'


class Reader(HTMLParser):
    """Tags, attributes and cells of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.cells:
            self.cells[-1] += data


def evaluation() -> Evaluation:
    return Evaluation(layer=NAME, settings=settings("layer3", 16), methods=("exact", NAME), keys=(KEY, "b"), areas=np.array([2, 4]),
                      scores=np.array([[[2.0, 4], [1, 3]], [[1, 2], [1, 2]]]), top1=np.ones((2, 2, 2), bool),
                      smallest_area=np.array([[3, 5], [6, 8]]), deletion_area=np.array([[1, 2], [2, 4]]), evaluations=np.full((2, 2), 80.0),
                      seconds=np.zeros((2, 2)), original=np.ones(2), empty=np.zeros(2), entries=16)


def pointing() -> Pointing:
    return Pointing(keys=(KEY, "b"), targets=np.zeros(2, int), hit=np.array([1, 0]), points=np.zeros((2, 2)), distance=np.zeros(2),
                    inside=np.array([True, False]), difficult=np.zeros(2, bool), energy=np.array([0.5, 0.25]), share=np.array([0.1, 0.1]),
                    tolerance=15, smooth=0.0, padding="zero")


def specificity() -> Specificity:
    half = np.array([[1.0, 0.25], [0.5, 0.75]])
    return Specificity(layer="layer3", settings=settings("layer3", 16), game="preserve", count=4, source="joint", seed=-1,
                       names=(NAME, ""), targets=np.array([0, 7]), sizes=np.array([4, 4]), images=np.array([3, 3]), accuracy=half,
                       logits=half, original_accuracy=np.ones(2), original_logits=np.ones(2), random_accuracy=half * np.nan,
                       random_logits=half * np.nan)


def inversion() -> Inversion:
    grey = np.zeros((1, 8, 8, 3), np.uint8)
    return Inversion(layer="features.7", settings=PictureSettings(**INVERSION), keys=(KEY,), masks=np.ones((1, 4), np.float32),
                     pictures=grey, originals=grey, value=np.ones(1), cosine=np.array([0.625]), kept_cosine=np.array([0.75]),
                     targets=np.zeros(1, int), predictions=np.ones(1, int), probability=np.array([0.5]))


def channels() -> ChannelImages:
    return ChannelImages(layer="features.7", settings=PictureSettings(**CHANNEL), names=(NAME,), weights=np.eye(4)[:1],
                         pictures=np.zeros((1, 2, 8, 8, 3), np.uint8), value=np.array([[1.0, 2.5]]), predictions=np.array([[3, 4]]),
                         probability=np.array([[0.1, 0.2]]))


def examples() -> Examples:
    return Examples(layer="features.7", kind="needed", channels=np.array([3, 9]), names=(NAME, "channel 9"), keys=(KEY,),
                    rows=np.array([[0], [-1]]), value=np.array([[2.5], [np.nan]]), position=np.zeros((2, 1, 2), int),
                    boxes=np.zeros((2, 1, 4), int), crops=np.zeros((2, 1, 6, 6, 3), np.uint8))


def sanity() -> Sanity:
    return Sanity(layer=NAME, random=("", NAME), depth=np.array([0, 1]), after=np.array([True, True]), jaccard=np.ones((2, 1, 1)),
                  chance=np.zeros((2, 1, 1)), rank=np.ones((2, 1)), similarity=np.array([1.0, 0.25]), limit=0.5, verdict="passes")


def joint() -> JointView:
    one = np.full((1, 1), 0.375)
    return JointView(layers=(NAME,), keys=(KEY,), masks=(np.ones((1, 2, 2)),), energies=(np.ones((1, 2, 2)),), overlap=one,
                     correlation=one * np.nan, inside=one, share=one, areas=np.array([0.2]))


def curves() -> Curves:
    drawn, right = np.full((2, 3), 0.5), np.ones((2, 3), bool)
    return Curves(layer=NAME, keys=(KEY, "b"), counts=np.array([0, 4, 16]), insertion=drawn, deletion=drawn, insertion_probability=drawn,
                  deletion_probability=drawn, insertion_top1=right, deletion_top1=right, insertion_top5=right, deletion_top5=right,
                  insertion_area=np.array([6.5, 7.5]), deletion_area=np.array([1.25, 2.25]),
                  insertion_probability_area=np.array([0.75, 0.5]), deletion_probability_area=np.array([0.125, 0.25]),
                  fidelity=np.array([0.875, np.nan]))


def pixels() -> PixelCurves:
    drawn = np.full((2, 3), 0.5)
    return PixelCurves(keys=(KEY, "b"), targets=np.array([3, 4]), counts=np.array([0, 8, 16]), shares=np.array([0, 0.5, 1]),
                       insertion=drawn, deletion=drawn, insertion_score=drawn, deletion_score=drawn, insertion_area=np.array([0.75, 0.5]),
                       deletion_area=np.array([0.125, 0.25]), insertion_score_area=np.array([6.5, 7.5]),
                       deletion_score_area=np.array([1.25, 2.25]), insertion_base="blur", deletion_base="zero")


def comparison() -> Comparison:
    return Comparison(layer=NAME, keys=(KEY, "b"), areas=np.array([2, 4]), jaccard=np.array([[1, 0.5], [0.5, np.nan]]),
                      chance=np.array([0.125, 0.25]), smallest_jaccard=np.array([0.375, np.nan]),
                      smallest_chance=np.array([0.0625, np.nan]), rank=np.array([0.5, 1.0]))


def stability() -> Stability:
    return Stability(layer="layer3", keys=(KEY, "b"), changes=(NAME, "fill mean"), comparisons=(comparison(),) * 2,
                     smallest_area=np.array([3, -1]), changed_area=np.array([[5, 4], [-1, 2]]), similarity=np.array([0.75, np.nan]),
                     smallest_similarity=np.array([0.625, 0.5]), rank=np.array([0.875, 0.25]))


def robust() -> Robust:
    masks, higher, lower = np.ones((1, 2, 4), bool), np.array([[2.5, 3.5]]), np.array([[2.0, 3.25]])
    return Robust(layer="layer3", keys=(KEY,), targets=np.zeros(1, int), areas=np.array([2, 4]), views=(NAME,), unseen=("crop",),
                  masks=masks, plain_masks=masks, scores=lower, plain_scores=higher, unseen_scores=higher, plain_unseen_scores=lower,
                  original=np.ones(1), empty=np.zeros(1))


def held_out() -> HeldOut:
    figures = np.zeros((1, 2, 3, 5))
    right = figures.copy()
    right[0, 0, :2, 0], right[0, 1, 2, 4] = 0.5, np.nan
    return HeldOut(layer="layer3", settings=(settings("layer3", 64),), methods=("joint", NAME), names=("cat", ""), targets=np.array([0, 7]),
                   counts=np.array([1, 2, 8, 16, 32]), folds=2, classes=np.array([0, 0, 1]), fold=np.array([0, 1, -1]),
                   masks=np.zeros((1, 2, 2, 2, 5, 64), bool), scores=figures, top1=right, log_probability=figures, logits=figures,
                   original_top1=np.array([1.0, 0.5, 0.75]), original_log_probability=np.zeros(3), original_logits=np.zeros(3),
                   reaching=np.zeros((1, 2, 2), int), evaluations=np.array([[1200.0, 3.0]]), groups=np.arange(64))


def overlap() -> Overlap:
    return Overlap(names=(NAME, "cat", "dog"), sizes=np.array([8, 8, -1]), shared=np.array([[8, 3, 0], [3, 8, 0], [0, 0, 0]]),
                   jaccard=np.array([[1, 0.375, np.nan], [0.375, 1, np.nan], [np.nan] * 3]),
                   expected=np.array([[1, 0.125, np.nan], [0.125, 1, np.nan], [np.nan] * 3]), channels=512)


def explanation() -> Explanation:
    layer = Layer(name="layer3", type="ReLU", calls=1, shape=(1, 256, 4, 4), channel_axis=1, channels=256, grid=(4, 4))
    return Explanation(model=NAME, layer=layer, layout=Layout(name="NCHW", grid=(4, 4)), engine="tail (export)", reason="", bypasses=(),
                       rows=(2, 2), ready_seconds=0.0, stem_seconds=0.0, seconds=0.25, whole_seconds=1.0, areas=(2, 4, 8),
                       search="exact", evaluations=1234.4, refine=Between(2.0, 4.0), smallest=Between(20.0, 40.0),
                       batch_size=8, kept=1, needed=1, images=1000, device="cpu")


def benched() -> Bench:
    ways = tuple(Way(name=name, engine=NAME, images=2, seconds=(seconds,), evaluations=300.0, peak=1, score=None, share=share, smallest=())
                 for name, seconds, share in (("plain", 12.0, 0.875), ("refine=False", 0.5, None)))
    return Bench(model="Net", layer=NAME, channels=256, device="cpu", threads=2, torch="2", areas=(2, 4), images=2, plain_images=1,
                 steps=300, batch_size=8, ready_seconds=1.0, again_seconds=0.0, bare_rate=1.0, multiplications=0, peak_of_process=False,
                 ways=ways, rungs=())


def images() -> Any:
    found = image_record(images=6)
    return dataclasses.replace(found, keys=(KEY, *found.keys[1:]))


def classes() -> Any:
    found = class_record(image_record())
    return dataclasses.replace(found, names=(NAME, *found.names[1:]))


RECORDS = {"images": images, "classes": classes, "masks": lambda: spatial_record(0.2, KEY), "evaluation": evaluation,
           "summary": lambda: evaluation().summary(), "pointing": pointing, "specificity": specificity, "inversion": inversion,
           "channels": channels, "examples": examples, "sanity": sanity, "joint": joint, "curves": curves, "pixels": pixels,
           "comparison": comparison, "stability": stability, "robust": robust, "held_out": held_out, "overlap": overlap,
           "explanation": explanation, "bench": benched}
KEYED = {"images", "masks", "inversion", "examples", "curves", "pixels"}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_shows_itself_and_what_is_named_like_markup_is_text(name: str) -> None:
    page = RECORDS[name]()._repr_html_()
    read = Reader(page)
    assert read.tags <= {"div", "b", "span", "table", "thead", "tbody", "tr", "th", "td"}
    assert read.attributes == {"style"}
    assert len(page) < 12_000
    assert not re.search(r"#[0-9a-f]{3}|color:(?!inherit)|rgb\(", page)  # read on light and dark pages alike
    assert KEY in "".join(read.cells) if name in KEYED else NAME in read.words or name == "pointing"


@pytest.mark.parametrize(("name", "cells"), [
    ("masks", ["20.0%", "8.1", "8"]), ("evaluation", ["exact", "1 (1 to 1)", "4 (3 to 5)", "80"]), ("inversion", ["4", "0.625", "0.75"]),
    ("examples", [NAME, "1", KEY, "2.5", "channel 9", "0", "", "–"]), ("joint", [NAME, "0.375", "–", "0.375"]),
    ("specificity", [NAME, "4", "3", "1", "1", "0.25", "class 7"]), ("channels", [NAME, "2.5", "4", "0.2"]),
    ("sanity", ["0", "the trained network", "yes", "1"]), ("pointing", ["all", "2"]),
    ("curves", [KEY, "6.5", "1.25", "0.75", "0.125", "0.875", "b", "7.5", "2.25", "0.5", "0.25", "–"]),
    ("pixels", [KEY, "3", "0.75", "0.125", "6.5", "1.25"]),
    ("comparison", ["a*", "0.375", "0.0625", "2", "0.75", "0.125", "4", "0.5", "0.25"]),
    ("stability", [NAME, "0.75", "0.625", "0.875", "2", "fill mean", "–", "0.5", "0.25", "–"]),
    ("robust", ["2", "2", "0.5", "2.5", "0.5", "4", "3.25", "0.25", "3.5", "0.25"]),
    ("held_out", ["1 channels", "2 channels"]), ("held_out", ["logit", "joint", "0.25", "0", "0", "0", "1,200", "logit", NAME]),
    ("overlap", [NAME, "8", "cat", "3", "0.375", "0.125", "cat", "8", NAME, "3", "0.375", "0.125", "dog", "none"]),
    ("explanation", ["256", "256", "areas", "3", "evaluations", "1,234", "evaluations, a* alone", "20 to 40", "seconds", "309 to 310"]),
    ("bench", ["plain", NAME, "12", "1", "300", "0.875", "refine=False", NAME, "0.5", "24", "300", "–"]),
])
def test_its_numbers_are_the_record_s(name: str, cells: list[str]) -> None:
    shown = "\n".join(Reader(RECORDS[name]()._repr_html_()).cells)
    assert "\n".join(cells) in shown or all(cell in shown.split("\n") for cell in cells)


@pytest.mark.parametrize("name", RECORDS)
def test_python_shows_a_record_in_a_line_without_its_numbers(name: str) -> None:
    record = RECORDS[name]()
    words = repr(record)
    assert words.startswith(f"{type(record).__name__}(")
    assert len(words) < 1500
    assert "\n" not in words
    assert "array(" not in words


def test_arrays_are_shown_by_type_and_shape() -> None:
    words = repr(image_record(images=6))
    assert "masks=bool[6, 13, 256]" in words
    assert "settings=Settings(...)" in words
    assert "keys=6 x str" in words


def test_what_has_no_a_star_is_said() -> None:
    shown = Reader(image_record(images=6)._repr_html_()).cells
    assert {"not reached", "not run", "0"} <= set(shown)


def test_long_records_and_long_names_stay_small() -> None:
    found = dataclasses.replace(image_record(images=200), keys=tuple("k" * 5000 + str(n) for n in range(200)))
    page = found._repr_html_()
    assert len(page) < 12_000
    assert "and 192 more" in page
    assert page.count("<tr>") == 1 + tables.ROWS


def test_control_characters_are_replaced() -> None:
    assert tables.text("a\x00\u202eb") == "a\ufffd\ufffdb"


def test_no_torch_is_needed() -> None:
    code = "import sys, chanattr.records, chanattr.picture_records, chanattr.evidence.evaluation; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
