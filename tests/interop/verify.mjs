// Verifies an access token as another backend would, with jose.
//
// usage: verify.mjs JWKS_URL TOKEN BASE_URL

import { webcrypto } from "node:crypto";

globalThis.crypto ??= webcrypto; // Node.js 18 has it, and hides it.
const { createRemoteJWKSet, errors, jwtVerify } = await import("jose");

const [jwksUrl, token, baseUrl] = process.argv.slice(2);
const keys = createRemoteJWKSet(new URL(jwksUrl));

const verify = (token) =>
  jwtVerify(token, keys, {
    algorithms: ["ES256"],
    typ: "at+jwt",
    issuer: baseUrl,
    audience: baseUrl,
    requiredClaims: ["exp", "iat", "sub"],
  });

// The token with the lowest bit of one byte of one part (header, claims, signature) changed.
const withABitFlipped = (token, part, at) => {
  const parts = token.split(".");
  const raw = Buffer.from(parts[part], "base64url");
  raw[at < 0 ? raw.length + at : at] ^= 1;
  parts[part] = raw.toString("base64url");
  return parts.join(".");
};

const { payload } = await verify(token);
let tried = 0;
for (const part of [0, 1, 2]) {
  for (const at of [0, 10, 20, -1]) {
    const taken = await verify(withABitFlipped(token, part, at)).then(
      () => true,
      (error) => {
        if (!(error instanceof errors.JOSEError)) throw error;
        return false;
      },
    );
    if (taken) throw new Error(`took a token with a bit of part ${part}, byte ${at}, flipped`);
    tried += 1;
  }
}
console.log(`jose: verified ${payload.sub}; refused all ${tried} with one bit flipped`);
