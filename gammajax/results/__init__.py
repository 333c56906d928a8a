"""What was found: draws with their summaries, significances and predictions."""
