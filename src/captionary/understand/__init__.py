"""Multimedia content understanding (paper §3.1): media and title text in, a caption per item with provenance out."""
