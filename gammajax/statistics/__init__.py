"""What follows from a posterior: profiles, tests, forecasts, reweighting, losses of compression."""
