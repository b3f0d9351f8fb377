"""The page for people: one file that needs no network."""
