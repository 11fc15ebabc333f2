"""Verifies an access token as another backend would, with python-jose.

usage: verify_python_jose.py JWKS_URL TOKEN BASE_URL
"""

import json
import sys
import urllib.request

from jose import JWTError, jwt


def main():
    jwks_url, token, base_url = sys.argv[1:]
    with urllib.request.urlopen(jwks_url) as answer:
        keys = json.load(answer)
    own = next(key for key in keys["keys"] if key["kid"] == jwt.get_unverified_header(token)["kid"])

    def verify(token):
        return jwt.decode(token, own, algorithms=["ES256"], issuer=base_url, audience=base_url)

    claims = verify(token)
    head, payload, signature = token.split(".")
    other = "A" if signature[0] != "A" else "B"
    try:
        verify(f"{head}.{payload}.{other}{signature[1:]}")
    except JWTError:
        print(f"python-jose: verified {claims['sub']}; refused another signature")
    else:
        sys.exit("took a token with another signature")


main()
