"""Where the vehicle loop's frames come from: a folder, a video, a camera, a robot log."""

from edge_runtime.sources.frame import Box, Frame, Source

__all__ = ["Box", "Frame", "Source"]
