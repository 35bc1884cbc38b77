# %% [markdown]
# # Which channels does a class need?
#
# One image says what the network used that once. Several images of a class say what it uses for the class: here three classes with four
# images each, at a late layer.

# %%
import numpy as np
import torch

import chanattr as ca
from chanattr.images import demo_folder

model = ca.load_model("embedded")
folders = [demo_folder() / name for name in ("251_dalmatian", "780_schooner", "805_soccer_ball")]
loader = ca.image_loader(folders, model.preprocess, class_names=model.class_names, root=demo_folder(), limit_per_class=4)
batches = list(loader)
images = torch.cat([batch.images for batch in batches])
labels = np.concatenate([batch.labels for batch in batches])
{model.class_names[label]: int((labels == label).sum()) for label in np.unique(labels)}

# %% [markdown]
# ## Two answers for a class
#
# The paper's: the mean of the images' a\* masks, the share of the class's images that need a channel. And a joint set: one set for all
# images of the class, searched on their mean score, found on one half of them and scored on the other.
# At so late a layer a search of half the usual evaluations finds the same sets.

# %%
layer, dalmatian, schooner = "features.12", 251, 780
search = ca.ExactSearch(relaxed_steps=8, binary_steps=12)
found = ca.per_image(model.module, images, layer, targets=labels.tolist(), areas="smallest", search=search)
classes = ca.per_class(model.module, images, layer, targets=labels.tolist(), areas=[2, 8, 32], search=search, folds=2, found=found,
                       names=model.class_names, progress=True)
ca.figures.class_channels(classes, dalmatian)

# %% [markdown]
# A bar of 1 is a channel that every image needs. The joint sets keep their score on images that they were not searched on only as far as
# the class is the same thing in all of them; the dotted line says how far that is.

# %%
ca.figures.class_curves(classes, dalmatian)

# %% [markdown]
# ## What classes share
#
# Each class against each other, by the channels that most images need, and by the joint sets of 8 channels. At this depth, right before
# the last convolution, these three classes share none.

# %%
ca.figures.class_matrix(classes)

# %%
alike = ca.overlap(classes, 8)
ca.figures.overlap_matrix(alike)

# %%
{"shared by all three": ca.shared(classes, [251, 780, 805], 8).tolist(), "dalmatian's own": ca.unique(classes, dalmatian, 8).tolist()}

# %% [markdown]
# ## What a class's channels do for other classes
#
# One class's set alone is kept, and every class's images are shown to the network. What is right on the diagonal and wrong elsewhere is
# the class's own. (The sets were searched on these very images, which flatters the diagonal.)

# %%
told = ca.specificity(model.module, images, layer, targets=labels.tolist(), classes=classes, count=8)
ca.figures.specificity_matrix(told)

# %% [markdown]
# ## New images
#
# Four pictures of dalmatians that nothing was searched on, seen through the class's joint set of 8 channels alone.

# %%
fresh = ca.image_loader([demo_folder() / "251_dalmatian"], model.preprocess, class_names=model.class_names, limit_per_class=8)
unseen = next(iter(fresh)).images[4:]
with torch.no_grad():
    whole = model.module(unseen).argmax(1)
    with ca.inject(model.module, layer, classes.channel_mask(dalmatian, 8)):
        kept = model.module(unseen).argmax(1)
{"named dalmatian with all channels": int((whole == dalmatian).sum()), "with 8": int((kept == dalmatian).sum()), "of": len(unseen)}

# %% [markdown]
# The set answers "dalmatian" more readily, for what speaks against it is gone. So the same 8 channels on pictures of schooners are the
# test of whether they know the class or only say its name.

# %%
with torch.no_grad(), ca.inject(model.module, layer, classes.channel_mask(dalmatian, 8)):
    wrong = model.module(images[labels == schooner]).argmax(1)
[model.class_names[number] for number in wrong]

# %% [markdown]
# They say its name: with nothing else to go by, most schooners are dalmatians too. A set that is enough for a class is no detector of it;
# what speaks for the other classes has been taken out with the rest.
