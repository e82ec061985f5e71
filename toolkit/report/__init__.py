"""``report.html`` from the results of audits and benchmarks: latency versus interpretability, variant by variant."""
