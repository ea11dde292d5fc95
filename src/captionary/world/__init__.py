"""A simulated marketplace with known truth: scenes, users, a policy and five tasks, all from one seed."""
