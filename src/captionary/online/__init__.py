"""What runs beside live traffic: scoring, fresh features, ingest, and experiments on what they change."""
