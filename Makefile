# Each target sets up everything it needs by itself; see bootstrap.py. Extra words: make test ARGS="--slow"
PYTHON ?= python3
ARGS ?=

.PHONY: setup demo test lint bench gate evidence interop test-webui bench-webui

# interop looks for other tools: CELEB_BASIS_COMFYUI, _INVOKEAI, _FORGE and _WEBUI are their folders, ..._PYTHON their Pythons.
# The last two need a WebUI: CELEB_BASIS_WEBUI is its folder, CELEB_BASIS_WEBUI_PYTHON its Python (else its venv's).
setup demo test lint bench gate evidence interop test-webui bench-webui:
	$(PYTHON) bootstrap.py $@ $(ARGS)
