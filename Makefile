# make report    notebooks, headless, to results/report/index.html      (PRESET=smoke|cpu|full  COMPUTE=1  to train)
# make test      the tests, every notebook trained small among them     make test-long    the slow ones
# make lab       JupyterLab on the notebooks                            make study        train and score what is missing
# make lint      ruff                                                   make constraints  today's versions as exact pins

VENV    ?= .venv
PRESET  ?= cpu
COMPUTE ?= 0
MINUTES ?=
TORCH   ?= torch==2.13.0 torchvision==0.28.0
# The first Python that is new enough; a name may exist without a Python behind it, so it is run.
PYTHON  ?= $(shell for p in python3 python3.11 python3.12 python3.13 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

READY := $(VENV)/.installed
RUN   := $(VENV)/bin/python -m

.PHONY: help report test test-long lab study lint constraints clean
.DELETE_ON_ERROR:

help:
	@grep '^# make' Makefile | cut -c3-

report: $(READY)
	$(RUN) ddgan_core report --preset $(PRESET) $(if $(filter-out 0 no false,$(COMPUTE)),--compute)

test: $(READY)
	@echo "Tests: 10 minutes or less on 2 cores; needs no network and no GPU."
	$(RUN) pytest -m "not slow"

test-long: $(READY)
	@echo "Slow tests: up to 25 minutes on 2 cores; those on real data are skipped where DDGAN_DATA does not lead to it, one on a GPU where there is none."
	$(RUN) pytest -m slow

lab: $(READY)
	$(VENV)/bin/jupyter lab --notebook-dir=. notebooks/00_start_here.ipynb

study: $(READY)
	$(RUN) ddgan_core study run --preset $(PRESET) $(if $(MINUTES),--minutes $(MINUTES))

lint: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check ddgan_core tests

# Built when missing, and again when the dependencies changed.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found: install one, or name it: make PYTHON=/path/to/python3"; exit 2; }
	@echo "Installing into $(VENV) with $(PYTHON), exact versions from constraints.txt: 1 to 5 minutes, once;"
	@echo "about 2 GB of disk with CPU wheels of PyTorch, 8 GB with CUDA ones (README, 'Data and installation')."
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(RUN) pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

# Resolved afresh in a throw-away environment, around the PyTorch that the results were made with. Local labels (+cpu) and CUDA's own packages, which PyTorch pins itself,
# are left out, so that one file serves both kinds of wheel.
constraints:
	rm -rf build/pins && $(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install --disable-pip-version-check --progress-bar off $(TORCH) -e '.[dev,cluster,bench]'
	build/pins/bin/python -m pip freeze --exclude-editable > build/frozen.txt
	{ echo '# The whole environment, exactly; written by `make constraints`.'; \
	  grep -v -i -E '^(nvidia|cuda|triton)' build/frozen.txt | sed 's/+.*//'; } > build/pins.txt
	mv build/pins.txt constraints.txt && rm -rf build/pins

clean:
	rm -rf $(VENV) build results/executed results/report .pytest_cache .ruff_cache *.egg-info
