"""Finding records again: candidates, fusion, filters."""
