"""Files, folders and globs to normalised batches with keys, labels, file digests and thumbnails."""

from chanattr.images.find import PictureFile, class_of, find_images
from chanattr.images.loader import Batch, ImageLoader, demo_folder, example_image, image_loader
from chanattr.images.read import open_image

__all__ = ["Batch", "ImageLoader", "PictureFile", "class_of", "demo_folder", "example_image", "find_images", "image_loader", "open_image"]
