"""The whole stack as local processes: folder, certificates, services, supervisor. Knows services by name only."""
