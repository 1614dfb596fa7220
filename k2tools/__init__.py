"""An MCP server for thinking models: search, Python, files and facts over one workspace.

Read in this order: `toolbox` (what a tool is), `dispatch` (the way of every call), `server` (where
tools meet the protocol), `files` (tools), `workspace` and `beneath` (why no path leaves).
"""
