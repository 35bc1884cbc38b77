"""Small records to try a figure with: made up, the same at every call, and there without a network.

Three images (or classes) at a layer of eight channels. Image n needs channels n, n + 1, ...; its numbers follow from that.
"""

from __future__ import annotations

import numpy as np

from chanattr.evidence.class_records import Specificity
from chanattr.evidence.evaluation import Evaluation
from chanattr.evidence.randomised import Sanity
from chanattr.picture_records import ChannelImages, Examples, Inversion
from chanattr.picture_settings import PictureSettings
from chanattr.records import ClassAttribution, ImageAttribution, SpatialAttribution
from chanattr.settings import ExactSearch, Settings

LAYER, KEYS, NAMES, TARGETS = "features.10", ("a.jpg", "b.jpg", "c.jpg"), ("cat", "dog", "fox"), np.arange(3, dtype="i4")
CHANNELS, AREAS, SMALLEST = 8, np.array([1, 2, 4, 8], "i4"), np.array([2, 3, 4], "i4")
SHARES, SMALLEST_SHARE = np.array([0.05, 0.1, 0.2], "f4"), np.array([0.1, 0.12, 0.2], "f4")
ORIGINAL, EMPTY = np.full(3, 10, "f4"), np.zeros(3, "f4")
_PLACE = (np.arange(CHANNELS) - TARGETS[:, None]) % CHANNELS  # of a channel in an image's order
_MASKS, _SMALLEST_MASK = _PLACE[:, None] < AREAS[:, None], SMALLEST[:, None] > _PLACE


def picture(side: int = 32) -> np.ndarray:
    """A picture, u1 [side, side, 3]: a disc before a slope.

    Examples:
        >>> picture().shape
        (32, 32, 3)
    """
    down, across = np.indices((side, side)) / side
    disc = (down - 0.5) ** 2 + (across - 0.5) ** 2 < 0.09
    return np.stack([np.where(disc, 220, 255 * band) for band in (down, across, 1 - down)], -1).astype(np.uint8)


def images() -> ImageAttribution:
    """What `per_image` gives: a* of the three images are 2, 3 and 4 channels.

    Examples:
        >>> [images().channels(row).tolist() for row in range(3)]
        [[0, 1], [1, 2, 3], [2, 3, 4, 5]]
    """
    scores = _scores(AREAS / SMALLEST[:, None])
    energy = np.stack([np.hypot(*np.indices((4, 4))) + row for row in range(3)]).astype("f4")
    return ImageAttribution(
        layer=LAYER, settings=_settings(LAYER, tuple(AREAS.tolist())), engine="made up", keys=KEYS, targets=TARGETS, predictions=TARGETS,
        probability=np.full(3, 0.9, "f4"), areas=AREAS, masks=_MASKS, scores=scores, original=ORIGINAL, empty=EMPTY, top1=scores > 5,
        smallest_area=SMALLEST, smallest_mask=_SMALLEST_MASK, smallest_score=ORIGINAL, smallest_top1=np.ones(3, bool), energy=energy,
        energy_by_area=energy[:, None] * np.sqrt(AREAS / CHANNELS).astype("f4")[:, None, None], fill_values=np.zeros(CHANNELS, "f4"),
        evaluations=np.full(3, 300, "f4"), refine_evaluations=np.full(3, 20, "f4"))


def classes() -> ClassAttribution:
    """What `per_class` gives of three classes: the joint set of class c begins at channel c.

    Examples:
        >>> classes().channels(1, 4).tolist()
        [1, 2, 3, 4]
    """
    scores, counts = _scores(AREAS / SMALLEST[:, None]), np.full(3, 5, "i4")
    share = np.minimum(1, scores / 10)
    return ClassAttribution(
        layer=LAYER, settings=_settings(LAYER, tuple(AREAS.tolist())), engine="made up", names=NAMES, targets=TARGETS, areas=AREAS,
        rows=counts, images=counts, mean_mask=np.maximum(0, 1 - _PLACE / 5).astype("f4"), joint_masks=_MASKS, joint_scores=scores,
        joint_top1=share, joint_log_probability=share - 1, held_out_scores=0.9 * scores, held_out_top1=0.9 * share,
        held_out_log_probability=0.9 * share - 1, original=ORIGINAL, empty=EMPTY, original_top1=np.ones(3, "f4"), smallest_area=SMALLEST,
        smallest_mask=_SMALLEST_MASK, smallest_score=ORIGINAL, fill_values=np.zeros(CHANNELS, "f4"), evaluations=np.full(3, 900, "f4"))


def masks(game: str = "preserve") -> SpatialAttribution:
    """What `spatial` gives in a game, "preserve" or "delete": masks in the middle of the picture.

    Examples:
        >>> masks().masks((32, 32)).shape
        (3, 3, 32, 32)
    """
    scores = _scores(SHARES / SMALLEST_SHARE[:, None])
    codes = np.zeros((3, len(SHARES), 32, 32), "u1")
    for place, share in enumerate(SHARES):
        half = round(16 * float(np.sqrt(share)))
        codes[:, place, 16 - half:16 + half, 16 - half:16 + half] = 255
    settings = _settings(":input", tuple(map(float, SHARES)), game)
    return SpatialAttribution(
        layer=":input", settings=settings, engine="made up", size=(32, 32), keys=KEYS, targets=TARGETS, predictions=TARGETS,
        probability=np.full(3, 0.9, "f4"), areas=SHARES, codes=codes, true_areas=np.tile(SHARES, (3, 1)),
        scores=10 - scores if game == "delete" else scores, view_scores=scores, level_set_scores=0.9 * scores,
        greyness=np.full(scores.shape, 0.1, "f4"), peak=np.ones(scores.shape, "f4"), top1=scores > 5, original=ORIGINAL, empty=EMPTY,
        smallest_area=SMALLEST_SHARE, smallest_code=codes[:, 1], smallest_score=ORIGINAL, smallest_top1=np.ones(3, bool),
        evaluations=np.full(3, 300, "f4"), refine_evaluations=np.full(3, 20, "f4"))


