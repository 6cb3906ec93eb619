# Two commands set everything up by themselves: `make rehearsal` and `make test`.
# TORCH_ARGS passes options to torch's install, such as the index of its CPU build; LAB_ARGS to
# JupyterLab. Containers run as root, which Jupyter wants to be told.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
# Material announces a later MkDocs at every build; versions are pinned here.
export NO_MKDOCS_2_WARNING := 1

.PHONY: help rehearsal test labs-full lab site site-serve site-publish figures stale clean
.DELETE_ON_ERROR:

help:
	@echo "make rehearsal   the whole capstone in miniature: CPU, about three minutes"
	@echo "make test        every check there is"
	@echo "make labs-full   every lab in the learner's setting, its time written down"
	@echo "make lab         JupyterLab with the kernel X1"
	@echo "make site        build the site into site/; make site-serve: read it at localhost:8000"
	@echo "make site-publish TO=PLACE   build the site and put it on a static host; see docs/publish.md"
	@echo "make figures     write again the figures and tables the site computes from the package"
	@echo "make stale       measured results that the code has outgrown"
	@echo "make clean       remove what was built (runs/, data/ and work/ are yours and stay)"

.make/venv: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"X1 needs Python 3.11 or newer; this is {v[0]}.{v[1]}. Set PYTHON=/path/to/python3.11 / X1 necesita Python 3.11 o superior.")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	@mkdir -p .make && touch $@

.make/core: .make/venv pyproject.toml
	@echo "Installing PyTorch and the core packages (once; a few minutes) / Instalando PyTorch y los paquetes básicos (una sola vez; unos minutos)"
	$(PIP) torch $(TORCH_ARGS)
	$(PIP) -e .
	@touch $@

.make/lab: .make/core
	$(PIP) --group lab
	$(BIN)/python -m ipykernel install --sys-prefix --name x1 --display-name X1
	@touch $@

.make/site: .make/venv pyproject.toml
	$(PIP) --group site
	$(PIP) --no-deps -e .
	@touch $@

.make/publish: .make/site
	$(PIP) --group publish
	@touch $@

.make/dev: .make/core
	$(PIP) --group lab --group dev --group site
	@touch $@

rehearsal: .make/core
	$(BIN)/x1 rehearse

lab: .make/lab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

test: .make/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/x1 author check --seeds 40 # 200 without it, before a lab is changed
	$(BIN)/pytest -n 2 --dist loadfile

labs-full: .make/dev
	$(BIN)/python benchmarks/labs.py --out docs/measured/labs.json

site: .make/site
	$(BIN)/mkdocs build --strict

site-serve: .make/site
	$(BIN)/mkdocs serve

site-publish: .make/publish
	@test -n "$(TO)" || { echo "Say where: make site-publish TO=PLACE (see docs/publish.md) / Di dónde: make site-publish TO=LUGAR (véase docs/publish.es.md)"; exit 2; }
	$(BIN)/mkdocs build --strict
	$(BIN)/rclone sync --stats-one-line --stats-log-level NOTICE site/ "$(TO)"

figures: .make/core
	$(BIN)/python docs/figures.py

stale: .make/core
	@$(BIN)/python benchmarks/stale.py

clean:
	rm -rf .venv .make site .mypy_cache .ruff_cache .pytest_cache
