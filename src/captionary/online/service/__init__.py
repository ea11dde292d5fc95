"""The ranking service: HTTP between products, the ranker, the online store and the log."""
