"""The search: in a family of masks of one exact size, the mask with the highest score."""
