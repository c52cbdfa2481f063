"""Who writes the reasonings: this process, a server, or a cluster."""
