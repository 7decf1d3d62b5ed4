"""Services of the operating system: threads, processes, files, streams."""
