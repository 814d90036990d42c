"""Who asks: users, processes and units as the kernel names them, and how much each may hold."""
