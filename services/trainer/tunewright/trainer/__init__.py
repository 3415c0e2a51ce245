"""Dataset and base model to adapter. The server side (`service`, `spec`) never imports torch; the stage does."""
