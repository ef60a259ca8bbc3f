"""Sources: where deliveries come from. Each module holds one kind."""
