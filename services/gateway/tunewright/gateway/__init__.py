"""The public door: HTTP in OpenAI's dialect, API keys, and the one place that knows the order of the stages."""
