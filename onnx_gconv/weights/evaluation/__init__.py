"""The values of constants, and of what nodes compute from them."""
