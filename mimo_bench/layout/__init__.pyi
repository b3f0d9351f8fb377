from .batch import BatchPlan
from .grid import Coordinate, Grid
from .layout import LANGUAGE, Layout
from .limits import WITHOUT_FP16, refuse_fp16
from .settings import AttentionBackend, Precision, Settings
from .tables import GridTable, LayoutTable

__all__ = [
    "LANGUAGE",
    "WITHOUT_FP16",
    "AttentionBackend",
    "BatchPlan",
    "Coordinate",
    "Grid",
    "GridTable",
    "Layout",
    "LayoutTable",
    "Precision",
    "Settings",
    "refuse_fp16",
]
