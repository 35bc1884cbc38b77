"""Draws records with plotly: `x_data(record)` gives the numbers of a figure, `x(record)` the figure."""

from chanattr.pictures.figures.areas import SmallestAreas, smallest_areas, smallest_areas_data
from chanattr.pictures.figures.channel_cards import ChannelCards, channel_cards, channel_cards_data
from chanattr.pictures.figures.class_sets import (
    OverlapMatrix,
    SpecificityMatrix,
    overlap_matrix,
    overlap_matrix_data,
    specificity_matrix,
    specificity_matrix_data,
)
from chanattr.pictures.figures.classes import (
    ClassChannels,
    ClassMatrix,
    class_channels,
    class_channels_data,
    class_matrix,
    class_matrix_data,
)
from chanattr.pictures.figures.curves import AreaCurve, ClassCurves, area_curve, area_curve_data, class_curves, class_curves_data
from chanattr.pictures.figures.energy import AreaStrip, EnergyMap, area_strip, area_strip_data, energy_map, energy_map_data
from chanattr.pictures.figures.inversions import InversionPanels, inversions, inversions_data
from chanattr.pictures.figures.methods import Depth, Methods, depth, depth_data, methods, methods_data
from chanattr.pictures.figures.sanity import SanityCurve, sanity, sanity_data
from chanattr.pictures.figures.spatial import (
    MaskCurve,
    MaskStrip,
    MethodMaps,
    mask_curve,
    mask_curve_data,
    mask_strip,
    mask_strip_data,
    method_maps,
    method_maps_data,
)

__all__ = [
    "AreaCurve",
    "AreaStrip",
    "ChannelCards",
    "ClassChannels",
    "ClassCurves",
    "ClassMatrix",
    "Depth",
    "EnergyMap",
    "InversionPanels",
    "MaskCurve",
    "MaskStrip",
    "MethodMaps",
    "Methods",
    "OverlapMatrix",
    "SanityCurve",
    "SmallestAreas",
    "SpecificityMatrix",
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
    "mask_curve",
    "mask_curve_data",
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
