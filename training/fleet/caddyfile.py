"""The proxy's configuration: `python -m training.fleet.caddyfile` writes a Caddyfile for three sites.

    join       8446  no client certificate: whoever holds a join token
    workers    8447  a client certificate of this lab, or no connection at all
    operators  8448  likewise where one is given; without one there is only the page's login

Each site says in two headers which one it is and which certificate was shown, after it took away what the client
sent under their names. Who may ask what is the receiver's decision; it looks at the certificate once more.
Caddy 2.8 renamed one setting; both spellings are known here. Exit codes: 0 written, 1 not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cis490.files import atomic_write
from cis490.pki.authority import Fleet, read_fleet
from cis490.pki.certificates import PkiError
from training.fleet.wire_headers import HEADER_PEER_CERTIFICATE, HEADER_PEER_SITE

RENAMED = (2, 8)
"""Since this version of Caddy `trust_pool file` stands for `trusted_ca_cert_file`."""
PERSISTS = (2, 7)
"""Since this version `persist_config off` can be said; without it a copy is written to its home folder."""
OLDEST = (2, 6)
NEWEST = "2.11"
CREDENTIALS = "{$CREDENTIALS_DIRECTORY}"
"""Where systemd puts what `etc/cis490-caddy.service` names in `LoadCredential=`."""
SOCKET = "/run/cis490/receiver.sock"
_HEAD = """\
# Written by `python -m training.fleet.caddyfile` for Caddy %(version)s: change its options and write it again.
#   caddy validate --adapter caddyfile --config THIS_FILE      says whether your Caddy understands it
%(hint)s{
	admin off
	auto_https off
%(persist)s	grace_period 5s
	default_sni %(server_name)s
	log {
		# headers carry tokens and cookies: no line holds any, not even with `debug`
		format filter {
			wrap json
			fields {
				request>headers delete
			}
		}
	}
	servers {
		protocols h1 h2
		strict_sni_host on
		max_header_size 16KB
		timeouts {
			read_header %(read_header_s)ds
			idle 2m
		}
	}
	# one policy about certificates for the whole port, so a browser may use any of the machine's addresses
	servers %(browsers)s {
		protocols h1 h2
		strict_sni_host insecure_off
		max_header_size 16KB
		timeouts {
			read_header %(read_header_s)ds
			idle 2m
		}
	}
}

(requests) {
	# What clients say under the proxy's own names, also where Caddy 2.6 lets a _ pass that some servers read as -.
	# Not inside reverse_proxy: there it would go after it was set.
	request_header -X-Fleet-Peer*
	request_header -X-Fleet_*
	request_header -X_*
	# Caddy 2.11 may answer before it has read a long body, and take the rest of it for further requests.
	@long header_regexp Content-Length `^[0-9]{6}`
	header @long Connection close
	@chunked header Transfer-Encoding *
	header @chunked Connection close
}

# What the proxy itself has to refuse is JSON as well.
(refusals) {
	handle_errors {
		header Content-Type application/json
		@unreached expression `{err.status_code} in [502, 503, 504]`
		header @unreached Retry-After 5
		respond @unreached `{"error": "%(unreached)s"}` {err.status_code}
		@other expression `{err.status_code} == 421`
		respond @other `{"error": "the Host header and the server name of the TLS connection differ"}` 421
		respond `{"error": "the proxy refused this request"}` {err.status_code}
	}
}
"""
_HINT = """\
# Caddy 2.6 and 2.7 say `trusted_ca_cert_file` where `trust_pool file` stands below; 2.6 knows no `persist_config`.
# With `--version 2.6` (or `auto`, which asks the Caddy on this machine) that is written.
"""
_UNREACHED = "the proxy gets no answer from the receiver; on its machine type: systemctl status cis490-trainer-receiver"
_SITE = """\
# %(about)s
https://:%(port)d {
%(bind)s	tls %(certificate)s %(key)s {
		protocols tls1.3
%(client_auth)s	}
	import requests
	reverse_proxy unix/%(socket)s {
		header_up %(site_header)s %(site)s
%(peer)s		transport http {
			# less than the receiver keeps an idle connection: no request meets its end
			keepalive 3s
			versions 1.1
			compression off
		}
	}
	import refusals
}
"""
_CLIENT_AUTH = """\
		client_auth {
			mode %(mode)s
			%(trust)s %(root)s
		}
