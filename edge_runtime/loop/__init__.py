"""The vehicle loop: classify every frame first, audit what time allows, watch for drift, log and show it all.

How it behaves: ``docs/vehicle_loop.md``.
"""

from edge_runtime.loop.engine import EngineOptions
from edge_runtime.loop.keeper import GROUP
from edge_runtime.loop.ladder import LadderOptions
from edge_runtime.loop.loop import VehicleLoop
from edge_runtime.loop.options import LoopOptions, LoopSummary
from edge_runtime.loop.schedule import ScheduleOptions

__all__ = ["GROUP", "EngineOptions", "LadderOptions", "LoopOptions", "LoopSummary", "ScheduleOptions", "VehicleLoop"]
