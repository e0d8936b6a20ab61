"""The embedded database: how it is opened and migrated, and how SQL text is read."""
