"""Shared fixtures: the real Qwen2.5 vocabulary (qwen.py) and a tiny tokenizer trained on the spot (tiny.py)."""
