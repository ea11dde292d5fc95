"""Item tokens and profiles for systems that are not ours: Parquet, Feast, TorchRec."""
