"""Where the vehicle loop's frames come from: a folder, a video, a camera, a robot log."""

from edge_runtime.sources.frame import Box, Frame, Source
from edge_runtime.sources.opening import open_source

__all__ = ["Box", "Frame", "Source", "open_source"]
