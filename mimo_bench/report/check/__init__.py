"""Tables that `mimo-bench check` prints."""
