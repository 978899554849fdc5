"""Studies: questions asked of several variants of one recipe, what came out, and the page that tells it."""
