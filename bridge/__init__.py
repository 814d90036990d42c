"""The bridge: what AI agents may see of payments and ask for. It pays nothing, and holds neither key nor limit."""
