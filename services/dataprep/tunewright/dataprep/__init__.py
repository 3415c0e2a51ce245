"""Raw instruction files in; a clean, deduplicated, split and fingerprinted dataset with its report out."""
