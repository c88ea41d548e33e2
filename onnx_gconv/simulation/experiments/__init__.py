"""What trials have in common, who computes them, and what they amount to."""
