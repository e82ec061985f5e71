"""INT8 for classifiers whose explanations must survive it; so far the sampling of calibration images."""
