"""Personal data and secrets in texts: found by form and checksum where there is one; masked, or their row dropped."""
