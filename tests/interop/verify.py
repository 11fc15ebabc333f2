"""Verifies an access token as another backend would, with PyJWT.

usage: verify.py JWKS_URL TOKEN BASE_URL
"""

import base64
import sys

import jwt


def verify(token, key, base_url):
    header = jwt.get_unverified_header(token)
    if header.get("typ") != "at+jwt":
        raise jwt.InvalidTokenError(f"typ is {header.get('typ')}")
    return jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        issuer=base_url,
        audience=base_url,
        options={"require": ["exp", "iat", "sub", "iss", "aud"]},
    )


def with_a_bit_flipped(token, part, at):
    """The token with the lowest bit of one byte of one part (header, claims, signature) changed."""
    parts = token.split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=" * (-len(parts[part]) % 4)))
    raw[at % len(raw)] ^= 1
    parts[part] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return ".".join(parts)


def main():
    jwks_url, token, base_url = sys.argv[1:]
    key = jwt.PyJWKClient(jwks_url).get_signing_key_from_jwt(token)
    claims = verify(token, key, base_url)
    tried = 0
    for part in range(3):
        for at in (0, 10, 20, -1):
            try:
                verify(with_a_bit_flipped(token, part, at), key, base_url)
            except jwt.InvalidTokenError:
                tried += 1
            else:
                sys.exit(f"took a token with a bit of part {part}, byte {at}, flipped")
    print(f"PyJWT {jwt.__version__}: verified {claims['sub']}; refused all {tried} with one bit flipped")


main()
