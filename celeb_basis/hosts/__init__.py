"""Hosts: what runs the diffusion model. ``base`` is the interface; every other module here knows one host's internals."""

from __future__ import annotations