def evaluation() -> Evaluation:
    """What `evaluate` gives of the search and a random order.

    Examples:
        >>> [line.method for line in evaluation().table()]
        ['exact', 'random']
    """
    best = images()
    scores = np.stack([best.scores, 0.5 * best.scores])
    return Evaluation(layer=LAYER, settings=best.settings, methods=("exact", "random"), keys=KEYS, areas=AREAS, scores=scores,
                      top1=scores > 5, smallest_area=np.stack([SMALLEST, SMALLEST + 3]),
                      deletion_area=np.stack([SMALLEST - 1, SMALLEST + 1]), evaluations=np.ones((2, 3), "f4"),
                      seconds=np.ones((2, 3), "f4"), original=ORIGINAL, empty=EMPTY, entries=CHANNELS)


def sanity() -> Sanity:
    """What `randomisation` gives: the sets lose their likeness with the first random module.

    Examples:
        >>> sanity().passes
        True
    """
    jaccard = np.array([1, 0.4, 0.35])[:, None, None] * np.ones((1, 3, 4))
    return Sanity(layer=LAYER, random=("", "classifier.1", "features.10"), depth=np.arange(3, dtype="i4"),
                  after=np.array([True, True, False]), jaccard=jaccard, chance=np.full_like(jaccard, 0.35), rank=jaccard[..., 0] - 0.35,
                  similarity=np.array([1, 0.08, 0]), limit=0.5, verdict="passes")


def specificity() -> Specificity:
    """What `specificity` gives: a class's set names its own images and few of the others.

    Examples:
        >>> (specificity().accuracy > 0.5).tolist()
        [[True, False, False], [False, True, False], [False, False, True]]
    """
    accuracy = np.where(np.eye(3, dtype=bool), 0.9, 0.2).astype("f4")
    return Specificity(layer=LAYER, settings=classes().settings, game="preserve", count=4, source="joint", seed=-1, names=NAMES,
                       targets=TARGETS, sizes=np.full(3, 4, "i4"), images=np.full(3, 5, "i4"), accuracy=accuracy, logits=10 * accuracy,
                       original_accuracy=np.ones(3, "f4"), original_logits=ORIGINAL, random_accuracy=np.full((3, 3), np.nan, "f4"),
                       random_logits=np.full((3, 3), np.nan, "f4"))


def inversion() -> Inversion:
    """What `invert` gives of the masked activations of the three images.

    Examples:
        >>> inversion().areas.tolist()
        [2, 3, 4]
    """
    originals = np.stack([picture()] * 3)
    return Inversion(layer=LAYER, settings=PictureSettings(), keys=KEYS, masks=_SMALLEST_MASK.astype("f4"), pictures=255 - originals,
                     originals=originals, value=ORIGINAL, cosine=np.full(3, 0.8, "f4"), kept_cosine=np.full(3, 0.9, "f4"),
                     targets=TARGETS, predictions=TARGETS, probability=np.full(3, 0.7, "f4"))


def channel_images() -> ChannelImages:
    """What `visualise` gives of channels 0, 1 and 2, two pictures each.

    Examples:
        >>> channel_images().pictures.shape
        (3, 2, 32, 32, 3)
    """
    return ChannelImages(layer=LAYER, settings=PictureSettings(), names=_channels(), weights=np.eye(CHANNELS, dtype="f4")[:3],
                         pictures=np.stack([np.stack([picture()] * 2)] * 3), value=np.full((3, 2), 4, "f4"),
                         predictions=np.tile(TARGETS[:, None], 2), probability=np.full((3, 2), 0.5, "f4"))


def examples(kind: str = "driven") -> Examples:
    """What `examples` gives of the same channels, "driven" or "needed": two images each.

    Examples:
        >>> examples().rows.tolist()
        [[0, 1], [1, 2], [2, 0]]
    """
    return Examples(layer=LAYER, kind=kind, channels=TARGETS, names=_channels(), keys=KEYS,
                    rows=(TARGETS[:, None] + np.arange(2, dtype="i4")) % 3, value=np.tile(np.array([5, 3], "f4"), (3, 1)),
                    position=np.ones((3, 2, 2), "i4"), boxes=np.tile(np.array([0, 0, 16, 16], "i4"), (3, 2, 1)),
                    crops=np.stack([np.stack([picture()[8:24, 8:24]] * 2)] * 3))


def _settings(layer: str, areas: tuple[float, ...], game: str = "preserve") -> Settings:
    return Settings(layer=layer, areas=areas, search=ExactSearch(), reward="logit", game=game, fill="zero", fill_sha256="",
                    level="original", refine=True, folds=0, seed=0, score="", model="", model_sha256="", preprocessing="")


def _scores(share: np.ndarray) -> np.ndarray:
    """Scores of sets that hold so much of what is needed, f4: they rise to the original, and a little above it."""
    return np.where(share < 1, 10 * share, 10 + 0.2 * np.log(np.maximum(share, 1))).astype("f4")


def _channels() -> tuple[str, ...]:
    return tuple(f"channel {channel}" for channel in range(3))
