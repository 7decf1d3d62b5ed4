"""What tests start in processes of their own, and what these programs share."""
