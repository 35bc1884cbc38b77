# %% [markdown]
# # What is left of a picture in a few channels?
#
# `per_image` says which channels of a layer the network needs. This notebook shows what those channels hold: pictures made from
# nothing but an activation, first from all of it, then from the a\* channels alone (figure 9 of the paper, equation 10).

# %%
import chanattr as ca
from chanattr.images import demo_folder

model = ca.load_model("embedded")
loader = ca.image_loader([demo_folder() / "776_sax", demo_folder() / "130_flamingo"], model.preprocess, class_names=model.class_names,
                         root=demo_folder(), limit_per_class=1)
batch = next(iter(loader))
batch.keys

# %% [markdown]
# ## The sets
#
# The smallest set found that keeps the class's score, at a late layer with 512 channels.

# %%
layer = "features.12"
found = ca.per_image(model.module, batch.images, layer, targets=batch.labels.tolist(), keys=batch.keys, areas=[1, 8, 64])
dict(zip(found.keys, found.smallest_area.tolist(), strict=True))

# %% [markdown]
# ## Pictures of them
#
# Each picture starts from faint noise and is changed until its own activation points the way that the given one does. A few steps are
# enough to see it; the default makes more.
#
# How a picture is normalised for the network is asked of the preprocessing itself: `pixels_of` puts black, white and grey through it.

# %%
pixels = ca.pixels_of(model.preprocess)
settings = ca.PictureSettings(steps=24)
whole = ca.invert(model.module, batch.images, layer, pixels=pixels, targets=batch.labels.tolist(), keys=batch.keys, settings=settings,
                  progress=True)
masked = ca.invert(model.module, batch.images, layer, pixels=pixels, mask=found.smallest_mask, targets=batch.labels.tolist(),
                   keys=batch.keys, settings=settings)
ca.figures.inversions([whole, masked], ["all channels", "a* channels"], names=model.class_names)

# %% [markdown]
# Below each picture stands a number, so that nobody has to judge by eye alone: the cosine between the picture's activation and the one
# that was looked for. It is of the picture as it is shown, in bytes.

# %%
{"all channels": whole.cosine.astype(float).round(2).tolist(), "a* channels": masked.cosine.astype(float).round(2).tolist()}

# %% [markdown]
# ## Growing sets of one image
#
# The same image three times, each time with one of the sets that were searched: 1, 8 and 64 channels.

# %%
growing = ca.invert(model.module, batch.images[:1].expand(3, -1, -1, -1), layer, pixels=pixels, mask=found.masks[0],
                    targets=[int(batch.labels[0])] * 3, keys=[f"{area} channels" for area in found.areas], settings=settings)
ca.figures.inversions([growing], ["made of the set"], names=model.class_names)

# %%
dict(zip(growing.keys, growing.cosine.astype(float).round(2).tolist(), strict=True))

# %% [markdown]
# A set's picture may show the object where its channels look at it and nothing elsewhere: what is not in the set is not looked for. A
# high cosine with a wrong name says that the activation is met and the network still sees something else behind it: the class hangs on
# small differences, which is why the sets are judged by scores and not by pictures.
