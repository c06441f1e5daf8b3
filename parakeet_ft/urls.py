"""Passwords and signatures in URLs: taken out of names before anything shows or stores them, and
put back where a server is asked.
"""

from __future__ import annotations

import json
import os
import re
from urllib.parse import urlsplit

# What was taken out, by the URL of its server (a login) or file (a signature): in the environment,
# as processes that read for this one are started in several ways.
TAKEN = "PARAKEET_FT_URL_SECRETS"
HIDDEN = "***"
# `https://user:password@host` up to the @.
LOGIN = re.compile(r"(?<=://)[^/?\s'\"]+@")
# Signatures and tokens, as S3, Google, Azure and web servers name them.
SIGNED = re.compile(
    r"([?&](?:X-(?:Amz|Goog)-[\w-]+|AWSAccessKeyId|GoogleAccessId|[\w-]*"
    r"(?:signature|token|secret|password|passwd|credential|api_?key|sig))=)[^&\s'\"\])}]*",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """A text with *** for the secrets of all URLs in it."""
    return SIGNED.sub(rf"\1{HIDDEN}", LOGIN.sub(f"{HIDDEN}@", text))


def without_secrets(name: str) -> str:
    """A name as it may be shown; the secrets of a URL are remembered for `with_secrets`."""
    if masked(name) == name or HIDDEN in name:
        return name
    found = urlsplit(name)
    login, at, host = found.netloc.rpartition("@")
    plain = found._replace(netloc=host)
    taken = _taken()
    if at:
        taken[_server(plain.geturl())] = login + at
    if SIGNED.search(name):
        plain = plain._replace(query="")
        taken[plain.geturl()] = f"?{found.query}"
    os.environ[TAKEN] = json.dumps(taken)
    return plain.geturl()


def with_secrets(name: str) -> str:
    """The URL that a server is asked for."""
    taken = _taken()
    if not taken:
        return name
    scheme, _, rest = name.partition("://")
    return f"{scheme}://{taken.get(_server(name), '')}{rest}{taken.get(name, '')}"


def _server(url: str) -> str:
    """Scheme and host, or bucket."""
    return "/".join(url.split("/")[:3])


def _taken() -> dict[str, str]:
    return json.loads(os.environ.get(TAKEN, "{}"))
