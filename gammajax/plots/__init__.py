"""Figures. Each function returns a `matplotlib.figure.Figure`; nothing is shown or saved."""
