"""How a service of this process stays registered."""
