"""Recipes: what the user asks for, checked before anything heavy is imported."""
