"""Fine-tuning jobs as OpenAI's API has them. A job is a run whose recipe is made from the job's settings."""
