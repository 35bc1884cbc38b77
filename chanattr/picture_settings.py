"""All that changes a picture that is made: the parametrisation, the steps, what it must withstand; frozen, torch-free, with a digest."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from chanattr.arguments import COUNT, RATE, SEEDS, STEPS, Range
from chanattr.errors import InputError
from chanattr.settings import Unset, check_ranges, digest, within

PARAMETRISATIONS = ("fourier", "pixel", "magnitude")
INVERSIONS = ("dot", "cosine", "match")
CHANNELS = "channels"


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """How a picture is made, complete once the fields left None have the values of its kind (`INVERSION`, `CHANNEL`).

    Attributes:
        objective: what an inversion maximises: "dot" (equation 10), "cosine", or "match" (Mahendran and Vedaldi 2015). Of pictures of
            channels it is "channels".
        cosine_power: of "dot": the product is times the cosine to this power; 0 is equation 10 literally, which no norm holds back.
        parametrisation: "fourier" (decorrelated in frequency and colour), "pixel" (in colour), or "magnitude" (phases alone are free, the
            magnitudes are those of natural pictures: MaCo, Fel et al. 2023).
        decay: power by which frequencies fall in "fourier", 0 or more; 1 is that of natural pictures.
        steps: of Adam, at least 1.
        rate: of Adam, in standard deviations of a natural picture's coefficients (in radians for "magnitude"); falls to 0 along a cosine.
        contrast: standard deviation of the start, before the sigmoid that keeps pixels in [0, 1].
        jitter: pixels by which the picture is moved at most at every step, 0 or more.
        scale: share of its size by which it grows or shrinks at most, in [0, 1).
        rotation: degrees by which it is turned at most, in [0, 180].
        crop: smallest share of its side that is shown, in (0, 1]; 1 crops nothing.
        variation: weight of the total variation (mean absolute difference of neighbours, pixels in [0, 1]), 0 or more.
        diversity: weight by which pictures of the same channels are kept apart, 0 or more.
        seed: of every random choice.

    Examples:
        >>> import chanattr as ca
        >>> ca.PictureSettings(objective="match", steps=10).steps
        10
    """

    objective: str | Unset = None
    cosine_power: float | Unset = within(Range(0))
    parametrisation: str | Unset = None
    decay: float | Unset = within(Range(0))
    steps: int | Unset = within(STEPS)
    rate: float | Unset = within(RATE)
    contrast: float | Unset = within(RATE)
    jitter: int | Unset = within(COUNT)
    scale: float | Unset = within(Range(0, 1, without="high"))
    rotation: float | Unset = within(Range(0, 180))
    crop: float | Unset = within(Range(0, 1, without="low"))
    variation: float | Unset = within(Range(0))
    diversity: float | Unset = within(Range(0))
    seed: int = dataclasses.field(default=0, metadata={"range": SEEDS})

    def to_json(self) -> str:
        """Sorted, compact JSON: equal settings give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    digest = digest

    @classmethod
    def from_json(cls, text: str) -> PictureSettings:
        """The settings that `to_json` wrote.

        Raises:
            InputError: `text` is not what `to_json` writes.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise InputError(f"settings {text[:80]!r} cannot be read ({error}); expected the JSON that chanattr wrote; the file may come "
                             "from a newer version") from error


INVERSION: dict[str, Any] = {
    "objective": "dot", "cosine_power": 2.0, "parametrisation": "fourier", "decay": 1.0, "steps": 192, "rate": 0.1, "contrast": 0.1,
    "jitter": 2, "scale": 0.01, "rotation": 1.0, "crop": 1.0, "variation": 1.0, "diversity": 0.0}
CHANNEL: dict[str, Any] = {
    "objective": CHANNELS, "cosine_power": 0.0, "parametrisation": "fourier", "decay": 1.0, "steps": 128, "rate": 0.25, "contrast": 0.1,
    "jitter": 8, "scale": 0.1, "rotation": 10.0, "crop": 1.0, "variation": 0.0, "diversity": 0.0}


def resolved(settings: PictureSettings | None, usual: dict[str, Any], objectives: tuple[str, ...]) -> PictureSettings:
    """Settings without a None, every field checked.

    Args:
        settings: as given; None is the usual in everything.
        usual: `INVERSION` or `CHANNEL`.
        objectives: that this kind of picture can have.

    Raises:
        InputError: no settings, or a field that is not what it can be.
    """
    given = PictureSettings() if settings is None else settings
    if not isinstance(given, PictureSettings):
        raise InputError(f"settings={given!r}; expected ca.PictureSettings(...); leave it out for the usual")
    whole = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}
    whole = {name: usual.get(name, 0) if value is None else value for name, value in whole.items()}
    for name, allowed in (("objective", objectives), ("parametrisation", PARAMETRISATIONS)):
        if whole[name] not in allowed:
            raise InputError(f"PictureSettings({name}={whole[name]!r}); expected {', '.join(map(repr, allowed))}; leave it out for "
                             f"{usual[name]!r}")
    return check_ranges(PictureSettings(**whole))
