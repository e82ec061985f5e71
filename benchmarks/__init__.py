"""Repeatable measurements. Each module is a script; results go to ``benchmarks/results/`` with device, versions, date."""
