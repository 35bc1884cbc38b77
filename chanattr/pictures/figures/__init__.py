"""Draws records with plotly: `x_data(record)` gives the numbers of a figure, `x(record)` the figure."""

from chanattr.pictures.figures import samples as samples
from chanattr.pictures.figures.areas import smallest_areas, smallest_areas_data
from chanattr.pictures.figures.channel_cards import channel_cards, channel_cards_data
from chanattr.pictures.figures.class_sets import overlap_matrix, overlap_matrix_data, specificity_matrix, specificity_matrix_data
from chanattr.pictures.figures.classes import class_channels, class_channels_data, class_matrix, class_matrix_data
from chanattr.pictures.figures.curves import area_curve, area_curve_data, class_curves, class_curves_data
from chanattr.pictures.figures.energy import area_strip, area_strip_data, energy_map, energy_map_data
from chanattr.pictures.figures.inversions import inversions, inversions_data
from chanattr.pictures.figures.joint import mask_and_channels, mask_and_channels_data
from chanattr.pictures.figures.method_maps import method_maps, method_maps_data
from chanattr.pictures.figures.methods import depth, depth_data, methods, methods_data
from chanattr.pictures.figures.sanity import sanity, sanity_data
from chanattr.pictures.figures.spatial import (
    mask_curve,
    mask_curve_data,
    mask_games,
    mask_games_data,
    mask_growth,
    mask_growth_data,
    mask_strip,
    mask_strip_data,
)

__all__ = [
    "area_curve",
    "area_curve_data",
    "area_strip",
    "area_strip_data",
    "channel_cards",
    "channel_cards_data",
    "class_channels",
    "class_channels_data",
    "class_curves",
    "class_curves_data",
    "class_matrix",
    "class_matrix_data",
    "depth",
    "depth_data",
    "energy_map",
    "energy_map_data",
    "inversions",
    "inversions_data",
    "mask_and_channels",
    "mask_and_channels_data",
    "mask_curve",
    "mask_curve_data",
    "mask_games",
    "mask_games_data",
    "mask_growth",
    "mask_growth_data",
    "mask_strip",
    "mask_strip_data",
    "method_maps",
    "method_maps_data",
    "methods",
    "methods_data",
    "overlap_matrix",
    "overlap_matrix_data",
    "sanity",
    "sanity_data",
    "smallest_areas",
    "smallest_areas_data",
    "specificity_matrix",
    "specificity_matrix_data",
]
