"""An MCP server for thinking models: search, Python, files and facts over one workspace."""
