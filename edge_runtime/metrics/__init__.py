"""The measures of explanations, once for desktop and vehicle: Gini, gradient norm, ROAD, stability."""

from edge_runtime.metrics.imputation import impute
from edge_runtime.metrics.road import ORDERS, PERCENTAGES, RoadCurve, combined, image_areas, road, road_steps
from edge_runtime.metrics.saliency import REDUCTIONS, gini, gradient_norm, rank_correlation, reduce_channels
from edge_runtime.metrics.stability import completeness_gap, max_sensitivity, seed_stability

__all__ = [
    "ORDERS",
    "PERCENTAGES",
    "REDUCTIONS",
    "RoadCurve",
    "combined",
    "completeness_gap",
    "gini",
    "gradient_norm",
    "image_areas",
    "impute",
    "max_sensitivity",
    "rank_correlation",
    "reduce_channels",
    "road",
    "road_steps",
    "seed_stability",
]
