"""What was measured on a chip: files of readings, and how they compare with targets."""
