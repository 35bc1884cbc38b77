"""The rooms that make, draw and bind images for people."""
