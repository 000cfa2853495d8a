# make demo   restore a real photograph            make test   the test suite
# make lint   ruff                                 make clean  remove the environment and what the demo wrote
# make benchmark   speed: each fast path beside the slow one (some 50 minutes without a GPU)
# make test JOBS=0 TESTFLAGS='-m slow -s'   what is measured or slow, one test after the other; likewise -m gpu
#
# All use an environment of their own, .venv, made at the first call with the first Python 3.10 to 3.12 that is found;
# PYTHON=/path/to/python3.11 chooses one. Changing setup.py or pyproject.toml brings it up to date at the next call.

VENV ?= .venv
PYTHON ?=
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
PIP := $(PY) -m pip --disable-pip-version-check --no-input
TESTFLAGS ?=
JOBS ?= auto

.PHONY: demo test lint benchmark install clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(PY) -m kernelfusion_plugin.demo
	@echo "An own photograph: $(VENV)/bin/kernelfusion restore photo.jpg"

# A process with one thread for each core does more than one process with as many threads: the tests' pictures are small.
test: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --maxprocesses 8 --dist loadfile $(TESTFLAGS)

lint: $(READY)
	$(PY) -m ruff check .

benchmark: $(READY)
	$(PY) -m kernelfusion_plugin benchmark

install: $(READY)

# .ready is written last: an environment whose making was cut off is made anew, one that is only out of date is kept.
# torch comes first and basicsr without build isolation, because basicsr's sdist (it has no wheel) wants torch, cython
# and numpy while it is built, and pip would fetch a second torch for that.
$(READY): setup.py pyproject.toml kernelfusion_hook.pth
	@set -e; if [ ! -e $(READY) ]; then \
	  python=$$(sh .ci/find_python '$(PYTHON)'); \
	  echo "Making $(VENV) with $$python; PyTorch is downloaded, which takes minutes"; \
	  rm -rf $(VENV); "$$python" -m venv $(VENV); \
	fi
	$(PIP) install --quiet torch torchvision
	$(PIP) install --quiet 'setuptools>=64' wheel cython numpy
	$(PIP) install --quiet --no-build-isolation 'basicsr>=1.4.2'
	$(PIP) install --quiet --no-build-isolation -e '.[demo,test]'
	@touch $(READY)

clean:
	rm -rf $(VENV) demo results/kernelfusion_demo build *.egg-info
