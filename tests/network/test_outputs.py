"""The logits are found in a model's output, or asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.outputs import logits_of
from tests.models import Output, images, seeded

LOGITS, FEATURES, MAPS = torch.rand(2, 4), torch.rand(2, 7), torch.rand(2, 3, 5, 5)


@pytest.mark.parametrize("output", [
    LOGITS, [LOGITS], (LOGITS, MAPS), (MAPS, LOGITS), (None, {"x": (MAPS, LOGITS)}), {"features": FEATURES, "logits": LOGITS},
    Output(logits=LOGITS, hidden=FEATURES), {"maps": MAPS, "out": LOGITS}, {"logits": None, "out": LOGITS},
    (LOGITS, {"again": LOGITS}), (torch.ones(2, 4, dtype=torch.long), LOGITS),
])
def test_logits_are_found(output: Any) -> None:
    assert logits_of(output, None) is LOGITS


@pytest.mark.parametrize(("output", "message"), [
    ({"features": FEATURES, "scores": LOGITS}, r"2 tensors that may be its logits \(\['features'\] \[2, 7\], \['scores'\] \[2, 4\]\)"),
    ((LOGITS, (FEATURES,)), r"\[0\] \[2, 4\], \[1\]\[0\] \[2, 7\]"),
    (MAPS, r"gave a tensor of shape \(2, 3, 5, 5\); expected logits"),
    ({"logits": MAPS, "pooled": FEATURES}, r"gave a tensor of shape \(2, 3, 5, 5\); expected logits"),
    ("text", "gave str; expected logits"),
])
def test_what_may_not_be_the_logits_is_refused(output: Any, message: str) -> None:
    with pytest.raises(ca.ModelError, match=f"{message}.*pass score="):
        logits_of(output, None)


@pytest.mark.parametrize("engine", ["tail", "injection"])
def test_a_mapping_is_attributed_on_its_logits(engine: str) -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 5, 3), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            features = self.body(x).relu().mean((2, 3))
            return {"features": features, "logits": self.head(features)}

    model = seeded(Mapped)
    found = ca.per_image(model, images(), "body", areas=(5,), engine=engine)
    logits = model(images())["logits"]
    torch.testing.assert_close(torch.from_numpy(found.original), logits.amax(1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ca.InputError, match="3 classes"):
        ca.per_image(model, images(), "body", areas=(5,), targets=[3, 0, 0], engine=engine)
