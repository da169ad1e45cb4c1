"""Training of a small Stable Diffusion on the world, as Stable Diffusion was trained: no face network has a part in it."""
