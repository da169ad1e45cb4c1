"""AUTOMATIC1111's WebUI: training and generating images through the checkpoint that it has loaded.

``host`` holds the model, ``app`` the program around it, and ``tokens`` the names in its prompts. Its forks build on these.
"""
