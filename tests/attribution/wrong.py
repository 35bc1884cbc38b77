"""Wrong arguments of every kind, run as callers run them: the tests' own check of annotations would refuse them first."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.attribution.perturbation import perturbation_of
from chanattr.attribution.question import Asked
from chanattr.images.loader import Batch
from chanattr.network.layers import Layer
from chanattr.pictures.channels import check_wanted
from chanattr.pictures.inversion import check_mask
from chanattr.runs.shards import part_of
from tests.models import Plain, images, seeded

QUICK = ca.ExactSearch(relaxed_steps=2, binary_steps=2)
TWO = Layer(name="two", type="Conv2d", calls=1, shape=(1, 2, 4, 4), channel_axis=1, channels=2, grid=(4, 4))
PIXELS = ca.Pixels((0.5,) * 3, (0.5,) * 3, (8, 8))
NOBODY: Any = None
RAGGED: Any = [[1], [1, 2]]


class Wrong(NamedTuple):
    """A call, the error that it must raise, and a pattern of its message."""

    call: Callable[[], object]
    error: str
    message: str


def ask(**options: Any) -> Any:
    given = {"images": images(4), "areas": (1, 3), "search": QUICK, "engine": "injection"} | options
    return ca.per_image(seeded(Plain), given.pop("images"), "mix", **given)


def by_module(model: Any) -> Any:
    return ca.per_image(model, images(4), model.mix)


def ask_classes(**options: Any) -> Any:
    given = {"images": images(4), "areas": (1, 3), "search": QUICK, "engine": "injection", "targets": [1, 1, 2, 2]} | options
    return ca.per_class(seeded(Plain), given.pop("images"), "mix", **given)


def found(**options: Any) -> Any:
    return ask(**{"targets": [1, 1, 2, 2]} | options)


class Normed(nn.Module):
    """Divides by the size of its activation: nothing over nothing where all channels are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mix, self.head = nn.Conv2d(3, 6, 3), nn.Identity(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.body(x))
        return self.head((x / x.abs().sum((1, 2, 3), keepdim=True)).mean((2, 3)))


