"""Semantic duplicates: rows that say the same in other words, by a local model of static embeddings. Off by default."""
