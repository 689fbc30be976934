"""Films of a policy, dense and pruned, clean and attacked."""
