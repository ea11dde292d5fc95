"""Data representation and alignment (paper §3.1): captions and events in, token lists out."""
