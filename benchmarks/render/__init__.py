"""Films of a policy: dense and pruned, without an attack and under attack."""