class Hidden(Normed):
    """The second image's activation holds a NaN that the logits do not show."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        bad = torch.zeros_like(x)
        bad[1:2, 0] = torch.nan
        return self.head(torch.nan_to_num(self.mix(x + bad)).mean((2, 3)))


class Held(NamedTuple):
    """As `load_model` gives a model: beside other things."""

    module: Any


def raising(logits: Tensor, targets: Tensor) -> Tensor:
    raise KeyError("no such\nweight")


def no_group(channels: int) -> list[int]:
    """A function that cannot be asked."""
    return {}["mix"]


def of(model: nn.Module, **options: Any) -> Any:
    given = {"areas": (1, 3), "search": QUICK, "engine": "injection"} | options
    return ca.per_image(model.eval(), images(3), "mix", **given)


AREAS = r"areas=.*; expected a list of whole numbers of channels, None for a grid over all of them, or 'smallest' for a\* alone; for one"
AREA = r"area {} for a layer of 6 channels; expected a whole number of channels from 1 to 6; leave areas out for a grid over all of them"
TARGETS = r"targets have shape {} and type torch.\w+; expected 4 whole numbers, one an image; leave targets out for the predicted classes"
SEARCH = r"search={}; expected ca.ExactSearch\(...\) or ca.PenaltySearch\(...\); leave it out for the exact search"
IMAGES = r"images are {}; expected a floating tensor \[N, ...\] as the model takes it, N at least 1, or a tuple or mapping that holds one"
FOUND = r"{}; pass what per_image gave for these images, in their order, or leave found out"
LEVEL = r"level={}; expected 'original', 'top1' or a fraction from 0 to 1"

CASES = {
    "areas a number": Wrong(lambda: ask(areas=5), "InputError", AREAS),
    "seed a half": Wrong(lambda: ask(seed=0.5), "InputError", r"seed=0\.5; expected a whole number from 0 to 9"),
    "seed beyond generators": Wrong(lambda: ask(seed=2**63), "InputError", r"seed=9\d*; expected a whole number from 0 to 9"),
    "seed beyond floats": Wrong(lambda: ask(seed=10**400), "InputError", r"seed=10*; expected a whole number from 0 to 9"),
    "fill of texts": Wrong(lambda: ask(fill=["a"] * 6), "InputError", r"fill=\['a', .*; expected one of zero, mean, .* or 6 values"),
    "fill of ragged lists": Wrong(lambda: ask(fill=RAGGED), "InputError", r"fill=\[\[1\], \[1, 2\]\]; expected"),
    "fill a complex number": Wrong(lambda: ask(fill=1j), "InputError", r"fill=1j; expected"),
    "perturbation None": Wrong(lambda: perturbation_of(NOBODY), "InputError", r"perturbation=None; expected one of blur, .*\[N, C, H, W\]"),
    "inversion under texts": Wrong(lambda: check_mask(["a"] * 2, 1, TWO), "InputError",
                                   r"mask=\['a', 'a'\] for 1 images at 'two'; expected"),
    "channels of ragged lists": Wrong(lambda: check_wanted(RAGGED, TWO, None), "InputError",
                                      r"wanted=\[\[1\].* at 'two'; expected"),
    "areas none at all": Wrong(lambda: ask(areas=()), "InputError", AREAS),
    "areas in a word": Wrong(lambda: ask(areas="all"), "InputError", AREAS),
    "areas a single array": Wrong(lambda: ask(areas=np.array(5)), "InputError", AREAS),
    "area a text": Wrong(lambda: ask(areas=("a",)), "InputError", AREA.format("'a'")),
    "area NaN": Wrong(lambda: ask(areas=(float("nan"),)), "InputError", AREA.format("nan")),
    "area None": Wrong(lambda: ask(areas=(None,)), "InputError", AREA.format("None")),
    "area a half": Wrong(lambda: ask(areas=(2, 2.5)), "InputError", AREA.format("2.5")),
    "area endless": Wrong(lambda: ask(areas=(float("inf"),)), "InputError", AREA.format("inf")),
    "targets a number": Wrong(lambda: ask(targets=3), "InputError", TARGETS.format(r"\(\)")),
    "targets a single tensor": Wrong(lambda: ask(targets=torch.tensor(3)), "InputError", TARGETS.format(r"\(\)")),
    "targets in words": Wrong(lambda: ask(targets=["a"] * 4), "InputError", r"targets=\['a', .* are no numbers; expected 4 whole numbers"),
    "targets None each": Wrong(lambda: ask(targets=[None] * 4), "InputError", r"targets=\[None, .* are no numbers; expected 4 whole"),
    "targets with a fraction": Wrong(lambda: ask(targets=[0.5, 1, 2, 3]), "InputError", TARGETS.format(r"\(4,\)")),
    "targets true or false": Wrong(lambda: ask(targets=[True] * 4), "InputError", TARGETS.format(r"\(4,\)")),
    "more targets than images": Wrong(lambda: ask(targets=[0] * 6), "InputError", TARGETS.format(r"\(6,\)")),
    "more targets than one shard of images": Wrong(lambda: ask(images=images(16), targets=[0] * 20), "InputError",
                                                   r"targets have shape \(20,\) .*; expected 16 whole numbers, one an image"),
    "a target out of range": Wrong(lambda: ask(targets=[0, 1, 2, 4]), "InputError", "target 4 for a model with 4 classes; expected 0 to 3"),
    "search a word": Wrong(lambda: ask(search="exact"), "InputError", SEARCH.format("'exact'")),
    "search a class": Wrong(lambda: ask(search=ca.ExactSearch), "InputError", SEARCH.format("<class .*>")),
    "half a step": Wrong(lambda: ask(search=ca.ExactSearch(relaxed_steps=2.5)), "InputError",
                         r"ExactSearch\(relaxed_steps=2.5\); expected a whole number from 0; leave it out"),
    "momentum 5": Wrong(lambda: ask(search=ca.ExactSearch(momentum=5)), "InputError",
                        r"ExactSearch\(momentum=5\); expected a number from 0, below 1; leave it out"),
    "momentum NaN": Wrong(lambda: ask(search=ca.PenaltySearch(momentum=float("nan"))), "InputError", r"PenaltySearch\(momentum=nan\)"),
    "steps in words": Wrong(lambda: ask(search=ca.PenaltySearch(steps="many")), "InputError", r"PenaltySearch\(steps='many'\); expected a"),
    "batch of none": Wrong(lambda: ask(batch_size=0), "InputError", "batch_size=0; expected a whole number from 1; leave it out"),
    "batch below none": Wrong(lambda: ask(batch_size=-1), "InputError", "batch_size=-1; expected a whole number from 1"),
    "half a batch": Wrong(lambda: ask(batch_size=2.5), "InputError", "batch_size=2.5; expected a whole number from 1"),
    "half a seed": Wrong(lambda: ask(seed=0.5), "InputError", "seed=0.5; expected a whole number from 0"),
    "folds below none": Wrong(lambda: ask_classes(folds=-1), "InputError", "folds=-1; expected a whole number from 0"),
    "certify in words": Wrong(lambda: ask(certify="no"), "InputError", "certify='no'; expected True or False; leave it out"),
    "refine in words": Wrong(lambda: ask(refine="no"), "InputError", "refine='no'; expected True, False or None"),
    "game none": Wrong(lambda: ask(game=None), "InputError", "game=None; expected one of preserve, delete, dual"),
    "level true": Wrong(lambda: ask(level=True), "InputError", LEVEL.format("True")),
    "level a list": Wrong(lambda: ask(level=[0.5]), "InputError", LEVEL.format(r"\[0.5\]")),
    "level over 1": Wrong(lambda: ask(level=1.5), "InputError", LEVEL.format("1.5")),
    "score a word": Wrong(lambda: ask(score="logits"), "InputError", "score='logits'; expected a function of the model's output"),
    "a batch of a loader": Wrong(lambda: ask(images=Batch(images(4), np.zeros(4, int), tuple("abcd"), np.zeros((4, 32), "u1"), ())),
                                 "InputError", r"images are a Batch of a loader; .*; pass batch.images, and keys=batch.keys"),
    "a loaded model": Wrong(lambda: ca.per_image(Held(seeded(Plain)), images(4), "mix"), "ModelError",
                            "model is Held; expected a torch.nn.Module; pass its .module"),
    "a loaded model's layers": Wrong(lambda: ca.layers(Held(seeded(Plain)), images(4)), "ModelError",
                                     "model is Held; .*; pass its .module"),
    "a loaded model to invert": Wrong(lambda: ca.invert(Held(seeded(Plain)), images(4), "mix", pixels=PIXELS), "ModelError",
                                      "model is Held; .*; pass its .module"),
    "a loaded model to visualise": Wrong(lambda: ca.visualise(Held(seeded(Plain)), "mix", [1], pixels=PIXELS), "ModelError",
                                         "model is Held; .*; pass its .module"),
    "no model": Wrong(lambda: ca.explain(NOBODY, images(4), "mix"), "ModelError", "model is NoneType; .*; pass the network itself"),
    "a model to load": Wrong(lambda: ca.load_model(seeded(Plain)), "ModelError",
                             "a model's name is Plain; expected text, .*: pass it itself"),
    "a path to report": Wrong(lambda: ca.report(Path("run.h5"), "run.html"), "InputError",
                              r"run is PosixPath; expected Run; open it with ca\.open_run"),
    "a number to overlap": Wrong(lambda: ca.overlap(3), "InputError",
                                 "record is int; expected ClassAttribution or ImageAttribution; pass what per_class or"),
    "a record to cluster": Wrong(lambda: ca.cluster(ca.figures.samples.classes()), "InputError",
                                 "likeness is ClassAttribution; expected Overlap; pass what ca.overlap gives"),
    "a key in place of a row": Wrong(lambda: ca.figures.area_curve(ca.figures.samples.images(), "b.jpg"), "InputError",
                                     "row 'b.jpg' of a result of 3 images; expected a row from 0 to 2; its keys tell"),
    "a group function that raises": Wrong(lambda: ask(group=no_group), "InputError",
                                          r"the function given as group failed on 6 channels \(KeyError: 'mix'\); expected 'heads', .*"
                                          "<- KeyError"),
    "a base that is nothing": Wrong(lambda: ca.pixel_curves(seeded(Plain), images(4), np.ones((4, 8, 8)), insertion_base=NOBODY),
                                    "InputError", "insertion_base is NoneType; expected one of zero, blur, or images; leave it out"),
    "several inputs to invert": Wrong(lambda: ca.invert(seeded(Plain), (images(4),), "mix", pixels=PIXELS), "InputError",
                                      r"images are tuple; expected one tensor \[N, C, H, W\], for pictures"),
    "channel axis a text": Wrong(lambda: ask(channel_axis="1"), "InputError",
                                 "channel_axis='1' for an activation of shape .*; expected 1 to 3"),
    "channel axis a half": Wrong(lambda: ask(channel_axis=1.5), "InputError",
                                 "channel_axis=1.5 for an activation of shape .*; expected 1 to"),
    "one image alone": Wrong(lambda: ask(images=images(4)[0]), "ModelError", r"a single image \[C, H, W\] lacks .*: give image\[None\]"),
    "a module as layer": Wrong(lambda: ca.capture(seeded(Plain), [torch.nn.ReLU()]).__enter__(), "LayerError", "layer is a ReLU; expected"),
    "its module as layer": Wrong(lambda: by_module(seeded(Plain)), "LayerError", "layer is a Conv2d; its own is 'mix'; expected a dotted"),
    "reward a number": Wrong(lambda: ask(reward=5), "InputError", r"reward=5; expected one of logit, .*; leave it out"),
    "reward a list": Wrong(lambda: ask(reward=["logit"]), "InputError", r"reward=\['logit'\]; expected one of logit"),
    "reward of one number": Wrong(lambda: ask(reward=lambda logits, targets: logits.sum()), "InputError",
                                  r"reward .*lambda.* gave Tensor \(\) torch.float32 for logits \(4, 4\); expected a floating tensor of "
                                  r"shape \(4,\), one number an image; do not"),
    "reward of every class": Wrong(lambda: ask(reward=lambda logits, targets: logits), "InputError", r"gave Tensor \(4, 4\) torch.float32"),
    "reward of whole numbers": Wrong(lambda: ask(reward=lambda logits, targets: logits.argmax(1)), "InputError", r"\(4,\) torch.int64 for"),
    "reward no tensor": Wrong(lambda: ask(reward=lambda logits, targets: 1.0), "InputError", "reward .* gave float for logits"),
    "reward without a gradient": Wrong(lambda: ask(reward=lambda logits, targets: logits[:, 0].detach()), "InputError",
                                       "reward .* has no gradient in the logits, which the search follows; expected .*; leave out detach"),
    "reward that counts": Wrong(lambda: ask(reward=lambda logits, targets: (logits.argmax(1) == targets).float()), "InputError",
                                "has no gradient in the logits"),
    "reward that raises": Wrong(lambda: ask(reward=raising), "InputError",
                                r"reward __main__:raising failed on logits \(4, 4\) and targets \(4,\) \(KeyError: "
                                r".*; expected a function \(logits, targets\) -> \[B\]; try it by itself.* <- KeyError"),
    "reward NaN": Wrong(lambda: ask(reward=lambda logits, targets: logits[:, 0] * torch.nan), "ModelError",
                        r"the rewards with every channel of 4 image\(s\) are not finite .*, first '0', '1', '2'; expected finite numbers; "
                        "check the reward"),
    "images of other channels": Wrong(lambda: ask(images=torch.rand(2, 4, 8, 8)), "ModelError",
                                      r"Plain failed on images of shape \(2, 4, 8, 8\), torch.float32, cpu \(RuntimeError: Given groups=1.*"
                                      r"; expected images as the model takes them; check their channels.* <- RuntimeError"),
    "images that are no batch": Wrong(lambda: ask(images=torch.rand(3, 8, 8)), "ModelError", r"failed on images of shape \(2, 8, 8\)"),
    "images of numpy": Wrong(lambda: ask(images=images(4).numpy()), "InputError", IMAGES.format(r"ndarray \(4, 3, 8, 8\) float32")),
    "images of bytes": Wrong(lambda: ask(images=(255 * images(4)).byte()), "InputError",
                             IMAGES.format(r"Tensor \(4, 3, 8, 8\) torch.uint8")),
    "images of numpy for classes": Wrong(lambda: ask_classes(images=images(4).numpy()), "InputError", IMAGES.format("ndarray .*")),
    "a score function that raises": Wrong(lambda: ask(score=lambda output: output["logits"]), "ModelError",
                                          "Plain failed on images of shape"),
    "no score with nothing": Wrong(lambda: of(seeded(Normed)), "ModelError",
                                   r"the scores with every channel dropped of 3 image\(s\) are not finite \(NaN or infinite\), first "
                                   r"'0', '1', '2'; expected finite numbers; drop channels to another fill, such as fill='mean'"),
    "no score with nothing, at a level": Wrong(lambda: of(seeded(Normed), level=0.5, areas="smallest"), "ModelError",
                                               "every channel dropped"),
    "an activation that is NaN": Wrong(lambda: of(seeded(Hidden), keys=["a", "b", "c"]), "ModelError",
                                       r"the activations at layer 'mix' of 1 image\(s\) are not finite \(NaN or infinite\), first 'b'; "
                                       "expected finite numbers; check the preprocessing .* or leave out such an image"),
    "no score with nothing, of a class": Wrong(
        lambda: ca.per_class(seeded(Normed), images(3), "mix", targets=[1, 1, 1], areas=(1,), engine="injection", names=["a", "b"],
                             found=dataclasses.replace(of(seeded(Normed), fill=1.0, areas=(1,), targets=[1, 1, 1]),
                                                       settings=of_settings())), "ModelError",
        r"the scores with every channel dropped of \d class\(s\) are not finite .*, first 'b'"),
    "an activation that is NaN, of a class": Wrong(
        lambda: ca.per_class(seeded(Hidden), images(3), "mix", targets=[1, 1, 1], areas=(1,), engine="injection"), "ModelError",
        "the activations at layer 'mix' of 1 image"),
    "keys that are numbers": Wrong(lambda: ask(keys=[1, 2, 3, 4]), "InputError", r"key 1 is int; expected text; pass \[str\(key\)"),
    "keys that can be had once": Wrong(lambda: ask(keys=iter("abcd")), "InputError",
                                      "str_.*iterator as keys for 4 images; expected a list"),
    "keys a number": Wrong(lambda: ask(keys=4), "InputError", "int as keys for 4 images; expected a list of texts, one each"),
    "keys in one text": Wrong(lambda: ask(keys="abcd"), "InputError", "one text as keys for 4 images; expected a list of texts, one each"),
    "keys too few": Wrong(lambda: ask(keys=["a"]), "InputError", "1 as keys for 4 images; expected a list of texts, one each; leave"),
    "targets None for classes": Wrong(lambda: ask_classes(targets=None), "InputError",
                                      "targets=None; expected the class of each image, for answers are one a class; pass labels"),
    "targets with a fraction for classes": Wrong(lambda: ask_classes(targets=[0.5, 1, 2, 2]), "InputError", TARGETS.format(r"\(4,\)")),
    "names that are numbers": Wrong(lambda: ask_classes(names=range(4)), "InputError", r"names\[0\]=0; expected a text"),
    "names that are numbers, held out": Wrong(lambda: ca.held_out(seeded(Plain), images(4), "mix", targets=[1, 1, 2, 2], names=range(4)),
                                              "InputError", r"names\[0\]=0; expected a text"),
    "found of fewer images": Wrong(lambda: ask_classes(found=found()[:2]), "InputError",
                                   FOUND.format("found is 2 rows for 4 images; expected an ImageAttribution with one row an image")),
    "found of another kind": Wrong(lambda: ask_classes(found=ask_classes()), "InputError",
                                   FOUND.format("found is ClassAttribution for 4 .*")),
    "found for other targets": Wrong(lambda: ask_classes(found=found(targets=[1, 1, 2, 3])), "InputError",
                                     FOUND.format("found is about class 3 in row 3, but its target is 2; expected the same targets")),
    "found of other images": Wrong(lambda: ask_classes(found=found(images=100 * images(4, seed=5))), "InputError",
                                   FOUND.format(r"found is of another image in row \d \(probability .*\); expected the same images")),
    "found at another layer": Wrong(lambda: ask_classes(found=ca.per_image(seeded(Plain), images(4), "conv", areas=(1,),
                                                                           targets=[1, 1, 2, 2])), "InputError",
                                    FOUND.format("found has layer='conv', but layer='mix' is asked; expected the same question")),
    "found with another reward": Wrong(lambda: ask_classes(found=found(reward="contrastive")), "InputError",
                                       FOUND.format("found has reward='contrastive', but reward='logit' is asked; expected the same .*")),
    "found of another model": Wrong(lambda: ask_classes(found=ca.per_image(seeded(Plain, 3), images(4), "mix", areas=(1,),
                                                                           targets=[1, 1, 2, 2])), "InputError",
                                    FOUND.format("found has model_sha256='.*', but model_sha256='.*' is asked; expected the .*")),
}


def whole(two: Any) -> None:
    """Whole numbers that are not Python's own, where generators, slices and loaders take none but those."""
    asked = Asked(seed=two, folds=two)
    assert (type(asked.seed), type(asked.folds), type(perturbation_of("noise", seed=two).seed)) == (int, int, int)
    assert ask(seed=two, batch_size=two).settings.seed == 2
    classes = ca.figures.samples.classes()
    assert len(classes.channels(1, two, source="mean")) == len(ca.figures.class_channels_data(classes, 1, count=two).channels) == 2
    assert ca.overlap(classes, two, source="mean").jaccard.shape == (3, 3)
    assert ca.figures.class_matrix_data(classes, count=two).rates.shape == (3, 2)
    assert next(iter(part_of([(images(2), None, ["a", "b"])], (1, two), 1))).keys == ("a",)
    pixels, few = ca.Pixels((0.5,) * 3, (0.5,) * 3, (8, 8)), ca.PictureSettings(steps=two, seed=two)
    assert ca.visualise(seeded(Plain), "mix", [3], pixels=pixels, count=two, settings=few).pictures.shape[:2] == (1, 2)
    assert ca.examples(seeded(Plain), images(3), "mix", channels=[3], pixels=pixels, count=two, side=two).crops.shape[1:3] == (2, 2)


TAKEN = {kind.__name__: functools.partial(whole, kind(2)) for kind in (float, np.int64, np.float32)}


def of_settings() -> Any:
    """Of the question with the fill that gives no score: what answers to it would say."""
    return dataclasses.replace(of(seeded(Normed), fill=1.0, areas=(1,)).settings, fill="zero", fill_sha256="")


def told(call: Callable[[], object]) -> tuple[str, str]:
    """The kind of error and its message, with its cause behind an arrow."""
    try:
        call()
    except Exception as error:
        cause = f" <- {type(error.__cause__).__name__}" if error.__cause__ is not None else ""
        return type(error).__name__, f"{error}{cause}"
    return "", "no error"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: told(call) for name, call in ({name: case.call for name, case in CASES.items()} | TAKEN).items()}))
