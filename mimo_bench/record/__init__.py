"""The record of a run: its schema, its files, its own identities, and how ranks become one."""
