# %% [markdown]
# # How much of each layer is needed?
#
# Two pictures at three depths, in one run file: how many channels are enough, where these channels look, and whether they look at
# the same place.

# %%
import tempfile
from pathlib import Path

import chanattr as ca
from chanattr.images import demo_folder
from chanattr.pictures.pixels import shown, to_bytes

model = ca.load_model("embedded")
folders = [demo_folder() / name for name in ("251_dalmatian", "780_schooner")]
loader = ca.image_loader(folders, model.preprocess, class_names=model.class_names, root=demo_folder(), limit_per_class=1)
layers = ["features.7", "features.10", "features.12"]
loader.keys

# %% [markdown]
# ## A run file
#
# `attribute` streams a loader through the layers into one file. Stopped at any moment, the same call goes on where it was. Only a\* is
# asked here, which is a fifth of the work.

# %%
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "layers.h5"
with ca.open_run(path, "a") as run:
    told = ca.attribute(run, model.module, loader, layers=layers, targets="label", areas="smallest", classes=False,
                        search=ca.ExactSearch(relaxed_steps=12, binary_steps=12), precision="float32", name="embedded",
                        class_names=model.class_names, progress=True)
told.images, told.engines

# %% [markdown]
# The file opens without torch, on any machine; a record holds the answers of a layer.

# %%
run = ca.open_run(path)
found = {layer: run.per_image(layer) for layer in run.layers}
{layer: (one.smallest_area.tolist(), one.smallest_mask.shape[1]) for layer, one in found.items()}

# %% [markdown]
# ## How many are enough
#
# Early layers have fewer channels and need more of them: what a schooner is has not been told apart yet. The last ones need a handful.

# %%
images = next(iter(loader)).images
cheap = [ca.evaluate(model.module, images, one, methods=["activation_norm"]) for one in found.values()]
ca.figures.depth(cheap)

# %% [markdown]
# Beside a\*, the channels that are enough, stands the deletion area: how few must go before the class is lost. A record shows itself; here
# the last layer's, with a baseline that takes the loudest channels. Its a\* says how much of the answer loudness alone would have told.
# Of two pictures the intervals say little; a run has as many as are given.

# %%
cheap[-1]

# %% [markdown]
# ## Where they look
#
# One picture, its a\* channels at each depth. At the first the lettering is louder than the dog, at the last they gather on its head.

# %%
row = found["features.12"].keys.index("251_dalmatian/dalmatian_image_0001.jpg")
picture = to_bytes(shown(images[row:row + 1], ca.pixels_of(model.preprocess)))[0]
maps = {layer: one.energy[row:row + 1] for layer, one in found.items()}
ca.figures.method_maps([picture], maps)

# %% [markdown]
# ## Is it the same place?
#
# A mask on the picture asks for the place directly, without any layer: the part of it, here 40 %, that keeps the score highest.
# `joint_view` holds it against the channels of each layer.

# %%
masks = ca.spatial(model.module, images[row:row + 1], targets=[251], keys=[run.keys[row]], areas=[0.4],
                   search=ca.ExactSearch(relaxed_steps=12), refine=False, precision="float32")

# %% [markdown]
# With its edge over each layer's energy; r is the correlation over positions. This mask, of a short search, does not reach the score of
# the whole picture.

# %%
view = ca.joint_view(masks, [one[[row]] for one in found.values()])
ca.figures.mask_and_channels(view, 0, picture)

# %% [markdown]
# With ipywidgets installed (extra `notebook`), `ca.explore(run)` shows every image of a run at every layer, with a slider over areas.

# %%
run.close()
folder.cleanup()
