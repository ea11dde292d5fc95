"""Adapters from public data sets on disk to the data contract."""
