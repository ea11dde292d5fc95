"""A simulated marketplace with known truth: scenes, users, a logging policy and five tasks, all from one seed."""
