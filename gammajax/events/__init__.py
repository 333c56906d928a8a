"""Photons that were seen: lists of events, and counts in cells of many of them."""