"""
_PEER = "\t\theader_up %(header)s {http.request.tls.client.certificate_der_base64}\n"
_NO_PEER = """\
		# without a certificate Caddy 2.6 sends the placeholder's own name
		header_up %(header)s ^[{].*()$ $1
"""


class CaddyfileError(Exception):
    """A setting or a Caddy that cannot be used; the text says what was found and what to type."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a Caddyfile depends on."""

    fleet: Fleet
    certificate: str
    """Path of the server's certificate and its intermediate, PEM. May hold `{$VARIABLE}`, as all paths here."""
    key: str
    trust: str
    """Path of the lab's root certificate, PEM: what client certificates must come from."""
    socket: str
    """Path of the receiver's Unix socket."""
    bind: str | None = None
    """Address to listen on; None: every one."""
    read_header_s: int = 10
    """For the TLS handshake, and for the headers of each request."""


def render(settings: Settings, version: tuple[int, int]) -> str:
    """The Caddyfile for this version of Caddy, (major, minor). Raises CaddyfileError for a path it cannot hold."""
    fleet = settings.fleet
    for path in (settings.certificate, settings.key, settings.trust, settings.socket, settings.bind or ""):
        if re.search(r"[\s\"`\\#]", path):
            raise CaddyfileError(
                f"found {path!r}; expected a path without spaces, quotes, backslashes and #: a Caddyfile cannot hold it"
            )
    sites = (
        _site(
            settings, version, "join", fleet.join_port, None,
            "Enrolment, and late renewal: the token, or the proof of an expired key, is the credential.",
        ),
        _site(
            settings, version, "workers", fleet.workers_port, "require_and_verify",
            "Hosts: the handshake ends without a valid certificate of this lab.",
        ),
        _site(
            settings, version, "operators", fleet.operators_port, "verify_if_given",
            "People: the command line with a certificate, browsers with one or with the login.",
        ),
    )  # fmt: skip
    return "\n".join((_head(settings, version), *sites))


def _head(settings: Settings, version: tuple[int, int]) -> str:
    """What holds for every site."""
    return _HEAD % {
        "version": ".".join(map(str, version)),
        "hint": _HINT if version >= RENAMED else "",
        "persist": "\tpersist_config off\n" if version >= PERSISTS else "",
        "server_name": settings.fleet.server_name,
        "read_header_s": settings.read_header_s,
        "browsers": f"{_listener(settings.bind)}:{settings.fleet.operators_port}",
        "unreached": _UNREACHED,
    }


def _site(
    settings: Settings, version: tuple[int, int], name: str, port: int, client_auth: str | None, about: str
) -> str:
    trust = "trust_pool file" if version >= RENAMED else "trusted_ca_cert_file"
    peer = "" if client_auth is None else _PEER + (_NO_PEER if client_auth == "verify_if_given" else "")
    return _SITE % {
        "about": about,
        "port": port,
        "bind": f"\tbind {settings.bind}\n" if settings.bind else "",
        "certificate": settings.certificate,
        "key": settings.key,
        "client_auth": _CLIENT_AUTH % {"mode": client_auth, "trust": trust, "root": settings.trust}
        if client_auth
        else "",
        "socket": settings.socket,
        "site_header": HEADER_PEER_SITE,
        "site": name,
        "peer": peer % {"header": HEADER_PEER_CERTIFICATE},
    }


def _listener(bind: str | None) -> str:
    address = bind or ""
    return f"[{address}]" if ":" in address else address


# -- the program


def example() -> str:
    """What etc/Caddyfile.example holds."""
    return render(
        _settings(Fleet("lab.example", "192.0.2.10"), CREDENTIALS, SOCKET, None), parse_version(NEWEST)
    )


def _settings(fleet: Fleet, tls_dir: str, socket: str, bind: str | None) -> Settings:
    return Settings(
        fleet, f"{tls_dir}/server.pem", f"{tls_dir}/server-key.pem", f"{tls_dir}/root.pem", socket, bind
    )


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) of `2.6.2`, or of what `caddy version` prints. Raises CaddyfileError."""
    found = re.match(r"v?(\d{1,3})\.(\d{1,3})", text.strip())
    if found is None:
        raise CaddyfileError(f"found {text.strip()[:60]!r}; expected a version such as {NEWEST}")
    version = int(found[1]), int(found[2])
    if version < OLDEST:
        raise CaddyfileError(f"found Caddy {found[0]}; expected 2.6 or newer: install Debian's package caddy")
    return version


def version_of(program: str) -> tuple[int, int]:
    """Of a Caddy on this machine. Raises CaddyfileError."""
    try:
        said = subprocess.run([program, "version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise CaddyfileError(
            f"{program} version could not be asked ({error}); install Caddy (Debian: apt-get install caddy), or say "
            f"--version {NEWEST}"
        ) from error
    return parse_version(said.stdout)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.fleet.caddyfile",
        description="Write the Caddyfile of the proxy in front of the receiver.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--ca-dir", type=Path, default=Path("/etc/cis490/ca"), help="the authority's folder: names and ports"
    )
    parser.add_argument(
        "--tls-dir", default=CREDENTIALS, help="where server.pem, server-key.pem and root.pem lie"
    )
    parser.add_argument("--socket", default=SOCKET, help="the receiver's Unix socket")
    parser.add_argument("--bind", help="listen on this address only")
    parser.add_argument(
        "--version", default="auto", help="of Caddy, such as 2.6 or 2.11; auto: ask the program"
    )
    parser.add_argument("--caddy", default="caddy", help="the program that `--version auto` asks")
    parser.add_argument("--out", type=Path, help="write this file, if it differs (without: print)")
    parser.add_argument("--example", action="store_true", help="print etc/Caddyfile.example instead")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write or print it."""
    args = arguments().parse_args(argv)
    try:
        if args.example:
            sys.stdout.write(example())
            return 0
        version = version_of(args.caddy) if args.version == "auto" else parse_version(args.version)
        text = render(_settings(read_fleet(args.ca_dir), args.tls_dir, args.socket, args.bind), version)
        if args.out is None:
            sys.stdout.write(text)
        elif not args.out.exists() or args.out.read_text(encoding="utf-8") != text:
            atomic_write(args.out, text.encode())
    except (CaddyfileError, PkiError, OSError) as error:
        print(f"caddyfile: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
