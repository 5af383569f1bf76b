PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST ?= .venv-oldest
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-gpu faults export readme lint docs docs-check browser browser-site browser-notebooks coverage coverage-all onnx dist test-oldest hooks speed using trust growing shrinking onion evidence gpu-evidence pages clean course

demo: $(READY) # the main job; `make demo ARGS="--data cifar10"` passes arguments on
	$(BIN)/elastic-nets demo $(ARGS)

test: $(READY) # two processes of one thread each; `make test ARGS="-k readme"` picks tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup --maxschedchunk 1 $(ARGS)

test-gpu: # what needs a GPU, with whatever environment has one; says "no GPU" elsewhere
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m pytest -q -rs tests/test_gpu.py $(ARGS)

faults: $(READY) # kills fits of each kind 20 times, at random moments: minutes; `make faults FAULTS=100` kills more
	FAULTS=$(or $(FAULTS),20) $(BIN)/python -m pytest -qs tests/test_checkpoint_kills.py $(ARGS)

# ---- while you work (see CONTRIBUTING.md)

trust: $(READY) # docs/trust.md: fits killed 20 times each, two processes, long runs, bad calls; TRUST=write leaves a row of `make test`, too
	TRUST=write FAULTS=$(or $(FAULTS),20) $(BIN)/python -m pytest -q tests/test_checkpoint_kills.py tests/test_ranks.py tests/test_long_runs.py tests/test_errors.py tests/test_fuzz.py $(ARGS)
	$(BIN)/python benchmarks/trust_report.py

export: $(READY) # modules and README.md from the notebooks, which are cleaned
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python scripts/readme.py

readme: $(READY) # README.md from nbs/index.ipynb
	$(BIN)/python scripts/readme.py

lint: $(READY) # ruff, and the rules of this house: seconds
	$(BIN)/ruff check
	$(BIN)/python -m pytest -q tests/test_house.py

docs: $(READY) # the site, in build/docs/html: minutes, and no network
	$(BIN)/python scripts/make_site.py build/docs/source
	$(BIN)/sphinx-build -W --keep-going -q -b html build/docs/source build/docs/html
	$(BIN)/python -m pytest -q tests/built_site.py

browser: browser-site browser-notebooks # both; skipped, with a message, where chromium is not installed

browser-site: $(READY) # the site in a real browser: search, parameters, players, dark mode
	test -f build/docs/html/index.html || $(MAKE) docs
	$(BIN)/python -m pytest -qrs tests/browser_site.py

browser-notebooks: $(READY) # the explorers in a real browser: a slider is moved, a button pressed
	$(BIN)/python -m pytest -qrs tests/browser_notebooks.py

docs-check: $(READY) # nbdev can make documentation of every notebook
	$(BIN)/python -m pytest -q tests/test_project.py -k documentation

course: $(READY) # every chapter to its end with the cell for a GPU, pictures being noise of CIFAR-10's form: minutes
	COURSE=whole $(BIN)/python -m pytest -q tests/test_course_on_cifar.py

coverage: $(READY) # docs/coverage.md, by the tests that hold it: its first table
	COVERAGE=write $(BIN)/python -m pytest -q tests/test_properties.py

onnx: $(READY) # every model of the first table of docs/coverage.md as ONNX, five subnets each, compared with PyTorch: a row for each, docs/using.md
	$(BIN)/python -W ignore benchmarks/onnx_files.py $(ARGS)
	$(BIN)/python benchmarks/using_report.py

coverage-all: $(READY) # and the second: every row anew, also those of large models that the tests leave out; minutes
	COVERAGE=write $(BIN)/python -m pytest -q tests/test_coverage.py

dist: $(READY) # wheel and source distribution, each installed in an environment of its own, where the demo runs
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python scripts/try_dist.py

test-oldest: # with the oldest versions that pyproject.toml allows; PYTHON=python3.10 is the oldest of those
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install -qq pytest hypothesis psutil accelerate transformers "timm<1.0.20" "setuptools>=77" \
		optuna scikit-learn ipywidgets "onnx>=1.18" "onnxscript>=0.5" "onnxruntime>=1.22" $$($(PYTHON) scripts/floors.py)
	$(OLDEST)/bin/pip install -qq --no-deps --no-build-isolation -e .
	$(OLDEST)/bin/python -m pytest -q $$($(PYTHON) scripts/floors.py tests) $(ARGS)

hooks: $(READY) # git and Jupyter keep notebooks clean, and merge them cell by cell; _modidx.py is made anew, not merged
	$(BIN)/nbdev-install-hooks
	git config --local merge.regenerated.driver true
	git config --local merge.jupyternotebook.driver "$(abspath $(BIN))/nbdev-merge %O %A %B %P"
	git config --local diff.jupyternotebook.command "$(abspath $(BIN))/nbdev-diff-driver"

# ---- what the pages in docs/ were measured with

speed: $(READY) # docs/speed.md, on an idle machine
	for b in supernet_speed speed_report; do $(BIN)/python benchmarks/$$b.py || exit 1; done

using: $(READY) # docs/using.md, on an idle machine: comparing, finding, timing, switching and deploying subnets: an hour
	for b in evaluate_speed search latency switch onnx_files eight_bits using_report; do $(BIN)/python -W ignore benchmarks/$$b.py || exit 1; done

growing: $(READY) # docs/growing.md: hours on two cores, a row on disk per finished run; steps on an idle machine
	for t in 1 2; do $(BIN)/python benchmarks/grow_steps.py --threads $$t || exit 1; done
	for b in grow grow_report; do $(BIN)/python benchmarks/$$b.py || exit 1; done

shrinking: $(READY) # docs/shrinking.md: a day on two cores, a row on disk per finished run; shrink_cost on an idle machine
	for b in shrink_cost shrink shrink_report; do $(BIN)/python benchmarks/$$b.py || exit 1; done

onion: $(READY) # docs/onion.md: as long; the second pass runs what depends on the first
	for b in onion onion onion onion_report; do $(BIN)/python benchmarks/$$b.py || exit 1; done

evidence: $(READY) # the long runs that verdicts hang on: a day on one core, a row on disk per finished run
	OMP_NUM_THREADS=1 nice -n 19 $(BIN)/python -W ignore benchmarks/evidence.py $(ARGS)

MINUTES ?= 11
gpu-evidence: # what a GPU can say in that time; needs neither git nor network. ARGS=--tiny tries it without a card
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -W ignore benchmarks/gpu_evidence.py --minutes $(MINUTES) $(ARGS)

pages: $(READY) # the same pages anew, from the rows that are there
	for b in speed grow shrink onion verdicts using trust readme; do $(BIN)/python benchmarks/$${b}_report.py || exit 1; done
	$(BIN)/python scripts/readme.py

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info

$(READY): pyproject.toml
	@echo "Installing into $(VENV): some minutes and 6 GB, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq -e ".[dev]"
	@touch $@
