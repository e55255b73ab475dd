# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
TESTS  ?= tests
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 3600
# what the relay's extension is built of, where there is a C compiler
LOOP   := media/relay/compiled_build.py $(wildcard media/relay/*.c media/relay/*.h)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench soak sanitize fuzz protos api conformance clean screenshots

help:
	@echo "make demo         start the IMS, place secured calls, print the verdicts"
	@echo "make test         run every test"
	@echo "make lint         ruff, mypy --strict, import contracts"
	@echo "make bench        relay, SBA, calls and tickets per second, start-up (ratios)"
	@echo "make soak         the relay at half of its capacity, calls coming and going, SOAK_SECONDS=$(SOAK_SECONDS)"
	@echo "make sanitize     the tests of the relay with its packet loop under ASan and UBSan"
	@echo "make fuzz         coverage-guided fuzzing, FUZZ_SECONDS=$(FUZZ_SECONDS) for each target"
	@echo "make protos       generate the gRPC message code"
	@echo "make api          rewrite docs/api.md from the docstrings of what is stable"
	@echo "make screenshots  take the pictures of the console in docs/screenshots anew (needs chromium)"
	@echo "make conformance  rewrite docs/conformance.md from requirements and test results"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "imslab needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml setup.py requirements.lock $(wildcard protos/*.proto) $(LOOP)
	PIP_CONSTRAINT=requirements.lock $(PIP) install -e '.[build]'
	$(BIN)/python protos/generate.py
	@touch $@

$(VENV)/.test: $(VENV)/.run
	PIP_CONSTRAINT=requirements.lock $(PIP) install -e '.[build,test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.run
	PIP_CONSTRAINT=requirements.lock $(PIP) install -e '.[build,lint]'
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	PIP_CONSTRAINT=requirements.lock $(PIP) install -e '.[build,bench]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.run
	PIP_CONSTRAINT=requirements.lock $(PIP) install -e '.[build,fuzz]'
	@touch $@

demo: $(VENV)/.run
	$(BIN)/imslab demo

test: $(VENV)/.test
	$(BIN)/python -m tests.passes $(TESTS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	$(BIN)/python bench/run.py

soak: $(VENV)/.bench
	$(BIN)/python bench/soak.py --seconds $(SOAK_SECONDS)

sanitize: $(VENV)/.test
	$(BIN)/python -m tests.sanitize

fuzz: $(VENV)/.fuzz
	$(BIN)/python fuzz/run.py --seconds $(FUZZ_SECONDS)

protos: $(VENV)/.run
	$(BIN)/python protos/generate.py

api: $(VENV)/.run
	$(BIN)/python -m lab.apidoc

conformance: $(VENV)/.test
	$(BIN)/python -m tests.passes $(TESTS) --results build/results.json || true
	$(BIN)/python -m lab.conformance --results build/results.json -o docs/conformance.md

screenshots: $(VENV)/.test
	$(BIN)/python docs/screenshots/make.py

clean:
	rm -rf build out *.egg-info
