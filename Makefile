# Each target sets up everything it needs by itself; see bootstrap.py. Extra words: make test ARGS="--slow"
PYTHON ?= python3
ARGS ?=

.PHONY: setup demo test lint bench

setup demo test lint bench:
	$(PYTHON) bootstrap.py $@ $(ARGS)
