"""The exception tree: every error that chanattr raises on purpose.

    ChanattrError
    ├── InputError     an argument is wrong: areas, targets, keys, a setting            (also ValueError)
    ├── ImageError     a file or array is not an image that can be read                 (also ValueError)
    ├── LayerError     no such layer, it never fires, or fires more than once           (also LookupError)
    ├── ModelError     the model cannot be loaded, or gives something unusable (NaN)    (also RuntimeError)
    └── StoreError     a run file cannot be read, written, or does not match            (also OSError)

Every message has three beats: what came, what was expected, what to do.
"""


class ChanattrError(Exception):
    """Base of every error that chanattr raises on purpose."""


class InputError(ChanattrError, ValueError):
    """An argument is wrong: areas, targets, keys, a setting."""


class ImageError(ChanattrError, ValueError):
    """A file or an array is not an image that can be read."""


class LayerError(ChanattrError, LookupError):
    """No such layer, it never fires, fires more than once, or does not reach the score."""


class ModelError(ChanattrError, RuntimeError):
    """The model cannot be loaded, or gives an output that cannot be used."""


class StoreError(ChanattrError, OSError):
    """A run file cannot be read or written, or does not match what is asked."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's code is, for the first beat of one of ours: its type, and the first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else ""
    return f"{type(error).__name__}: {said if len(said) <= 200 else said[:196] + ' ...'}".removesuffix(": ")
