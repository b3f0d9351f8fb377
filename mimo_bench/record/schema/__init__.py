"""Schema of the record of a run. People and programs read the same `run.json`.

Names carry their units; unknown is null, never a guess and never NaN. Fields may be added within a schema version. A
reader skips those that it does not know.
"""
