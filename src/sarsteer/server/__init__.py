"""``sarsteer serve --engine transformers``: a steered model behind the OpenAI API, without vLLM."""
