"""Where only pooling and a linear map follow the layer, the answer is known: the k largest contributions, for every k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.images import demo_folder, image_loader
from chanattr.network.zoo import LoadedModel

CLEAR = 1e-5  # of the largest contribution: closer ones cannot be told apart in float32


def demo_images(loaded: LoadedModel, count: int) -> Tensor:
    loader = image_loader([demo_folder()], loaded.preprocess, class_names=loaded.class_names, batch_size=count)
    return next(iter(loader)).images


def check_areas(model: nn.Module, images: Tensor, layer: str, weight: Tensor, bias: Tensor, *, areas: Sequence[int] = (),
                engine: str = "auto") -> None:
    """Every area, or some, against the closed form in float64, worked out in numpy from the captured activation."""
    with ca.capture(model, [layer]) as seen, torch.no_grad():
        logits = model(images)
    pooled = seen[layer].double().flatten(2).mean(2).numpy()
    channels = pooled.shape[1]
    asked = np.array(areas or range(1, channels + 1))
    found = ca.per_image(model, images, layer, areas=asked.tolist(), engine=engine)
    told = clear = 0
    for row, target in enumerate(logits.argmax(1).tolist()):
        contributions = pooled[row] * weight[target].double().numpy()
        order = np.argsort(-contributions, kind="stable")
        best = contributions[order].cumsum() + float(bias[target])
        np.testing.assert_allclose(found.scores[row], best[asked - 1], rtol=1e-5, atol=1e-4 * np.abs(best).max())
        gaps = -np.diff(contributions[order]) > CLEAR * np.abs(contributions).max()
        for place, k in enumerate(asked.tolist()):
            if k < channels and gaps[k - 1]:
                assert set(np.flatnonzero(found.masks[row, place])) == set(order[:k]), f"row {row}, k = {k}"
                told += 1
        clear += int((np.abs(contributions) > CLEAR * np.abs(contributions).max()).sum())  # pruned weights give many exact zeros
        reach = np.flatnonzero(best >= found.original[row] - 1e-5 * max(1.0, abs(found.original[row])))
        assert abs(int(found.smallest_area[row]) - (reach[0] + 1)) <= 1  # one channel of nearly nothing may go either way
    assert told > 0.8 * (clear if len(asked) == channels else len(images) * len(asked))


def test_the_embedded_networks_last_stage() -> None:
    loaded = ca.load_model("embedded")
    head = loaded.module.classifier[1]
    linear = nn.Linear(512, 1000)
    linear.weight.data, linear.bias.data = head.weight.data.flatten(1), head.bias.data
    model = nn.Sequential(loaded.module.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()
    weights = linear.weight.detach(), linear.bias.detach()
    check_areas(model, demo_images(loaded, 2), "0.12", *weights)
    for engine in ("replay", "injection"):  # small pictures, a few areas: the whole network runs for every mask
        check_areas(model, demo_images(loaded, 1)[:, :, :64, :64], "0.12", *weights, areas=(1, 2, 3, 5, 7, 12, 20, 40), engine=engine)


def test_efficientnet_lites_average_pooling() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    loaded = ca.load_model("efficientnet_lite0")
    check_areas(loaded.module, demo_images(loaded, 1), "_avg_pooling", loaded.module._fc.weight.detach(),
                     loaded.module._fc.bias.detach())
