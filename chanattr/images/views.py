"""What a picture becomes when it is saved as JPEG and opened again, for batches as a model takes them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from chanattr.arguments import Range, check_number
from chanattr.errors import InputError

OUTSIDE = 0.1  # of the range of pixels: bicubic sizes and noise may leave it by so much


def jpeg_view(quality: int, mean: Sequence[float], std: Sequence[float]) -> Callable[[Float[Tensor, "N 3 H W"]], Float[Tensor, "N 3 H W"]]:
    """A view for ``stability``: normalised images as they are after JPEG compression.

    Args:
        quality: of JPEG, 1 to 95.
        mean, std: by which the model's preprocessing normalises RGB in [0, 1]: often (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225); of
            the shipped model, which takes 255 RGB - (123, 117, 104), 1/255 of these and (1/255, 1/255, 1/255).

    Raises:
        InputError: a quality or numbers that cannot be used; in use, images that are not [N, 3, H, W], or no pixels by this mean and std.

    Examples:
        >>> import torch
        >>> jpeg_view(90, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    quality = int(check_number(f"quality={quality!r}", quality, Range(1, 95, whole=True)))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise InputError(f"mean={mean!r} and std={std!r}; expected three numbers each, std above 0; take those of the model's "
                         "preprocessing")
    middle, scale = torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), torch.tensor(std, dtype=torch.float32).view(3, 1, 1)

    def view(images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"the JPEG view got images of shape {tuple(images.shape)}; expected [N, 3, H, W] in RGB; give a view of your "
                             "own for other inputs")
        whole = images.detach().cpu().float() * scale + middle
        if whole.min() < -OUTSIDE or whole.max() > 1 + OUTSIDE:
            raise InputError(f"the JPEG view makes pixels from {float(whole.min()):.2f} to {float(whole.max()):.2f} of the images by mean "
                             f"{tuple(mean)} and std {tuple(std)}; expected 0 to 1; give those of the model's preprocessing")
        pictures = (255 * whole).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        again = torch.from_numpy(np.stack([_saved(picture, quality) for picture in pictures])).permute(0, 3, 1, 2)
        return ((again.float() / 255 - middle) / scale).to(images)

    return view


def _saved(picture: np.ndarray, quality: int) -> np.ndarray:
    """Pixels u1 [y, x, 3] saved as JPEG and read again."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        return np.asarray(opened.convert("RGB"))
