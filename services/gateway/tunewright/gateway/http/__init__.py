"""What the gateway says over HTTP, one module a role. Knows nothing of how a run is carried out."""
