"""Where it goes, and whom it trusts: names, addresses, other proxies, certificates, the fence."""
