"""Plans a mapping: every decision and every check is made before the model is changed."""
