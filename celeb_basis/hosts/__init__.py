"""What runs the diffusion model: diffusers, AUTOMATIC1111's WebUI, and its forks.

Each host implements :class:`celeb_basis.diffusion_model.DiffusionModel`; the package of a host holds all that is known of it.
"""
