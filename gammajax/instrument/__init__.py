"""What a telescope does to photons: tables, point spread functions, responses, observations, runs."""
