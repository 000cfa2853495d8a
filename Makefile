# make demo   restore a real photograph            make test   the test suite
# make lint   ruff                                 make clean  remove the environment and the demo's output
# make benchmark   time each fast path against its slow counterpart (about 50 minutes without a GPU)
# make test JOBS=0 TESTFLAGS='-m slow -s'   slow tests and measurements, one after the other; likewise -m gpu
#
# All targets use their own environment, .venv, created at the first call with the first Python 3.10 to 3.12 found;
# PYTHON=/path/to/python3.11 chooses one. It is updated after a change of setup.py or pyproject.toml.

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
	@echo "To restore your own: $(VENV)/bin/kernelfusion restore photo.jpg"

# The tests' pictures are small: one single-threaded process per core is faster than one process with many threads.
test: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --maxprocesses 8 --dist loadfile $(TESTFLAGS)

lint: $(READY)
	$(PY) -m ruff check .

benchmark: $(READY)
	$(PY) -m kernelfusion_plugin benchmark

install: $(READY)

# .ready is written last: an incomplete environment is created again, one that is merely out of date is updated.
# torch is installed first, and basicsr without build isolation: basicsr has no wheel, and its sdist needs torch, cython
# and numpy to build, for which pip would otherwise download a second torch.
$(READY): setup.py pyproject.toml kernelfusion_hook.pth
	@set -e; if [ ! -e $(READY) ]; then \
	  python=$$(sh .ci/find_python '$(PYTHON)'); \
	  echo "Making $(VENV) with $$python; downloading PyTorch takes minutes"; \
	  rm -rf $(VENV); "$$python" -m venv $(VENV); \
	fi
	$(PIP) install --quiet torch torchvision
	$(PIP) install --quiet 'setuptools>=64' wheel cython numpy
	$(PIP) install --quiet --no-build-isolation 'basicsr>=1.4.2'
	$(PIP) install --quiet --no-build-isolation -e '.[demo,test]'
	@touch $(READY)

clean:
	rm -rf $(VENV) demo results/kernelfusion_demo build *.egg-info
