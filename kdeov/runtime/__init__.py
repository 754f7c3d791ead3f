"""A student from an export folder, without torch."""
