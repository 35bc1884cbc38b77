"""`chanattr spatial` on pictures of every kind: what it writes and prints, resumed, and what it refuses."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chanattr as ca
from chanattr.evidence.pointing import pointing_table
from tests.cli.studio import Studio, make_studio
from tests.cli.test_commands import call, ran

QUICK = ("--areas", "20%", "--no-refine")


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr("chanattr.cli.spatial.SEARCHES", {"exact": ca.ExactSearch(relaxed_steps=2), "penalty": ca.PenaltySearch(steps=2),
                                                          "draft": ca.ExactSearch(relaxed_steps=1)})
    return make_studio(tmp_path, per_class=1)


def test_it_writes_prints_resumes_and_shows(studio: Studio, tmp_path: Path) -> None:
    words = ("spatial", studio.model, studio.images, "-o", tmp_path / "r.h5", "--areas", "0.02,20%")
    told = ran(*words)
    with ca.open_run(tmp_path / "r.h5") as run:
        found = run.spatial()
        assert run.attributes["class_names"] == ["cat", "dog", "red fox", "owl"]
    assert found.areas.tolist() == [np.float32(0.02), np.float32(0.2)]
    lines = told.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("---")) + 1
    for row in range(4):
        small, large, smallest, whole = lines[start + 4 * row:start + 4 * row + 4]
        assert small.startswith(found.keys[row])
        for line, place, area in ((small, 0, "2 %"), (large, 1, "20 %")):
            numbers = f"{100 * found.true_areas[row, place]:.2f} {found.scores[row, place]:.2f} {found.level_set_scores[row, place]:.2f}"
            assert f"{area} {numbers} {'yes' if found.top1[row, place] else 'no'}" in " ".join(line.split())
        assert smallest.split()[:2] == ["a*", f"{100 * found.smallest_area[row]:.2f}" if found.smallest_area[row] >= 0 else "-"]
        assert " ".join(whole.split()).startswith(f"all 100.00 {found.original[row]:.2f}")
    assert "2 %: less than one disc of these masks (3.3 %)" in told.replace("\n", " ")
    assert "4 images searched; " in told
    assert max(map(len, lines[:start])) <= 80
    assert "0 images searched, 4 were there already" in ran(*words)
    shown = ran("show", tmp_path / "r.h5")
    assert lines[start] in shown.splitlines()
    assert "4 images, masks on the picture" in shown


def test_every_choice_reaches_the_question(studio: Studio, tmp_path: Path) -> None:
    ran("spatial", studio.model, studio.images, "-o", tmp_path / "r.h5", "--layer", "mix", "--search", "penalty", "--perturbation", "mean",
        "--game", "delete", "--reward", "contrastive", "--level", "0.5", "--targets", "2", "--label", "mine", "--seed", "4", *QUICK)
    with ca.open_run(tmp_path / "r.h5") as run:
        found = run.spatial(layer="mix", label="mine")
    asked = found.settings
    assert (asked.search.name, asked.perturbation, asked.game, asked.reward, asked.level, asked.seed) == (
        "penalty", "mean", "delete", "contrastive", 0.5, 4)
    assert found.targets.tolist() == [2] * 4
    assert found.size == (8, 8)


def test_black_is_what_the_preprocessing_makes_of_it(tmp_path: Path, studio: Studio) -> None:
    file = tmp_path / "normal.py"
    file.write_text(Path(studio.model.removesuffix(":make")).read_text() + """
def normal():
    model, preprocess, names = make()
    return model, v2.Compose([preprocess, v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.25, 0.5])]), names

def curved():
    model, preprocess, names = make()
    return model, v2.Compose([preprocess, v2.Lambda(torch.sqrt)]), names
""")
    ran("spatial", f"{file}:normal", studio.images, "-o", tmp_path / "r.h5", "--perturbation", "black", *QUICK)
    with ca.open_run(tmp_path / "r.h5") as run:
        found = run.spatial()
    model = ca.load_model(f"{file}:normal").module
    import torch

    with torch.no_grad():
        black = model(torch.tensor([-2.5, -1.6, -0.6])[None, :, None, None].expand(1, 3, 12, 12))[0]
    np.testing.assert_allclose(found.empty, black.numpy()[found.targets], rtol=1e-4, atol=1e-4)
    result = call("spatial", f"{file}:curved", studio.images, "-o", tmp_path / "s.h5", "--perturbation", "black", *QUICK)
    assert (result.exit_code, "--perturbation black, but what black is to this model cannot be told" in result.stderr) == (2, True)


def test_pictures_of_every_size_and_kind(studio: Studio, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size, mode in (("tiny.png", (32, 32), "RGB"), ("huge.jpg", (4000, 3000), "RGB"), ("grey.png", (50, 41), "L"),
                             ("odd.png", (37, 211), "RGB"), ("alpha.png", (30, 30), "RGBA"), ("dot.png", (1, 1), "RGB")):
        colour = tuple(rng.integers(0, 255, len(mode)).tolist())
        Image.new(mode, size, colour if len(mode) > 1 else colour[0]).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    result = call("spatial", studio.model, folder, "-o", tmp_path / "r.h5", *QUICK)
    assert result.exit_code == 1
    assert "skipped" in result.stderr
    assert "broken.png" in result.stderr
    with ca.open_run(tmp_path / "r.h5") as run:
        found = run.spatial()
    assert set(found.keys) == {"tiny.png", "huge.jpg", "grey.png", "odd.png", "alpha.png", "dot.png"}
    np.testing.assert_allclose(found.true_areas, 0.2, atol=0.002)


def test_a_preprocessing_that_keeps_sizes_is_told_so(studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "keeps.py"
    file.write_text(Path(studio.model.removesuffix(":make")).read_text() + """
