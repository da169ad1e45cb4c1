"""reForge: the WebUI's text encoders and prompts, with a denoiser and memory management of its own."""
