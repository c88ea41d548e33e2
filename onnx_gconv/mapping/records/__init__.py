"""The records of the manifest, one concept a file."""
