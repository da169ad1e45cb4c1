"""SD.Next, whose models are pipelines of diffusers."""
