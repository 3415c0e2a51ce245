"""Held-out questions to a report: base against tuned, through the endpoints that serve them. Knows no other service."""
