"""Picture files, and a scene that is drawn."""
