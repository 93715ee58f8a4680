"""Plans on paper: memory and time of a recipe, from `config.json` alone (`luthier plan`)."""
