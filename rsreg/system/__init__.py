"""What the operating system gives: threads, processes, files, streams."""
