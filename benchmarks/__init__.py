"""Repeatable measurements, one script each; ``benchmarks/results/`` holds results with device, versions and date."""
