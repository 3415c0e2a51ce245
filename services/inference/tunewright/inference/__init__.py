"""Models and adapters to OpenAI-compatible endpoints: supervises real vLLM engines. Never imports torch or vllm."""
