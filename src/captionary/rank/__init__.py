"""Integration with recommender systems (paper §3.1): a multi-task DLRM over ids, vectors and tokens."""
