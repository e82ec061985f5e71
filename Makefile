# Everything a fresh clone needs: Python >= 3.10, make and a C library. `make` alone lists the targets.

PYTHON ?= python3
VENV   := .venv
EDGE   := .venv-edge
RUN    := $(VENV)/bin
# What an installation depends on; the stamps below make it run again only after one of these changed.
PROJECT := pyproject.toml constraints.txt $(wildcard setup.py edge_runtime/metrics/*.c)
# Both cores, and the tests of one file in one process, because they share what is costly to make.
PYTEST_ARGS ?= -n auto --dist loadfile
# These need the data sets: python -m benchmarks.gtsrb FOLDER, benchmarks.drift FOLDER, benchmarks.int8 FOLDER
# benchmarks.image BUNDLE needs an image (docs/docker.md).
BENCHMARKS := rendered gradients road runtime log loop fleet deploy training
PIP     = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test check bench format clean

help:
	@echo "make demo    train, prune, export, audit on the rendered signs; writes demo/report.html"
	@echo "make test    the whole test suite"
	@echo "make check   formatting, lint and types"
	@echo "make format  let ruff rewrite what 'check' would complain about"
	@echo "make bench   the recorded benchmarks (minutes; quiet machine)"
	@echo "make clean   remove the environments and caches"

demo: $(VENV)/installed
	$(RUN)/roadworthy demo --out demo --force

test: $(VENV)/installed $(EDGE)/installed
	$(RUN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/installed
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

format: $(VENV)/installed
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

bench: $(VENV)/installed
	@for name in $(BENCHMARKS); do echo "== $$name"; $(RUN)/python -m "benchmarks.$$name" || exit 1; done

clean:
	rm -rf $(VENV) $(EDGE) .pytest_cache .mypy_cache .ruff_cache build *.egg-info

$(VENV)/installed: $(PROJECT)
	$(call create,$(VENV))
	@echo "installing the desktop environment (PyTorch alone is several GB) ..."
	$(RUN)/python $(PIP) --editable ".[desktop,dev]"
	@touch $@

# What the vehicle gets: neither torch nor onnx. The tests run the real audit in it.
$(EDGE)/installed: $(PROJECT)
	$(call create,$(EDGE))
	@echo "installing the device environment ..."
	$(EDGE)/bin/python $(PIP) --editable ".[cpu]"
	@touch $@

define create
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	{ echo "roadworthy needs Python >= 3.10; '$(PYTHON)' is older or missing. Try: make PYTHON=python3.12 ..." >&2; exit 1; }
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef
