"""What the extension's jobs do: learning, evaluating, blending and building a basis."""
