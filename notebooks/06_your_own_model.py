# %% [markdown]
# # Your own model
#
# Any `nn.Module` will do, on any tensors, with any labels. Here a small network is made and trained on the spot, on drawings of which we
# know what tells them apart: discs, squares and crosses on noise.

# %%
from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from torch import nn

import chanattr as ca

torch.manual_seed(0)
names, side = ["disc", "square", "cross"], 32
y, x = np.mgrid[:side, :side]
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 600)
centres, sizes = rng.uniform(11, 21, (600, 2, 1, 1)), rng.uniform(5, 8, (600, 1, 1))
down, across = np.abs(y - centres[:, 0]), np.abs(x - centres[:, 1])
shapes = np.stack([down**2 + across**2 < sizes**2, np.maximum(down, across) < 0.9 * sizes,
                   (np.minimum(down, across) < 2) & (np.maximum(down, across) < 1.2 * sizes)], 1)[np.arange(600), labels]
colours = rng.uniform(0.5, 1, (600, 3, 1, 1))
drawings = (shapes[:, None] * colours + rng.normal(0.2, 0.08, (600, 3, side, side))).clip(0, 1).astype(np.float32)
pictures = np.rint(drawings.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
pictures.shape

# %% [markdown]
# ## A model, and what it takes
#
# The preprocessing is yours: chanattr is given what the model takes. `Pixels` says what it does to colours, so that pictures can be made
# and shown; for preprocessing that is a function of a picture, `ca.pixels_of` finds it out.

# %%
pixels = ca.Pixels(mean=(0.4, 0.4, 0.4), std=(0.25, 0.25, 0.25), size=(side, side))
images, targets = torch.from_numpy((drawings - 0.4) / 0.25), torch.from_numpy(labels)
model = nn.Sequential(OrderedDict(
    edges=nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
    parts=nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    wholes=nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()),
    pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(48, 3)))
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(12):
    for rows in torch.randperm(500).split(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), targets[rows]).backward()
        optimizer.step()
model.eval()
test = slice(500, 600)
round(float((model(images[test]).argmax(1) == targets[test]).float().mean()), 2)

# %% [markdown]
# ## Naming a layer
#
# A layer has the name that it has in `model.named_modules()`. `layers` lists what can be asked; where a name is wrong, the error says
# which are near.

# %%
{one.name: one.channels for one in ca.layers(model, images[:2])}

# %% [markdown]
# ## What would it cost?
#
# `explain` is a dry run: what a mask at this layer means, which way the masked network will be run, and how long a thousand images take.

# %%
print(ca.explain(model, images[:2], "wholes"))

# %% [markdown]
# ## The sets
#
# One image of each class, and its curve.

# %%
first = [int(500 + np.flatnonzero(labels[test] == number)[0]) for number in range(3)]
found = ca.per_image(model, images[first], "wholes", targets=[0, 1, 2], keys=names)
ca.figures.area_curve(found, 2, names=names)

# %%
ca.figures.energy_map(found, 2, pictures[first[2]], names=names)

# %% [markdown]
# ## Your own reward
#
# What a set must keep need not be the class's logit. A reward is any function of logits and targets that gives one number an image, here
# the cross entropy with its sign turned and discs counted double; names such as `"contrastive"` are at hand too.

# %%
reward = partial(nn.functional.cross_entropy, weight=-torch.tensor([2.0, 1.0, 1.0]), reduction="none")
own = ca.per_image(model, images[first], "wholes", targets=[0, 1, 2], keys=names, reward=reward)
rival = ca.per_image(model, images[first], "wholes", targets=[0, 1, 2], keys=names, reward="contrastive")
{name: {"logit": int(a), "own": int(b), "contrastive": int(c)}
 for name, a, b, c in zip(names, found.smallest_area, own.smallest_area, rival.smallest_area, strict=True)}

# %% [markdown]
# ## Does it know what it says?
#
# Labels of your own make classes of your own. Their sets are found on sixty drawings and tried on the others.

# %%
classes = ca.per_class(model, images[500:560], "wholes", targets=labels[500:560].tolist(), areas=[2, 4, 8, 16, 32], names=names,
                       progress=True)
ca.figures.class_curves(classes, 2)

# %%
told = ca.specificity(model, images[560:600], "wholes", targets=labels[560:600].tolist(), classes=classes, count=8)
ca.figures.specificity_matrix(told)

# %% [markdown]
# Each row is a class's set kept alone: what is off the diagonal is how often the network still names the other classes rightly.
#
# ## What the channels look for
#
# The channels that crosses need most, as pictures made for them, and the drawings that drive them.

# %%
top = classes.channels(2, 4, source="mean")
made = ca.visualise(model, "wholes", top, pixels=pixels, settings=ca.PictureSettings(steps=64, jitter=2))
driven = ca.examples(model, images[test], "wholes", channels=top, pixels=pixels, count=4)
ca.figures.channel_cards(made, driven, title="Channels that crosses need")

# %% [markdown]
# The drawings are crosses throughout; the pictures made are patterns that fill the frame and drive the channel harder than any cross
# does (the numbers below). So the network has learned something that crosses have, and not what a cross is.
#
# A model that lives in a file works from the command line too: `chanattr attribute my_model.py:make photos --layer wholes -o run.h5`, where
# `make` returns the module, its preprocessing and its class names.
