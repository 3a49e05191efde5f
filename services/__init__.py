"""The services of the mesh, one process each."""
