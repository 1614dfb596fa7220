"""Who may use the server over HTTP: one shared token, or tokens of an OAuth issuer.

Loopback with a token is the default; anything beyond loopback without one is refused.
"""

import hmac
import ipaddress
import os
import secrets
from dataclasses import dataclass
from typing import Any

import anyio
import jwt
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")  # none is symmetric
MIN_TOKEN_CHARS = 22  # of base64: 128 bits


@dataclass(frozen=True)
class SharedToken:
    """Everybody who knows the token is the one principal `token`."""

    token: str

    async def verify_token(self, token: str) -> AccessToken | None:
        if hmac.compare_digest(token.encode(), self.token.encode()):
            return AccessToken(token=token, client_id="token", scopes=[])
        return None


class IssuedTokens:
    """Signed tokens (JWT) of one issuer, meant for this resource."""

    def __init__(self, issuer: str, resource: str, keys: jwt.PyJWKClient) -> None:
        self.issuer, self.resource, self.keys = issuer, resource, keys

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            key = await anyio.to_thread.run_sync(self.keys.get_signing_key_from_jwt, token)
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=ALGORITHMS,
                audience=self.resource,
                issuer=self.issuer,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError):
            return None
        return AccessToken(
            token=token,
            client_id=str(claims.get("client_id") or claims.get("azp") or ""),
            subject=str(claims.get("sub", "")),
            scopes=str(claims.get("scope", "")).split(),
            expires_at=int(claims["exp"]),
            resource=self.resource,
            claims=claims,
        )


Verifier = SharedToken | IssuedTokens


def shared_token(host: str) -> SharedToken | None:
    """Take the operator's token, or make one where only this machine listens: host -> token."""
    token = os.environ.get("K2TOOLS_TOKEN", "")
    if token and len(token) < MIN_TOKEN_CHARS:
        raise ValueError(f"K2TOOLS_TOKEN needs {MIN_TOKEN_CHARS} characters, it has {len(token)}")
    if token or is_loopback(host):
        return SharedToken(token or secrets.token_urlsafe(24))
    return None  # refused when the application is built


def issued_tokens(issuer: str, resource: str, keys: str) -> IssuedTokens:
    """Take tokens of an issuer: its URL, this server's, that of its keys -> verifier."""
    if not resource:
        raise ValueError("--oauth-issuer needs --resource, the URL tokens must be meant for")
    keys = keys or issuer.rstrip("/") + "/.well-known/jwks.json"
    return IssuedTokens(issuer, resource, jwt.PyJWKClient(keys))


def auth_settings(verifier: Verifier, url: str, scopes: list[str]) -> AuthSettings:
    """Describe the protection to the SDK: verifier, own URL, scopes -> AuthSettings."""
    if isinstance(verifier, SharedToken):
        return AuthSettings.model_validate({"issuer_url": url, "resource_server_url": None})
    described = {  # validated from strings, which keeps an issuer without a path as it is
        "issuer_url": verifier.issuer,
        "resource_server_url": verifier.resource,
        "required_scopes": scopes or None,
        "validate_token_resource": True,
    }
    return AuthSettings.model_validate(described)


def is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
