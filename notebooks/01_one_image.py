# %% [markdown]
# # Which channels does the network need to see this?
#
# One image, one layer with 512 channels, and the smallest set of them that keeps the score of the class: first the answer, then how to
# read it, use it and doubt it.

# %%
import chanattr as ca
from chanattr.images import demo_folder
from chanattr.pictures.pixels import shown, to_bytes

model = ca.load_model("embedded")
loader = ca.image_loader([demo_folder() / "780_schooner"], model.preprocess, class_names=model.class_names, root=demo_folder(),
                         limit_per_class=4)
batch = next(iter(loader))
image, key = batch.images[3:4], batch.keys[3]
key

# %% [markdown]
# ## The answer
#
# For every area, that is, every number of channels asked for, the set that keeps the score highest; and a\*, the smallest number at which
# the network's own score is reached. Every score drawn is that of a set with exactly so many channels: the others are zero.

# %%
layer = "features.10"
found = ca.per_image(model.module, image, layer, keys=[key], areas=[1, 2, 4, 8, 16, 64, 256, 512], progress=True)
ca.figures.area_curve(found, 0, names=model.class_names)

# %% [markdown]
# The curve rises above the score of the whole network and comes back to it at 512: many channels speak against this class, and the best
# sets leave them out. Open markers are sets from which the network names something else.

# %%
{"a*": int(found.smallest_area[0]), "its channels": found.channels(0).tolist()}

# %% [markdown]
# ## Where they look
#
# A channel has an activation at every position. The energy of the masked activation, laid over the picture as the network saw it, says
# where the set is active.

# %%
picture = to_bytes(shown(image, ca.pixels_of(model.preprocess)))[0]
ca.figures.energy_map(found, 0, picture, names=model.class_names)

# %%
ca.figures.area_strip(found, 0, picture, names=model.class_names)

# %% [markdown]
# ## Using the set
#
# `inject` makes any forward pass run with these channels alone, and leaves the model as it was.

# %%
with ca.inject(model.module, layer, found.smallest_mask[0]):
    kept = model.module(image)
with ca.inject(model.module, layer, ~found.smallest_mask[0]):
    dropped = model.module(image)
{"all channels": model.class_names[int(model.module(image).argmax())],
 "a* alone": model.class_names[int(kept.argmax())],
 "all but a*": model.class_names[int(dropped.argmax())]}

# %% [markdown]
# What is left when the set is taken out is another question than which set is enough: a class can have spare channels. `game="delete"`
# asks it outright, for the smallest set whose loss costs the network its class.

# %%
lost = ca.per_image(model.module, image, layer, keys=[key], areas=[1, 2, 4, 8, 16, 64], game="delete")
ca.figures.area_curve(lost, 0, names=model.class_names)

# %% [markdown]
# ## Is it right?
#
# Two doubts can be settled at once. Could a channel of the set be spared? `certify` tries them all. Would a simple ranking have done as
# well? `evaluate` holds the sets against those of other attributions, with the same areas and the same score.

# %%
sure = ca.certify(model.module, image, found)
{"no channel can be spared": bool(sure.irreducible[0]), "channels that it took away": int(sure.pruned[0])}

# %% [markdown]
# None can: the set that the search found has no channel too many. Where one has, `certify` takes it away.

# %%
told = ca.evaluate(model.module, image, found, methods=["random", "activation_norm", "gradient_x_activation"])
ca.figures.methods(told)

# %% [markdown]
# With one image the intervals have no width; `chanattr evaluate` does this for run files of many.
