"""The one part that pyproject.toml cannot say yet: ROAD's imputation in C.

Optional: without a C compiler the installation succeeds, and numpy does the same work more slowly
(edge_runtime/metrics/multigrid.py). The library has no Python interface, so no Python headers are needed.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "edge_runtime.metrics._imputer",
            ["edge_runtime/metrics/imputer.c"],
            # Python's own -fwrapv would keep compilers from vectorising the loops: 3 times slower.
            extra_compile_args=["-O3", "-fno-wrapv"],
            optional=True,
        )
    ]
)
