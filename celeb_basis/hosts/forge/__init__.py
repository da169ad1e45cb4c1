"""Stable Diffusion WebUI Forge: training and generating images through the checkpoint that it has loaded."""
