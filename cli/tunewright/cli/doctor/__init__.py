"""`tunewright doctor`: what this machine is, and whether the product fits on it. Changes nothing."""
