"""Recipes of other programs, translated."""
