# %% [markdown]
# # Which channels does a class need, and what do they look for?
#
# Channels that most images of a class need, shown three ways (figure 10 of the paper): a picture made to drive the channel, the
# images that drive it most, and the images that lose most without it.

# %%
import chanattr as ca
from chanattr.images import demo_folder

model = ca.load_model("embedded")
loader = ca.image_loader([demo_folder() / "251_dalmatian", demo_folder() / "130_flamingo"], model.preprocess, class_names=model.class_names,
                         root=demo_folder(), limit_per_class=4)
batch = next(iter(loader))
layer, dalmatian, flamingo = "features.12", 251, 130

# %% [markdown]
# ## How often each channel is needed
#
# `per_class` takes the mean of the images' a\* masks: for every channel the share of the class's images that need it.

# %%
found = ca.per_image(model.module, batch.images, layer, targets=batch.labels.tolist(), keys=batch.keys, areas="smallest", progress=True)
classes = ca.per_class(model.module, batch.images, layer, targets=batch.labels.tolist(), areas=[8], folds=0, refine=False, found=found,
                       names=model.class_names)
top = classes.channels(dalmatian, 3, source="mean")
ca.figures.class_channels(classes, dalmatian)

# %% [markdown]
# ## What they look for
#
# `visualise` makes a picture for each; `examples` finds the images, cropped to what the channel's strongest position sees. Small pictures
# are made sooner, and a channel fills them.

# %%
pixels = ca.pixels_of(model.preprocess)
small = pixels._replace(size=(144, 144))
settings = ca.PictureSettings(steps=48)
made = ca.visualise(model.module, layer, top, pixels=small, settings=settings)
driven = ca.examples(model.module, batch.images, layer, channels=top, pixels=pixels, count=3, keys=batch.keys)
needed = ca.examples(model.module, batch.images, layer, channels=top, pixels=pixels, count=3, kind="needed", found=found)
ca.figures.channel_cards(made, driven, needed, title="Channels that dalmatians need")

# %% [markdown]
# What drives a channel and what needs it need not be the same images: a channel may be loud where the class does not hang on it.

# %% [markdown]
# ## One class against another
#
# The rates of one class less those of the other weigh the channels; the picture drives the ones up and the others down.

# %%
apart = ca.visualise(model.module, layer, ca.class_weights(classes, dalmatian, flamingo), pixels=small, settings=settings,
                     names=["dalmatian less flamingo"])
ca.figures.channel_cards(apart)

# %%
[model.class_names[number] for number in apart.predictions[0]]
