"""Where registrations and the journal are kept."""
