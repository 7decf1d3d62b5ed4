"""What may be asked, and what may be changed. No sockets."""
