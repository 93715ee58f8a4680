"""The page in the browser: runs, recipes, chat and export. `luthier.ui(...)` and `luthier ui` start it."""
