"""What a mapping is going to do: every decision and every check, made before the model is touched."""
