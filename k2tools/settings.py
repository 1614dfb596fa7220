"""Every limit of the server in one frozen object: units in names, policy from the operator only."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What the operator decided before the first call; no tool can change it."""

    workspace: Path
    state: Path  # run logs, indexes and caches; never inside the workspace
    writable: bool = True
    secret_globs: tuple[str, ...] = (
        ".env",
        ".env.*",
        "id_rsa*",
        "id_ed25519*",
        "*credentials*",
        "*.pem",
    )

    # results
    default_chars: int = 4_000
    hard_chars: int = 32_000
    line_chars: int = 2_000
    body_chars: int = 1_000_000  # of a result kept behind its ref

    # calls
    call_timeout_s: float = 50.0  # clients give up at 60
    heartbeat_s: float = 5.0
    budget_calls: int = 0  # 0: no budget
    parallel_calls: int = 16  # per principal; further calls wait
    rate_calls_per_s: float = 200.0
    rate_burst_calls: int = 2_000
    deny_tools: frozenset[str] = field(default_factory=frozenset)
    redact_log: bool = False  # keep hashes and sizes, not arguments and outputs
    snapshot: bool = False  # keep the workspace as it was before the first call, for replay
    run: str = ""  # resume this run; "" starts one

    # handles
    handle_idle_s: float = 1_800.0
    handle_life_s: float = 86_400.0
    max_handles: int = 32  # per principal

    # search
    corpora: tuple[str, ...] = ()  # folders and files searched beside the workspace
    corpus_engine: str = ""  # MODULE:FACTORY of another engine than SQLite FTS5
    facts: str = ""  # a JSONL or SQLite file; its sources are checked at the start
    web: tuple[str, ...] = ()  # providers in order: searxng=URL, brave, tavily, exa, ddgs
    fetch: bool = False  # pages of the public web may be opened
    fetch_ports: tuple[str, ...] = ("80", "443")
    fetch_robots: bool = True  # robots.txt is honoured
    fetch_timeout_s: float = 20.0
    fetch_max_bytes: int = 10 * 2**20  # decompressed
    fetch_fresh_s: float = 3_600.0  # then the server is asked whether the page changed
    fetch_cache_bytes: int = 256 * 2**20
    semantic: str = ""  # a folder with a sentence encoder, or the package that carries one
    extract_timeout_s: float = 20.0  # for one HTML or PDF file

    # files
    max_read_bytes: int = 64 * 2**20
    max_write_bytes: int = 4 * 2**20
    max_listed: int = 200
    max_walked_files: int = 200_000
    fallback_encoding: str = "cp1252"
    grep_timeout_s: float = 20.0

    # python
    python: str = ""  # the interpreter of the sandbox; "" is the server's own
    preload: tuple[str, ...] = ("numpy",)  # imported while a sandbox waits for its call
    warm_sandboxes: int = 2
    max_sessions: int = 16  # per principal; each is a process
    max_inner_calls: int = 200  # of `import k2`, in one cell
    max_compared: int = 20_000  # files looked at to say which ones a cell changed
    python_memory_bytes: int = 2 * 2**30
    python_processes: int = 128
    python_file_bytes: int = 256 * 2**20
    python_temporary_bytes: int = 256 * 2**20
    workspace_growth_bytes: int = 2**30  # by python, since the server started
    workspace_growth_files: int = 50_000
    gateway_url: str = ""  # a Jupyter gateway, instead of a sandbox on this machine
    gateway_folder: str = ""  # the workspace as the gateway's kernels see it
    unsafe_no_sandbox: bool = False

    # HTTP
    max_request_bytes: int = 8 * 2**20
    http_session_idle_s: float = 600.0
    max_http_sessions: int = 256
    shutdown_grace_s: int = 2  # for calls under way; over stdio a keyed call has all its time
    allowed_hosts: tuple[str, ...] = ("127.0.0.1:*", "localhost:*", "[::1]:*")
    allowed_origins: tuple[str, ...] = ("http://127.0.0.1:*", "http://localhost:*")

    def __post_init__(self) -> None:
        try:
            b"text".decode(self.fallback_encoding, "replace")
        except LookupError:
            raise ValueError(
                "fallback_encoding takes a text encoding that Python knows, such as cp1252; "
                f"got {self.fallback_encoding!r}"
            ) from None
        if self.state.resolve().is_relative_to(self.workspace.resolve()):
            raise ValueError(
                f"the state folder {self.state} lies inside the workspace, where tools could "
                "change the log; name another with --state"
            )
