"""The file tools: read, write, list. Bytes stay what they were unless the model asked otherwise."""

import anyio
from mcp_types import ToolAnnotations

from k2tools.results import shown
from k2tools.toolbox import Context, Pack, tool
from k2tools.workspace import printable

READ = ToolAnnotations(read_only_hint=True, open_world_hint=False)


async def list_files(cx: Context, glob: str = "**/*", cursor: str = "") -> str:
    """List workspace files with sizes."""
    limit = cx.settings.max_listed
    entries = await anyio.to_thread.run_sync(
        lambda: [e for e in cx.workspace.files(glob) if e.path > cursor]
    )
    lines = [f"{printable(entry.path)}\t{entry.size}" for entry in entries[:limit]]
    if len(entries) > limit:
        lines.append(f'[more: list_files(glob="{glob}", cursor="{entries[limit - 1].path}")]')
    return "\n".join(lines) or f"no file matches {shown(glob)}"


PACK = Pack(tools=(tool(list_files, example={"glob": "**/*.py"}, annotations=READ),))
