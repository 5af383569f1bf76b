PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test readme coverage speed growing shrinking onion clean

demo: $(READY) # the main job; `make demo ARGS="--data cifar10"` passes arguments on
	$(BIN)/elastic-nets demo $(ARGS)

test: $(READY) # two processes of one thread each; `make test ARGS="-k readme"` picks tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup --maxschedchunk 1 $(ARGS)

readme: $(READY) # README.md from nbs/index.ipynb
	$(BIN)/python scripts/readme.py

coverage: $(READY) # docs/coverage.md, by the tests that hold it
	COVERAGE=write $(BIN)/python -m pytest -q tests/test_properties.py

speed: $(READY) # docs/speed.md, on an idle machine
	for b in supernet_speed speed_report; do $(BIN)/python benchmarks/$$b.py || exit 1; done

growing: $(READY) # docs/growing.md: hours on two cores, a row on disk per finished run; steps on an idle machine
	for t in 1 2; do $(BIN)/python benchmarks/grow_steps.py --threads $$t || exit 1; done
	$(BIN)/python benchmarks/grow.py
	$(BIN)/python benchmarks/grow_report.py

shrinking: $(READY) # docs/shrinking.md: a day on two cores, a row on disk per finished run; shrink_cost on an idle machine
	for b in shrink_cost shrink shrink_report; do $(BIN)/python benchmarks/$$b.py || exit 1; done

onion: $(READY) # docs/onion.md: as long; the second pass runs what depends on the first
	for b in onion onion onion onion_report; do $(BIN)/python benchmarks/$$b.py || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info

$(READY): pyproject.toml settings.ini setup.py
	@echo "Installing into $(VENV): some minutes and 6 GB, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq -e ".[dev]"
	@touch $@
