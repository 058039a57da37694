"""Recipes of model compression side by side: what each costs and what it gains."""