def keeps():
    model, _, names = make()
    return model, v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]), names
""")
    Image.new("RGB", (20, 20)).save(studio.images / "000_cat" / "other.png")
    result = call("spatial", f"{file}:keeps", studio.images, "-o", tmp_path / "r.h5", *QUICK)
    assert result.exit_code == 2
    assert "expected one shape for all; let it crop to one size" in result.stderr
    assert not (tmp_path / "r.h5").exists()


@pytest.mark.parametrize(("words", "message"), [
    (("--areas", "5"), "--areas 5; expected shares of the picture above 0 and at most 1, such as 0.05,0.1 or 5%,10%"),
    (("--areas", "a,b"), "--areas a,b; expected shares"), (("--areas", ""), "--areas ; expected shares"),
    (("--search", "best"), "--search best; expected exact, penalty, draft"),
    (("--perturbation", "red"), "--perturbation red; expected one of blur, fade, mean, noise, black"),
    (("--layer", "head"), "on a grid of two sides"), (("--layer", "mixx"), "no layer"),
    (("--level", "original", "--game", "delete"), "level='original' in the game 'delete'"), (("--targets", "9"), "target 9 for a model"),
    (("--game", "hide"), "game='hide'; expected one of")])
def test_wrong_words_end_with_one_line(studio: Studio, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    result = call("spatial", studio.model, studio.images, "-o", tmp_path / "r.h5", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "r.h5").exists()


def test_another_question_names_the_field(studio: Studio, tmp_path: Path) -> None:
    words = ("spatial", studio.model, studio.images, "-o", tmp_path / "r.h5", *QUICK)
    ran(*words)
    result = call(*words, "--perturbation", "fade")
    assert (result.exit_code, "perturbation='blur', but perturbation='fade' is asked" in result.stderr) == (2, True)
    result = call(*words, "--no-resume")
    assert (result.exit_code, "already has answers at :input" in result.stderr) == (2, True)


def test_interruption_keeps_finished_work_and_says_how_to_go_on(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = importlib.import_module("chanattr.runs.spatial")
    real = room._results

    def interrupted(*given: object) -> Iterator[object]:
        for item in real(*given):
            yield item
            raise KeyboardInterrupt

    monkeypatch.setattr(room, "_results", interrupted)
    (tmp_path / "more").mkdir()
    words = ("spatial", studio.model, make_studio(tmp_path / "more", per_class=5).images, "-o", tmp_path / "r.h5", *QUICK)
    result = call(*words)
    assert result.exit_code == 130
    assert "finished work is saved. The same command goes on" in result.stderr
    with ca.open_run(tmp_path / "r.h5") as run:
        assert len(run.finished(":input", spatial=True)) == 16
    monkeypatch.setattr(room, "_results", real)
    assert "4 images searched, 16 were there already" in ran(*words)


def test_beside_channels_show_has_both(studio: Studio, tmp_path: Path) -> None:
    ran("attribute", studio.model, studio.images, "--layer", "mix", "-o", tmp_path / "r.h5", "--areas", "2", "--no-refine")
    ran("spatial", studio.model, studio.images, "-o", tmp_path / "r.h5", *QUICK)
    told = ran("show", tmp_path / "r.h5")
    assert "4 images, 1 layer" in told
    assert "mix (exact): 4 images" in told
    assert "Masks on the picture (exact): 4 images of 12x12" in told


def test_the_pointing_game_is_told_for_people_and_for_programs(studio: Studio, tmp_path: Path) -> None:
    """A box over the whole of one picture, and one over a corner of another; two pictures are not annotated."""
    path, boxes = tmp_path / "r.h5", tmp_path / "boxes.json"
    ran("spatial", studio.model, studio.images, "-o", path, "--targets", "label", *QUICK)
    with ca.open_run(path) as run:
        keys = run.spatial().keys
    boxes.write_text(json.dumps([{"file": key, "index": number, "width": 30, "height": 24, "boxes": [[0, 0, side, side]]}
                                 for number, (key, side) in enumerate(zip(keys, (24, 1), strict=False))]))
    words = ("evaluate", path, "--pointing", boxes, "--model", studio.model)
    text, figures = ran(*words), json.loads(ran(*words, "--json"))
    model = ca.load_model(studio.model)
    with ca.open_run(path) as run:
        found = ca.pointing_run(run, ca.load_annotations(boxes, class_names=model.class_names), model.preprocess)
    assert found["masks"].keys == keys[:2]
    assert text.strip() == pointing_table(found).strip()
    line = found["masks"].figures("all")
    assert figures["masks"]["all"] == {"images": 2, **{name: list(getattr(line, name)) for name in line._fields[1:]}}
    beside = ran(*words, studio.images, "--method", "centre")
    assert [words.split()[0] for words in beside.splitlines() if words.split()[:1] in (["masks"], ["centre"])] == ["masks", "centre"]
    refused = call(*words, "--method", "centre")
    assert refused.exit_code == 2
    assert "--method centre without IMAGES; expected the pictures of the run; name their folder" in refused.stderr
    assert "no IMAGES; expected the pictures of the run" in call("evaluate", path).stderr
    for idle in (["--count", 1], ["--peers"], ["--reward", "mine.py:f"]):
        refused = call(*words, *idle)
        assert refused.exit_code == 2
        assert f"{idle[0]} with --pointing; expected the masks of one layer, over all annotated pictures" in refused.stderr
    assert "a second --layer with --pointing" in call(*words, "--layer", ":input", "--layer", "mix").stderr
