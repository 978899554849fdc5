"""`depth compare`: experiments by their names, from DVC, git or MLflow, on one page."""
