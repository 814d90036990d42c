"""What x402 and MCP write on the wire: parsed liberally and bounded, written strictly. Pure."""
