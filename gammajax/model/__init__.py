"""What is sought: spectra, morphologies, dark matter, mixtures of sources and backgrounds, priors."""
