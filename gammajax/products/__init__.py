"""Figures and tables of a posterior: points of spectra and of light curves."""
