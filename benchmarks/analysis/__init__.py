"""Numbers from tables: curves, worst cases, bounds, metrics. Nothing is drawn or written."""
