"""Choosing a network for a vehicle: search how to prune it, measure what the vehicle pays and gets, recommend one."""
