"""Models: a base brought into the store, and an adapter merged into its base, measured. Knows no other service."""
