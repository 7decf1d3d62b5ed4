"""What one peer may take: connections, requests, replies, subscriptions."""
