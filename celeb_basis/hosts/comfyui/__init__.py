"""ComfyUI: training and prompts through the models that its nodes pass on."""
